//! Reads return what the bare store returns, in as few requests.

use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt;

use super::os::path::Path;
use super::os::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use super::tricky::Request;
use super::{Consistency, HOUR, MODES, get, in_memory, pattern, put, run, whole};

const K: usize = 1024;

fn with(range: GetRange) -> GetOptions {
    GetOptions { range: Some(range), ..GetOptions::default() }
}

#[test]
fn each_kind_of_range_returns_what_the_store_returns() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            let bytes = pattern(1, 100 * K + 17);
            put(&bare.inner, "a", &bytes).await;
            let size = bytes.len() as u64;
            let ranges = [
                GetRange::Bounded(0..1),
                GetRange::Bounded(5000..5001),
                GetRange::Bounded(4096..8192),
                GetRange::Bounded(1..size - 1),
                GetRange::Bounded(size - 1..size),
                GetRange::Bounded(size - 10..u64::MAX),
                GetRange::Offset(0),
                GetRange::Offset(70_000),
                GetRange::Suffix(1),
                GetRange::Suffix(5000),
                GetRange::Suffix(size),
                GetRange::Suffix(u64::MAX),
            ];
            // Cold, each in a cache of its own, and then warm in one.
            for range in &ranges {
                let (cold, store) = in_memory(mode);
                put(&cold.inner, "a", &bytes).await;
                let expected = get(&bare.inner, "a", with(range.clone())).await.unwrap();
                assert_eq!(get(&store, "a", with(range.clone())).await.unwrap(), expected);
                assert_eq!(cold.counts(), (1, 0), "{range}");
            }
            for range in ranges.iter().chain(&ranges) {
                let expected = bare.inner.get_opts(&"a".into(), with(range.clone())).await.unwrap();
                let result = store.get_opts(&"a".into(), with(range.clone())).await.unwrap();
                assert_eq!((&result.range, &result.meta), (&expected.range, &expected.meta));
                assert_eq!(result.bytes().await.unwrap(), expected.bytes().await.unwrap());
            }
            assert_eq!(whole(&store, "a").await.unwrap(), bytes);
        });
    }
}

#[test]
fn ranges_that_are_not_there_are_the_stores_errors() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 100)).await;
            put(&bare.inner, "empty", b"").await;
            let bad = [
                ("a", GetRange::Bounded(100..101)),
                ("a", GetRange::Bounded(5..5)),
                ("a", GetRange::Bounded(9000..9001)),
                ("a", GetRange::Offset(100)),
                ("a", GetRange::Offset(u64::MAX)),
                ("empty", GetRange::Bounded(0..1)),
                ("empty", GetRange::Offset(0)),
                ("none", GetRange::Bounded(0..1)),
                ("none", GetRange::Suffix(1)),
            ];
            for (path, range) in bad.iter().chain(&bad) {
                let expected = get(&bare.inner, path, with(range.clone())).await.unwrap_err();
                let error = get(&store, path, with(range.clone())).await.unwrap_err();
                assert_eq!(error.to_string(), expected.to_string(), "{path} {range:?}");
            }
            #[allow(
                clippy::reversed_empty_ranges,
                clippy::single_range_in_vec_init,
                reason = "bad ranges"
            )]
            let bad: [(&str, &[Range<u64>]); 5] = [
                ("a", &[0..1, 200..201]),
                ("a", &[5..5, 0..1]),
                ("a", &[7..6]),
                ("empty", &[0..1]),
                ("none", &[0..1]),
            ];
            for (path, ranges) in bad.iter().chain(&bad) {
                let path = Path::from(*path);
                let expected = bare.inner.get_ranges(&path, ranges).await.unwrap_err();
                let error = store.get_ranges(&path, ranges).await.unwrap_err();
                assert_eq!(error.to_string(), expected.to_string(), "{path} {ranges:?}");
            }
        });
    }
}

