//! Reclaim: pages are evicted as the policies choose, otherwise as a sweep finds them.
//!
//! Files without a share go first: a group with a share loses pages only if they have none that can
//! be evicted.

use std::iter;
use std::sync::atomic::Ordering;

use folio_ref::Scheme;

use crate::memory::evict;
use crate::memory::room;
use crate::memory::sweep::{self, FIRST_VISITS};
use crate::state::shared::Shared;

/// Evicts `wanted` pages, coldest first. May evict about half as many more where they lie in one
/// folio: a cold folio is not split for its last pages. Returns the number evicted, which is fewer
/// than `wanted` only if the rest is pinned or dirty.
pub(crate) fn reclaim<S: Scheme>(shared: &Shared<S>, wanted: usize) -> usize {
    let mut freed = 0;
    for number in policies(shared) {
        freed += evict::reclaim_by_policy(shared, number, wanted.saturating_sub(freed));
    }
    freed + sweep(shared, wanted.saturating_sub(freed), u32::MAX)
}

/// Evicts up to `wanted` pages, coldest first. If the policy names none, visits so many frames.
/// Returns the number evicted: 0 says that all pages are pinned or dirty, if all frames were
/// visited.
pub(crate) fn reclaim_some<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    let by_policy = |number| evict::reclaim_by_policy(shared, number, wanted);
    match policies(shared).map(by_policy).find(|&freed| freed > 0) {
        None => sweep(shared, wanted, visits),
        Some(freed) => freed,
    }
}

/// Returns the numbers of the policies in the order in which they are asked for victims.
fn policies<S: Scheme>(shared: &Shared<S>) -> impl Iterator<Item = usize> {
    iter::once(0).chain(iter::once_with(|| room::fullest_first(shared)).flatten())
}

/// Sweeps, and notes if all pages seem to be pinned. Returns the number of pages evicted.
fn sweep<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    let freed = sweep::sweep(shared, wanted, visits);
    if freed > 0 || (visits >= FIRST_VISITS && wanted > 0) {
        // Relaxed: a hint.
        shared.is_pinned.store(freed == 0, Ordering::Relaxed);
    }
    freed
}
