//! S3-FIFO: a small queue for new pages, a main queue for pages that were used there, and ghosts of
//! pages that were evicted from the small queue.
//!
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, as libCacheSim has
//! it.) A scan passes through the small queue and does not touch the main queue.
//!
//! The original counts the uses of a page. Here a page has one bit, which is taken at several
//! places of its way through a queue: the number of places at which it is found set stands for the
//! number of uses.
//!
//! - A page of the small queue that was used twice is kept, as in the original.
//! - Each use of a page of the main queue is a life, up to 3. Each visit costs a life. A page
//!   without lives is evicted.
//!
//! Uses that follow each other soon count as one: a page that is read in small steps is not kept
//! for that. A frame takes about 20 bytes.

use std::collections::VecDeque;

use super::ghosts::GhostQueue;
use super::{FrameState, Frames, MAX_PINNED, Policy};

/// The maximum number of lives.
const MAX_LIVES: u8 = 3;

/// The small queue gets one in this many frames.
const SMALL: u32 = 10;

/// The places of the small queue at which bits are taken, in tenths of its length from its end.
const SMALL_PLACES: [usize; 3] = [1, 3, 6];

/// The parts of the main queue. Bits are taken where two of them meet.
const MAIN_PARTS: usize = 4;

/// The number of uses for which a page of the small queue is kept.
const ENOUGH: u8 = 2;

/// The number of victims beyond which they become ghosts before another page comes.
const MAX_VICTIMS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No page that was inserted.
    Unknown,
    /// In the small queue, once, with a number of uses.
    Small(u8),
    /// In the main queue, with a number of lives.
    Main(u8),
}

/// S3-FIFO.
#[derive(Debug)]
pub struct S3Fifo {
    places: Vec<Place>,
    small: VecDeque<u32>,
    /// A frame that is no longer in the main queue stays here until its turn.
    main: VecDeque<u32>,
    /// By frame: it is in `main`, once.
    in_main: Vec<bool>,
    ghosts: GhostQueue,
    /// The last victims. They become ghosts once the next page has come: that page may be the
    /// oldest ghost.
    victims: Vec<u64>,
    frames: u32,
    /// Victims were chosen before: the cache is full.
    has_chosen: bool,
}

impl S3Fifo {
    /// Returns a policy for at most `frames` frames.
    pub fn new(frames: u32) -> Self {
        Self {
            places: vec![Place::Unknown; frames as usize],
            small: VecDeque::new(),
            main: VecDeque::with_capacity(frames as usize),
            in_main: vec![false; frames as usize],
            ghosts: GhostQueue::new(ghosts_of(frames)),
            victims: Vec::new(),
            frames,
            has_chosen: false,
        }
    }

    /// Returns the number of frames that the small queue should have.
    fn target(&self) -> usize {
        (self.frames / SMALL).max(1) as usize
    }

    /// Returns `true` if the small queue has as many frames as it should.
    fn small_is_due(&self) -> bool {
        self.small.len() >= self.target() || self.main.is_empty()
    }

    /// Returns the number of uses for which a page of the small queue is kept. A queue of one frame
    /// has no place to count them.
    fn enough(&self) -> u8 {
        if self.target() > 1 { ENOUGH } else { 1 }
    }

    /// Makes the last victims ghosts. Returns `true` if a page was one, and forgets it.
    fn take_ghost(&mut self, page: u64) -> bool {
        let mut is_ghost = self.ghosts.take(page);
        for victim in self.victims.drain(..) {
            if victim == page {
                is_ghost = true;
            } else {
                self.ghosts.insert(victim);
            }
        }
        is_ghost
    }

    /// Adds a frame to the small queue, unless it is there.
    fn push_small(&mut self, frames: &dyn Frames, frame: u32) {
        // Until the cache is full there are few misses, and so few looks at the bits: one use of a
        // page is enough.
        let uses = u8::from(!self.has_chosen);
        let before = std::mem::replace(&mut self.places[frame as usize], Place::Small(uses));
        // It is there already if its page left unseen.
        if matches!(before, Place::Small(_)) {
            return;
        }
        self.small.push_back(frame);
        let mut last = 0;
        for tenths in SMALL_PLACES {
            let age = self.target() * tenths / 10;
            if age > last
                && let Some(at) = self.small.len().checked_sub(age + 1)
            {
                self.look_at(frames, self.small[at]);
            }
            last = age;
        }
    }

    /// Looks at some places of the main queue, as a frame was added to it.
    fn look_at_main(&mut self, frames: &dyn Frames) {
        for part in 1..MAIN_PARTS {
            if let Some(&frame) = self.main.get(self.main.len() * part / MAIN_PARTS) {
                self.look_at(frames, frame);
            }
        }
    }

    /// Takes the bit of a frame, and counts a use if it was set.
    fn look_at(&mut self, frames: &dyn Frames, frame: u32) {
        if frames.take_referenced(frame)
            && let Place::Small(uses) | Place::Main(uses) = &mut self.places[frame as usize]
        {
            *uses = (*uses + 1).min(MAX_LIVES);
        }
    }

    /// Adds a frame to the main queue.
    fn push_main(&mut self, frame: u32, lives: u8) {
        self.places[frame as usize] = Place::Main(lives);
        if !std::mem::replace(&mut self.in_main[frame as usize], true) {
            self.main.push_back(frame);
        }
    }

