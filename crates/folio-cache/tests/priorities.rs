//! Priorities: the order in which requests to a distant store are sent.

mod common;

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use common::assert_nothing_leaked;
use folio_cache::testing::Distant;
use folio_cache::{Advice, Cache, Preferences, Priority};

const PAGE: usize = 4096;

/// Reads a byte of each page, all at once, each with a priority. The store and the cache allow so
/// many requests in flight. Returns the pages in the order of their requests.
fn order_of(of_store: usize, of_cache: usize, reads: &[(u64, Priority)]) -> Vec<u64> {
    let cache = Cache::builder().capacity(4 << 20).requests(of_cache).build().unwrap();
    let distant = Arc::new(
        Distant::new(&vec![7; 8 * PAGE])
            .with_latency(Duration::from_millis(60))
            .with_preferences(Preferences::default().in_flight(of_store)),
    );
    let file = cache.open_async(distant.clone()).unwrap().with_advice(Advice::Random);
    let files: Vec<_> =
        reads.iter().map(|&(page, priority)| (page, file.with_priority(priority))).collect();
    let mut futures: Vec<_> = files
        .iter()
        .map(|(page, file)| Box::pin(file.bytes_async(page * PAGE as u64, 1)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    let mut done = vec![false; futures.len()];
    while done.iter().any(|done| !done) {
        for (read, done) in futures.iter_mut().zip(&mut done) {
            *done = *done || read.as_mut().poll(&mut context).is_ready();
        }
    }
    assert_eq!(distant.most_in_flight(), 1);
    drop(futures);
    cache.invalidate(&file.key());
    drop((files, file));
    assert_nothing_leaked(&cache);
    distant.requests().iter().map(|range| range.start / PAGE as u64).collect()
}

/// One request for the cache at a time, or for the store.
const ONE: [(usize, usize); 2] = [(64, 1), (1, 64)];

/// A request that waits for its turn is overtaken by one of a higher priority.
#[test]
fn a_high_priority_goes_first() {
    use Priority::{High, Low, Normal};
    for (of_store, of_cache) in ONE {
        let reads = [(0, Normal), (1, Low), (2, Normal), (3, High), (4, Normal)];
        let order = order_of(of_store, of_cache, &reads);
        assert_eq!(order, [0, 3, 2, 4, 1], "{of_store} for the store, {of_cache} for the cache");
    }
}

#[test]
fn a_reader_of_high_priority_moves_the_request_that_it_joins() {
    use Priority::{High, Low, Normal};
    for (of_store, of_cache) in ONE {
        let first = [(0, Normal), (1, Low), (2, Low), (3, Low), (4, Normal)];
        // Page 3 is requested already, and page 4 by a reader of the same priority.
        let more = [(3, High), (4, Normal), (5, High), (2, Normal)];
        let order = order_of(of_store, of_cache, &[&first[..], &more[..]].concat());
        let limits = format!("{of_store} for the store, {of_cache} for the cache");
        assert_eq!(order, [0, 3, 5, 2, 4, 1], "{limits}");
    }
}
