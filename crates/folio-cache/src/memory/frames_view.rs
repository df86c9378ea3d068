//! The frames of a cache as its policy sees them, and the reports of pages to the policy.

use std::cell::RefCell;

use folio_frames::{Kind, Order, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};
use smallvec::SmallVec;

use crate::policy::{Advice, FrameState, Frames, Policy, Uses};
use crate::rt::batches::Added;
use crate::rt::shim::lock_soon;
use crate::state::frames::Zone;
use crate::state::mapping::Mapping;
use crate::state::shared::{Chooser, Shared};
use crate::state::units::{CACHED, split_owner_data};

/// The most victims of one choice, and the pages that are evicted at once when memory is short.
pub(crate) const BATCH: usize = 32;

/// No frames.
pub(super) const NO_FRAMES: PfnRange = PfnRange { start: Pfn::new(0), end: Pfn::new(0) };

/// Returns the frames of a folio.
pub(super) fn frames_of(head: Pfn, order: Order) -> PfnRange {
    PfnRange { start: head, end: Pfn::new(head.as_u64() + u64::from(order.frames())) }
}

/// Returns the frames of the folio around a frame. Racy.
fn folio_around<S: Scheme>(zone: &Zone<S>, pfn: Pfn) -> PfnRange {
    match zone.peek_around(pfn) {
        Some((head, seen)) => frames_of(head, seen.order),
        None => frames_of(pfn, Order::ZERO),
    }
}

/// The frames of a cache, as the policy with a number sees them: those with pages of other policies
/// have none.
struct CachedFrames<'s, S: Scheme> {
    shared: &'s Shared<S>,
    policy: usize,
    /// The frames of the last large folio that was seen evictable: its pages follow each other.
    folio: RefCell<PfnRange>,
}

/// Returns the frame with a number.
pub(super) fn pfn<S: Scheme>(zone: &Zone<S>, frame: u32) -> Pfn {
    Pfn::new(zone.pfns().start.as_u64() + u64::from(frame))
}

impl<S: Scheme> CachedFrames<'_, S> {
    /// Returns the state of a tail: a subpage of a large folio, in which each frame is a page.
    fn inspect_subpage(&self, frame: u32, owner_data: u64) -> FrameState {
        let zone = self.shared.zone();
        let mut folio = self.folio.borrow_mut();
        if (folio.start..folio.end).contains(&pfn(zone, frame)) {
            return FrameState::Evictable(owner_data);
        }
        match zone.peek_around(pfn(zone, frame)) {
            Some((first, head)) if head.kind == CACHED => match head.snapshot {
                Snapshot::Live(n) if n <= head.order.frames() => {
                    *folio = frames_of(first, head.order);
                    FrameState::Evictable(owner_data)
                }
                _ => FrameState::Pinned,
            },
            _ => FrameState::NotCached,
        }
    }
}

impl<S: Scheme> Frames for CachedFrames<'_, S> {
    fn count(&self) -> u32 {
        self.shared.zone().pfns().frames() as u32
    }

    fn inspect(&self, frame: u32) -> FrameState {
        let zone = self.shared.zone();
        let seen = zone.peek(pfn(zone, frame));
        if policy_of(self.shared, seen.owner_data) != self.policy {
            return FrameState::NotCached;
        }
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
        let zone = self.shared.zone();
        zone.take_referenced(pfn(zone, frame))
    }

    fn is_ahead(&self, frame: u32) -> bool {
        let zone = self.shared.zone();
        zone.is_readahead(pfn(zone, frame))
    }

    fn take_uses(&self, frame: u32) -> Option<Uses> {
        let zone = self.shared.zone();
        zone.take_uses(pfn(zone, frame))
    }

    fn now(&self) -> u32 {
        self.shared.zone().uses_now()
    }
}

/// Returns the number of the policy that has a page.
fn policy_of<S: Scheme>(shared: &Shared<S>, owner_data: u64) -> usize {
    shared.groups.policy_of(split_owner_data(owner_data).0)
}

