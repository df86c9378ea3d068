//! The frames of a cache as its policy sees them, and the reports of pages to the policy.

use folio_frames::{Kind, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};

use crate::policy::{Advice, FrameState, Frames, Policy};
use crate::rt::batches::Added;
use crate::state::frames::Zone;
use crate::state::shared::{Chooser, Shared};
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

    fn is_ahead(&self, frame: u32) -> bool {
        self.0.is_readahead(self.pfn(frame))
    }
}

/// Reports a new page to the policy, perhaps later. Call with no page locked.
pub(crate) fn insert<S: Scheme>(shared: &Shared<S>, pfn: Pfn, owner_data: u64) {
    insert_all(shared, &[(pfn, owner_data)]);
}

/// Reports new pages to the policy, each with its owner data, perhaps later: they wait in the
/// thread's batch. Call with no page locked.
pub(crate) fn insert_all<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)]) {
    if pages.is_empty() {
        return;
    }
    let entries = || pages.iter().map(|&(pfn, owner_data)| (frame(shared, pfn), owner_data));
    match shared.arrivals.add(entries()) {
        Added::Waits => {}
        Added::Due => report_if_free(shared),
        Added::NoRoom => with_own_reported(shared, |policy, frames| {
            for (frame, owner_data) in entries() {
                policy.insert(frames, frame, owner_data);
            }
        }),
    }
}

/// Reports new pages to the policy, with the advice of their reader. Call with no page locked.
pub(crate) fn insert_advised<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)], advice: Advice) {
    if pages.is_empty() {
        return;
    }
    with_own_reported(shared, |policy, frames| {
        for &(pfn, owner_data) in pages {
            policy.insert_advised(frames, frame(shared, pfn), owner_data, advice);
        }
    });
}

/// Reports this thread's new pages to the policy, unless its lock is taken.
#[cold]
fn report_if_free<S: Scheme>(shared: &Shared<S>) {
    if let Some(mut chooser) = shared.policy.try_lock() {
        let Chooser { policy, taker } = &mut *chooser;
        shared.arrivals.take_own(taker, inserting(shared, &mut **policy));
    }
}

/// Calls `act` with the policy, which is informed of this thread's new pages.
#[cold]
fn with_own_reported<S: Scheme>(
    shared: &Shared<S>,
    act: impl FnOnce(&mut dyn Policy, &dyn Frames),
) {
    let mut chooser = shared.policy.lock();
    let Chooser { policy, taker } = &mut *chooser;
    shared.arrivals.take_own(taker, inserting(shared, &mut **policy));
    act(&mut **policy, &CachedFrames(shared.zone()));
}

/// Calls `act` with the policy, which is informed of the new pages of all threads.
fn with_all_reported<S: Scheme>(shared: &Shared<S>, act: impl FnOnce(&mut dyn Policy)) {
    let mut chooser = shared.policy.lock();
    let Chooser { policy, taker } = &mut *chooser;
    shared.arrivals.take_all(taker, inserting(shared, &mut **policy));
    act(&mut **policy);
}

/// Returns a function that informs the policy of a new page.
fn inserting<S: Scheme>(shared: &Shared<S>, policy: &mut dyn Policy) -> impl FnMut(u32, u64) {
    let frames = CachedFrames(shared.zone());
    move |frame, owner_data| policy.insert(&frames, frame, owner_data)
}

/// Appends up to `wanted` frames to `victims`, as the policy chooses. It is informed of this
/// thread's new pages, and of those of other threads that wait since the last choice. If it names
/// none, it is informed of all, and asked again.
pub(super) fn pick_victims<S: Scheme>(shared: &Shared<S>, wanted: usize, victims: &mut Vec<u32>) {
    let frames = CachedFrames(shared.zone());
    let mut chooser = shared.policy.lock();
    let Chooser { policy, taker } = &mut *chooser;
    shared.arrivals.take_own(taker, inserting(shared, &mut **policy));
    shared.arrivals.take_old(taker, inserting(shared, &mut **policy));
    policy.pick_victims(&frames, wanted, victims);
    if victims.is_empty() && shared.arrivals.take_all(taker, inserting(shared, &mut **policy)) > 0 {
        policy.pick_victims(&frames, wanted, victims);
    }
}

/// Gives victims that could not be evicted back to the policy.
pub(super) fn restore<S: Scheme>(shared: &Shared<S>, victims: &[u32]) {
    let mut chooser = shared.policy.lock();
    for &frame in victims {
        chooser.policy.restore(frame);
    }
}

/// Reports to the policy that a page was moved to another frame.
pub(super) fn moved<S: Scheme>(shared: &Shared<S>, from: Pfn, to: Pfn) {
    with_all_reported(shared, |policy| policy.moved(frame(shared, from), frame(shared, to)));
}

/// Reports the number of frames for pages to the policy.
pub(super) fn resize<S: Scheme>(shared: &Shared<S>, frames: u32) {
    with_all_reported(shared, |policy| policy.resize(frames));
}

/// Returns `true` if no page of a range was used lately. The policy must agree that they are cold,
/// as it may have taken their referenced bits a moment ago.
pub(crate) fn are_cold<S: Scheme>(shared: &Shared<S>, mut pages: PfnRange) -> bool {
    if pages.clone().any(|pfn| shared.zone().is_referenced(pfn)) {
        return false;
    }
    let chooser = shared.policy.lock();
    pages.all(|pfn| chooser.policy.is_cold(frame(shared, pfn)))
}

/// Returns `true` if a page was not used lately.
pub(crate) fn is_cold<S: Scheme>(shared: &Shared<S>, pfn: Pfn) -> bool {
    are_cold(shared, PfnRange { start: pfn, end: Pfn::new(pfn.as_u64() + 1) })
}

/// Reports pages that are evicted with a victim to the policy, each with its owner data. Call while
/// no other thread can have their frames.
pub(crate) fn evicted_with<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)]) {
    let mut chooser = shared.policy.lock();
    for &(pfn, owner_data) in pages {
        chooser.policy.evicted_with(frame(shared, pfn), owner_data);
    }
}

/// Returns the number by which the policy knows a frame.
pub(crate) fn frame<S: Scheme>(shared: &Shared<S>, pfn: Pfn) -> u32 {
    (pfn.as_u64() - shared.zone().pfns().start.as_u64()) as u32
}
