//! CLOCK: a hand moves around the frames. A page that was used since the last lap stays for one
//! more.
//!
//! The hand is its only state. CLOCK is not scan-resistant: it treats all pages alike, so a scan of
//! the size of the memory evicts all other pages.

use super::{FrameState, Frames, MAX_PINNED, Policy};

/// CLOCK, by frame number.
#[derive(Debug, Default)]
pub struct Clock {
    hand: u32,
}

impl Clock {
    /// Returns a policy for any number of frames.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Policy for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn insert(&mut self, _: &dyn Frames, _: u32, _: u64) {}

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let count = frames.count();
        let mut pinned = 0;
        for _ in 0..2 * u64::from(count) {
            if victims.len() >= wanted || pinned == MAX_PINNED {
                break;
            }
            let frame = self.hand % count;
            self.hand = (frame + 1) % count;
            // A pinned page keeps its referenced bit.
            let state = frames.inspect(frame);
            pinned += usize::from(state == FrameState::Pinned);
            let is_victim =
                matches!(state, FrameState::Evictable(_)) && !frames.take_referenced(frame);
            if is_victim && !victims.contains(&frame) {
                victims.push(frame);
            }
        }
    }

    fn restore(&mut self, _: u32) {}

    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}

    fn resize(&mut self, _: u32) {}
}