#[test]
fn many_ranges_are_one_round_of_requests() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        let bytes = pattern(2, 8 << 20);
        put(&bare.inner, "a", &bytes).await;
        let path = Path::from("a");
        // Two groups, 4 MiB apart: more than the gap that is read through.
        let ranges = [10..20, 5_000_000..5_100_000, 4000..9000, 15..25, 5_200_000..5_200_001];
        let expected = bare.inner.get_ranges(&path, &ranges).await.unwrap();
        assert_eq!(store.get_ranges(&path, &ranges).await.unwrap(), expected);
        assert_eq!(bare.counts(), (2, 0));
        assert_eq!(store.get_ranges(&path, &ranges).await.unwrap(), expected);
        assert_eq!(bare.counts(), (0, 0));
        // Known, and partly cached: the rest alone is requested.
        let ranges = [0..10_000, 6_000_000..6_001_000];
        let expected = bare.inner.get_ranges(&path, &ranges).await.unwrap();
        assert_eq!(store.get_ranges(&path, &ranges).await.unwrap(), expected);
        let requests = bare.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(requests[0].range, Some(GetRange::Bounded(5_996_544..6_004_736)));
        assert!(requests[0].if_match);
        assert!(store.get_ranges(&path, &[]).await.unwrap().is_empty());
    });
}

#[test]
fn a_whole_object_is_streamed_and_then_cached() {
    let (bare, store) = in_memory(HOUR);
    run(async {
        let bytes = pattern(3, (1 << 20) + 4097);
        put(&bare.inner, "a", &bytes).await;
        assert_eq!(whole(&store, "a").await.unwrap(), bytes);
        assert_eq!(bare.counts(), (1, 0));
        let result = store.get(&"a".into()).await.unwrap();
        let pieces: Vec<_> = result.into_stream().collect().await;
        let streamed: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap()).collect();
        assert_eq!(streamed, bytes);
        assert_eq!(bare.counts(), (0, 0));
        let stats = store.stats();
        assert_eq!(stats.bytes_wanted, 2 * bytes.len() as u64);
        assert_eq!(stats.bytes_fetched, bytes.len() as u64);
        assert_eq!(stats.bytes_hit, bytes.len() as u64);
        // Known, and partly cached: a request for each part that is not.
        put(&bare.inner, "b", &pattern(5, 5 << 20)).await;
        store.head(&"b".into()).await.unwrap();
        store.get_range(&"b".into(), 2_000_000..3_000_000).await.unwrap();
        let fetched = store.stats().bytes_fetched;
        bare.requests();
        assert_eq!(whole(&store, "b").await.unwrap(), pattern(5, 5 << 20));
        assert_eq!(bare.counts(), (2, 0));
        let fetched = store.stats().bytes_fetched - fetched;
        assert!((4_200_000..4_900_000).contains(&fetched), "{fetched}");
    });
}

#[test]
fn an_unread_result_fetches_nothing_more() {
    let (bare, store) = in_memory(HOUR);
    run(async {
        put(&bare.inner, "a", &pattern(3, 12 << 20)).await;
        let head = store.head(&"a".into()).await.unwrap();
        assert_eq!((head.size, bare.counts()), (12 << 20, (0, 1)));
        drop(store.get(&"a".into()).await.unwrap());
        assert_eq!(bare.counts(), (0, 0));
        let mut stream = store.get(&"a".into()).await.unwrap().into_stream();
        let first = stream.next().await.unwrap().unwrap();
        drop(stream);
        assert!(!first.is_empty());
        assert_eq!(bare.counts(), (1, 0));
    });
}

#[test]
fn empty_objects_and_odd_paths_are_objects_like_others() {
    let paths =
        ["empty", "a b", "%20", "ü/😀", "a/../b", "q?x=1#y", "a%2Fb", "x\u{a0}", "a/b.c~'\"<>"];
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            for (seed, path) in paths.iter().enumerate() {
                // Both by `from`, which encodes, since not all of them can be parsed.
                let path = Path::from(*path);
                let len = if seed == 0 { 0 } else { 100 * seed };
                let bytes = pattern(seed as u8, len);
                bare.inner.put(&path, bytes.clone().into()).await.unwrap();
                for _ in 0..2 {
                    let result = store.get(&path).await.unwrap();
                    assert_eq!((&result.meta.location, result.meta.size), (&path, len as u64));
                    assert_eq!(result.bytes().await.unwrap(), bytes);
                }
            }
        });
    }
}