/// Calls `act` with the policy with a number.
fn with_policy<S: Scheme, R>(
    shared: &Shared<S>,
    policies: &mut [Option<Box<dyn Policy>>],
    number: usize,
    act: impl FnOnce(&mut dyn Policy, &dyn Frames) -> R,
) -> Option<R> {
    let policy = policies.get_mut(number)?.as_mut()?;
    let folio = RefCell::new(NO_FRAMES);
    Some(act(&mut **policy, &CachedFrames { shared, policy: number, folio }))
}

/// Reports a new page to the policy, perhaps later. Call with no page locked.
pub(crate) fn insert<S: Scheme>(shared: &Shared<S>, pfn: Pfn, owner_data: u64) {
    insert_all(shared, &[(pfn, owner_data)]);
}

/// Reports new pages of a file to the policy, each with its owner data, perhaps later: they wait in
/// the thread's batch. Call with no page locked.
pub(crate) fn insert_all<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)]) {
    if pages.is_empty() {
        return;
    }
    let entries = || pages.iter().map(|&(pfn, owner_data)| (frame(shared, pfn), owner_data));
    match shared.arrivals.add(entries()) {
        Added::Waits => {}
        Added::Due => report_if_free(shared),
        Added::NoRoom => with_own_reported(shared, pages, |policy, frames| {
            for (frame, owner_data) in entries() {
                policy.insert(frames, frame, owner_data);
            }
        }),
    }
}

/// Reports new pages of a file to the policy, with the advice of their reader. Call with no page
/// locked.
pub(crate) fn insert_advised<S: Scheme>(shared: &Shared<S>, pages: &[(Pfn, u64)], advice: Advice) {
    if pages.is_empty() {
        return;
    }
    with_own_reported(shared, pages, |policy, frames| {
        for &(pfn, owner_data) in pages {
            policy.insert_advised(frames, frame(shared, pfn), owner_data, advice);
        }
    });
}

/// Reports this thread's new pages to the policy, unless its lock is taken.
#[cold]
fn report_if_free<S: Scheme>(shared: &Shared<S>) {
    if let Some(mut chooser) = shared.policy.try_lock() {
        let Chooser { policies, taker, arrived, .. } = &mut *chooser;
        shared.arrivals.take_own(taker, inserting(shared, policies, arrived));
    }
}

/// Calls `act` with the policy of new pages of a file, to insert them. All policies are informed of
/// this thread's new pages before.
#[cold]
fn with_own_reported<S: Scheme>(
    shared: &Shared<S>,
    pages: &[(Pfn, u64)],
    act: impl FnOnce(&mut dyn Policy, &dyn Frames),
) {
    let mut chooser = lock_soon(&shared.policy);
    let Chooser { policies, taker, arrived, .. } = &mut *chooser;
    shared.arrivals.take_own(taker, inserting(shared, policies, arrived));
    with_policy(shared, policies, policy_of(shared, pages[0].1), act);
    count_arrivals(shared, arrived, pages.len() as u32);
}

/// Advances the time of uses with the pages that come.
#[inline]
fn count_arrivals<S: Scheme>(shared: &Shared<S>, arrived: &mut u32, pages: u32) {
    *arrived += pages;
    let unit = shared.zone().uses_unit();
    while *arrived >= unit {
        *arrived -= unit;
        shared.zone().advance_uses();
    }
}

/// Calls `act` with the policies, which are informed of the new pages of all threads.
fn with_all_reported<S: Scheme>(
    shared: &Shared<S>,
    act: impl FnOnce(&mut Vec<Option<Box<dyn Policy>>>),
) {
    let mut chooser = lock_soon(&shared.policy);
    let Chooser { policies, taker, arrived, .. } = &mut *chooser;
    shared.arrivals.take_all(taker, inserting(shared, policies, arrived));
    act(policies);
}

/// Returns a function that informs the policy of a new page.
fn inserting<S: Scheme>(
    shared: &Shared<S>,
    policies: &mut [Option<Box<dyn Policy>>],
    arrived: &mut u32,
) -> impl FnMut(u32, u64) {
    move |frame, owner_data| {
        count_arrivals(shared, arrived, 1);
        with_policy(shared, policies, policy_of(shared, owner_data), |policy, frames| {
            policy.insert(frames, frame, owner_data);
        });
    }
}

