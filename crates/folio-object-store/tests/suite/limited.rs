//! A store with few permits, each of which an answer keeps until it is read or dropped. No get may
//! keep an answer while it waits for another request.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use futures_util::{StreamExt, TryStreamExt};

use super::os::limit::LimitStore;
use super::os::path::Path;
use super::os::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use super::{Cache, CachedStore, Consistency, HOUR, MODES, Options, Tricky, pattern, put, run};

const M: u64 = 1 << 20;

/// Returns a store with an object "a" of 12 MiB and so many permits, and a cache of 16 MiB.
async fn limited(permits: usize, options: Options) -> CachedStore {
    let mut bare = Tricky::in_memory();
    bare.delay = Duration::from_millis(1);
    put(&bare.inner, "a", &pattern(1, 12 << 20)).await;
    let inner: Arc<dyn ObjectStore> = Arc::new(LimitStore::new(bare, permits));
    CachedStore::with_options(inner, &super::cache(), options)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), future).await.expect("it never ends")
}

#[test]
fn gets_share_few_permits() {
    for mode in MODES {
        for (permits, gets, step, len) in [(10, 12, 0, 3 * M), (10, 40, 5000, 10), (1, 2, 0, 3 * M)]
        {
            run(async {
                let store = limited(permits, Options::new().consistency(mode)).await;
                let path = Path::from("a");
                let gets = (0..gets).map(|i| store.get_range(&path, i * step..i * step + len));
                let bytes = within(try_join_all(gets)).await.unwrap();
                assert_eq!(bytes[1], pattern(1, 12 << 20)[step as usize..(step + len) as usize]);
            });
        }
    }
}

#[test]
fn a_get_of_many_ranges_needs_one_permit() {
    for permits in [1, 2] {
        run(async {
            let store = limited(permits, Options::new()).await;
            let ranges: Vec<_> = (0..3).map(|i| i * 4 * M..i * 4 * M + 10).collect();
            let bytes = within(store.get_ranges(&"a".into(), &ranges)).await.unwrap();
            assert_eq!(bytes[2], pattern(1, 12 << 20)[8 << 20..][..10]);
        });
    }
}

#[test]
fn a_cached_beginning_leaves_a_permit_for_the_rest() {
    run(async {
        let options = Options::new().consistency(Consistency::Immutable).metadata_entries(0);
        let store = limited(1, options).await;
        let path = Path::from("a");
        within(store.get_range(&path, 0..3 * M)).await.unwrap();
        let bytes = within(store.get_range(&path, 0..6 * M)).await.unwrap();
        assert_eq!(bytes, pattern(1, 12 << 20)[..6 << 20]);
        let all = within(async { store.get(&path).await?.bytes().await }).await.unwrap();
        assert_eq!(all, pattern(1, 12 << 20));
    });
}

#[test]
fn a_stream_that_waits_for_its_reader_keeps_one_permit() {
    run(async {
        let store = limited(2, Options::new().consistency(HOUR)).await;
        let path = Path::from("a");
        let mut first = store.get(&path).await.unwrap().into_stream();
        let mut read = within(first.next()).await.unwrap().unwrap().to_vec();
        // What it would read next is cached meanwhile, and a second stream has the other permit.
        within(store.get_range(&path, 4 * M..8 * M)).await.unwrap();
        let options = GetOptions::new().with_range(Some(GetRange::Offset(1)));
        let mut second = store.get_opts(&path, options).await.unwrap().into_stream();
        within(second.next()).await.unwrap().unwrap();
        while let Some(bytes) = within(first.try_next()).await.unwrap() {
            read.extend_from_slice(&bytes);
        }
        assert_eq!(read, pattern(1, 12 << 20));
    });
}

#[test]
fn many_readers_share_one_permit() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    for (permits, mode, entries) in
        [(4, Consistency::Validated, 1000), (1, HOUR, 1000), (1, Consistency::Immutable, 1)]
    {
        runtime.block_on(async {
            let options = Options::new().consistency(mode).metadata_entries(entries);
            let bare = Tricky::in_memory();
            let bytes = pattern(1, 9 << 20);
            for path in ["0", "1", "2"] {
                put(&bare.inner, path, &bytes).await;
            }
            let inner: Arc<dyn ObjectStore> = Arc::new(LimitStore::new(bare, permits));
            let store = CachedStore::with_options(inner, &Cache::new(8 << 20).unwrap(), options);
            let tasks =
                (0..24).map(|seed| tokio::spawn(random(store.clone(), bytes.clone(), seed)));
            within(join_all(tasks)).await.into_iter().for_each(Result::unwrap);
        });
    }
}

/// Makes some gets of each kind, and checks their bytes.
async fn random(store: CachedStore, bytes: Vec<u8>, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let path = Path::from(rng.u8(..3).to_string());
        let at = rng.u64(..7 * M);
        let range = at..at + rng.u64(1..2 * M);
        let of = |range: &std::ops::Range<u64>| &bytes[range.start as usize..range.end as usize];
        match rng.u8(..4) {
            0 => assert!(store.get_range(&path, range.clone()).await.unwrap() == *of(&range)),
            1 => {
                let ranges = [0..10, range, 9 * M - 10..9 * M];
                let read = store.get_ranges(&path, &ranges).await.unwrap();
                assert!(ranges.iter().zip(&read).all(|(range, read)| *read == *of(range)));
            }
            2 => {
                let options = GetOptions::new().with_range(Some(GetRange::Suffix(range.end)));
                let read = store.get_opts(&path, options).await.unwrap().bytes().await.unwrap();
                assert!(read == bytes[bytes.len() - range.end as usize..]);
            }
            _ => {
                let read = store.get(&path).await.unwrap().bytes().await.unwrap();
                assert!(read == bytes);
            }
        }
    }
}
