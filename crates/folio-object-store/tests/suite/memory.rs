//! Bounds: of metadata, of what scans displace, of what the cache can hold.

use std::sync::Arc;

use folio_object_store::{Advice, Priority};
use futures_util::StreamExt;
use futures_util::stream;

use super::os::path::Path;
use super::os::{GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt};
use super::{Cache, CachedStore, Consistency, Options, Tricky, get, pattern, put, run, whole};

const M: usize = 1 << 20;

/// Returns a store in memory with a cache of 8 MiB.
fn small(options: Options) -> (Arc<Tricky>, CachedStore) {
    let bare = Arc::new(Tricky::in_memory());
    let inner: Arc<dyn ObjectStore> = bare.clone();
    let cache = Cache::new(8 * M).expect("memory");
    let options = options.consistency(Consistency::Immutable);
    (bare, CachedStore::with_options(inner, &cache, options))
}

#[test]
fn metadata_is_bounded_and_pages_outlive_it() {
    let (bare, store) = small(Options::new().metadata_entries(10).metadata_bytes(100_000));
    run(async {
        for i in 0..30 {
            put(&bare.inner, &format!("p/{i}"), &pattern(i, 5000)).await;
            whole(&store, &format!("p/{i}")).await.unwrap();
        }
        let stats = store.stats();
        assert_eq!((stats.objects, stats.metadata_evicted), (10, 20));
        assert!((1000..100_000).contains(&stats.metadata_bytes), "{}", stats.metadata_bytes);
        // Its metadata is gone, and its pages are found again by its validator.
        let fetched = store.stats().bytes_fetched;
        store.head(&"p/0".into()).await.unwrap();
        assert_eq!(whole(&store, "p/0").await.unwrap(), pattern(0, 5000));
        assert_eq!(store.stats().bytes_fetched, fetched);
    });
}

#[test]
fn a_cache_without_metadata_works_as_the_store_does() {
    let (bare, store) = small(Options::new().metadata_entries(0));
    run(async {
        put(&bare.inner, "a", &pattern(1, M)).await;
        for _ in 0..3 {
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, M));
        }
        assert_eq!((store.stats().objects, bare.counts()), (0, (3, 0)));
    });
}

#[test]
fn a_scan_larger_than_the_cache_leaves_the_rest() {
    let (bare, store) = small(Options::new());
    run(async {
        put(&bare.inner, "hot", &pattern(1, 2 * M)).await;
        put(&bare.inner, "large", &pattern(2, 24 * M)).await;
        for _ in 0..2 {
            let mut at = 0;
            while at < 2 * M {
                let range = at as u64..(at + 65_536) as u64;
                store.get_range(&"hot".into(), range).await.unwrap();
                at += 65_536;
            }
        }
        let mut scan = store.get(&"large".into()).await.unwrap().into_stream();
        let mut at = 0;
        let large = pattern(2, 24 * M);
        while let Some(piece) = scan.next().await {
            let piece = piece.unwrap();
            assert!(large[at..].starts_with(&piece));
            at += piece.len();
        }
        assert_eq!(at, large.len());
        let fetched = store.stats().bytes_fetched;
        assert_eq!(whole(&store, "hot").await.unwrap(), pattern(1, 2 * M));
        let again = store.stats().bytes_fetched - fetched;
        assert!(again <= M as u64 / 4, "{again} bytes of the hot object were displaced");
    });
}

#[test]
fn extensions_carry_advice_and_priority() {
    let (bare, store) = small(Options::new());
    run(async {
        put(&bare.inner, "a", &pattern(1, 2 * M)).await;
        let mut options = GetOptions::default();
        options.extensions.insert(Advice::Once);
        options.extensions.insert(Priority::Low);
        assert_eq!(get(&store, "a", options.clone()).await.unwrap(), pattern(1, 2 * M));
        let mut kept = options;
        kept.extensions.insert(Advice::Sequential);
        assert_eq!(get(&store, "a", kept).await.unwrap(), pattern(1, 2 * M));
        let fetched = store.stats().bytes_fetched;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, 2 * M));
        assert_eq!(store.stats().bytes_fetched, fetched);
    });
}