/// A frame that a policy chose.
#[derive(Clone, Copy)]
pub(super) struct Victim {
    pub(super) pfn: Pfn,
    /// It belongs to a large folio, and the policy agrees that all pages of that are cold.
    pub(super) is_folio_cold: bool,
}

/// The victims of one choice.
pub(super) type Victims = SmallVec<[Victim; BATCH]>;

/// Returns up to `wanted` victims, as the policy with a number chooses. The policies are informed
/// before of the pages that were evicted with earlier victims, of this thread's new pages, and of
/// those of other threads that wait since the last choice. If it names none, they are informed of
/// all, and it is asked again.
pub(super) fn pick_victims<S: Scheme>(
    shared: &Shared<S>,
    number: usize,
    wanted: usize,
    evicted: &[(Pfn, u64)],
) -> Victims {
    let mut chooser = lock_soon(&shared.policy);
    let Chooser { policies, taker, named, arrived } = &mut *chooser;
    inform_of_evicted(shared, policies, evicted);
    shared.arrivals.take_own(taker, inserting(shared, policies, arrived));
    shared.arrivals.take_old(taker, inserting(shared, policies, arrived));
    named.clear();
    let mut pick = |policies: &mut [Option<Box<dyn Policy>>]| {
        with_policy(shared, policies, number, |policy, frames| {
            policy.pick_victims(frames, wanted, named);
            named.is_empty()
        })
    };
    if pick(policies) == Some(true)
        && shared.arrivals.take_all(taker, inserting(shared, policies, arrived)) > 0
    {
        pick(policies);
    }
    let judge = |policy: &mut dyn Policy, _: &dyn Frames| judge_folios(shared, policy, named);
    with_policy(shared, policies, number, judge).unwrap_or_default()
}

/// Returns the frames that a policy named, each with its judgement of the whole folio.
fn judge_folios<S: Scheme>(shared: &Shared<S>, policy: &dyn Policy, named: &[u32]) -> Victims {
    let (mut folio, mut is_folio_cold) = (NO_FRAMES, false);
    let victims = named.iter().map(|&frame| {
        let pfn = pfn(shared.zone(), frame);
        // Victims that follow each other often belong to one folio.
        if !(folio.start..folio.end).contains(&pfn) {
            folio = folio_around(shared.zone(), pfn);
            is_folio_cold = folio.frames() > 1 && are_cold_to(shared, policy, folio.clone());
        }
        Victim { pfn, is_folio_cold }
    });
    victims.collect()
}

/// Informs the policy with a number of the end of a reclaim: of the victims that could not be
/// evicted, which it gets back. Informs the policies of the pages that were evicted with others.
pub(super) fn finish_reclaim<S: Scheme>(
    shared: &Shared<S>,
    number: usize,
    failed: &[Pfn],
    evicted: &[(Pfn, u64)],
) {
    if failed.is_empty() && evicted.is_empty() {
        return;
    }
    let policies = &mut lock_soon(&shared.policy).policies;
    inform_of_evicted(shared, policies, evicted);
    with_policy(shared, policies, number, |policy, _| {
        for &pfn in failed {
            policy.restore(frame(shared, pfn));
        }
    });
}

/// Informs the policies of pages that were evicted with a victim, each with its owner data. No
/// other thread can have their frames yet.
fn inform_of_evicted<S: Scheme>(
    shared: &Shared<S>,
    policies: &mut [Option<Box<dyn Policy>>],
    pages: &[(Pfn, u64)],
) {
    let mapping = |page: &(Pfn, u64)| split_owner_data(page.1).0;
    for pages in pages.chunk_by(|one, other| mapping(one) == mapping(other)) {
        let number = shared.groups.policy_of(mapping(&pages[0]));
        with_policy(shared, policies, number, |policy, _| {
            for &(pfn, owner_data) in pages {
                policy.evicted_with(frame(shared, pfn), owner_data);
            }
        });
    }
}

/// Adds the policy of a group with a share.
pub(crate) fn add_policy<S: Scheme>(shared: &Shared<S>, number: usize, policy: Box<dyn Policy>) {
    with_all_reported(shared, |policies| {
        policies.resize_with(policies.len().max(number + 1), || None);
        policies[number] = Some(policy);
        resize_all(shared, policies);
    });
}

