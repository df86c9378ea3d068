//! Eviction: the pages that the policy chose are locked, frozen and freed.
//!
//! The policy is asked under its lock and only names frames. Frames are changed outside of that
//! lock, by the rules of slots: a pin owner is never waited for, and a page that cannot be evicted
//! is restored to the policy. Several threads may evict at once.
//!
//! A thread takes a batch of victims, and frees their folios together: the lock of the policy is
//! taken once for all, and that of the thread's free lists once. Once the first is looked up, the
//! cache lines of the slots of the others in its file are requested: these are loads from memory
//! that do not wait for each other.
//!
//! | step | for | if it fails |
//! | --- | --- | --- |
//! | 1. the policy names victims | all | none is named: the sweep |
//! | 2. read each frame's descriptor and the slot that it names | all | the page left: done |
//! | 3. lock the slot, look again (R8), freeze, empty the slot | each | restored in step 4 |
//! | 4. inform the policy of the pages that went with a victim | all | |
//! | 5. free the folios | all | |

use std::sync::Arc;

use folio_frames::{Order, Peek, Pfn, PfnRange, free_for_reuse};
use folio_ref::{Scheme, broken};
use smallvec::SmallVec;

use crate::memory::frames_view::{self, BATCH, NO_FRAMES, Victim, frames_of};
use crate::memory::large_folio::{self, FreeOnDrop};
use crate::state::frames::{FrozenFolio, Slot};
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;
use crate::state::units::{CACHED, split_owner_data};

/// The maximum number of victims in a row that free nothing. Bounds a reclaim, whatever a policy
/// names.
const MAX_FRUITLESS: usize = 256;

/// The share of the capacity up to which leaves stay open when their last page is evicted. Shuttle
/// closes each.
const KEPT_SHARE: usize = if cfg!(shuttle) { usize::MAX } else { 8 };

/// Evicts up to `wanted` pages that the policy with a number names, until it names too many in a
/// row that free nothing. Returns the number evicted.
pub(super) fn reclaim_by_policy<S: Scheme>(
    shared: &Shared<S>,
    number: usize,
    wanted: usize,
) -> usize {
    let mut evictor = Evictor::new(shared);
    // Restored at the end: otherwise the policy would name them again at once.
    let mut failed = Vec::new();
    let (mut freed, mut fruitless) = (0, 0);
    while freed < wanted && fruitless < MAX_FRUITLESS {
        let victims =
            frames_view::pick_victims(shared, number, BATCH.min(wanted - freed), &evictor.evicted);
        evictor.free();
        if victims.is_empty() {
            break;
        }
        evictor.find(&victims);
        let mut gone = NO_FRAMES;
        for (n, victim) in victims.iter().enumerate() {
            // Evicted together with the frame before. If another page has the frame by now, that
            // page was reported to the policy.
            if (gone.start..gone.end).contains(&victim.pfn) {
                fruitless += 1;
                continue;
            }
            // Evict in the order chosen: a victim given back goes to the tail of the queue, which
            // would scatter the pages of one folio.
            let named = victims.len() - n;
            let max = wanted.saturating_add(wanted / 2).saturating_sub(freed).max(named);
            let Some((pages, frames)) = evictor.evict(n, max, |_, _| victim.is_folio_cold) else {
                fruitless += 1;
                failed.push(victim.pfn);
                continue;
            };
            fruitless = if pages > 0 { 0 } else { fruitless + 1 };
            freed += pages;
            gone = frames;
        }
    }
    evictor.finish(number, &failed);
    freed
}

/// A page that may be evicted, as its frame's descriptor says.
struct Candidate {
    pfn: Pfn,
    page: u32,
    /// Its folio.
    head: Pfn,
    seen: Peek,
    /// The mapping, by its place in [`Evictor::mappings`].
    mapping: usize,
}

/// The page of a victim.
enum Found {
    Page(Candidate),
    /// The page is not there any more.
    Gone,
    /// Its folio is that of the victim before, and cold: it is not looked at unless that stays.
    Follows(Pfn),
}

/// Evicts pages, and keeps their folios until it frees all of them. No other thread can have these.
pub(super) struct Evictor<'c, S: Scheme> {
    shared: &'c Shared<S>,
    /// The mappings of the candidates. Neighbours of one mapping share its entry.
    mappings: SmallVec<[Arc<Mapping<S>>; 2]>,
    candidates: SmallVec<[Found; BATCH]>,
    folios: SmallVec<[FrozenFolio<S>; BATCH]>,
    /// The pages of large folios, of which the policy is not informed yet.
    evicted: Vec<(Pfn, u64)>,
}

