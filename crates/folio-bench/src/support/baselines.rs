//! Baselines: caches of objects from other projects, behind one trait.
//!
//! Every benchmark uses all of them the same way. Each is as its authors build it by default, with
//! a capacity counted in entries. A lookup gives what the crate gives: a clone of the value (moka,
//! `quick_cache`), an entry that holds it (foyer), or a lock on a shard of the map (dashmap, which
//! evicts nothing).

use std::io;
use std::sync::Arc;

use dashmap::DashMap;

/// A page in a cache of objects: a copy in memory of its own.
pub(crate) type Page = Arc<[u8]>;

/// A cache from page numbers to values.
pub(crate) trait Baseline<V>: Sync {
    /// Calls `act` with the value of a page. Returns its result, or `None` if the page is not
    /// cached.
    fn with<R>(&self, page: usize, act: impl FnOnce(&V) -> R) -> Option<R>;

    /// Inserts the value of a page.
    fn insert(&self, page: usize, value: V);

    /// Removes all values.
    fn clear(&self);

    /// Runs the maintenance that the cache defers.
    fn quiesce(&self) {}

    /// Returns `true` if the page is cached; otherwise inserts what `make` returns.
    fn meet(&self, page: usize, make: impl FnOnce() -> V) -> bool {
        let is_there = self.with(page, |_| ()).is_some();
        if !is_there {
            self.insert(page, make());
        }
        is_there
    }
}

impl<V: Clone + Send + Sync + 'static> Baseline<V> for moka::sync::Cache<usize, V> {
    fn with<R>(&self, page: usize, act: impl FnOnce(&V) -> R) -> Option<R> {
        self.get(&page).map(|value| act(&value))
    }
    fn insert(&self, page: usize, value: V) {
        self.insert(page, value);
    }
    fn clear(&self) {
        self.invalidate_all();
        self.quiesce();
    }
    fn quiesce(&self) {
        self.run_pending_tasks();
    }
}

impl<V: Clone + Send + Sync> Baseline<V> for quick_cache::sync::Cache<usize, V> {
    fn with<R>(&self, page: usize, act: impl FnOnce(&V) -> R) -> Option<R> {
        self.get(&page).map(|value| act(&value))
    }
    fn insert(&self, page: usize, value: V) {
        self.insert(page, value);
    }
    fn clear(&self) {
        self.clear();
    }
}

impl<V: Send + Sync + 'static> Baseline<V> for foyer::Cache<usize, V> {
    fn with<R>(&self, page: usize, act: impl FnOnce(&V) -> R) -> Option<R> {
        self.get(&page).map(|entry| act(entry.value()))
    }
    fn insert(&self, page: usize, value: V) {
        self.insert(page, value);
    }
    fn clear(&self) {
        self.clear();
    }
}

impl<V: Send + Sync> Baseline<V> for DashMap<usize, V> {
    fn with<R>(&self, page: usize, act: impl FnOnce(&V) -> R) -> Option<R> {
        self.get(&page).map(|value| act(&value))
    }
    fn insert(&self, page: usize, value: V) {
        self.insert(page, value);
    }
    fn clear(&self) {
        self.clear();
    }
}

pub(crate) fn moka<V: Clone + Send + Sync + 'static>(
    entries: usize,
) -> moka::sync::Cache<usize, V> {
    moka::sync::Cache::new(entries as u64)
}

pub(crate) fn quick_cache<V: Clone + Send + Sync>(
    entries: usize,
) -> quick_cache::sync::Cache<usize, V> {
    quick_cache::sync::Cache::new(entries)
}

pub(crate) fn foyer<V: Send + Sync + 'static>(entries: usize) -> foyer::Cache<usize, V> {
    foyer::CacheBuilder::new(entries).build()
}

/// Makes a foyer cache of one shard, so that its whole capacity is one pool, under a policy.
pub(crate) fn foyer_in_one<V: Send + Sync + 'static>(
    entries: usize,
    policy: foyer::EvictionConfig,
) -> foyer::Cache<usize, V> {
    foyer::CacheBuilder::new(entries).with_shards(1).with_eviction_config(policy).build()
}

/// Inserts all pages of `bytes` in a baseline that has room for them.
///
/// # Errors
///
/// The baseline did not keep all of them.
pub(crate) fn filled<C: Baseline<Page>>(
    baseline: C,
    bytes: &[u8],
    page_size: usize,
) -> io::Result<C> {
    for (n, page) in bytes.chunks(page_size).enumerate() {
        baseline.insert(n, page.into());
    }
    baseline.quiesce();
    let pages = bytes.len().div_ceil(page_size);
    match (0..pages).find(|&page| baseline.with(page, |_| ()).is_none()) {
        Some(page) => Err(io::Error::other(format!(
            "page {page} of {pages} was evicted, though there was room"
        ))),
        None => Ok(baseline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(baseline: impl Baseline<Page>) {
        let bytes: Vec<u8> = (0..100).collect();
        let baseline = filled(baseline, &bytes, 10).unwrap();
        assert_eq!(baseline.with(3, |page| page.to_vec()), Some((30..40).collect()));
        assert!(baseline.meet(3, || unreachable!("it is there")));
        baseline.clear();
        assert_eq!(baseline.with(3, |page| page.len()), None);
        assert!(!baseline.meet(3, || bytes[..5].into()));
        assert_eq!(baseline.with(3, |page| page.len()), Some(5));
    }

    #[test]
    fn each_keeps_its_values_until_it_is_cleared() {
        check(moka(64));
        check(quick_cache(64));
        check(foyer(64));
        check(foyer_in_one(64, foyer::S3FifoConfig::default().into()));
        check(DashMap::new());
    }

    #[test]
    fn an_evicted_page_is_noticed() {
        assert!(
            filled(foyer_in_one(4, foyer::LruConfig::default().into()), &[1; 100], 10).is_err()
        );
    }
}
