//! Reclaim: CLOCK over the frames.
//!
//! The hand goes round the frames, not the files. A page that was used since it last passed loses its mark
//! and stays; one that was not is claimed, frozen and freed. Who holds a page is never waited for. Several
//! threads may push the one hand: each looks at other frames.

use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use page_frames::{FRAME_SIZE, FrozenFolio, Order, Owner, Pfn, Slot, UserSpace};
use page_ref::{Scheme, Snapshot};

use crate::cache::{CACHED, Inner};

/// Pages that a miss frees at once when it has to: some of the next misses are spared the same.
const BATCH: usize = 32;

/// Tries of an allocation before it fails. Reclaim may find nothing for a moment: somebody takes a block offline or
/// closes a large file, and what they hold comes back.
const ROUNDS: usize = 200;

/// Rounds that only yield; the later ones sleep for [`PAUSE`].
const YIELDS: usize = 16;

const PAUSE: Duration = Duration::from_millis(1);

impl<S: Scheme> Inner<S> {
    /// Frees up to `frames` pages, in at most two rounds of the hand. How many it freed.
    pub(crate) fn reclaim(&self, frames: usize) -> usize {
        let all = self.zone().pfns();
        let (first, count) = (all.start.as_u64(), all.frames());
        let mut freed = 0;
        for _ in 0..2 * count {
            if freed >= frames {
                break;
            }
            // Relaxed: any frame is a fair one.
            let step = self.hand.fetch_add(1, Ordering::Relaxed);
            freed += usize::from(self.reclaim_frame(Pfn::new(first + step % count)));
        }
        self.counters.reclaimed.add(freed as u64);
        freed
    }

    /// Frees the page in a frame, unless it was used lately, is held, or is no page of ours.
    fn reclaim_frame(&self, pfn: Pfn) -> bool {
        let zone = self.zone();
        let seen = zone.peek(pfn);
        // The one reference is the index's. What is held is left alone, with its mark.
        if seen.kind != CACHED || seen.snapshot != Snapshot::Live(1) || zone.take_mark(pfn) {
            return false;
        }
        let mut freed = false;
        self.with_slot(pfn, seen.private, &mut |slot| freed = self.reclaim_slot(pfn, slot));
        freed
    }

    fn reclaim_slot(&self, pfn: Pfn, slot: &Slot<UserSpace<S>>) -> bool {
        // R8: the look at the frame is stale; what counts is what the slot holds under the claim.
        let Some(claim) = slot.claim(self.zone()).filter(|claim| claim.pfn() == pfn) else { return false };
        let Ok(frozen) = claim.freeze() else { return false };
        frozen.remove().free();
        true
    }

    /// A frozen frame, by reclaim if there is no free one.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, with how much is pinned, when for about 200 ms there was nothing to reclaim.
    pub(crate) fn allocate(&self) -> io::Result<FrozenFolio<UserSpace<S>>> {
        self.zone().alloc_frozen(Order::ZERO).or_else(|_| self.allocate_by_reclaim())
    }

    #[cold]
    fn allocate_by_reclaim(&self) -> io::Result<FrozenFolio<UserSpace<S>>> {
        let zone = self.zone();
        self.counters.direct_reclaims.add(1);
        for round in 0..ROUNDS {
            if self.reclaim(BATCH) == 0 {
                // Free frames may lie in the lists of other threads.
                zone.drain();
            }
            if let Ok(folio) = zone.alloc_frozen(Order::ZERO) {
                return Ok(folio);
            }
            if round < YIELDS {
                thread::yield_now();
            } else {
                thread::sleep(PAUSE);
            }
        }
        let (pinned, budget) = (self.pinned_frames() * FRAME_SIZE, self.budget_bytes());
        let online = zone.stats().online_frames as usize * FRAME_SIZE;
        let message = format!(
            "no page can be freed: of the cache's {budget} bytes {pinned} are pinned by handles, {} are offline",
            budget.saturating_sub(online)
        );
        Err(io::Error::new(io::ErrorKind::OutOfMemory, message))
    }

    /// Pages that are held by others than the index, or only by others. Racy.
    fn pinned_frames(&self) -> usize {
        let zone = self.zone();
        let is_pinned = |&pfn: &Pfn| {
            let seen = zone.peek(pfn);
            if seen.kind != CACHED || seen.snapshot != Snapshot::Live(1) {
                return seen.kind == CACHED;
            }
            let mut indexed = false;
            self.with_slot(pfn, seen.private, &mut |slot| indexed = slot.pfn(zone) == Some(pfn));
            !indexed
        };
        zone.pfns().filter(is_pinned).count()
    }
}
