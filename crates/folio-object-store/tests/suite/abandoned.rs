//! Gets and streams that are dropped, or not polled any more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::os::ObjectStoreExt;
use super::os::path::Path;
use super::{CachedStore, Consistency, HOUR, MODES, Tricky, over, pattern, put, run, whole};

#[test]
fn a_get_that_is_not_polled_holds_up_no_other() {
    for mode in MODES {
        let mut bare = Tricky::in_memory();
        bare.gate = Some(Semaphore::new(0));
        let (bare, store) = over(bare, mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 10_000)).await;
            let path = Path::from("a");
            let mut first = Box::pin(store.get(&path));
            assert!((&mut first).now_or_never().is_none());
            let others = (0..10).map(|i| store.get_range(&path, i..i + 10));
            bare.gate.as_ref().unwrap().add_permits(1000);
            let others = futures_util::future::try_join_all(others);
            let bytes = tokio::time::timeout(Duration::from_secs(20), others).await;
            let bytes = bytes.expect("the first get is not needed").unwrap();
            assert_eq!(bytes[9], pattern(1, 10_000)[9..19], "{mode:?}");
            assert_eq!(first.await.unwrap().bytes().await.unwrap(), pattern(1, 10_000));
        });
    }
}

/// Polls some heads of the object "a" once, drops the first, and awaits the others: they make one
/// request.
async fn heads_share_a_request(bare: &Tricky, store: &CachedStore, heads: usize, size: u64) {
    let path = Path::from("a");
    let mut gets: Vec<_> = (0..heads).map(|_| Box::pin(store.head(&path))).collect();
    for get in &mut gets {
        assert!(get.now_or_never().is_none());
    }
    drop(gets.remove(0));
    bare.gate.as_ref().unwrap().add_permits(1000);
    for get in gets {
        assert_eq!(get.await.unwrap().size, size);
    }
    assert_eq!(bare.counts(), (0, 1), "{:?}", store.consistency());
}

#[test]
fn a_request_goes_on_for_the_readers_that_are_left() {
    for mode in [Consistency::Immutable, HOUR] {
        let mut bare = Tricky::in_memory();
        bare.gate = Some(Semaphore::new(0));
        let (bare, store) = over(bare, mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 10_000)).await;
            heads_share_a_request(&bare, &store, 3, 10_000).await;
        });
    }
}

#[test]
fn gets_of_an_object_that_is_too_old_share_the_validation() {
    let mut bare = Tricky::in_memory();
    bare.gate = Some(Semaphore::new(1));
    let (bare, store) = over(bare, Consistency::ValidatedAfter(Duration::from_secs(1)));
    run(async {
        put(&bare.inner, "a", &pattern(1, 10_000)).await;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, 10_000));
        bare.requests();
        tokio::time::sleep(Duration::from_millis(1010)).await;
        put(&bare.inner, "a", &pattern(2, 9000)).await;
        heads_share_a_request(&bare, &store, 20, 9000).await;
    });
}

#[test]
fn a_read_after_a_write_waits_for_no_request_from_before() {
    for mode in [Consistency::Immutable, HOUR] {
        for writes in [true, false] {
            let mut bare = Tricky::in_memory();
            bare.gate = Some(Semaphore::new(0));
            let (bare, store) = over(bare, mode);
            run(async {
                put(&bare.inner, "a", &pattern(1, 10_000)).await;
                let path = Path::from("a");
                let mut hung = Box::pin(store.get(&path));
                assert!((&mut hung).now_or_never().is_none());
                if writes {
                    let write = store.put(&path, pattern(2, 9000).into());
                    let mut write = Box::pin(write);
                    assert!((&mut write).now_or_never().is_none());
                    drop(write);
                } else {
                    store.invalidate(&path);
                }
                let mut get = Box::pin(store.get_range(&path, 0..10));
                assert!((&mut get).now_or_never().is_none());
                assert_eq!(bare.requests().len(), 2, "{mode:?}: it has a request of its own");
                bare.gate.as_ref().unwrap().add_permits(1000);
                assert_eq!(get.await.unwrap(), pattern(1, 10)[..]);
            });
        }
    }
}

#[test]
fn dropped_gets_and_streams_leave_nothing() {
    for mode in MODES {
        let mut bare = Tricky::in_memory();
        bare.delay = Duration::from_micros(500);
        let (bare, store) = over(bare, mode);
        run(async {
            let bytes = pattern(1, 5 << 20);
            put(&bare.inner, "a", &bytes).await;
            let path = Path::from("a");
            for i in 0..100_u64 {
                let range = i * 20_000..i * 20_000 + 30_000;
                let mut get = Box::pin(store.get_range(&path, range));
                for _ in 0..i % 4 {
                    if (&mut get).now_or_never().is_some() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_micros(400)).await;
                }
                drop(get);
                let get = tokio::time::timeout(Duration::from_millis(i % 3), store.get(&path));
                if let Ok(result) = get.await {
                    let mut stream = result.unwrap().into_stream();
                    let piece = stream.next().await.unwrap().unwrap();
                    assert!(bytes.starts_with(&piece));
                }
                if i % 10 == 0 {
                    store.invalidate_all();
                }
            }
            assert!(whole(&store, "a").await.unwrap() == bytes);
        });
        drop(store);
        // A request or a page that is left would keep the store.
        assert_eq!(Arc::strong_count(&bare), 1, "{mode:?}");
    }
}

#[test]
fn readers_on_many_threads_never_sleep_for_good() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
    let mut bare = Tricky::in_memory();
    bare.delay = Duration::from_micros(50);
    let (bare, store) = over(bare, Consistency::Immutable);
    runtime.block_on(async {
        put(&bare.inner, "a", &pattern(1, 50_000)).await;
        let readers = (0..16_u64).map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let (path, mut rng) = (Path::from("a"), fastrand::Rng::with_seed(i));
                for _ in 0..60 {
                    let at = rng.u64(..49_000);
                    let mut get = Box::pin(store.get_range(&path, at..at + 10));
                    for _ in 0..rng.u32(..3) {
                        if (&mut get).now_or_never().is_some() {
                            break;
                        }
                    }
                    match rng.u32(..8) {
                        // It is held, and not polled, while another get runs.
                        0 => drop(store.get_range(&path, at..at + 10).await.unwrap()),
                        1 => store.invalidate(&path),
                        _ => {}
                    }
                    drop(get);
                    let bytes = store.get_range(&path, at..at + 10).await.unwrap();
                    assert_eq!(bytes, pattern(1, 50_000)[at as usize..at as usize + 10]);
                }
            })
        });
        let readers = futures_util::future::try_join_all(readers);
        let ended = tokio::time::timeout(Duration::from_mins(2), readers).await;
        ended.expect("no reader sleeps for good").unwrap();
    });
    drop(store);
    assert_eq!(Arc::strong_count(&bare), 1);
}

#[test]
fn a_runtime_that_has_ended_is_not_entered() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), pattern(1, 20_000)).unwrap();
    let bare = super::os::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    let options = super::Options::new().consistency(Consistency::Immutable);
    let store = CachedStore::with_options(Arc::new(bare), &super::cache(), options);
    let path = Path::from("a");
    run(async { store.get_range(&path, 0..10).await.unwrap() });
    // Its runtime is gone. Outside of any, this store answers at once.
    let bytes = store.get_range(&path, 10_000..10_010).now_or_never().expect("an answer");
    assert_eq!(bytes.unwrap(), pattern(1, 20_000)[10_000..10_010]);
}
