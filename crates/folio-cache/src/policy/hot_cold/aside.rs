//! Pinned frames are set aside, so that they are not visited each time.

use super::{HotCold, IN_ASIDE, Place};
use crate::policy::{FrameState, Frames};

impl HotCold {
    /// Sets a pinned frame aside.
    pub(super) fn set_aside(&mut self, frame: u32, lives_and_1: u8) {
        self.set(frame, Place::Aside(lives_and_1));
        if self.enqueue(frame, IN_ASIDE) {
            self.aside.push_back(frame);
        }
    }

    /// Visits pages that were set aside, and takes back those that are not pinned any more.
    pub(super) fn take_back(&mut self, frames: &(impl Frames + ?Sized), visits: usize) {
        for _ in 0..visits.min(self.aside.len()) {
            let Some(frame) = self.aside.pop_front() else { break };
            self.dequeue(frame, IN_ASIDE);
            let Place::Aside(lives_and_1) = self.places[frame as usize] else { continue };
            match frames.inspect(frame) {
                FrameState::NotCached => self.set(frame, Place::Unknown),
                FrameState::Pinned => self.set_aside(frame, lives_and_1),
                FrameState::Evictable(_) if lives_and_1 > 0 => self.heat(frame, lives_and_1 - 1),
                FrameState::Evictable(_) => self.chill(frame),
            }
        }
    }
}
