//! The sweep: visits frames in the order of their numbers, and evicts what can be evicted.
//!
//! A policy visits a bounded number of pinned pages, and may name no victim although there is one.
//! The sweep finds it: a lap visits each frame once, and reads little more than its descriptor. It
//! continues where the last one ended.

use std::sync::atomic::Ordering;

use folio_ref::{Scheme, Snapshot};

use crate::memory::evict;
use crate::memory::frames_view::CachedFrames;
use crate::policy::Frames;
use crate::state::shared::Shared;
use crate::state::units::CACHED;

/// Evicts `wanted` pages, in no particular order, until so many frames were visited. May evict some
/// more that lie in the same folio. Returns the number of pages evicted.
pub(crate) fn sweep<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    let frames = CachedFrames(shared.zone());
    let count = frames.count();
    // Relaxed, here and below: where to begin. Two sweeps at once may visit the same frames.
    let mut at = shared.sweep.load(Ordering::Relaxed);
    let (mut freed, mut left, mut mapping) = (0, visits.min(count), None);
    while left > 0 && freed < wanted {
        at = if at < count { at } else { 0 };
        let pfn = frames.pfn(at);
        let seen = shared.zone().peek(pfn);
        // A tail counts as one frame: the visit may begin within a folio.
        let mut step = seen.order.frames();
        match seen.snapshot {
            _ if seen.kind != CACHED => {}
            Snapshot::Live(n) if n <= step && seen.dirty => {}
            Snapshot::Live(n) if n <= step => {
                let max = wanted.saturating_add(wanted / 2).saturating_sub(freed);
                let pages = evict::evict(shared, pfn, max, &mut mapping).map_or(0, |gone| gone.0);
                freed += pages;
                // A folio may have been split: its other pages are visited alone.
                let is_whole = pages == 0 && shared.zone().peek(pfn).order == seen.order;
                step = if is_whole { step } else { 1 };
            }
            _ => {}
        }
        (at, left) = (at.saturating_add(step), left.saturating_sub(step));
    }
    shared.sweep.store(at, Ordering::Relaxed);
    freed
}