    /// Names the oldest frame of the small queue if it was not used, or moves it to the main queue.
    /// Returns `true` if it is pinned.
    fn visit_small(&mut self, frames: &dyn Frames, victims: &mut Vec<u32>) -> bool {
        let Some(frame) = self.small.pop_front() else { return false };
        match frames.inspect(frame) {
            FrameState::NotCached => self.places[frame as usize] = Place::Unknown,
            FrameState::Pinned => {
                self.small.push_back(frame);
                return true;
            }
            FrameState::Evictable(page) => {
                self.look_at(frames, frame);
                if matches!(self.places[frame as usize], Place::Small(n) if n >= self.enough()) {
                    self.push_main(frame, 0);
                    self.look_at_main(frames);
                } else {
                    self.places[frame as usize] = Place::Unknown;
                    self.victims.push(page);
                    victims.push(frame);
                }
            }
        }
        false
    }

    /// Visits the oldest frame of the main queue, and names it if it was not used.
    /// Returns `true` if it is pinned.
    fn visit_main(&mut self, frames: &dyn Frames, victims: &mut Vec<u32>) -> bool {
        let Some(frame) = self.main.pop_front() else { return false };
        self.in_main[frame as usize] = false;
        let Place::Main(lives) = self.places[frame as usize] else { return false };
        match frames.inspect(frame) {
            FrameState::NotCached => self.places[frame as usize] = Place::Unknown,
            FrameState::Pinned => {
                self.push_main(frame, lives);
                return true;
            }
            FrameState::Evictable(_) => {
                let lives = (lives + u8::from(frames.take_referenced(frame))).min(MAX_LIVES);
                if lives > 0 {
                    self.push_main(frame, lives - 1);
                    self.look_at_main(frames);
                } else {
                    self.places[frame as usize] = Place::Unknown;
                    victims.push(frame);
                }
            }
        }
        false
    }
}

/// Returns the most ghosts beside so many frames.
fn ghosts_of(frames: u32) -> u32 {
    (u64::from(frames) * 9 / 10) as u32
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        let is_ghost = self.take_ghost(page);
        // Until the cache is full, the main queue has room for what does not fit the small one.
        let is_full = !self.has_chosen && self.small.len() >= self.target();
        let is_small = matches!(self.places[frame as usize], Place::Small(_));
        if (is_ghost || is_full) && !is_small {
            self.push_main(frame, 0);
            self.look_at_main(frames);
        } else {
            self.push_small(frames, frame);
        }
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        self.has_chosen = true;
        if self.victims.len() > MAX_VICTIMS {
            self.victims.drain(..).for_each(|victim| self.ghosts.insert(victim));
        }
        // Enough for each page to be moved to the main queue, and to lose all lives there.
        let known = self.small.len() + self.main.len();
        let mut visits = (usize::from(MAX_LIVES) + 3) * known;
        let mut pinned = 0;
        // Pinned pages in a row, in the small queue and in the main one.
        let (mut small, mut main) = (0, 0);
        // One queue is visited until it has a victim.
        let mut is_small = self.small_is_due();
        while victims.len() < wanted && pinned < MAX_PINNED && visits > 0 {
            visits -= 1;
            let (may_small, may_main) = (small < self.small.len(), main < self.main.len());
            if !may_small && !may_main {
                break;
            }
            let before = victims.len();
            is_small = may_small && (is_small || !may_main);
            let (row, is_pinned) = if is_small {
                (&mut small, self.visit_small(frames, victims))
            } else {
                (&mut main, self.visit_main(frames, victims))
            };
            *row = if is_pinned { *row + 1 } else { 0 };
            // A page that came from the small queue stands behind those that are pinned.
            main = if is_small && !is_pinned { 0 } else { main };
            pinned += usize::from(is_pinned);
            if victims.len() > before {
                is_small = self.small_is_due();
            }
        }
    }

    fn is_cold(&self, frame: u32) -> bool {
        match self.places[frame as usize] {
            Place::Main(lives) => lives == 0,
            Place::Small(uses) => uses < self.enough(),
            Place::Unknown => true,
        }
    }

    /// The other pages of a folio follow the victim in the queue. A frame that stayed there would
    /// give its place to its next page, which is new, and would be judged at once.
    fn evicted_with(&mut self, frame: u32, page: u64) {
        match self.places[frame as usize] {
            Place::Small(_) if self.small.front() == Some(&frame) => drop(self.small.pop_front()),
            // Named already, or not at the front of the queue, where it does no harm.
            Place::Small(_) | Place::Unknown => return,
            Place::Main(_) => {}
        }
        self.places[frame as usize] = Place::Unknown;
        self.victims.push(page);
    }

    fn restore(&mut self, frame: u32) {
        if !matches!(self.places[frame as usize], Place::Small(_)) {
            self.push_main(frame, 0);
        }
    }

    fn moved(&mut self, _: &dyn Frames, from: u32, to: u32) {
        match (self.places[from as usize], self.places[to as usize]) {
            // The frame may hold another page by now: keep its place in the queue.
            (_, Place::Small(_)) => {}
            (Place::Main(lives), _) => self.push_main(to, lives),
            (Place::Small(_) | Place::Unknown, _) => self.push_main(to, 0),
        }
    }

    fn resize(&mut self, frames: u32) {
        self.frames = frames;
        self.ghosts.resize(ghosts_of(frames));
    }
}