#[test]
fn attributes_and_metadata_are_those_of_the_store() {
    use super::os::{Attribute, Attributes};
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        let path = Path::from("a");
        let attributes = Attributes::from_iter([(Attribute::ContentType, "text/plain")]);
        bare.inner.put_opts(&path, "x".into(), attributes.clone().into()).await.unwrap();
        for _ in 0..2 {
            let expected = bare.inner.get(&path).await.unwrap();
            let result = store.get(&path).await.unwrap();
            assert_eq!((result.attributes, result.meta), (attributes.clone(), expected.meta));
        }
        assert_eq!(store.head(&path).await.unwrap(), bare.inner.head(&path).await.unwrap());
    });
}

#[test]
fn many_readers_of_a_new_object_make_one_request() {
    let mut bare = super::Tricky::in_memory();
    bare.delay = std::time::Duration::from_millis(20);
    let (bare, store) = super::over(bare, Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(4, 64 * K)).await;
        let path = Path::from("a");
        let gets = (0..32_u64).map(|i| store.get_range(&path, i * 10..40_000 + i));
        let all = futures_util::future::try_join_all(gets).await.unwrap();
        assert_eq!(all[31].len(), 40_031 - 310);
        let requests: Vec<Request> = bare.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        // None is there: each gets the store's answer, after one more round at most.
        let path = Path::from("none");
        let gets = (0..32).map(|_| store.head(&path));
        let all = futures_util::future::join_all(gets).await;
        assert!(all.iter().all(|head| matches!(head, Err(super::os::Error::NotFound { .. }))));
    });
}

#[test]
fn each_range_is_answered_as_by_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let local = super::os::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    let memory = super::os::memory::InMemory::new();
    let stores: [Arc<dyn ObjectStore>; 2] = [Arc::new(memory), Arc::new(local)];
    let lens = [0, 4095, 4096, 10_000_u64];
    for (bare, len, mode) in stores.iter().flat_map(|bare| {
        lens.iter().flat_map(move |len| MODES.iter().map(move |mode| (bare, *len, *mode)))
    }) {
        let edges = [0, 1, 4096, len.saturating_sub(1), len, len + 1, len + 5000, u64::MAX];
        let mut ranges = vec![None];
        for n in edges {
            ranges.extend([Some(GetRange::Suffix(n)), Some(GetRange::Offset(n))]);
            ranges.extend(edges.map(|end| Some(GetRange::Bounded(n..end))));
        }
        let cache = super::Cache::new(4 << 20).unwrap();
        run(async {
            put(&**bare, "a", &pattern(1, len as usize)).await;
            for (range, head, warm) in ranges.iter().flat_map(|range| {
                [(false, false), (false, true), (true, false), (true, true)]
                    .map(|(head, warm)| (range, head, warm))
            }) {
                let options = super::Options::new().consistency(mode);
                let store = super::CachedStore::with_options(bare.clone(), &cache, options);
                if warm {
                    whole(&store, "a").await.unwrap();
                }
                let options = GetOptions { range: range.clone(), head, ..Default::default() };
                let case = format!("{bare} {len} {mode:?} {options:?} {warm}");
                let expected = bare.get_opts(&"a".into(), options.clone()).await;
                let result = store.get_opts(&"a".into(), options).await;
                match (result, expected) {
                    (Ok(result), Ok(expected)) => {
                        assert_eq!(result.range, expected.range, "{case}");
                        assert_eq!(result.meta, expected.meta, "{case}");
                        if !head {
                            let expected = expected.bytes().await.unwrap();
                            assert_eq!(result.bytes().await.unwrap(), expected, "{case}");
                        }
                    }
                    (Err(error), Err(expected)) => {
                        // A first request is for whole pages.
                        let is_same = error.to_string() == expected.to_string();
                        assert!(is_same || !warm, "{case}: {error}, {expected}");
                    }
                    (result, expected) => {
                        let ranges = [result, expected].map(|it| it.map(|it| it.range));
                        panic!("{case}: {ranges:?}");
                    }
                }
            }
        });
    }
}
