//! Writes through the cached store, in each order with a get beside them.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;

use super::os::path::Path;
use super::os::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use super::tricky::Fault;
use super::{Consistency, MODES, Tricky, in_memory, over, pattern, put, run, whole};

const LEN: usize = 9000;

#[test]
fn a_read_after_each_kind_of_write_sees_it() {
    for mode in MODES {
        let (_, store) = in_memory(mode);
        run(async {
            let (a, b) = (Path::from("a"), Path::from("b"));
            let is = async |path: &str, seed| {
                assert_eq!(whole(&store, path).await.unwrap(), pattern(seed, LEN), "{mode:?}");
            };
            let gone = async |path: &str| {
                let result = whole(&store, path).await;
                assert!(matches!(result, Err(Error::NotFound { .. })), "{mode:?}");
            };
            gone("a").await;
            put(&store, "a", &pattern(1, LEN)).await;
            is("a", 1).await;
            put(&store, "a", &pattern(2, LEN)).await;
            is("a", 2).await;
            gone("b").await;
            store.copy(&a, &b).await.unwrap();
            is("b", 2).await;
            put(&store, "a", &pattern(3, LEN)).await;
            store.copy(&a, &b).await.unwrap();
            is("b", 3).await;
            let refused = store.copy_if_not_exists(&a, &b).await;
            assert!(matches!(refused, Err(Error::AlreadyExists { .. })));
            put(&store, "a", &pattern(4, LEN)).await;
            is("a", 4).await;
            store.rename(&a, &b).await.unwrap();
            gone("a").await;
            is("b", 4).await;
            let mut upload = store.put_multipart(&b).await.unwrap();
            upload.put_part(pattern(5, LEN).into()).await.unwrap();
            is("b", 4).await;
            upload.complete().await.unwrap();
            is("b", 5).await;
            let mut upload = store.put_multipart(&b).await.unwrap();
            upload.put_part(pattern(6, LEN).into()).await.unwrap();
            upload.abort().await.unwrap();
            is("b", 5).await;
            let version = store.head(&b).await.unwrap();
            let version = super::os::UpdateVersion { e_tag: version.e_tag, version: None };
            let update = PutOptions::from(PutMode::Update(version));
            store.put_opts(&b, pattern(7, LEN).into(), update.clone()).await.unwrap();
            is("b", 7).await;
            let refused = store.put_opts(&b, pattern(8, LEN).into(), update).await;
            assert!(matches!(refused, Err(Error::Precondition { .. })));
            is("b", 7).await;
            store.delete(&b).await.unwrap();
            gone("b").await;
            put(&store, "a", &pattern(1, LEN)).await;
            put(&store, "b", &pattern(1, LEN)).await;
            is("a", 1).await;
            is("b", 1).await;
            let paths = futures_util::stream::iter([Ok(a), Ok(b), Ok(Path::from("c"))]).boxed();
            assert_eq!(store.delete_stream(paths).count().await, 3);
            gone("a").await;
            gone("b").await;
        });
    }
}

/// Polls a future a few times, so that it reaches the gate or passes it.
async fn advance<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    for _ in 0..50 {
        if let Some(output) = future.now_or_never() {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// Runs a get and a put in one order of their steps: `g` is a step of the get, `p` one of the put.
/// A step begins a call or lets its request through.
fn in_order(order: &str, known: bool, mode: Consistency) {
    let mut bare = Tricky::in_memory();
    bare.gate = Some(Semaphore::new(0));
    let (bare, store) = over(bare, mode);
    let gate = bare.gate.as_ref().unwrap();
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        let path = Path::from("a");
        if known {
            gate.add_permits(1);
            store.head(&path).await.unwrap();
        }
        let (reader, writer) = (store.clone(), store.clone());
        let read = async move { whole(&reader, "a").await.unwrap() };
        let write = async move {
            let path = Path::from("a");
            writer.put(&path, pattern(2, LEN).into()).await.unwrap();
        };
        let (mut read, mut write) = (Some(Box::pin(read)), Some(Box::pin(write)));
        let (mut written, mut result) = (false, None);
        let mut steps = [0, 0];
        for step in order.chars() {
            let index = usize::from(step == 'p');
            // The second step of a call lets its request through. The other call has begun, and
            // waits in the queue of the gate: the oldest waiter is let through first.
            if steps[index] > 0 {
                gate.add_permits(1);
            }
            steps[index] += 1;
            if step == 'g' {
                if let Some(future) = &mut read
                    && let Some(bytes) = advance(future).await
                {
                    (read, result) = (None, Some((bytes, written)));
                }
            } else if let Some(future) = &mut write
                && advance(future).await.is_some()
            {
                (write, written) = (None, true);
            }
        }
        gate.add_permits(100);
        if let Some(future) = &mut write {
            future.await;
        }
        if let Some(future) = &mut read {
            result = Some((future.await, false));
        }
        let (bytes, _) = result.unwrap();
        assert!([pattern(1, LEN), pattern(2, LEN)].contains(&bytes), "{order}");
        // The write has returned: each get from now on sees it.
        for _ in 0..2 {
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN), "{order} {mode:?}");
        }
    });
}

