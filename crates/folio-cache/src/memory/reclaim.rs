//! Reclaim: pages are evicted as the policy chooses, otherwise as a sweep finds them.

use std::sync::atomic::Ordering;

use folio_ref::Scheme;

use crate::memory::evict;
use crate::memory::sweep::{self, FIRST_VISITS};
use crate::state::shared::Shared;

/// Evicts `wanted` pages, coldest first. May evict about half as many more where they lie in one
/// folio: a cold folio is not split for its last pages. Returns the number evicted, which is fewer
/// than `wanted` only if the rest is pinned or dirty.
pub(crate) fn reclaim<S: Scheme>(shared: &Shared<S>, wanted: usize) -> usize {
    let freed = evict::reclaim_by_policy(shared, wanted);
    freed + sweep(shared, wanted.saturating_sub(freed), u32::MAX)
}

/// Evicts up to `wanted` pages, coldest first. If the policy names none, visits so many frames.
/// Returns the number evicted: 0 says that all pages are pinned or dirty, if all frames were
/// visited.
pub(crate) fn reclaim_some<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    match evict::reclaim_by_policy(shared, wanted) {
        0 => sweep(shared, wanted, visits),
        freed => freed,
    }
}

/// Sweeps, and counts the pages evicted. Returns their number.
fn sweep<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    let freed = sweep::sweep(shared, wanted, visits);
    if freed > 0 || (visits >= FIRST_VISITS && wanted > 0) {
        // Relaxed: a hint.
        shared.is_pinned.store(freed == 0, Ordering::Relaxed);
    }
    shared.counters.reclaimed.add(freed as u64);
    freed
}
