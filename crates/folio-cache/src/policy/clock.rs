//! CLOCK: a hand goes round the frames. What was used since it last passed stays, once.
//!
//! No state but the hand. It is not scan-resistant: every page is as good as the next, so that a
//! scan of the memory's size leaves nothing of what was there.

use super::{FrameState, Frames, Policy};

/// CLOCK, by frame number.
#[derive(Debug, Default)]
pub struct Clock {
    hand: u32,
}

impl Clock {
    /// For any number of frames.
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
        for _ in 0..2 * u64::from(count) {
            if victims.len() >= wanted {
                break;
            }
            let frame = self.hand % count;
            self.hand = (frame + 1) % count;
            // What is held keeps its mark.
            let is_free = matches!(frames.look(frame), FrameState::Evictable(_))
                && !frames.take_referenced(frame);
            if is_free && !victims.contains(&frame) {
                victims.push(frame);
            }
        }
    }

    fn restore(&mut self, _: u32) {}

    fn moved(&mut self, _: u32, _: u32) {}

    fn resize(&mut self, _: u32) {}
}
