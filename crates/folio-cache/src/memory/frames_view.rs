//! The frames of a cache as its policy sees them, and the reports of pages to the policy.

use folio_frames::{Kind, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};

use crate::policy::{Advice, FrameState, Frames};
use crate::state::frames::Zone;
use crate::state::shared::Shared;
use crate::state::units::CACHED;

/// The frames of a zone, as a policy sees them.
pub(super) struct CachedFrames<S: Scheme>(pub(super) &'static Zone<S>);

impl<S: Scheme> CachedFrames<S> {
    pub(super) fn pfn(&self, frame: u32) -> Pfn {
        Pfn::new(self.0.pfns().start.as_u64() + u64::from(frame))
    }

    /// Returns the state of a tail: a subpage of a large folio, in which each frame is a page.
    fn inspect_subpage(&self, frame: u32, owner_data: u64) -> FrameState {
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

    fn inspect(&self, frame: u32) -> FrameState {
        let seen = self.0.peek(self.pfn(frame));
        if seen.kind == Kind::INTERIOR {
            return self.inspect_subpage(frame, seen.owner_data);
        }
        match seen.snapshot {
            _ if seen.kind != CACHED => FrameState::NotCached,
            // The references are the index's, unless pages left a larger folio that is pinned. A
            // dirty page can be evicted once it is written back.
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

/// Reports a new page to the policy. Call with no page locked.
pub(crate) fn insert<S: Scheme>(shared: &Shared<S>, pfn: Pfn, owner_data: u64) {
    insert_all(shared, &[(pfn, owner_data)]);
}

/// Reports new pages to the policy, each with its owner data. Call with no page locked.
pub(crate) fn insert_all<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)]) {
    if pages.is_empty() {
        return;
    }
    let frames = CachedFrames(shared.zone());
    let mut policy = shared.policy.lock();
    for &(pfn, owner_data) in pages {
        policy.insert(&frames, frame(shared, pfn), owner_data);
    }
}

/// Reports new pages to the policy, with the advice of their reader. Call with no page locked.
pub(crate) fn insert_advised<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)], advice: Advice) {
    if pages.is_empty() {
        return;
    }
    let frames = CachedFrames(shared.zone());
    let mut policy = shared.policy.lock();
    for &(pfn, owner_data) in pages {
        policy.insert_advised(&frames, frame(shared, pfn), owner_data, advice);
    }
}

/// Returns `true` if no page of a range was used lately. The policy must agree that they are cold,
/// as it may have taken their referenced bits a moment ago.
pub(crate) fn are_cold<S: Scheme>(shared: &Shared<S>, mut pages: PfnRange) -> bool {
    if pages.clone().any(|pfn| shared.zone().is_referenced(pfn)) {
        return false;
    }
    let policy = shared.policy.lock();
    pages.all(|pfn| policy.is_cold(frame(shared, pfn)))
}

/// Returns `true` if a page was not used lately.
pub(crate) fn is_cold<S: Scheme>(shared: &Shared<S>, pfn: Pfn) -> bool {
    are_cold(shared, PfnRange { start: pfn, end: Pfn::new(pfn.as_u64() + 1) })
}

/// Reports pages that are evicted with a victim to the policy, each with its owner data. Call while
/// no other thread can have their frames.
pub(crate) fn evicted_with<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)]) {
    let mut policy = shared.policy.lock();
    for &(pfn, owner_data) in pages {
        policy.evicted_with(frame(shared, pfn), owner_data);
    }
}

/// Returns the number by which the policy knows a frame.
pub(crate) fn frame<S: Scheme>(shared: &Shared<S>, pfn: Pfn) -> u32 {
    (pfn.as_u64() - shared.zone().pfns().start.as_u64()) as u32
}
