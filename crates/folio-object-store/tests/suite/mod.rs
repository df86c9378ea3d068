//! The tests, written once for all versions of `object_store`.

mod abandoned;
mod chunks;
mod conditions;
mod consistency;
mod counters;
mod differ;
mod faults;
mod integration;
mod limited;
mod memory;
#[cfg(feature = "metrics")]
mod metrics;
mod own_writes;
mod random;
mod reads;
mod secrets;
mod sharing;
mod stores;
mod streams;
mod tricky;
mod validators;

use super::cached::CachedStore;
use super::cached::object_store as os;
use super::result;

use std::sync::Arc;
use std::time::Duration;

use folio_object_store::{Cache, Consistency, Options};
use os::path::Path;
use os::{GetOptions, ObjectStore, ObjectStoreExt};
use tricky::Tricky;

/// A rule that asks after a time that no test lasts.
const HOUR: Consistency = Consistency::ValidatedAfter(Duration::from_hours(1));

/// All rules of consistency.
const MODES: [Consistency; 4] = [
    Consistency::Immutable,
    HOUR,
    Consistency::ValidatedAfter(Duration::ZERO),
    Consistency::Validated,
];

/// Runs a future on one thread.
fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Returns a cache of 16 MiB.
fn cache() -> Cache {
    Cache::new(16 << 20).expect("memory")
}

/// Returns a cached store over a store in memory, with that store.
fn in_memory(consistency: Consistency) -> (Arc<Tricky>, CachedStore) {
    over(Tricky::in_memory(), consistency)
}

fn over(store: Tricky, consistency: Consistency) -> (Arc<Tricky>, CachedStore) {
    let store = Arc::new(store);
    let inner: Arc<dyn ObjectStore> = store.clone();
    let options = Options::new().consistency(consistency);
    (store, CachedStore::with_options(inner, &cache(), options))
}

/// Returns bytes that differ from those of other seeds, and of other pages.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    cycle(len, |at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed.wrapping_mul(37))
}

/// Returns bytes of which the first 62.75 KiB are `byte` of their offset, again and again.
fn cycle(len: usize, byte: impl Fn(usize) -> u8) -> Vec<u8> {
    const PERIOD: usize = 251 * 256;
    let mut bytes: Vec<_> = (0..len.min(PERIOD)).map(byte).collect();
    while bytes.len() < len {
        bytes.extend_from_within(..bytes.len().min(len - bytes.len()));
    }
    bytes
}

/// Puts an object past the cache.
async fn put(store: &dyn ObjectStore, path: &str, bytes: &[u8]) {
    let path = Path::parse(path).expect("a path");
    store.put(&path, bytes.to_vec().into()).await.expect("put");
}

/// Gets an object with options. Returns its bytes, or the error.
async fn get(
    store: &dyn ObjectStore,
    path: &str,
    options: GetOptions,
) -> Result<Vec<u8>, os::Error> {
    let path = Path::parse(path).expect("a path");
    Ok(store.get_opts(&path, options).await?.bytes().await?.to_vec())
}

/// Gets a whole object.
async fn whole(store: &dyn ObjectStore, path: &str) -> Result<Vec<u8>, os::Error> {
    get(store, path, GetOptions::default()).await
}
