//! Several stores in one cache, and the counters of each.

use std::sync::Arc;
use std::time::Duration;

use folio_object_store::Advice;
use futures_util::{FutureExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::os::{GetOptions, ObjectStore, ObjectStoreExt};
use super::tricky::{Fault, unavailable};
use super::{CachedStore, Consistency, Options, Tricky, cache, pattern, put, run, whole};

fn immutable() -> Options {
    Options::new().consistency(Consistency::Immutable)
}

#[test]
fn two_stores_with_one_path_do_not_meet() {
    let cache = cache();
    let bare = [1, 2].map(|_| Arc::new(Tricky::in_memory()));
    let stores = bare.clone().map(|bare| CachedStore::with_options(bare, &cache, immutable()));
    run(async {
        // Their first objects have one ETag and one length.
        for (seed, bare) in (1..).zip(&bare) {
            put(&bare.inner, "a", &pattern(seed, 5000)).await;
        }
        for _ in 0..2 {
            for (seed, store) in (1..).zip(&stores) {
                assert_eq!(whole(store, "a").await.unwrap(), pattern(seed, 5000));
            }
        }
        stores[0].invalidate_all();
        for bare in &bare {
            bare.requests();
        }
        assert_eq!(whole(&stores[1], "a").await.unwrap(), pattern(2, 5000));
        assert_eq!(bare[1].counts(), (0, 0));
    });
}

#[test]
fn stores_with_one_id_share_their_pages() {
    let cache = cache();
    let bare = Arc::new(Tricky::in_memory());
    let stores = [1, 2].map(|_| {
        let inner: Arc<dyn ObjectStore> = bare.clone();
        CachedStore::with_options(inner, &cache, immutable().id("bucket"))
    });
    run(async {
        put(&bare.inner, "a", &pattern(1, 50_000)).await;
        whole(&stores[0], "a").await.unwrap();
        stores[1].head(&"a".into()).await.unwrap();
        assert_eq!(whole(&stores[1], "a").await.unwrap(), pattern(1, 50_000));
        assert_eq!(bare.counts(), (1, 1));
        assert_eq!(stores[1].stats().bytes_fetched, 0);
        // A write through one: it sees it at once, and the other by its rule.
        put(&stores[0], "a", &pattern(2, 50_000)).await;
        assert_eq!(whole(&stores[0], "a").await.unwrap(), pattern(2, 50_000));
        stores[1].invalidate(&"a".into());
        assert_eq!(whole(&stores[1], "a").await.unwrap(), pattern(2, 50_000));
    });
}

#[test]
fn a_store_that_does_not_answer_leaves_room_for_another() {
    let cache = cache();
    let mut sick = Tricky::in_memory();
    // The first request is answered, and no other.
    sick.gate = Some(Semaphore::new(1));
    let (sick, healthy) = (Arc::new(sick), Arc::new(Tricky::in_memory()));
    let [hung, other] = [sick.clone() as Arc<dyn ObjectStore>, healthy.clone()]
        .map(|bare| CachedStore::with_options(bare, &cache, immutable()));
    run(async {
        put(&sick.inner, "a", &pattern(1, 12 << 20)).await;
        put(&healthy.inner, "a", &pattern(2, 12 << 20)).await;
        let path = "a".into();
        for store in [&hung, &other] {
            store.get_range(&path, 0..10).await.unwrap();
        }
        // More than the memory that may be in flight.
        let ranges = (20..180).map(|n| n << 16..(n + 1) << 16);
        let mut gets: Vec<_> = ranges.map(|it| Box::pin(hung.get_range(&path, it))).collect();
        assert!(gets.iter_mut().all(|get| get.now_or_never().is_none()));
        let get = other.get_range(&path, 5 << 20..11 << 20);
        let get = tokio::time::timeout(Duration::from_mins(1), get).await;
        let bytes = get.expect("it waits for the other").unwrap();
        assert_eq!(bytes, pattern(2, 12 << 20)[5 << 20..11 << 20]);
    });
}

#[test]
fn counters_are_kept_for_the_store_and_for_prefixes() {
    let bare = Arc::new(Tricky::in_memory());
    let options = immutable().id("s3://b").count_prefix("t/x").count_prefix("u");
    let store = CachedStore::with_options(bare.clone(), &cache(), options);
    run(async {
        for path in ["t/x/1", "t/y", "u/1"] {
            put(&bare.inner, path, &pattern(1, 10_000)).await;
            for _ in 0..2 {
                whole(&store, path).await.unwrap();
            }
        }
        store.head(&"u/1".into()).await.unwrap();
        whole(&store, "u/2").await.unwrap_err();
    });
    let stats = store.stats();
    assert_eq!((stats.gets, stats.requests, stats.heads), (8, 4, 0));
    assert_eq!((stats.bytes_wanted, stats.bytes_fetched), (60_000, 30_000));
    assert_eq!((stats.bytes_hit, stats.objects, stats.errors), (30_000, 3, 0));
    assert_eq!(
        stats.to_string(),
        "8 gets returned 58.6 KiB, 50.0 % of it from the cache, by 4 requests that fetched 29.3 KiB"
    );
    let prefixes = store.prefix_stats();
    let counts: Vec<_> = prefixes.iter().map(|(p, s)| (p.as_str(), s.gets, s.requests)).collect();
    assert_eq!(counts, [("t/x", 2, 1), ("u", 4, 2)]);
    assert_eq!((store.stats() - stats).gets, 0);
}

#[test]
fn the_cache_is_freed_with_its_last_handle() {
    let bare = Arc::new(Tricky::in_memory());
    let cache = cache();
    let store = CachedStore::with_options(bare.clone(), &cache, immutable());
    run(async {
        put(&bare.inner, "a", &pattern(1, 50_000)).await;
        whole(&store, "a").await.unwrap();
    });
    drop((store, cache));
    // The pages held the store, and nothing holds the pages.
    assert_eq!(Arc::strong_count(&bare), 1);
}

#[test]
fn a_stream_asks_its_own_store_and_no_other_of_its_id() {
    for advice in [None, Some(Advice::Normal)] {
        let cache = cache();
        let [mut first, second] = [1, 2].map(|_| Tricky::in_memory());
        first.inner = Arc::clone(&second.inner);
        let bare = [first, second].map(Arc::new);
        let stores = bare
            .clone()
            .map(|bare| CachedStore::with_options(bare, &cache, immutable().id("bucket")));
        run(async {
            put(&bare[0].inner, "a", &pattern(1, 12 << 20)).await;
            let mut options = GetOptions::default();
            advice.map(|advice| options.extensions.insert(advice));
            let result = stores[0].get_opts(&"a".into(), options).await.unwrap();
            let mut stream = result.into_stream();
            let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
            bare[1].requests();
            loop {
                // The other opens the object, and may send no request any more.
                stores[1].get_range(&"a".into(), 0..10).await.unwrap();
                bare[1].next((0..9).map(|_| Fault::Error(unavailable)));
                let Some(bytes) = stream.try_next().await.unwrap() else { break };
                read.extend_from_slice(&bytes);
                bare[1].faults.lock().unwrap().clear();
            }
            assert!(read == pattern(1, 12 << 20));
        });
    }
}