/// Informs each policy of the number of frames that it may use: the shares, and the rest.
fn resize_all<S: Scheme>(shared: &Shared<S>, policies: &mut [Option<Box<dyn Policy>>]) {
    for group in shared.groups.all() {
        let frames = match group.number {
            0 => Some(shared.groups.unshared_frames()),
            _ => shared.groups.limit(group),
        };
        if let Some(frames) = frames {
            with_policy(shared, policies, group.number, |policy, _| policy.resize(frames));
        }
    }
}

/// Reports to the policy that a page was moved to another frame.
pub(super) fn moved<S: Scheme>(shared: &Shared<S>, from: Pfn, to: Pfn) {
    // If the page left its new frame, the policy will find the old one without a page.
    let owner_data = shared.zone().peek(to).owner_data;
    with_all_reported(shared, |policies| {
        with_policy(shared, policies, policy_of(shared, owner_data), |policy, frames| {
            policy.moved(frames, frame(shared, from), frame(shared, to));
        });
    });
}

/// Reports the number of frames for pages to the policies.
pub(super) fn resize<S: Scheme>(shared: &Shared<S>, frames: u32) {
    shared.groups.set_frames(frames);
    with_all_reported(shared, |policies| resize_all(shared, policies));
}

/// Returns `true` if no page of a range of frames, all of one file, was used lately. The policy
/// must agree that they are cold, as it may have taken their referenced bits a moment ago.
pub(crate) fn are_cold<S: Scheme>(mapping: &Mapping<S>, pages: PfnRange) -> bool {
    !is_any_referenced(mapping, pages.clone()) && are_cold_for_policy(mapping, pages)
}

/// Returns `true` if a page of a range was used since the policy last took its referenced bit.
pub(super) fn is_any_referenced<S: Scheme>(mapping: &Mapping<S>, mut pages: PfnRange) -> bool {
    pages.any(|pfn| mapping.zone().is_referenced(pfn))
}

/// Returns `true` if a page of a file is hot for its policy, whether or not it was used lately.
pub(crate) fn is_hot<S: Scheme>(mapping: &Mapping<S>, pfn: Pfn) -> bool {
    let frame = frame(&mapping.shared, pfn);
    ask_policy(mapping, |policy| policy.is_hot(frame)).unwrap_or(false)
}

fn are_cold_for_policy<S: Scheme>(mapping: &Mapping<S>, pages: PfnRange) -> bool {
    ask_policy(mapping, |policy| are_cold_to(&mapping.shared, policy, pages)).unwrap_or(true)
}

/// Returns the answer of the policy that has the pages of a file, unless there is none any more.
fn ask_policy<S: Scheme, R>(mapping: &Mapping<S>, ask: impl FnOnce(&dyn Policy) -> R) -> Option<R> {
    let shared = &mapping.shared;
    let mut chooser = lock_soon(&shared.policy);
    let number = shared.groups.policy_of(mapping.id);
    with_policy(shared, &mut chooser.policies, number, |policy, _| ask(policy))
}

/// Returns `true` if the policy agrees that all pages of a range are cold.
fn are_cold_to<S: Scheme>(shared: &Shared<S>, policy: &dyn Policy, mut pages: PfnRange) -> bool {
    pages.all(|pfn| policy.is_cold(frame(shared, pfn)))
}

/// Returns `true` if a page of a file was not used lately.
pub(crate) fn is_cold<S: Scheme>(mapping: &Mapping<S>, pfn: Pfn) -> bool {
    are_cold(mapping, PfnRange { start: pfn, end: Pfn::new(pfn.as_u64() + 1) })
}

/// Reports a page that is evicted without being a victim to the policy, with its owner data. Call
/// while no other thread can have its frame.
pub(super) fn evicted<S: Scheme>(shared: &Shared<S>, page: (Pfn, u64)) {
    inform_of_evicted(shared, &mut lock_soon(&shared.policy).policies, &[page]);
}

/// Returns the number by which the policy knows a frame.
pub(crate) fn frame<S: Scheme>(shared: &Shared<S>, pfn: Pfn) -> u32 {
    (pfn.as_u64() - shared.zone().pfns().start.as_u64()) as u32
}
