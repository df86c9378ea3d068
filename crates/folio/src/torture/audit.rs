//! The audit: when nobody is at work any more, every frame is free or accounted for.

use folio_cache::{CACHED, Cache};
use folio_frames::{Peek, Pfn};
use folio_ref::{MAX_AT_ONCE, STALE_LIMIT, Scheme, Snapshot};

/// Frames that are neither free nor held by the index alone, while files are still open.
pub(crate) fn open<S: Scheme>(cache: &Cache<S>) -> Vec<(Pfn, Peek)> {
    cache.quiesce();
    let zone = cache.zone();
    let is_wrong = |seen: &Peek| match seen.snapshot {
        // Of the cache's large folios each page's slot has a reference, but for pages that left one
        // while it was held.
        Snapshot::Live(n) => !seen.kind.is_allocated() || !(1..=slots(seen)).contains(&n),
        Snapshot::Frozen { .. } => seen.kind.is_allocated(),
        Snapshot::Dying | Snapshot::Saturated => true,
    };
    zone.pfns().map(|pfn| (pfn, zone.peek(pfn))).filter(|(_, seen)| is_wrong(seen)).collect()
}

/// How many slots a folio has at the most.
fn slots(seen: &Peek) -> u32 {
    if seen.kind == CACHED { seen.order.frames() } else { 1 }
}

/// After the last close: frames that are not free, and what else is wrong.
pub(crate) fn closed<S: Scheme>(cache: &Cache<S>, threads: usize) -> (u64, Vec<String>) {
    // What was read ahead keeps its file open.
    cache.quiesce();
    let zone = cache.zone();
    zone.drain();
    let stats = zone.stats();
    let mut broken = Vec::new();
    if stats.online_frames as usize != zone.blocks() * 512 {
        broken.push(format!("a block is still offline: {zone:?}"));
    }
    for pfn in zone.pfns() {
        let seen = zone.peek(pfn);
        match seen.snapshot {
            Snapshot::Frozen { stale }
                if u64::from(stale)
                    < u64::from(STALE_LIMIT) + threads as u64 * u64::from(MAX_AT_ONCE) => {}
            Snapshot::Frozen { stale } => {
                broken.push(format!("R5: {pfn:?} has {stale} stale increments"))
            }
            _ => broken.push(format!("R1: {pfn:?} is free, and {seen:?}")),
        }
    }
    (u64::from(stats.online_frames.saturating_sub(stats.free_frames)), broken)
}