#[test]
fn without_free_memory_gets_go_past_the_cache() {
    let (bare, store) = small(Options::new());
    run(async {
        put(&bare.inner, "a", &pattern(1, 24 * M)).await;
        put(&bare.inner, "b", &pattern(2, 3 * M)).await;
        // The pieces pin their pages.
        let mut pinned = Vec::new();
        for i in 0..24_u64 {
            let range = i * M as u64..(i + 1) * M as u64;
            pinned.push(store.get_range(&"a".into(), range).await.unwrap());
        }
        assert_eq!(pinned.concat(), pattern(1, 24 * M));
        assert_eq!(whole(&store, "b").await.unwrap(), pattern(2, 3 * M));
        let ranges = [0..10, 2_000_000..2_000_010];
        let bytes = store.get_ranges(&"b".into(), &ranges).await.unwrap();
        assert_eq!(bytes[1], pattern(2, 3 * M)[2_000_000..2_000_010]);
        assert!(store.stats().bytes_passed > 0);
        drop(pinned);
        store.invalidate(&"a".into());
        let all = 0..3 * M as u64;
        store.get_range(&"b".into(), all.clone()).await.unwrap();
        let fetched = store.stats().bytes_fetched;
        assert_eq!(store.get_range(&"b".into(), all).await.unwrap(), pattern(2, 3 * M));
        assert_eq!(store.stats().bytes_fetched, fetched);
    });
}

/// A store with one object of 17 TiB. Each of its bytes is the lowest of its offset in pages.
#[derive(Debug)]
struct Huge;

const HUGE: u64 = 17 << 40;

impl super::stores::OneObject for Huge {
    fn size(&self) -> u64 {
        HUGE
    }

    fn payload(&self, range: std::ops::Range<u64>) -> GetResultPayload {
        let len = (range.end - range.start).min(1 << 24);
        let bytes: Vec<u8> = (range.start..range.start + len).map(|at| (at >> 12) as u8).collect();
        GetResultPayload::Stream(stream::once(async move { Ok(bytes.into()) }).boxed())
    }
}

#[test]
fn objects_past_16_tib_are_cached_up_to_there() {
    let inner: Arc<dyn ObjectStore> = Arc::new(super::stores::One(Huge));
    let options = Options::new().consistency(Consistency::Immutable);
    let store = CachedStore::with_options(inner, &super::cache(), options);
    run(async {
        let path = Path::from("huge");
        let limit = 1 << 44;
        assert_eq!(store.head(&path).await.unwrap().size, HUGE);
        for _ in 0..2 {
            let ranges = [0..10, limit - 8192..limit, limit - 1..limit + 1, HUGE - 1..HUGE];
            let bytes = store.get_ranges(&path, &ranges).await.unwrap();
            let lens: Vec<_> = bytes.iter().map(bytes::Bytes::len).collect();
            assert_eq!(lens, [10, 8192, 2, 1]);
            assert_eq!((bytes[1][0], bytes[1][4096], bytes[2][1]), (254, 255, 0));
        }
        let passed = store.stats().bytes_passed;
        assert_eq!(passed, 2 * (10 + 8192 + 2 + 1));
        store.get_range(&path, limit - 10..limit).await.unwrap();
        store.get_range(&path, limit - 10..limit).await.unwrap();
        assert_eq!(store.stats().bytes_passed, passed);
        assert_eq!(store.get_range(&path, HUGE - 5..HUGE + 5).await.unwrap().len(), 5);
        assert_eq!(store.stats().bytes_passed, passed + 5);
        let mut whole = store.get(&path).await.unwrap().into_stream();
        assert_eq!(whole.next().await.unwrap().unwrap()[4096], 1);
    });
}

#[test]
fn the_first_piece_of_a_huge_stream_comes_at_once() {
    let inner: Arc<dyn ObjectStore> = Arc::new(super::stores::One(Huge));
    let options = Options::new().consistency(Consistency::Immutable);
    let store = CachedStore::with_options(inner, &super::cache(), options);
    run(async {
        let path = Path::from("huge");
        store.head(&path).await.unwrap();
        let options = GetOptions::new().with_range(Some(0..1 << 44));
        let mut stream = store.get_opts(&path, options).await.unwrap().into_stream();
        let begun = std::time::Instant::now();
        stream.next().await.unwrap().unwrap();
        // A look at each of its 64 million pieces takes longer.
        assert!(begun.elapsed() < std::time::Duration::from_secs(10));
    });
}
