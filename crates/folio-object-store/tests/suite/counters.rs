//! The sums of the counters: what is wanted was cached, fetched or passed.

use std::io::{ErrorKind, Write};
use std::sync::Arc;

use folio_cache::PageHandle;
use folio_object_store::StoreStats;
use futures_util::StreamExt;

use super::os::{ObjectStore, ObjectStoreExt};
use super::tricky::{Fault, unavailable};
use super::{Cache, CachedStore, Consistency, HOUR, MODES, Options, Tricky, over, pattern, put};
use super::{in_memory, run, whole};

const LEN: usize = 10_000;
const M: u64 = 1 << 20;

fn bytes_of(stats: &StoreStats) -> [u64; 4] {
    [stats.bytes_wanted, stats.bytes_hit, stats.bytes_fetched, stats.bytes_passed]
}

#[test]
fn bytes_that_are_not_returned_are_not_counted() {
    let mut bare = Tricky::in_memory();
    bare.late = Some(tokio::sync::Semaphore::new(1));
    let (bare, store) = over(bare, Consistency::Validated);
    run(async {
        let (path, len) = ("a".into(), LEN as u64);
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        store.get_range(&path, 0..len).await.unwrap();
        // Cached bytes of the old version are read while the store is asked, and dropped.
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        let permits = async { bare.late.as_ref().unwrap().add_permits(10) };
        let (bytes, ()) = futures_util::join!(store.get_range(&path, 0..len), permits);
        assert_eq!(bytes.unwrap(), pattern(2, LEN));
        assert_eq!(bytes_of(&store.stats()), [2 * len, 0, 2 * len, 0]);
        bare.next([Fault::Error(unavailable)]);
        store.get_range(&path, 0..len).await.unwrap_err();
        assert_eq!(bytes_of(&store.stats()), [2 * len, 0, 2 * len, 0]);
    });
}

/// Pins all pages of a cache, by handles on the pages of a file. The tests call it before they read
/// objects, so that no page of one stays.
fn pinned(store: &CachedStore) -> Vec<PageHandle> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&pattern(9, 10 << 20)).unwrap();
    let file = store.cache().open(file.path()).unwrap();
    let mut pages = (0..10 << 20).step_by(4096).map(|offset| file.page(offset));
    let pinned: Vec<_> = pages.by_ref().map_while(|page| page.ok().flatten()).collect();
    let left = pages.next().expect("the file is larger than the memory");
    assert_eq!(left.unwrap_err().kind(), ErrorKind::OutOfMemory);
    pinned
}

fn small(mode: Consistency) -> (Arc<Tricky>, CachedStore) {
    let bare = Arc::new(Tricky::in_memory());
    let inner: Arc<dyn ObjectStore> = bare.clone();
    let cache = Cache::new(8 << 20).expect("memory");
    (bare, CachedStore::with_options(inner, &cache, Options::new().consistency(mode)))
}

#[test]
fn bytes_past_the_cache_are_wanted_and_fetched_too() {
    for mode in MODES {
        let (bare, store) = small(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 3 << 20)).await;
            let pinned = pinned(&store);
            let mut before = store.stats();
            let mut since = || {
                let since = store.stats() - before;
                before = store.stats();
                bytes_of(&since)
            };
            assert!(whole(&store, "a").await.unwrap() == pattern(1, 3 << 20));
            assert_eq!(since(), [3 * M, 0, 3 * M, 3 * M], "{mode:?}: a stream");
            store.get_range(&"a".into(), 0..M).await.unwrap();
            assert_eq!(since(), [M, 0, M, M], "{mode:?}: a range");
            let ranges = [5..10, 0..M, 2 * M..3 * M];
            store.get_ranges(&"a".into(), &ranges).await.unwrap();
            assert_eq!(since(), [2 * M + 5, 0, 3 * M, 2 * M + 5], "{mode:?}: ranges");
            drop(pinned);
        });
    }
}

#[test]
fn answers_past_the_cache_have_their_length() {
    let faults: [fn() -> Fault; 3] = [|| Fault::Long, || Fault::Ends(5), || Fault::Shifted];
    for mode in [Consistency::Immutable, HOUR] {
        for fault in faults {
            let (bare, store) = small(mode);
            run(async {
                let bytes = pattern(1, 3 << 20);
                put(&bare.inner, "a", &bytes).await;
                let pinned = pinned(&store);
                store.head(&"a".into()).await.unwrap();
                bare.next([fault(), fault(), fault()]);
                if let Ok(read) = whole(&store, "a").await {
                    assert!(read == bytes);
                }
                bare.faults.lock().unwrap().clear();
                store.head(&"a".into()).await.unwrap();
                bare.next([fault(), fault(), fault()]);
                let ranges = [10..100_000, 2_000_000..2_000_010];
                if let Ok(read) = store.get_ranges(&"a".into(), &ranges).await {
                    assert!(
                        read[0] == bytes[10..100_000] && read[1] == bytes[2_000_000..2_000_010]
                    );
                }
                drop(pinned);
            });
        }
    }
}

#[test]
fn empty_and_long_pieces_of_a_stream_past_the_cache() {
    let (bare, store) = small(Consistency::Immutable);
    run(async {
        let bytes = pattern(1, 3 << 20);
        put(&bare.inner, "a", &bytes).await;
        let pinned = pinned(&store);
        store.head(&"a".into()).await.unwrap();
        bare.next([Fault::Passes, Fault::Odd]);
        assert!(whole(&store, "a").await.unwrap() == bytes);
        drop(pinned);
        store.invalidate_all();
        bare.next([Fault::Odd]);
        assert!(whole(&store, "a").await.unwrap() == bytes);
    });
    let (bare, store) = in_memory(Consistency::Validated);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        bare.next([Fault::Odd]);
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, LEN));
    });
}

#[test]
fn a_change_by_others_counts_once_and_an_own_write_does_not() {
    run(async {
        let (bare, store) = in_memory(Consistency::Validated);
        put(&bare.inner, "a", &pattern(1, 100_000)).await;
        store.get_range(&"a".into(), 0..10).await.unwrap();
        put(&bare.inner, "a", &pattern(2, 100_001)).await;
        store.get_range(&"a".into(), 50_000..50_010).await.unwrap();
        assert_eq!(store.stats().changed, 1);

        let (bare, store) = in_memory(Consistency::Immutable);
        put(&bare.inner, "a", &pattern(1, 4 << 20)).await;
        store.head(&"a".into()).await.unwrap();
        let mut stream = store.get(&"a".into()).await.unwrap().into_stream();
        put(&store, "a", &pattern(2, 5 << 20)).await;
        assert!(stream.next().await.unwrap().is_err());
        assert_eq!(store.stats().changed, 0);
        store.rename(&"a".into(), &"b".into()).await.unwrap();
        assert_eq!(store.stats().writes, 2);
    });
}
