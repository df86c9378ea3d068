//! Victims in the order of their last uses.
//!
//! [`Plan::LastUse`] is LRU, in laps. In a lap, the pages of `old` wait for their visit. A page
//! that was used is kept: it becomes hot, and waits in the ring for the next lap. A page that was
//! not used is the victim. New pages wait for the next lap too. It begins with the oldest last
//! use: the pages are sorted by the time of their uses, once in a lap. All pages of the ring were
//! used later than those of the lap that are victims. So the order is that of LRU, as far as the
//! times of uses tell it.

use std::cmp::Reverse;

use super::{HotCold, IN_RING, Visits};
use crate::policy::plan::Plan;
use crate::policy::{Frames, Uses};

/// The most pages of a lap, so that no miss waits for long.
const MAX_LAP: usize = 1 << 16;

impl HotCold {
    /// Returns the maximum number of hot frames.
    pub(super) fn max_hot(&self) -> u32 {
        match self.plan {
            Plan::Share(_) => self.frames.saturating_sub(self.queue_share.frames()),
            Plan::LastUse => u32::MAX,
        }
    }

    /// Sets the plan.
    pub(super) fn set_plan(&mut self, plan: Plan) {
        self.plan = plan;
        match plan {
            Plan::Share(share) => self.queue_share.set_share(share),
            Plan::LastUse => self.old.append(&mut self.young),
        }
    }

    /// Puts hot pages into the empty queue. Returns `false` if there is none that can be evicted,
    /// or if `visits` ran out.
    pub(super) fn refill(&mut self, frames: &(impl Frames + ?Sized), visits: &mut Visits) -> bool {
        match self.plan {
            Plan::Share(_) => self.cool_one(frames, visits),
            Plan::LastUse => {
                self.begin_lap(frames);
                !self.old.is_empty()
            }
        }
    }

    /// Makes the hot pages cold, in the order of their last uses.
    fn begin_lap(&mut self, frames: &(impl Frames + ?Sized)) {
        while self.old.len() < MAX_LAP
            && let Some((frame, _)) = self.next()
        {
            self.dequeue(frame, IN_RING);
            self.chill(frame);
            if let Some(uses) = frames.take_uses(frame) {
                self.note_time(frames, frame, uses);
            }
        }
        let (now, used) = (frames.now() as u8, &self.used);
        let age = |&frame: &u32| Reverse(now.wrapping_sub(used[frame as usize]));
        self.old.make_contiguous().sort_by_key(age);
    }

    /// Notes the time of the last use of a page.
    pub(super) fn note_time(&mut self, frames: &(impl Frames + ?Sized), frame: u32, uses: Uses) {
        if uses.count > 0 {
            self.used[frame as usize] = (frames.now() as u8).wrapping_sub(uses.age);
        }
    }
}
