//! Eviction: the pages that the policy chose are locked, frozen and freed.
//!
//! The policy is asked under its lock and only names frames. Frames are changed outside of that
//! lock, by the rules of slots: a pin owner is never waited for, and a page that cannot be evicted
//! is restored to the policy. Several threads may evict at once.

use std::sync::Arc;

use folio_frames::{Order, Pfn, PfnRange};
use folio_ref::Scheme;

use crate::memory::frames_view;
use crate::memory::large_folio;
use crate::memory::large_folio::FreeOnDrop;
use crate::state::frames::Slot;
use crate::state::kept;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;
use crate::state::units::{CACHED, split_owner_data};

/// Pages that are freed at once when memory is short, so that the next misses find free frames.
pub(crate) const BATCH: usize = 32;

/// The maximum number of victims in a row that free nothing. Bounds a reclaim, whatever a policy
/// names.
const MAX_IN_VAIN: usize = 256;

/// The share of the capacity up to which leaves stay open when their last page is evicted. Shuttle
/// closes each.
const KEPT_SHARE: usize = if cfg!(shuttle) { usize::MAX } else { 8 };

/// No frames.
const NO_FRAMES: PfnRange = PfnRange { start: Pfn::new(0), end: Pfn::new(0) };

/// Evicts up to `wanted` pages that the policy with a number names, until it names too many in a
/// row that free nothing. Returns the number evicted.
pub(super) fn reclaim_by_policy<S: Scheme>(
    shared: &Shared<S>,
    number: usize,
    wanted: usize,
) -> usize {
    let (mut freed, mut victims) = (0, Vec::with_capacity(BATCH));
    // Restored at the end: otherwise the policy would name them again at once.
    let mut failed = Vec::new();
    // Consecutive victims often belong to one file and to one folio.
    let (mut mapping, mut gone) = (None, NO_FRAMES);
    let mut in_vain = 0;
    while freed < wanted && in_vain < MAX_IN_VAIN {
        victims.clear();
        frames_view::pick_victims(shared, number, BATCH.min(wanted - freed), &mut victims);
        if victims.is_empty() {
            break;
        }
        for &frame in &victims {
            let pfn = frames_view::pfn(shared.zone(), frame);
            // Evicted together with the frame before. If another page has the frame by now, that
            // page was reported to the policy.
            if (gone.start..gone.end).contains(&pfn) {
                in_vain += 1;
                continue;
            }
            // Evict in the order chosen: a victim given back goes to the tail of the queue, which
            // would scatter the pages of one folio.
            let max = wanted.saturating_add(wanted / 2).saturating_sub(freed);
            let Some((pages, frames)) = evict(shared, pfn, max, &mut mapping) else {
                in_vain += 1;
                failed.push(frame);
                continue;
            };
            in_vain = if pages > 0 { 0 } else { in_vain + 1 };
            freed += pages;
            gone = frames;
        }
    }
    if !failed.is_empty() {
        frames_view::restore(shared, number, &failed);
    }
    freed
}

/// Evicts the page in a frame, and the other pages of its folio if all are cold and there are at
/// most `max`. Returns the number of pages and their frames, which are none if the page is not
/// there any more, or left its file and is only pinned. Returns `None` if the page stays. `last` is
/// the mapping of the page before, kept for the next.
pub(super) fn evict<S: Scheme>(
    shared: &Shared<S>,
    pfn: Pfn,
    max: usize,
    last: &mut Option<Arc<Mapping<S>>>,
) -> Option<(usize, PfnRange)> {
    let Some((head, seen)) = shared.zone().peek_around(pfn).filter(|(_, seen)| seen.kind == CACHED)
    else {
        return Some((0, NO_FRAMES));
    };
    // A tail has its own owner data.
    let owner_data = if head == pfn { seen.owner_data } else { shared.zone().peek(pfn).owner_data };
    let (id, page) = split_owner_data(owner_data);
    if last.as_ref().is_none_or(|mapping| mapping.id != id) {
        // No lock is held when the previous mapping, perhaps its last reference, is dropped here.
        *last = shared.registry.by_id(id);
    }
    // A page that no index has is freed by its last pin owner: reclaim can forget it.
    let mapping = last.as_ref().filter(|mapping| mapping.id == id);
    let slot = mapping.and_then(|mapping| mapping.index.get(page));
    let (Some(mapping), Some(slot)) = (mapping, slot) else { return Some((0, NO_FRAMES)) };
    let has_left = || slot.pfn(mapping.zone) != Some(pfn);
    if seen.order > Order::ZERO {
        if has_left() {
            return Some((0, NO_FRAMES));
        }
        if let Some(pages) = large_folio::reclaim_folio(mapping, head, &seen, max) {
            let (_, first) = split_owner_data(seen.owner_data);
            give_back_leaf(mapping, first);
            give_back_leaf(mapping, first + (seen.order.frames() - 1));
            let end = Pfn::new(head.as_u64() + u64::from(seen.order.frames()));
            mapping.count(Count::Reclaimed, pages as u64);
            return Some((pages, PfnRange { start: head, end }));
        }
    }
    if evict_slot(mapping, slot, pfn, page) {
        mapping.count(Count::Reclaimed, 1);
        return Some((1, NO_FRAMES));
    }
    has_left().then_some((0, NO_FRAMES))
}

#[inline]
fn evict_slot<S: Scheme>(mapping: &Mapping<S>, slot: &Slot<S>, pfn: Pfn, page: u32) -> bool {
    // R8: what was read from the frame is stale; the content of the locked slot counts.
    let Some(locked) = slot.try_lock(mapping.zone).filter(|locked| locked.pfn() == pfn) else {
        return false;
    };
    // Newer than the backing: writeback comes first.
    if locked.folio().is_dirty() {
        return false;
    }
    let Ok(frozen) = locked.freeze() else { return false };
    mapping.unsynced.evict(page);
    frozen.remove().free();
    kept::left(mapping, 1);
    give_back_leaf(mapping, page);
    true
}

/// Closes the leaf of a page that was evicted, if it has no other page. All indexes may be so small
/// that it stays.
fn give_back_leaf<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    let shared = &mapping.shared;
    if shared.leaves.bytes() > shared.capacity() / KEPT_SHARE {
        mapping.index.give_back(page);
    }
}

/// Evicts a page that the policy did not choose, unless it is pinned or dirty. Returns `true` if
/// the page is not there any more. Its leaf stays. Call with no page locked.
pub(crate) fn evict_page<S: Scheme>(mapping: &Mapping<S>, slot: &Slot<S>, page: u32) -> bool {
    large_folio::split_around(mapping, page);
    let Some(locked) = slot.try_lock(mapping.zone) else { return slot.is_empty() };
    if locked.folio().is_dirty() {
        return false;
    }
    let Ok(frozen) = locked.freeze() else { return false };
    mapping.unsynced.evict(page);
    let folio = frozen.remove();
    let evicted = (folio.pfn(), folio.owner_data());
    let _freed = FreeOnDrop(Some(folio));
    frames_view::evicted_with(mapping, &[evicted]);
    mapping.count(Count::Reclaimed, 1);
    kept::left(mapping, 1);
    true
}
