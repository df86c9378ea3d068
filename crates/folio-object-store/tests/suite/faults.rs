//! Errors of the store at each step of a get, and answers that are wrong.

use std::error::Error as _;
use std::io;

use futures_util::TryStreamExt;

use super::os::path::Path;
use super::os::{Error, ObjectStore, ObjectStoreExt};
use super::tricky::{Fault, timed_out, unavailable};
use super::{CachedStore, Consistency, MODES, in_memory, pattern, put, run, whole};

const LEN: usize = 3 << 20;

fn forbidden(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "403".into() }
}

fn unauthenticated(path: &Path) -> Error {
    Error::Unauthenticated { path: path.to_string(), source: "401".into() }
}

fn not_found(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "404".into() }
}

fn precondition(path: &Path) -> Error {
    Error::Precondition { path: path.to_string(), source: "412".into() }
}

fn internal(_: &Path) -> Error {
    Error::Generic { store: "Tricky", source: "500 Internal Server Error".into() }
}

fn out_of_range(_: &Path) -> Error {
    Error::Generic { store: "Tricky", source: "416 Range Not Satisfiable".into() }
}

const ERRORS: [fn(&Path) -> Error; 7] =
    [forbidden, unauthenticated, not_found, out_of_range, internal, unavailable, timed_out];

/// Gets two ranges far from each other.
async fn read(store: &CachedStore) -> Result<Vec<u8>, Error> {
    let ranges = store.get_ranges_of("a", &[5..10, 2_000_000..2_500_000]).await?;
    Ok(ranges.concat())
}

trait Ranges {
    async fn get_ranges_of(
        &self,
        path: &str,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>, Error>;
}

impl Ranges for CachedStore {
    async fn get_ranges_of(
        &self,
        path: &str,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>, Error> {
        self.get_ranges(&path.into(), ranges).await
    }
}

fn expected() -> Vec<u8> {
    let bytes = pattern(1, LEN);
    [&bytes[5..10], &bytes[2_000_000..2_500_000]].concat()
}

#[test]
fn errors_keep_their_variants_at_each_step_and_are_not_cached() {
    for mode in MODES {
        for make in ERRORS {
            // The step at which the error comes: the first request, then, once the object and a
            // part of it is known, each of those that follow.
            for step in 0..4 {
                let (bare, store) = in_memory(mode);
                run(async {
                    put(&bare.inner, "a", &pattern(1, LEN)).await;
                    if step > 0 {
                        store.get_range(&"a".into(), 5..10).await.unwrap();
                        bare.next((1..step).map(|_| Fault::Passes));
                    }
                    bare.next([Fault::Error(make)]);
                    let result = read(&store).await;
                    let left = std::mem::take(&mut *bare.faults.lock().unwrap()).len();
                    match result {
                        Err(error) => {
                            let wanted = make(&"a".into());
                            assert_eq!(error.to_string(), wanted.to_string(), "{mode:?} {step}");
                            assert_eq!(
                                std::mem::discriminant(&error),
                                std::mem::discriminant(&wanted)
                            );
                        }
                        // The get made fewer requests.
                        Ok(bytes) => {
                            let is_believed = !matches!(make(&"a".into()), Error::NotFound { .. });
                            // The first head may find nothing because the store has no heads.
                            assert!(left > 0 || !is_believed, "{mode:?} {step}: the error is lost");
                            assert_eq!(bytes, expected());
                        }
                    }
                    assert_eq!(read(&store).await.unwrap(), expected(), "{mode:?} {step}");
                });
            }
        }
    }
}

#[test]
fn a_failed_condition_at_any_step_is_a_new_start_or_the_error() {
    for mode in MODES {
        for step in 0..4 {
            for times in [1, 40] {
                let (bare, store) = in_memory(mode);
                run(async {
                    put(&bare.inner, "a", &pattern(1, LEN)).await;
                    if step > 0 {
                        store.get_range(&"a".into(), 5..10).await.unwrap();
                    }
                    bare.requests();
                    bare.next((1..step).map(|_| Fault::Passes));
                    bare.next((0..times).map(|_| Fault::Error(precondition)));
                    match read(&store).await {
                        Ok(bytes) => assert_eq!(bytes, expected(), "{mode:?} {step}"),
                        // A request without a condition, or a validation, got that answer.
                        Err(Error::Precondition { .. }) => {
                            assert!(step == 0 || times > 1 || asks(mode), "{mode:?} {step}");
                        }
                        Err(error) => panic!("{mode:?} {step}: {error}"),
                    }
                    assert!(bare.requests().len() < 20, "{mode:?} {step}: attempts are bounded");
                    bare.faults.lock().unwrap().clear();
                    assert_eq!(read(&store).await.unwrap(), expected(), "{mode:?} {step}");
                });
            }
        }
    }
}

/// Returns `true` if each get asks the store.
fn asks(mode: Consistency) -> bool {
    [Consistency::Validated, Consistency::ValidatedAfter(std::time::Duration::ZERO)].contains(&mode)
}

#[test]
fn the_source_of_an_error_is_the_stores_own() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        store.head(&"a".into()).await.unwrap();
        bare.next([Fault::Error(timed_out)]);
        let error = store.get_range(&"a".into(), 0..10).await.unwrap_err();
        let mut sources = std::iter::successors(error.source(), |error| (*error).source());
        let source = sources.find_map(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::TimedOut));
        assert_eq!(store.stats().errors, 1);
    });
}

