//! Eviction: what the policy chose is claimed, frozen and freed; and where memory comes from when
//! there is none.
//!
//! The policy is asked under its lock and only names frames. What is done to them is done outside
//! of it, by the rules of slots: who holds a page is never waited for, and what can not be taken is
//! given back. Several threads may evict at once.

use std::sync::Arc;

use folio_frames::{Order, Pfn, PfnRange};
use folio_ref::Scheme;

use crate::memory::frames_view::CachedFrames;
use crate::memory::large_folio;
use crate::policy::Frames;
use crate::state::frames::Slot;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::{CACHED, split_owner_data};

/// Pages that are freed at once when some have to be: some of the next misses are spared the same.
pub(crate) const BATCH: usize = 32;

/// No frames.
const NO_FRAMES: PfnRange = PfnRange { start: Pfn::new(0), end: Pfn::new(0) };

/// Frees `wanted` pages, and some more where they lie in one folio, about half as many at the
/// most: no cold folio is cut for its last pages. How many it freed: fewer only when the
/// rest is held.
pub(crate) fn reclaim<S: Scheme>(shared: &Shared<S>, wanted: usize) -> usize {
    let frames = CachedFrames(shared.zone());
    let (mut freed, mut victims) = (0, Vec::with_capacity(BATCH));
    // Given back at the end: the policy would name them again at once.
    let mut failed = Vec::new();
    // Victims in a row are often of one file, and of one folio.
    let (mut mapping, mut gone) = (None, NO_FRAMES);
    // Not for ever, whatever a policy names.
    let mut named: usize = 0;
    while freed < wanted && named.saturating_sub(freed) < frames.count() as usize {
        victims.clear();
        shared.policy.lock().pick_victims(&frames, BATCH.min(wanted - freed), &mut victims);
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
            let max = wanted.saturating_add(wanted / 2).saturating_sub(freed);
            let Some((pages, frames)) = evict(shared, pfn, max, &mut mapping) else {
                failed.push(frame);
                continue;
            };
            freed += pages;
            gone = frames;
        }
    }
    if !failed.is_empty() {
        let mut policy = shared.policy.lock();
        for frame in failed {
            policy.restore(frame);
        }
    }
    shared.counters.reclaimed.add(freed as u64);
    freed
}

/// Frees the page in a frame, and with it those of its folio, if they are all as cold, and no
/// more than `most`. How many, and in which frames: none if it is not there any more.
/// `None`: it stays. `last` is the mapping of the page before, for this one.
fn evict<S: Scheme>(
    shared: &Shared<S>,
    pfn: Pfn,
    max: usize,
    last: &mut Option<Arc<Mapping<S>>>,
) -> Option<(usize, PfnRange)> {
    let Some((head, seen)) = shared.zone().peek_around(pfn).filter(|(_, seen)| seen.kind == CACHED)
    else {
        return Some((0, NO_FRAMES));
    };
    // A tail keeps its own.
    let owner_data = if head == pfn { seen.owner_data } else { shared.zone().peek(pfn).owner_data };
    let (id, page) = split_owner_data(owner_data);
    if last.as_ref().is_none_or(|mapping| mapping.id != id) {
        // No lock is held when the one before is dropped here, perhaps the last reference to
        // it.
        *last = shared.registry.by_id(id);
    }
    let mapping = last.as_ref()?;
    if seen.order > Order::ZERO
        && let Some(pages) = large_folio::reclaim_folio(mapping, head, &seen, max)
    {
        let end = Pfn::new(head.as_u64() + u64::from(seen.order.frames()));
        return Some((pages, PfnRange { start: head, end }));
    }
    evict_slot(shared, pfn, mapping.index.get(page)?).then_some((1, NO_FRAMES))
}

fn evict_slot<S: Scheme>(shared: &Shared<S>, pfn: Pfn, slot: &Slot<S>) -> bool {
    // R8: the look at the frame is stale; what counts is what the slot holds under the claim.
    let Some(locked) = slot.try_lock(shared.zone()).filter(|locked| locked.pfn() == pfn) else {
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
