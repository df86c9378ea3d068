//! S3-FIFO: a small queue for what is new, the rest for what was used there, ghosts for what left
//! the small one.
//!
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.) The main queue is a
//! clock over the frames, which is what a queue with reinsertion is; the small one holds frame
//! numbers. A scan goes through the small queue and leaves the main one alone.
//!
//! Of each frame it keeps its place and how often it was found used, up to 3: one byte.

use std::collections::VecDeque;

use super::ghosts::Ghosts;
use super::{FrameState, Frames, Policy};

/// Times found used that count.
const MOST: u8 = 3;

/// Of all frames, the part that the small queue gets: one in so many.
const SMALL: u32 = 10;

/// Ticks in which as many pages come as there are frames.
const TICKS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Small,
    /// Found used so many times.
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
    admitted: u64,
}

impl S3Fifo {
    /// For so many frames at the most.
    pub fn new(frames: u32) -> Self {
        Self {
            places: vec![Place::Main(0); frames as usize],
            small: VecDeque::new(),
            ghosts: Ghosts::new(frames),
            hand: 0,
            frames,
            admitted: 0,
        }
    }

    fn now(&self) -> u16 {
        (self.admitted / u64::from((self.frames / TICKS).max(1))) as u16
    }

    fn push_small(&mut self, frame: u32) {
        // It may be there already: its page left without our doing.
        if self.places[frame as usize] != Place::Small {
            self.places[frame as usize] = Place::Small;
            self.small.push_back(frame);
        }
    }

    /// The oldest of the small queue goes, or into the main one.
    fn choose_small(&mut self, frames: &dyn Frames, victims: &mut Vec<u32>) {
        let Some(frame) = self.small.pop_front() else { return };
        self.places[frame as usize] = Place::Main(0);
        match frames.look(frame) {
            FrameState::Evictable(page) if !frames.take_referenced(frame) => {
                let now = self.now();
                self.ghosts.insert(page, now, now);
                victims.push(frame);
            }
            FrameState::Pinned => self.push_small(frame),
            FrameState::Evictable(_) | FrameState::NotCached => {}
        }
    }

    /// The hand looks at one frame.
    fn choose_main(&mut self, frames: &dyn Frames, victims: &mut Vec<u32>) {
        let frame = self.hand % frames.count();
        self.hand = (frame + 1) % frames.count();
        let Place::Main(used) = self.places[frame as usize] else { return };
        if !matches!(frames.look(frame), FrameState::Evictable(_)) {
            return;
        }
        match (frames.take_referenced(frame), used) {
            (true, _) => self.places[frame as usize] = Place::Main((used + 1).min(MOST)),
            (false, 0) if !victims.contains(&frame) => victims.push(frame),
            (false, _) => self.places[frame as usize] = Place::Main(used.saturating_sub(1)),
        }
    }
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn insert(&mut self, _: &dyn Frames, frame: u32, page: u64) {
        self.admitted += 1;
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
        let laps = (u32::from(MOST) + 2) as usize * frames.count() as usize;
        // Looks at each of the two, in the small one at what stays there, since something new came
        // to it.
        let (mut small, mut main) = (0, 0);
        while victims.len() < wanted {
            let before = victims.len();
            let over = self.small.len() > target && small < self.small.len();
            if over || main >= laps {
                if small >= self.small.len() && main >= laps {
                    break;
                }
                let len = self.small.len();
                self.choose_small(frames, victims);
                if self.small.len() < len {
                    // Something else for the hand to find.
                    main = 0;
                } else {
                    small += 1;
                }
            } else {
                self.choose_main(frames, victims);
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

    /// As in `HotCold`.
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
