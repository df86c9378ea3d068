//! The hot clock: its hand visits hot pages, and makes those cold that were not used.

use super::{HotCold, IN_RING, MAX_LIVES, Place, Visits};
use crate::policy::{FrameState, Frames};

/// The maximum number of hot pages that are visited to let one page pass the gate.
const GATE_VISITS: usize = 16;

impl HotCold {
    /// Makes a hot page cold. Returns `false` if none can be evicted, or if `visits` ran out.
    pub(super) fn cool_one(
        &mut self,
        frames: &(impl Frames + ?Sized),
        visits: &mut Visits,
    ) -> bool {
        while visits.are_left()
            && let Some((frame, lives)) = self.next()
        {
            visits.left = visits.left.saturating_sub(1);
            match frames.inspect(frame) {
                FrameState::NotCached => self.set(frame, Place::Unknown),
                FrameState::Pinned => {
                    visits.pinned += 1;
                    self.set_aside(frame, lives + 1);
                }
                FrameState::Evictable(page) if !self.is_used(frames, frame, lives) => {
                    self.dequeue(frame, IN_RING);
                    self.chill(frame);
                    if self.is_in_run(frame) {
                        self.cool_run(frames, page);
                    }
                    return true;
                }
                FrameState::Evictable(_) => {
                    self.ring.push_back(frame);
                    continue;
                }
            }
            self.dequeue(frame, IN_RING);
        }
        false
    }

    /// Takes the next hot frame out of the ring. Returns it with its lives, or `None` if there is
    /// none. Frames that are no longer hot are removed on the way.
    pub(super) fn next(&mut self) -> Option<(u32, u8)> {
        loop {
            let frame = self.ring.pop_front()?;
            if let Place::Hot(lives) = self.places[frame as usize] {
                return Some((frame, lives));
            }
            self.dequeue(frame, IN_RING);
        }
    }

    /// Visits a hot page, which gains a life or loses one. Returns `true` if it stays hot.
    fn is_used(&mut self, frames: &(impl Frames + ?Sized), frame: u32, lives: u8) -> bool {
        if frames.take_referenced(frame) {
            self.places[frame as usize] = Place::Hot((lives + 1).min(MAX_LIVES));
            self.touch(frame);
            return true;
        }
        self.places[frame as usize] = Place::Hot(lives.saturating_sub(1));
        lives > 0
    }

    /// Makes the hot pages cold that follow one that just became cold, in their file and in the
    /// clock, up to one that was used.
    fn cool_run(&mut self, frames: &(impl Frames + ?Sized), mut page: u64) {
        for _ in 0..self.most_of_run() {
            page = page.wrapping_add(1);
            let Some(&frame) = self.ring.front() else { break };
            let Place::Hot(lives) = self.places[frame as usize] else { break };
            if self.page_of_run(frames, frame) != Some(page) || self.is_used(frames, frame, lives) {
                break;
            }
            self.ring.pop_front();
            self.dequeue(frame, IN_RING);
            self.chill(frame);
            self.runs.note_cold();
        }
    }

    /// Makes a hot page cold that was not used since `time`. Returns `true` if one was found.
    pub(super) fn open_gate(&mut self, frames: &(impl Frames + ?Sized), time: u16) -> bool {
        for _ in 0..GATE_VISITS {
            let Some((frame, lives)) = self.next() else { break };
            if self.is_used(frames, frame, lives) {
                self.ring.push_back(frame);
                continue;
            }
            // Ages are compared, not times, because the clock wraps around.
            let now = self.now;
            let is_older = now.wrapping_sub(self.times[frame as usize]) > now.wrapping_sub(time);
            if is_older {
                self.dequeue(frame, IN_RING);
                self.chill(frame);
            } else {
                self.ring.push_back(frame);
            }
            return is_older;
        }
        false
    }
}
