//! CLOCK: a queue. The oldest page is evicted, unless it was used since its last turn: then it goes
//! to the end, for one turn more.
//!
//! A hand that moves around the frames does the same as long as each page comes to the frame of a
//! victim. Here frames are freed in batches, and by truncations, so the order of the frames is not
//! that of the pages. CLOCK is not scan-resistant: it treats all pages alike, so a scan of the size
//! of the memory evicts all other pages. It takes 8 bytes for each frame.

use super::queue::Queue;
use super::{FrameState, Frames, MAX_PINNED, Policy};

/// CLOCK: a queue of pages that get another turn if they were used.
#[derive(Debug, Default)]
pub struct Clock {
    queue: Queue,
}

impl Clock {
    /// Returns a policy for any number of frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves a frame to the end of the queue.
    fn move_to_end(&mut self, frame: u32) {
        self.queue.remove(frame);
        self.queue.push(frame);
    }
}

impl Policy for Clock {
    fn name(&self) -> &'static str {
        "clock"
    }

    fn insert(&mut self, frames: &dyn Frames, frame: u32, _: u64) {
        self.queue.grow(frames.count());
        // The page that was in the frame left unseen.
        if self.queue.contains(frame) {
            self.queue.remove(frame);
        }
        self.queue.push(frame);
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let mut pinned = 0;
        for _ in 0..2 * self.queue.len() {
            if victims.len() >= wanted || pinned == MAX_PINNED {
                break;
            }
            let Some(frame) = self.queue.oldest() else { break };
            match frames.inspect(frame) {
                // A pinned page keeps its referenced bit.
                FrameState::Pinned => {
                    pinned += 1;
                    self.move_to_end(frame);
                }
                FrameState::Evictable(_) if frames.take_referenced(frame) => {
                    self.move_to_end(frame);
                }
                FrameState::Evictable(_) => {
                    self.queue.remove(frame);
                    victims.push(frame);
                }
                FrameState::NotCached => self.queue.remove(frame),
            }
        }
    }

    fn restore(&mut self, frame: u32) {
        self.queue.grow(frame + 1);
        if !self.queue.contains(frame) {
            self.queue.push(frame);
        }
    }

    fn moved(&mut self, frames: &dyn Frames, _: u32, to: u32) {
        self.queue.grow(frames.count());
        self.restore(to);
    }

    fn resize(&mut self, _: u32) {}
}
