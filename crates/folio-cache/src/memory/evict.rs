//! Eviction: what the policy chose is claimed, frozen and freed; and where memory comes from when
//! there is none.
//!
//! The policy is asked under its lock and only names frames. What is done to them is done outside
//! of it, by the rules of slots: who holds a page is never waited for, and what can not be taken is
//! given back. Several threads may evict at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use folio_frames::{
    FRAME_SIZE, FrozenFolio, Kind, MigrateType, Order, Owner, Pfn, PfnRange, Slot, UserSpace, Zone,
};
use folio_ref::{Scheme, Snapshot};

use crate::api::cache::{CACHED, Shared};
use crate::policy::{FrameState, Frames};
use crate::rt::shim::{rest, yield_now};
use crate::state::mapping::{Mapping, split_owner_data};

/// Pages that are freed at once when some have to be: some of the next misses are spared the same.
pub(crate) const BATCH: usize = 32;

/// Tries of an allocation before it fails. Reclaim may find nothing for a moment: somebody takes a
/// block offline or closes a large file, and what they hold comes back.
const ROUNDS: usize = 200;

/// Rounds that only yield; the later ones sleep for [`PAUSE`].
const YIELDS: usize = 16;

const PAUSE: Duration = Duration::from_millis(1);

/// No frames.
const NONE: PfnRange = PfnRange { start: Pfn::new(0), end: Pfn::new(0) };