#[test]
fn answers_that_break_off_are_errors_and_leave_no_page() {
    let faults: [fn() -> Fault; 5] = [
        || Fault::Breaks(3000),
        || Fault::Breaks(0),
        || Fault::Ends(3000),
        || Fault::Ends(0),
        || Fault::Shifted,
    ];
    for mode in MODES {
        for fault in faults {
            let (bare, store) = in_memory(mode);
            run(async {
                put(&bare.inner, "a", &pattern(1, LEN)).await;
                store.head(&"a".into()).await.unwrap();
                bare.next(asks(mode).then_some(Fault::Passes).into_iter().chain([fault()]));
                let result = store.get_range(&"a".into(), 100_000..200_000).await;
                assert!(result.is_err(), "{mode:?}: {:?}", result.map(|bytes| bytes.len()));
                let bytes = store.get_range(&"a".into(), 100_000..200_000).await.unwrap();
                assert_eq!(bytes, pattern(1, LEN)[100_000..200_000]);
                // In a stream.
                store.invalidate_all();
                bare.requests();
                bare.next([fault()]);
                let result = store.get(&"a".into()).await;
                let pieces = match result {
                    Ok(result) => result.into_stream().try_collect::<Vec<_>>().await,
                    Err(error) => Err(error),
                };
                if let Ok(pieces) = pieces {
                    // What was missing was requested again.
                    assert_eq!(pieces.concat(), pattern(1, LEN));
                    assert!(bare.requests().len() > 1 || matches!(fault(), Fault::Shifted));
                }
                assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, LEN));
            });
        }
    }
}

#[test]
fn surplus_bytes_are_dropped() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 5000)).await;
            bare.next([Fault::Long]);
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, 5000));
            put(&bare.inner, "b", &pattern(2, LEN)).await;
            store.head(&"b".into()).await.unwrap();
            if mode == Consistency::Immutable {
                bare.next([Fault::Long]);
            }
            let end = LEN as u64;
            let bytes = store.get_range(&"b".into(), end - 10..end).await.unwrap();
            assert_eq!(bytes, pattern(2, LEN)[LEN - 10..]);
        });
    }
}

#[test]
fn an_object_that_vanishes_after_its_head_is_not_found() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            store.head(&"a".into()).await.unwrap();
            bare.next([Fault::Deleted]);
            for _ in 0..2 {
                let result = store.get_range(&"a".into(), 0..10).await;
                assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
            }
            assert_eq!(store.stats().objects, 0);
        });
    }
}

#[test]
fn missing_objects_are_asked_for_each_time() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        for _ in 0..3 {
            let result = store.head(&"none".into()).await;
            assert!(matches!(result, Err(Error::NotFound { .. })));
        }
        assert_eq!(bare.counts(), (0, 3));
        put(&bare.inner, "none", b"now").await;
        assert_eq!(whole(&store, "none").await.unwrap(), b"now");
        assert_eq!(store.stats().errors, 0);
    });
}