impl<'c, S: Scheme> Evictor<'c, S> {
    pub(super) fn new(shared: &'c Shared<S>) -> Self {
        Self {
            shared,
            mappings: SmallVec::new(),
            candidates: SmallVec::new(),
            folios: SmallVec::new(),
            evicted: Vec::new(),
        }
    }

    /// Finds the pages of some victims, which replace the candidates so far. Call with no lock
    /// held: this may drop the last reference to a mapping.
    pub(super) fn find(&mut self, victims: &[Victim]) {
        self.candidates.clear();
        let last = self.mappings.pop();
        self.mappings.clear();
        self.mappings.extend(last);
        let mut folio = NO_FRAMES;
        for (n, victim) in victims.iter().enumerate() {
            if n == 1 {
                // The mapping of the first one is known: mostly that of all.
                self.prefetch(&victims[n..]);
            }
            let follows = victim.is_folio_cold && (folio.start..folio.end).contains(&victim.pfn);
            let found =
                if follows { Found::Follows(victim.pfn) } else { self.candidate(victim.pfn) };
            if let Found::Page(candidate) = &found {
                folio = frames_of(candidate.head, candidate.seen.order);
            }
            self.candidates.push(found);
        }
    }

    /// Returns the first frame of a folio of which the page is there: that of the head may have
    /// left while the folio was pinned. Returns the head if there is none.
    pub(super) fn first_there(&mut self, head: Pfn, order: Order) -> Pfn {
        if order == Order::ZERO {
            return head;
        }
        frames_of(head, order).find(|&pfn| self.page(pfn).is_some()).unwrap_or(head)
    }

    /// Requests the cache lines of the slots of some victims, and of those that mostly tell if
    /// their leaves have other pages, as far as they are of the mapping that was found last.
    fn prefetch(&self, victims: &[Victim]) {
        let Some(mapping) = self.mappings.last() else { return };
        let gives_back = gives_back_leaves(self.shared);
        for victim in victims {
            // The pages of a large folio have neighbouring slots. A policy may name any frame.
            let seen = match self.shared.zone().peek_around(victim.pfn) {
                Some((_, seen)) if seen.order == Order::ZERO => seen,
                _ => continue,
            };
            let (id, page) = split_owner_data(seen.owner_data);
            if id == mapping.id
                && let Some(slot) = mapping.index.get(page)
            {
                slot.prefetch();
                if gives_back {
                    mapping.index.prefetch_to_give_back(&self.shared.leaves, id, page);
                }
            }
        }
    }

    /// Finds the page in a frame. Reads the descriptor and the slot.
    fn candidate(&mut self, pfn: Pfn) -> Found {
        self.page(pfn).map_or(Found::Gone, Found::Page)
    }

    fn page(&mut self, pfn: Pfn) -> Option<Candidate> {
        let zone = self.shared.zone();
        let (head, seen) = zone.peek_around(pfn).filter(|(_, seen)| seen.kind == CACHED)?;
        // A tail has its own owner data.
        let owner_data = if head == pfn { seen.owner_data } else { zone.peek(pfn).owner_data };
        let (id, page) = split_owner_data(owner_data);
        if self.mappings.last().is_none_or(|mapping| mapping.id != id) {
            // A page that no index has is freed by its last pin owner: reclaim can forget it.
            self.mappings.push(self.shared.registry.by_id(id)?);
        }
        let mapping = self.mappings.len() - 1;
        let is_there = self.mappings[mapping].index.get(page)?.pfn(zone) == Some(pfn);
        is_there.then_some(Candidate { pfn, page, head, seen, mapping })
    }