/// The frames of a zone, as a policy sees them.
struct CachedFrames<S: Scheme>(&'static Zone<UserSpace<S>>);

impl<S: Scheme> CachedFrames<S> {
    fn pfn(&self, frame: u32) -> Pfn {
        Pfn::new(self.0.pfns().start.as_u64() + u64::from(frame))
    }

    /// A tail: of a large folio, each of whose frames is a page.
    fn look_at_part(&self, frame: u32, owner_data: u64) -> FrameState {
        match self.0.peek_around(self.pfn(frame)) {
            Some((_, head)) if head.kind == CACHED => match head.snapshot {
                Snapshot::Live(n) if n <= head.order.frames() => FrameState::Evictable(owner_data),
                _ => FrameState::Pinned,
            },
            _ => FrameState::NotCached,
        }
    }
}

impl<S: Scheme> Frames for CachedFrames<S> {
    fn count(&self) -> u32 {
        self.0.pfns().frames() as u32
    }

    fn look(&self, frame: u32) -> FrameState {
        let seen = self.0.peek(self.pfn(frame));
        if seen.kind == Kind::INTERIOR {
            return self.look_at_part(frame, seen.owner_data);
        }
        match seen.snapshot {
            _ if seen.kind != CACHED => FrameState::NotCached,
            // The references are the index's, unless pages left a larger folio that somebody holds.
            // What is dirty can go when it was written back.
            Snapshot::Live(n) if n <= seen.order.frames() && !seen.dirty => {
                FrameState::Evictable(seen.owner_data)
            }
            _ => FrameState::Pinned,
        }
    }

    fn take_referenced(&self, frame: u32) -> bool {
        self.0.take_referenced(self.pfn(frame))
    }
}

impl<S: Scheme> Shared<S> {
    /// Tells the policy of a page that came. Call without a claim.
    pub(crate) fn insert(&self, pfn: Pfn, owner_data: u64) {
        self.insert_all(&[(pfn, owner_data)]);
    }

    /// Tells the policy of pages that came, each with its private note. Call without a claim.
    pub(crate) fn insert_all(&self, pages: &[(Pfn, u64)]) {
        if pages.is_empty() {
            return;
        }
        let frames = CachedFrames(self.zone());
        let mut policy = self.policy.lock();
        for &(pfn, owner_data) in pages {
            policy.insert(&frames, self.frame(pfn), owner_data);
        }
    }

    /// Whether pages were not used lately, and the policy does not hold them for hot, which may
    /// have taken their marks a moment ago.
    pub(crate) fn are_cold(&self, mut pages: PfnRange) -> bool {
        if pages.clone().any(|pfn| self.zone().is_referenced(pfn)) {
            return false;
        }
        let policy = self.policy.lock();
        pages.all(|pfn| policy.is_cold(self.frame(pfn)))
    }

    /// Tells the policy of pages that go with a victim, each with its private note. Call while
    /// nobody can have their frames.
    pub(crate) fn evicted_with(&self, pages: &[(Pfn, u64)]) {
        let mut policy = self.policy.lock();
        for &(pfn, owner_data) in pages {
            policy.evicted_with(self.frame(pfn), owner_data);
        }
    }

    /// The number by which a policy knows a frame.
    pub(crate) fn frame(&self, pfn: Pfn) -> u32 {
        (pfn.as_u64() - self.zone().pfns().start.as_u64()) as u32
    }

    /// Frees `wanted` pages, and some more where they lie in one folio, about half as many at the
    /// most: no cold folio is cut for its last pages. How many it freed: fewer only when the
    /// rest is held.
    pub(crate) fn reclaim(&self, wanted: usize) -> usize {
        let frames = CachedFrames(self.zone());
        let (mut freed, mut victims) = (0, Vec::with_capacity(BATCH));
        // Given back at the end: the policy would name them again at once.
        let mut failed = Vec::new();
        // Victims in a row are often of one file, and of one folio.
        let (mut mapping, mut gone) = (None, NONE);
        // Not for ever, whatever a policy names.
        let mut named: usize = 0;
        while freed < wanted && named.saturating_sub(freed) < frames.count() as usize {
            victims.clear();
            self.policy.lock().pick_victims(&frames, BATCH.min(wanted - freed), &mut victims);
            if victims.is_empty() {
                break;
            }
            named += victims.len();
            for &frame in &victims {
                let pfn = frames.pfn(frame);
                // It went with the one before. If another page has the frame by now, the policy was
                // told of that.
                if (gone.start..gone.end).contains(&pfn) {
                    continue;
                }
                // All that were chosen go, in their order: who comes back to the policy comes last
                // there, and a folio's pages would part.
                let most = wanted.saturating_add(wanted / 2).saturating_sub(freed);
                let Some((pages, frames)) = self.evict(pfn, most, &mut mapping) else {
                    failed.push(frame);
                    continue;
                };
                freed += pages;
                gone = frames;
            }
        }
        if !failed.is_empty() {
            let mut policy = self.policy.lock();
            for frame in failed {
                policy.restore(frame);
            }
        }
        self.counters.reclaimed.add(freed as u64);
        freed
    }

    /// Frees the page in a frame, and with it those of its folio, if they are all as cold, and no
    /// more than `most`. How many, and in which frames: none if it is not there any more.
    /// `None`: it stays. `last` is the mapping of the page before, for this one.
    fn evict(
        &self,
        pfn: Pfn,
        most: usize,
        last: &mut Option<Arc<Mapping<S>>>,
    ) -> Option<(usize, PfnRange)> {
        let Some((head, seen)) =
            self.zone().peek_around(pfn).filter(|(_, seen)| seen.kind == CACHED)
        else {
            return Some((0, NONE));
        };
        // A tail keeps its own.
        let owner_data =
            if head == pfn { seen.owner_data } else { self.zone().peek(pfn).owner_data };
        let (id, page) = split_owner_data(owner_data);
        if last.as_ref().is_none_or(|mapping| mapping.id != id) {
            // No lock is held when the one before is dropped here, perhaps the last reference to
            // it.
            *last = self.registry.by_id(id);
        }
        let mapping = last.as_ref()?;
        if seen.order > Order::ZERO
            && let Some(pages) = mapping.reclaim_folio(head, &seen, most)
        {
            let end = Pfn::new(head.as_u64() + u64::from(seen.order.frames()));
            return Some((pages, PfnRange { start: head, end }));
        }
        self.evict_slot(pfn, mapping.index.get(page)?).then_some((1, NONE))
    }

    fn evict_slot(&self, pfn: Pfn, slot: &Slot<UserSpace<S>>) -> bool {
        // R8: the look at the frame is stale; what counts is what the slot holds under the claim.
        let Some(locked) = slot.try_lock(self.zone()).filter(|locked| locked.pfn() == pfn) else {
            return false;
        };
        // Newer than the backing: writeback comes first.
        if locked.folio().is_dirty() {
            return false;
        }
        let Ok(frozen) = locked.freeze() else { return false };
        frozen.remove().free();
        true
    }

    /// A frozen frame, by reclaim if there is no free one.
    ///
    /// # Errors
    ///
    /// `OutOfMemory`, with how much is pinned, when for about 200 ms there was nothing to reclaim.
    pub(crate) fn allocate(&self) -> io::Result<FrozenFolio<UserSpace<S>>> {
        self.look_at_level();
        self.zone()
            .alloc_frozen_as(Order::ZERO, MigrateType::Movable)
            .or_else(|_| self.allocate_by_reclaim())
    }

    /// Frees frames for who found none. Some may be free already, in the lists of other threads.
    /// How many it freed.
    pub(crate) fn free_some(&self, wanted: usize) -> usize {
        self.zone().drain();
        match self.zone().free_frames() {
            0 => self.reclaim(wanted),
            free => free as usize,
        }
    }

    #[cold]
    fn allocate_by_reclaim(&self) -> io::Result<FrozenFolio<UserSpace<S>>> {
        let zone = self.zone();
        self.counters.direct_reclaims.add(1);
        // If its thread could not be started, it may be now.
        self.reclaimer.notify_soon();
        self.fit();
        for round in 0..ROUNDS {
            if self.free_some(BATCH) == 0 {
                self.write_back_some();
            }
            if let Ok(folio) = zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
                return Ok(folio);
            }
            if round < YIELDS {
                yield_now();
            } else {
                rest(PAUSE);
            }
        }
        Err(self.out_of_memory())
    }

    /// Pages that are held by others than the index, or only by others, in bytes. Racy.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.held_frames(self.zone().pfns()) * FRAME_SIZE
    }

    /// As above, of some frames.
    pub(crate) fn held_frames(&self, frames: PfnRange) -> usize {
        let zone = self.zone();
        let held = |pfn: Pfn| {
            let seen = zone.peek(pfn);
            if seen.kind != CACHED {
                return 0;
            }
            let frames = seen.order.frames();
            let mut indexed = 0;
            for pfn in (pfn.as_u64()..).map(Pfn::new).take(frames as usize) {
                let owner_data = zone.peek(pfn).owner_data;
                self.with_slot(pfn, owner_data, &mut |slot| {
                    indexed += u32::from(slot.pfn(zone) == Some(pfn))
                });
            }
            let is_held = indexed == 0 || seen.snapshot != Snapshot::Live(indexed);
            if is_held { frames as usize } else { 0 }
        };
        frames.map(held).sum()
    }
}
