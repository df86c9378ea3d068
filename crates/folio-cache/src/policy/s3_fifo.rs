//! S3-FIFO: a small queue for new pages, a main queue for pages that were used there, and ghosts of
//! pages that were evicted from the small queue.
//!
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.) The main queue is a
//! clock over the frames, which is equivalent to a queue with reinsertion. The small queue holds
//! frame numbers. A scan passes through the small queue and does not touch the main queue.
//!
//! For each frame it keeps the place and the number of visits that found it used, up to 3, in one
//! byte.

use std::collections::VecDeque;

use super::ghosts::Ghosts;
use super::{FrameState, Frames, MAX_PINNED, Policy};

/// The maximum number of visits that are counted as used.
const MAX_USED: u8 = 3;

/// The small queue gets one in this many frames.
const SMALL: u32 = 10;

/// The number of ticks in which as many pages come as there are frames.
const TICKS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the small queue, once.
    Small,
    /// In the main queue, with the number of visits that found it used.
    Main(u8),
}

/// S3-FIFO, with its main queue by frame number.
#[derive(Debug)]
pub struct S3Fifo {
    places: Vec<Place>,
    small: VecDeque<u32>,
    ghosts: Ghosts,
    hand: u32,
    frames: u32,
    inserted: u64,
}

impl S3Fifo {
    /// Returns a policy for at most `frames` frames.
    pub fn new(frames: u32) -> Self {
        Self {
            places: vec![Place::Main(0); frames as usize],
            small: VecDeque::new(),
            ghosts: Ghosts::new(frames),
            hand: 0,
            frames,
            inserted: 0,
        }
    }

    /// Returns the time in ticks.
    fn now(&self) -> u16 {
        (self.inserted / u64::from((self.frames / TICKS).max(1))) as u16
    }

    /// Adds a frame to the small queue, unless it is there.
    fn push_small(&mut self, frame: u32) {
        // It is there already if its page left unseen.
        if self.places[frame as usize] != Place::Small {
            self.places[frame as usize] = Place::Small;
            self.small.push_back(frame);
        }
    }

    /// Names the oldest frame of the small queue if it was not used, or moves it to the main queue.
    /// Returns `true` if it is pinned.
    fn visit_small(&mut self, frames: &dyn Frames, victims: &mut Vec<u32>) -> bool {
        let Some(frame) = self.small.pop_front() else { return false };
        self.places[frame as usize] = Place::Main(0);
        let state = frames.inspect(frame);
        match state {
            FrameState::Evictable(page) if !frames.take_referenced(frame) => {
                let now = self.now();
                self.ghosts.insert(page, now, now);
                victims.push(frame);
            }
            FrameState::Pinned => self.push_small(frame),
            FrameState::Evictable(_) | FrameState::NotCached => {}
        }
        state == FrameState::Pinned
    }

    /// Visits the frame at the hand of the main queue, and names it if it was not used.
    /// Returns `true` if it is pinned.
    fn visit_main(&mut self, frames: &dyn Frames, victims: &mut Vec<u32>) -> bool {
        let frame = self.hand % frames.count();
        self.hand = (frame + 1) % frames.count();
        let Place::Main(used) = self.places[frame as usize] else { return false };
        let state = frames.inspect(frame);
        if !matches!(state, FrameState::Evictable(_)) {
            return state == FrameState::Pinned;
        }
        match (frames.take_referenced(frame), used) {
            (true, _) => self.places[frame as usize] = Place::Main((used + 1).min(MAX_USED)),
            (false, 0) if !victims.contains(&frame) => victims.push(frame),
            (false, _) => self.places[frame as usize] = Place::Main(used.saturating_sub(1)),
        }
        false
    }
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn insert(&mut self, _: &dyn Frames, frame: u32, page: u64) {
        self.inserted += 1;
        let now = self.now();
        if self.ghosts.take(page, now, TICKS as u16).is_some()
            && self.places[frame as usize] != Place::Small
        {
            self.places[frame as usize] = Place::Main(0);
        } else {
            self.push_small(frame);
        }
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let target = (self.frames / SMALL).max(1) as usize;
        let laps = (u32::from(MAX_USED) + 2) as usize * frames.count() as usize;
        // Visits of each queue since it last got something new; in the small queue, visits that
        // left the page there.
        let (mut small, mut main) = (0, 0);
        let mut pinned = 0;
        while victims.len() < wanted && pinned < MAX_PINNED {
            let before = victims.len();
            let over = self.small.len() > target && small < self.small.len();
            if over || main >= laps {
                if small >= self.small.len() && main >= laps {
                    break;
                }
                let len = self.small.len();
                pinned += usize::from(self.visit_small(frames, victims));
                if self.small.len() < len {
                    // There may be a new page for the hand.
                    main = 0;
                } else {
                    small += 1;
                }
            } else {
                pinned += usize::from(self.visit_main(frames, victims));
                main += 1;
            }
            if victims.len() > before {
                small = 0;
            }
        }
    }

    fn is_cold(&self, frame: u32) -> bool {
        !matches!(self.places[frame as usize], Place::Main(1..))
    }

    /// The other pages of a folio follow the victim in the queue. A frame that stayed there would
    /// give its place to its next page, which is new, and would be judged at once.
    fn evicted_with(&mut self, frame: u32, page: u64) {
        if self.places[frame as usize] == Place::Small && self.small.front() == Some(&frame) {
            self.small.pop_front();
            self.places[frame as usize] = Place::Main(0);
            let now = self.now();
            self.ghosts.insert(page, now, now);
        }
    }

    fn restore(&mut self, frame: u32) {
        self.push_small(frame);
    }

    fn moved(&mut self, from: u32, to: u32) {
        match self.places[from as usize] {
            Place::Small => self.push_small(to),
            Place::Main(_) if self.places[to as usize] == Place::Small => {}
            main @ Place::Main(_) => self.places[to as usize] = main,
        }
    }

    fn resize(&mut self, frames: u32) {
        self.frames = frames;
    }
}