    /// Evicts the page of a candidate, and the other pages of its folio if all are cold and there
    /// are at most `max`. Returns the number of pages and their frames, which are none if the page
    /// is not there any more, or left its file and is only pinned. Returns `None` if the page
    /// stays. `is_cold` says if the policy agrees that all pages of a folio are.
    pub(super) fn evict(
        &mut self,
        candidate: usize,
        max: usize,
        is_cold: impl FnOnce(&Mapping<S>, PfnRange) -> bool,
    ) -> Option<(usize, PfnRange)> {
        if let Found::Follows(pfn) = self.candidates[candidate] {
            self.candidates[candidate] = self.candidate(pfn);
        }
        let Found::Page(Candidate { pfn, page, head, seen, mapping }) = &self.candidates[candidate]
        else {
            return Some((0, NO_FRAMES));
        };
        let mapping = &*self.mappings[*mapping];
        let Some(slot) = mapping.index.get(*page) else { return Some((0, NO_FRAMES)) };
        let has_left = || slot.pfn(mapping.zone()) != Some(*pfn);
        if seen.order > Order::ZERO {
            if has_left() {
                return Some((0, NO_FRAMES));
            }
            // An earlier victim may have split it.
            let (head, seen) = &mapping.zone().peek_around(*pfn).unwrap_or((*head, *seen));
            let frames = frames_of(*head, seen.order);
            // At once. A batch of single pages allocates nothing.
            if self.evicted.capacity() == 0 {
                self.evicted.reserve(2 * BATCH);
            }
            let before = self.evicted.len();
            let is_cold = || is_cold(mapping, frames.clone());
            if let Some(folio) =
                large_folio::reclaim_folio(mapping, *head, seen, max, is_cold, &mut self.evicted)
            {
                self.folios.push(folio);
                if broken!("freed-before-report") {
                    free_for_reuse(self.folios.drain(..));
                }
                let (_, first) = split_owner_data(seen.owner_data);
                give_back_leaf(mapping, first);
                give_back_leaf(mapping, first + (seen.order.frames() - 1));
                let pages = self.evicted.len() - before;
                mapping.count(Count::Reclaimed, pages as u64);
                return Some((pages, frames));
            }
        }
        if let Some(folio) = evict_slot(mapping, slot, *pfn, *page) {
            self.folios.push(folio);
            mapping.left(1);
            give_back_leaf(mapping, *page);
            mapping.count(Count::Reclaimed, 1);
            return Some((1, NO_FRAMES));
        }
        has_left().then_some((0, NO_FRAMES))
    }

    /// Frees the folios. The policy must be informed of their pages.
    fn free(&mut self) {
        self.evicted.clear();
        free_for_reuse(self.folios.drain(..));
    }

    /// Returns `true` if it keeps as many folios as it should.
    pub(super) fn is_full(&self) -> bool {
        self.folios.len() >= BATCH
    }

    /// Informs the policies of what was evicted, and the one with a number of its victims that
    /// could not be, and frees the folios.
    pub(super) fn finish(&mut self, number: usize, failed: &[Pfn]) {
        frames_view::finish_reclaim(self.shared, number, failed, &self.evicted);
        self.free();
    }
}

impl<S: Scheme> Drop for Evictor<'_, S> {
    /// Frees what is left if the policy panicked.
    fn drop(&mut self) {
        self.free();
    }
}

/// Takes a page out of its slot. Returns its folio, or `None` if it is pinned, locked or dirty.
#[inline]
fn evict_slot<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    pfn: Pfn,
    page: u32,
) -> Option<FrozenFolio<S>> {
    // R8: what was read from the frame is stale; the content of the locked slot counts.
    let locked = slot.try_lock(mapping.zone()).filter(|locked| locked.pfn() == pfn)?;
    // Newer than the backing: writeback comes first.
    if locked.folio().is_dirty() {
        return None;
    }
    let frozen = locked.freeze().ok()?;
    mapping.evicts(page);
    Some(frozen.remove())
}

/// Closes the leaf of a page that was evicted, if it has no other page. All indexes may be so small
/// that it stays.
fn give_back_leaf<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    if gives_back_leaves(&mapping.shared) {
        mapping.give_back_leaf(page);
    }
}

/// Returns `true` if the indexes have so much memory that leaves without pages are closed.
fn gives_back_leaves<S: Scheme>(shared: &Shared<S>) -> bool {
    shared.leaves.bytes() > shared.capacity() / KEPT_SHARE
}

/// Evicts a page that the policy did not choose, unless it is pinned or dirty. Returns `true` if
/// the page is not there any more. Its leaf stays. Call with no page locked.
pub(crate) fn evict_page<S: Scheme>(mapping: &Mapping<S>, slot: &Slot<S>, page: u32) -> bool {
    large_folio::split_around(mapping, page);
    let Some(locked) = slot.try_lock(mapping.zone()) else { return slot.is_empty() };
    if locked.folio().is_dirty() {
        return false;
    }
    let Ok(frozen) = locked.freeze() else { return false };
    mapping.evicts(page);
    let folio = frozen.remove();
    let evicted = (folio.pfn(), folio.owner_data());
    let _freed = FreeOnDrop(Some(folio));
    mapping.count(Count::Reclaimed, 1);
    // Before the policy, which may panic.
    mapping.left(1);
    frames_view::evicted(&mapping.shared, evicted);
    true
}
