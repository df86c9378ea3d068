//! SIEVE: a queue in order of arrival. A hand moves from the oldest to the newest page and evicts
//! pages that were not used.
//!
//! (Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.) A page that was used keeps its place in
//! the queue. So the hand soon reaches new pages, and a scan evicts only pages of the scan. If a
//! new loop follows an old one, SIEVE gets stuck: the hand follows the new pages at the speed at
//! which they come, and never reaches the old ones. It takes 8 bytes for each frame.

use super::queue::Queue;
use super::{FrameState, Frames, MAX_PINNED, Policy};

/// SIEVE: a queue and a hand.
#[derive(Debug)]
pub struct Sieve {
    queue: Queue,
    /// The frame that is visited next; `None` is the oldest.
    hand: Option<u32>,
}

impl Sieve {
    /// Returns a policy for at most `frames` frames.
    pub fn new(frames: u32) -> Self {
        Self { queue: Queue::new(frames), hand: None }
    }

    /// Removes a frame from the queue. A hand that is there moves to the next newer frame.
    fn remove(&mut self, frame: u32) {
        if self.hand == Some(frame) {
            self.hand = self.queue.newer(frame);
        }
        self.queue.remove(frame);
    }
}

impl Policy for Sieve {
    fn name(&self) -> &'static str {
        "sieve"
    }

    fn insert(&mut self, _: &dyn Frames, frame: u32, _: u64) {
        // The page that was in the frame left unseen.
        if self.queue.contains(frame) {
            self.remove(frame);
        }
        self.queue.push(frame);
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let mut pinned = 0;
        for _ in 0..=2 * self.queue.len() {
            if victims.len() >= wanted || pinned == MAX_PINNED {
                return;
            }
            let Some(frame) = self.hand.or_else(|| self.queue.oldest()) else { break };
            self.hand = self.queue.newer(frame);
            match frames.inspect(frame) {
                FrameState::Pinned => pinned += 1,
                FrameState::Evictable(_) if frames.take_referenced(frame) => {}
                FrameState::Evictable(_) => {
                    self.remove(frame);
                    victims.push(frame);
                }
                FrameState::NotCached => self.remove(frame),
            }
        }
    }

    fn restore(&mut self, frame: u32) {
        if !self.queue.contains(frame) {
            self.queue.push(frame);
        }
    }

    fn moved(&mut self, _: &dyn Frames, _: u32, to: u32) {
        self.restore(to);
    }

    fn resize(&mut self, _: u32) {}
}
