//! When a change by others is seen, in each mode.

use std::time::Duration;

use futures_util::{FutureExt, TryStreamExt};

use super::os::path::Path;
use super::os::{Error, GetOptions, ObjectStore, ObjectStoreExt};
use super::tricky::Fault;
use super::{Consistency, HOUR, MODES, Tricky, get, in_memory, over, pattern, put, run, whole};

const LEN: usize = 20_000;

#[test]
fn immutable_objects_are_never_asked_again() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        whole(&store, "a").await.unwrap();
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        bare.requests();
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, LEN));
        assert_eq!(store.head(&"a".into()).await.unwrap().size, LEN as u64);
        assert_eq!(bare.counts(), (0, 0));
        store.invalidate(&"a".into());
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
    });
}

#[test]
fn validated_objects_are_asked_at_each_get_without_bytes() {
    let (bare, store) = in_memory(Consistency::Validated);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        whole(&store, "a").await.unwrap();
        assert_eq!(bare.counts(), (1, 0));
        for _ in 0..3 {
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, LEN));
            let requests = bare.requests();
            assert_eq!(requests.len(), 1);
            assert!(requests[0].head);
        }
        put(&bare.inner, "a", &pattern(2, LEN + 1)).await;
        let ranges = [0..10, 15_000..30_000];
        let expected = bare.inner.get_ranges(&"a".into(), &ranges).await.unwrap();
        assert_eq!(store.get_ranges(&"a".into(), &ranges).await.unwrap(), expected);
        assert_eq!(store.head(&"a".into()).await.unwrap().size, LEN as u64 + 1);
        bare.inner.delete(&"a".into()).await.unwrap();
        let result = store.get_ranges(&"a".into(), &ranges).await;
        assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
    });
}

#[test]
fn a_time_passes_before_an_object_is_asked_again() {
    let (bare, store) = in_memory(Consistency::ValidatedAfter(Duration::from_millis(200)));
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        let begun = std::time::Instant::now();
        whole(&store, "a").await.unwrap();
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        let read = whole(&store, "a").await.unwrap();
        // A slow machine may be late.
        if begun.elapsed() < Duration::from_millis(190) {
            assert_eq!(read, pattern(1, LEN));
        }
        tokio::time::sleep(Duration::from_millis(210)).await;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
        bare.requests();
        whole(&store, "a").await.unwrap();
        if begun.elapsed() < Duration::from_millis(390) {
            assert_eq!(bare.counts(), (0, 0));
        }
    });
}

#[test]
fn a_listing_that_shows_another_version_makes_the_cache_ask() {
    for list in 0..3 {
        let (bare, store) = in_memory(Consistency::Immutable);
        run(async {
            put(&bare.inner, "p/a", &pattern(1, LEN)).await;
            whole(&store, "p/a").await.unwrap();
            let look = async || {
                let prefix = Path::from("p");
                match list {
                    0 => drop(store.list(Some(&prefix)).try_collect::<Vec<_>>().await.unwrap()),
                    1 => {
                        let list = store.list_with_offset(Some(&prefix), &Path::from("p/0"));
                        drop(list.try_collect::<Vec<_>>().await.unwrap());
                    }
                    _ => drop(store.list_with_delimiter(Some(&prefix)).await.unwrap()),
                }
            };
            look().await;
            bare.requests();
            whole(&store, "p/a").await.unwrap();
            assert_eq!(bare.counts(), (0, 0));
            put(&bare.inner, "p/a", &pattern(2, LEN)).await;
            look().await;
            assert_eq!(whole(&store, "p/a").await.unwrap(), pattern(2, LEN));
        });
    }
}

#[test]
fn invalidations_reach_an_object_a_prefix_and_all() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        let paths = ["a/b", "a/c", "ab", "d"];
        let fill = async |seed| {
            for path in paths {
                put(&bare.inner, path, &pattern(seed, 5000)).await;
            }
        };
        let seeds = async || {
            let mut seeds = Vec::new();
            for path in paths {
                let bytes = whole(&store, path).await.unwrap();
                seeds.push((1..5).find(|&seed| pattern(seed, 5000) == bytes).unwrap());
            }
            seeds
        };
        fill(1).await;
        assert_eq!(seeds().await, [1; 4]);
        fill(2).await;
        store.invalidate(&"a/b".into());
        assert_eq!(seeds().await, [2, 1, 1, 1]);
        fill(3).await;
        store.invalidate_prefix(&"a".into());
        assert_eq!(seeds().await, [3, 3, 1, 1]);
        fill(4).await;
        store.invalidate_all();
        assert_eq!(seeds().await, [4; 4]);
    });
}

