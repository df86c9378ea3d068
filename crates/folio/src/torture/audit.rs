//! The audit: when all threads have ended, every frame is free or accounted for.

use folio_cache::{CACHED, Cache};
use folio_frames::{Peek, Pfn};
use folio_ref::{MAX_AT_ONCE, STALE_LIMIT, Scheme, Snapshot};

/// Returns the frames that are neither free nor referenced by the index alone. Called while files
/// are still open.
pub(crate) fn open<S: Scheme>(cache: &Cache<S>) -> Vec<(Pfn, Peek)> {
    cache.quiesce();
    let zone = cache.frames().zone();
    let is_wrong = |seen: &Peek| match seen.snapshot {
        // The slot of each page of a large folio owns one reference, except for pages that left the
        // folio while it was pinned.
        Snapshot::Live(n) => !seen.kind.is_allocated() || !(1..=slots(seen)).contains(&n),
        Snapshot::Frozen { .. } | Snapshot::Tagged { .. } => seen.kind.is_allocated(),
        Snapshot::Dying | Snapshot::Saturated => true,
    };
    zone.pfns().map(|pfn| (pfn, zone.peek(pfn))).filter(|(_, seen)| is_wrong(seen)).collect()
}

/// Returns the maximum number of slots that name a folio.
fn slots(seen: &Peek) -> u32 {
    if seen.kind == CACHED { seen.order.frames() } else { 1 }
}

/// Returns the number of frames that are not free, and a text for each broken rule. Called after
/// the last close.
pub(crate) fn closed<S: Scheme>(cache: &Cache<S>, threads: usize) -> (u64, Vec<String>) {
    // A readahead request keeps its file open.
    cache.quiesce();
    let zone = cache.frames().zone();
    zone.drain();
    let stats = zone.stats();
    let mut broken = Vec::new();
    if stats.online_frames as usize != zone.blocks() * 512 {
        broken.push(format!("a block is still offline: {zone:?}"));
    }
    for pfn in zone.pfns() {
        let seen = zone.peek(pfn);
        match seen.snapshot.stale() {
            Some(stale)
                if u64::from(stale)
                    < u64::from(STALE_LIMIT) + threads as u64 * u64::from(MAX_AT_ONCE) => {}
            Some(stale) => {
                broken.push(format!("R5: {pfn:?} has {stale} stale increments"));
            }
            None => broken.push(format!("R1: {pfn:?} is not frozen: {seen:?}")),
        }
    }
    (u64::from(stats.online_frames.saturating_sub(stats.free_frames)), broken)
}
