//! The frames of a cache as its policy sees them, and what the policy hears of pages.

use folio_frames::{Kind, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};

use crate::policy::{FrameState, Frames};
use crate::state::frames::Zone;
use crate::state::shared::Shared;
use crate::state::units::CACHED;

/// The frames of a zone, as a policy sees them.
pub(super) struct CachedFrames<S: Scheme>(pub(super) &'static Zone<S>);

impl<S: Scheme> CachedFrames<S> {
    pub(super) fn pfn(&self, frame: u32) -> Pfn {
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
}