#[test]
fn a_restless_object_is_read_in_one_version_or_not_at_all() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            let version = |seed: u8| pattern(seed, 4 << 20);
            put(&bare.inner, "a", &version(0)).await;
            bare.next((1..40).map(|seed| Fault::Written(version(seed))));
            let bytes = whole(&store, "a").await;
            if let Ok(bytes) = bytes {
                assert!((0..40).any(|seed| bytes == version(seed)), "{mode:?}");
            }
            let ranges = [0..10, 3_000_000..3_000_010];
            let result = store.get_ranges_of("a", &ranges).await;
            match result {
                Err(Error::Precondition { .. }) => {}
                Err(error) => panic!("{error}"),
                Ok(bytes) => {
                    let of = |seed| {
                        let all = version(seed);
                        bytes[0] == all[..10] && bytes[1] == all[3_000_000..3_000_010]
                    };
                    assert!((0..40).any(of), "{mode:?}");
                }
            }
            assert!(bare.requests().len() < 40, "{mode:?}: attempts are bounded");
        });
    }
}

#[test]
fn a_fault_in_the_middle_of_a_stream_ends_it() {
    type Case = (fn() -> Fault, &'static str);
    let faults: [Case; 8] = [
        (|| Fault::Deleted, "not found"),
        (|| Fault::Written(pattern(2, 5000)), "precondition"),
        (|| Fault::Error(not_found), "404"),
        (|| Fault::Error(precondition), "precondition"),
        (|| Fault::Error(out_of_range), "416"),
        (|| Fault::Error(internal), "500"),
        (|| Fault::Error(unavailable), "503"),
        (|| Fault::Error(timed_out), "timed out"),
    ];
    for (fault, text) in faults {
        let bare = std::sync::Arc::new(super::Tricky::in_memory());
        let options = super::Options::new().consistency(super::HOUR).request_bytes(1 << 20);
        let store = CachedStore::with_options(bare.clone(), &super::cache(), options);
        run(async {
            let old = pattern(1, 12 << 20);
            put(&bare.inner, "a", &old).await;
            store.head(&"a".into()).await.unwrap();
            // With this advice the cache requests the pieces.
            let mut options = super::GetOptions::default();
            options.extensions.insert(folio_object_store::Advice::Normal);
            let result = store.get_opts(&"a".into(), options).await.unwrap();
            let mut stream = result.into_stream();
            let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
            // Requests that read ahead may meet it as well.
            bare.next((0..100).map(|_| fault()));
            let error = loop {
                match stream.try_next().await {
                    Ok(Some(bytes)) => read.extend_from_slice(&bytes),
                    Ok(None) => panic!("{text}: no error after {} bytes", read.len()),
                    Err(error) => break error.to_string(),
                }
            };
            assert!(error.to_lowercase().contains(text), "{text}: {error}");
            assert!(read == old[..read.len()], "{text}");
            assert!(stream.try_next().await.unwrap().is_none(), "{text}: the error ends it");
            bare.faults.lock().unwrap().clear();
            match fault() {
                Fault::Deleted => {
                    let result = whole(&store, "a").await;
                    assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
                }
                Fault::Written(_) => {
                    assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, 5000));
                }
                _ => assert!(whole(&store, "a").await.unwrap() == old, "{text}"),
            }
        });
    }
}

/// Each request panics: the stream gets an error, and asks no more.
#[test]
fn a_store_that_panics_ends_a_stream() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        store.head(&"a".into()).await.unwrap();
        bare.requests();
        let panics: fn(&Path) -> Error = |_| panic!("a panic on purpose");
        bare.next((0..100).map(|_| Fault::Error(panics)));
        let result = store.get(&"a".into()).await.unwrap();
        let error = result.into_stream().try_next().await.unwrap_err().to_string();
        assert!(error.contains("panicked"), "{error}");
        assert!(bare.requests().len() <= 2);
        bare.faults.lock().unwrap().clear();
        assert!(whole(&store, "a").await.unwrap() == pattern(1, LEN));
    });
}
