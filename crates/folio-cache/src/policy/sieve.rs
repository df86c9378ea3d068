//! SIEVE: a queue in the order of arrival, a hand that goes from the oldest to the newest and takes
//! what was not used.
//!
//! (Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.) What was used stays where it stands, so
//! that new pages, behind the hand's way, are judged soon, and a scan takes only what a scan
//! brought. Where a new loop follows an old one it is stuck: the hand runs behind what is new at
//! the speed at which it comes, and never gets to what is old. 8 bytes for each frame.

use super::queue::Queue;
use super::{FrameState, Frames, Policy};

/// SIEVE.
#[derive(Debug)]
pub struct Sieve {
    queue: Queue,
    /// Where it looks next; `None`: at the oldest.
    hand: Option<u32>,
}

impl Sieve {
    /// For so many frames at the most.
    pub fn new(frames: u32) -> Self {
        Self { queue: Queue::new(frames), hand: None }
    }

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
        // Another page was here, and left without our doing.
        if self.queue.contains(frame) {
            self.remove(frame);
        }
        self.queue.push(frame);
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        for _ in 0..=2 * self.queue.len() {
            if victims.len() >= wanted {
                return;
            }
            let Some(frame) = self.hand.or_else(|| self.queue.oldest()) else { break };
            self.hand = self.queue.newer(frame);
            match frames.look(frame) {
                FrameState::Pinned => {}
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

    fn moved(&mut self, _: u32, to: u32) {
        self.restore(to);
    }

    fn resize(&mut self, _: u32) {}
}