#[test]
fn no_order_of_a_get_and_a_put_leaves_the_old_version() {
    // All orders of three steps of each.
    let mut orders = vec![String::new()];
    for _ in 0..6 {
        orders = orders
            .iter()
            .flat_map(|order| ["g", "p"].map(|step| format!("{order}{step}")))
            .filter(|order| ["g", "p"].iter().all(|step| order.matches(step).count() <= 3))
            .collect();
    }
    assert_eq!(orders.len(), 20);
    for order in &orders {
        for known in [false, true] {
            for mode in MODES {
                in_order(order, known, mode);
            }
        }
    }
}

#[test]
fn a_write_of_unknown_outcome_makes_gets_ask() {
    let mut bare = Tricky::in_memory();
    bare.late_errors = true;
    let (bare, store) = over(bare, Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        whole(&store, "a").await.unwrap();
        store.put(&"a".into(), pattern(2, LEN).into()).await.unwrap_err();
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
        // A copy of the request was on its way, and takes effect now.
        put(&bare.inner, "a", &pattern(3, LEN)).await;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(3, LEN));
        bare.requests();
        whole(&store, "a").await.unwrap();
        assert_eq!(bare.counts(), (0, 1));
    });
}

#[test]
fn a_dropped_write_makes_gets_ask() {
    let mut bare = Tricky::in_memory();
    bare.gate = Some(Semaphore::new(0));
    let (bare, store) = over(bare, Consistency::Immutable);
    let gate = bare.gate.as_ref().unwrap();
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        let path = Path::from("a");
        let mut write = Box::pin(store.put(&path, pattern(2, LEN).into()));
        assert!(advance(&mut write).await.is_none());
        drop(write);
        gate.add_permits(100);
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, LEN));
        // The store got it in spite of that.
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
    });
}

#[test]
fn a_refused_write_leaves_no_doubt() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        let create = PutOptions::from(PutMode::Create);
        let result = store.put_opts(&"a".into(), "x".into(), create).await;
        assert!(matches!(result, Err(Error::AlreadyExists { .. })));
        whole(&store, "a").await.unwrap();
        bare.requests();
        whole(&store, "a").await.unwrap();
        assert_eq!(bare.counts(), (0, 0));
        assert_eq!(store.stats().writes, 1);
    });
}

#[test]
fn a_failed_delete_in_a_stream_leaves_its_object_doubted() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        for path in ["a", "b"] {
            put(&bare.inner, path, &pattern(1, LEN)).await;
            whole(&store, path).await.unwrap();
        }
        // The stream is dropped after its first report.
        let paths = futures_util::stream::iter(["a", "b"]).map(|path| Ok(Path::from(path)));
        let mut reports = store.delete_stream(paths.boxed());
        assert_eq!(reports.next().await.unwrap().unwrap(), Path::from("a"));
        drop(reports);
        let result = whole(&store, "a").await;
        assert!(matches!(result, Err(Error::NotFound { .. })));
        let b = bare.inner.head(&"b".into()).await.is_ok();
        assert_eq!(whole(&store, "b").await.is_ok(), b);
    });
}

#[test]
fn a_put_during_a_read_of_many_pieces_is_seen_by_the_next() {
    let (bare, store) = in_memory(Consistency::Immutable);
    let store = Arc::new(store);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        bare.next([Fault::Passes]);
        let result = store.get(&"a".into()).await.unwrap();
        put(&*store, "a", &pattern(2, LEN)).await;
        assert_eq!(result.bytes().await.unwrap(), pattern(1, LEN));
        assert_eq!(whole(&*store, "a").await.unwrap(), pattern(2, LEN));
    });
}

#[test]
fn a_delete_is_seen_if_an_error_of_another_is_reported_first() {
    for mode in MODES {
        let (bare, store) = over(Tricky { errors_first: true, ..Tricky::in_memory() }, mode);
        run(async {
            for path in ["a", "b"] {
                put(&bare.inner, path, &pattern(1, LEN)).await;
                whole(&store, path).await.unwrap();
            }
            let paths = ["a", "b", "missing"].map(|path| Ok(Path::from(path)));
            let mut reports = store.delete_stream(futures_util::stream::iter(paths).boxed());
            assert!(matches!(reports.next().await, Some(Err(Error::NotFound { .. }))));
            // They are there until they are deleted.
            for path in ["a", "b"] {
                assert_eq!(whole(&store, path).await.unwrap(), pattern(1, LEN), "{mode:?}");
            }
            for path in ["a", "b"] {
                assert_eq!(reports.next().await.unwrap().unwrap(), Path::from(path));
                let result = whole(&store, path).await;
                assert!(matches!(result, Err(Error::NotFound { .. })), "{mode:?} {path}");
            }
            assert!(reports.next().await.is_none());
            assert_eq!(store.stats().writes, 3);
        });
    }
}
