//! S3-FIFO: a small queue for new pages, a main queue for pages that were used there, and ghosts of
//! pages that were evicted from the small queue.
//!
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, as libCacheSim has
//! it.) A scan passes through the small queue and does not touch the main queue.
//!
//! - A page of the small queue that was used twice since it came is kept.
//! - Each use of a page of the main queue is a life, up to 3. Each visit costs a life. A page
//!   without lives is evicted.
//!
//! So a page that is read in three small steps is kept for that. A frame takes about 20 bytes.

use std::collections::VecDeque;

use super::ghosts::GhostQueue;
use super::{FrameState, Frames, MAX_PINNED, Policy};

/// The maximum number of lives.
const MAX_LIVES: u8 = 3;

/// The small queue gets one in this many frames.
const SMALL: u32 = 10;

/// The number of uses for which a page of the small queue is kept.
const ENOUGH: u8 = 2;

/// The number of victims beyond which they become ghosts before another page comes.
const MAX_VICTIMS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No page that was inserted.
    Unknown,
    /// In the small queue, once.
    Small,
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

    /// Adds a frame to the small queue, unless it is there: its page left unseen.
    fn push_small(&mut self, frame: u32) {
        if std::mem::replace(&mut self.places[frame as usize], Place::Small) != Place::Small {
            self.small.push_back(frame);
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
                if take_uses(frames, frame) >= ENOUGH {
                    self.push_main(frame, 0);
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
                let lives = lives.saturating_add(take_uses(frames, frame)).min(MAX_LIVES);
                if lives > 0 {
                    self.push_main(frame, lives - 1);
                } else {
                    self.places[frame as usize] = Place::Unknown;
                    victims.push(frame);
                }
            }
        }
        false
    }
}

/// Takes the uses of a page. One that was read ahead, and not used yet, counts as used once.
fn take_uses(frames: &dyn Frames, frame: u32) -> u8 {
    match frames.take_uses(frame) {
        Some(uses) => uses.count,
        None => u8::from(frames.take_referenced(frame)),
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

    fn insert(&mut self, _: &dyn Frames, frame: u32, page: u64) {
        let is_ghost = self.take_ghost(page);
        // Until the cache is full, the main queue has room for what does not fit the small one.
        let is_full = !self.has_chosen && self.small.len() >= self.target();
        if (is_ghost || is_full) && self.places[frame as usize] != Place::Small {
            self.push_main(frame, 0);
        } else {
            self.push_small(frame);
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
        !matches!(self.places[frame as usize], Place::Main(1..))
    }

    /// The other pages of a folio follow the victim in the queue. A frame that stayed there would
    /// give its place to its next page, which is new, and would be judged at once.
    fn evicted_with(&mut self, frame: u32, page: u64) {
        match self.places[frame as usize] {
            Place::Small if self.small.front() == Some(&frame) => drop(self.small.pop_front()),
            // Named already, or not at the front of the queue, where it does no harm.
            Place::Small | Place::Unknown => return,
            Place::Main(_) => {}
        }
        self.places[frame as usize] = Place::Unknown;
        self.victims.push(page);
    }

    fn restore(&mut self, frame: u32) {
        if self.places[frame as usize] != Place::Small {
            self.push_main(frame, 0);
        }
    }

    fn moved(&mut self, _: &dyn Frames, from: u32, to: u32) {
        match (self.places[from as usize], self.places[to as usize]) {
            // The frame may hold another page by now: keep its place in the queue.
            (_, Place::Small) => {}
            (Place::Main(lives), _) => self.push_main(to, lives),
            (Place::Small | Place::Unknown, _) => self.push_main(to, 0),
        }
    }

    fn resize(&mut self, frames: u32) {
        self.frames = frames;
        self.ghosts.resize(ghosts_of(frames));
    }
}