#[test]
fn a_change_during_a_read_never_mixes_two_versions() {
    for mode in super::MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 6 << 20)).await;
            // Metadata and one page are known.
            store.get_range(&"a".into(), 0..10).await.unwrap();
            // The object changes just before the next request for bytes of it.
            let heads = usize::from(mode == Consistency::Validated || is_zero(mode));
            let passes = (0..heads).map(|_| Fault::Passes);
            bare.next(passes.chain([Fault::Written(pattern(2, 6 << 20))]));
            let ranges = [0..10, 3_000_000..3_000_010];
            let bytes = store.get_ranges(&"a".into(), &ranges).await.unwrap();
            let of = |seed| {
                let all = pattern(seed, 6 << 20);
                ranges.iter().all(|r| {
                    let at = ranges.iter().position(|other| other == r).unwrap();
                    bytes[at] == all[r.start as usize..r.end as usize]
                })
            };
            assert!(of(1) || of(2), "{mode:?}");
            assert!(of(2), "{mode:?}");
        });
    }
}

fn is_zero(mode: Consistency) -> bool {
    mode == Consistency::ValidatedAfter(Duration::ZERO)
}

#[test]
fn a_change_during_a_stream_of_one_request_is_not_seen_by_it() {
    let (bare, store) = in_memory(HOUR);
    run(async {
        let old = pattern(1, 12 << 20);
        put(&bare.inner, "a", &old).await;
        store.head(&"a".into()).await.unwrap();
        let mut stream = store.get(&"a".into()).await.unwrap().into_stream();
        let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
        put(&store, "a", &pattern(2, 12 << 20)).await;
        while let Some(bytes) = stream.try_next().await.unwrap() {
            read.extend_from_slice(&bytes);
        }
        assert!(read == old);
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, 12 << 20));
    });
}

#[test]
fn a_change_ends_a_stream_of_many_requests_with_an_error() {
    let bare = std::sync::Arc::new(super::Tricky::in_memory());
    let options = super::Options::new().consistency(HOUR).request_bytes(1 << 20);
    let inner: std::sync::Arc<dyn ObjectStore> = bare.clone();
    let store = super::CachedStore::with_options(inner, &super::cache(), options);
    run(async {
        let old = pattern(1, 12 << 20);
        put(&bare.inner, "a", &old).await;
        store.head(&"a".into()).await.unwrap();
        // With this advice the cache requests the pieces.
        let mut options = GetOptions::default();
        options.extensions.insert(folio_object_store::Advice::Normal);
        let result = store.get_opts(&"a".into(), options).await.unwrap();
        let mut stream = result.into_stream();
        let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
        put(&bare.inner, "a", &pattern(2, 12 << 20)).await;
        let error = loop {
            match stream.try_next().await {
                Ok(Some(bytes)) => read.extend_from_slice(&bytes),
                Ok(None) => panic!("it ended without an error after {} bytes", read.len()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Precondition { .. }), "{error}");
        assert!(read == old[..read.len()]);
        assert_eq!(store.stats().changed, 1);
        // The next get sees the new version.
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, 12 << 20));
    });
}

#[test]
fn named_versions_are_apart_from_the_newest() {
    // The store in memory ignores versions: what is checked is that each has an entry of its own.
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        let version =
            |name: &str| GetOptions { version: Some(name.to_owned()), ..GetOptions::default() };
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        assert_eq!(get(&store, "a", version("1")).await.unwrap(), pattern(1, LEN));
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
        assert_eq!(get(&store, "a", version("1")).await.unwrap(), pattern(1, LEN));
        assert_eq!(get(&store, "a", version("2")).await.unwrap(), pattern(2, LEN));
        assert_eq!(store.stats().objects, 3);
        store.invalidate(&"a".into());
        assert_eq!(store.stats().objects, 0);
    });
}

#[test]
fn named_versions_are_asked_for_again_after_an_own_write() {
    // The store in memory ignores versions, and S3 replaces the version "null".
    for mode in MODES {
        let (_, store) = in_memory(mode);
        run(async {
            let null = GetOptions { version: Some("null".to_owned()), ..GetOptions::default() };
            for seed in 1..4 {
                put(&store, "a", &pattern(seed, LEN)).await;
                for _ in 0..2 {
                    let bytes = get(&store, "a", null.clone()).await.unwrap();
                    assert_eq!(bytes, pattern(seed, LEN), "{mode:?}");
                }
            }
            store.delete(&"a".into()).await.unwrap();
            let result = get(&store, "a", null).await;
            assert!(matches!(result, Err(Error::NotFound { .. })), "{mode:?}");
        });
    }
}

#[test]
fn a_late_validation_does_not_undo_what_a_listing_shows() {
    let mut bare = Tricky::in_memory();
    bare.late = Some(tokio::sync::Semaphore::new(1));
    let (bare, store) = over(bare, Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        whole(&store, "a").await.unwrap();
        // A condition that fails makes the cache ask. The answer is on its way for long.
        let options = GetOptions { if_match: Some("\"no\"".into()), ..GetOptions::default() };
        let mut asking = Box::pin(get(&store, "a", options));
        assert!((&mut asking).now_or_never().is_none());
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        let _: Vec<_> = store.list(None).try_collect().await.unwrap();
        bare.late.as_ref().unwrap().add_permits(10);
        let result = asking.await;
        assert!(matches!(result, Err(Error::Precondition { .. })), "{result:?}");
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
    });
}
