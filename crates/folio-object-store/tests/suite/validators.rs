//! Stores without validators, with weak ones, and stores that do not keep conditions.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::os::{Error, ObjectStore, ObjectStoreExt};
use super::tricky::{Conditions, Fault, Tags, no_heads, not_found};
use super::{Consistency, HOUR, MODES, Tricky, in_memory, over, pattern, put, run, whole};

const LEN: usize = 10_000;

/// The time after which an object without a validator is kept.
const QUIET: Duration = Duration::from_millis(2100);

fn tricky(tags: Tags, conditions: Conditions) -> Tricky {
    Tricky { tags, conditions, ..Tricky::in_memory() }
}

#[test]
fn own_writes_are_seen_without_validators_too() {
    for tags in [Tags::Strong, Tags::Weak, Tags::None] {
        for conditions in [Conditions::Kept, Conditions::Ignored, Conditions::Refused] {
            for mode in MODES {
                let (_, store) = over(tricky(tags, conditions), mode);
                run(async {
                    for seed in 1..6 {
                        put(&store, "a", &pattern(seed, LEN)).await;
                        for _ in 0..2 {
                            let bytes = whole(&store, "a").await.unwrap();
                            assert!(
                                bytes == pattern(seed, LEN),
                                "{tags:?} {conditions:?} {mode:?}"
                            );
                        }
                    }
                });
            }
        }
    }
}

#[test]
fn a_version_without_a_strong_validator_is_kept_when_old() {
    for tags in [Tags::Weak, Tags::None] {
        let (bare, store) = over(tricky(tags, Conditions::Kept), Consistency::Immutable);
        run(async {
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            whole(&store, "a").await.unwrap();
            // Two writes within one tick of the store's clock, of one length.
            put(&bare.inner, "a", &pattern(2, LEN)).await;
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN), "{tags:?}");
            assert_eq!(store.stats().objects, 0);
            tokio::time::sleep(QUIET).await;
            whole(&store, "a").await.unwrap();
            bare.requests();
            whole(&store, "a").await.unwrap();
            assert_eq!(bare.counts(), (0, 0), "{tags:?}");
        });
    }
}

#[test]
fn weak_validators_are_compared_and_never_sent_as_if_match() {
    for tags in [Tags::Weak, Tags::None] {
        let (bare, store) = over(tricky(tags, Conditions::Kept), Consistency::Validated);
        run(async {
            put(&bare.inner, "a", &pattern(1, 5 << 20)).await;
            tokio::time::sleep(QUIET).await;
            store.get_range(&"a".into(), 0..10).await.unwrap();
            bare.requests();
            // The weak tag says "not modified", the time says otherwise.
            let passes = [Fault::Passes, Fault::Written(pattern(2, 5 << 20))];
            bare.next(passes);
            let ranges = [0..10, 4_000_000..4_000_010];
            let bytes = store.get_ranges(&"a".into(), &ranges).await.unwrap();
            let expected = bare.inner.get_ranges(&"a".into(), &ranges).await.unwrap();
            assert_eq!(bytes, expected, "{tags:?}");
            assert!(bare.requests().iter().all(|request| !request.if_match));
        });
    }
}

const OLD: &str = "2020-01-01T00:00:00Z";
const OLDER: &str = "2019-01-01T00:00:00Z";
const NO_TIME: &str = "1970-01-01T00:00:00Z";

const ASKING: [Consistency; 2] =
    [Consistency::ValidatedAfter(Duration::ZERO), Consistency::Validated];

/// Reads the same object by each kind of get, from a cache that has an older version.
fn reads_of_a_change(
    tags: Tags,
    conditions: Conditions,
    mode: Consistency,
    modified: [Option<&'static str>; 2],
) {
    for kind in 0..4 {
        let (bare, store) = over(tricky(tags, conditions), mode);
        let case = format!("{tags:?} {conditions:?} {mode:?} {modified:?} {kind}");
        run(async {
            let (path, len) = ("a".into(), LEN as u64);
            *bare.modified.lock().unwrap() = modified[0];
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, LEN), "{case}");
            *bare.modified.lock().unwrap() = modified[1];
            put(&bare.inner, "a", &pattern(2, LEN)).await;
            bare.requests();
            let bytes = match kind {
                0 => whole(&store, "a").await.map(Into::into),
                1 => store.get_range(&path, 0..len).await,
                2 => store.get_ranges(&path, &[0..len, 5..6]).await.map(|bytes| bytes[0].clone()),
                _ => {
                    store.head(&path).await.unwrap();
                    store.get_range(&path, 0..len).await
                }
            };
            assert_eq!(bytes.expect(&case), pattern(2, LEN), "{case}");
            let requests = bare.requests().len();
            assert!(requests <= 4, "{case}: {requests} requests");
        });
    }
}

#[test]
fn a_weak_tag_that_stays_does_not_hide_a_change() {
    for tags in [Tags::Weak, Tags::None] {
        for mode in ASKING {
            reads_of_a_change(tags, Conditions::Kept, mode, [Some(OLDER), Some(OLD)]);
        }
    }
}

#[test]
fn a_version_that_cannot_be_kept_displaces_the_old_one() {
    for tags in [Tags::Weak, Tags::None] {
        for conditions in [Conditions::Kept, Conditions::Ignored] {
            for mode in ASKING {
                reads_of_a_change(tags, conditions, mode, [Some(OLDER), None]);
            }
        }
    }
}

#[test]
fn without_a_tag_and_a_time_nothing_is_kept() {
    for tags in [Tags::Weak, Tags::None] {
        for mode in [ASKING[0], HOUR, ASKING[1]] {
            reads_of_a_change(tags, Conditions::Kept, mode, [Some(NO_TIME); 2]);
        }
        // Objects that never change are told apart by their names.
        let (bare, store) = over(tricky(tags, Conditions::Kept), Consistency::Immutable);
        run(async {
            *bare.modified.lock().unwrap() = Some(NO_TIME);
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            whole(&store, "a").await.unwrap();
            whole(&store, "a").await.unwrap();
            assert_eq!(bare.counts(), (1, 0), "{tags:?}");
        });
    }
}

#[test]
fn a_listing_shows_a_change_by_its_time_too() {
    use futures_util::TryStreamExt;
    for tags in [Tags::Strong, Tags::Weak, Tags::None] {
        let (bare, store) = over(tricky(tags, Conditions::Kept), Consistency::Immutable);
        run(async {
            *bare.modified.lock().unwrap() = Some(OLD);
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            whole(&store, "a").await.unwrap();
            *bare.modified.lock().unwrap() = None;
            put(&bare.inner, "a", &pattern(2, LEN)).await;
            let _: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN), "{tags:?}");
        });
    }
}

#[test]
fn a_store_that_ignores_conditions_is_found_out_by_its_answers() {
    for mode in MODES {
        let (bare, store) = over(tricky(Tags::Strong, Conditions::Ignored), mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 5 << 20)).await;
            store.get_range(&"a".into(), 0..10).await.unwrap();
            put(&bare.inner, "a", &pattern(2, 5 << 20)).await;
            let ranges = [0..10, 4_000_000..4_000_010];
            let bytes = store.get_ranges(&"a".into(), &ranges).await.unwrap();
            let expected = bare.inner.get_ranges(&"a".into(), &ranges).await.unwrap();
            assert_eq!(bytes, expected, "{mode:?}");
        });
    }
}

#[test]
fn a_store_that_refuses_conditions_is_asked_without() {
    let (bare, store) = over(tricky(Tags::Strong, Conditions::Refused), Consistency::Validated);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        store.head(&"a".into()).await.unwrap();
        for _ in 0..3 {
            whole(&store, "a").await.unwrap();
        }
        let requests = bare.requests();
        assert_eq!(requests.iter().filter(|r| r.if_match || r.if_none_match).count(), 1);
        put(&bare.inner, "a", &pattern(2, LEN)).await;
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
        // The condition of a caller is judged all the same.
        let tag = bare.inner.head(&"a".into()).await.unwrap().e_tag;
        let options = super::GetOptions { if_none_match: tag, ..Default::default() };
        let result = super::get(&store, "a", options).await;
        assert!(matches!(result, Err(Error::NotModified { .. })), "{result:?}");
    });
}

#[test]
fn a_store_that_refuses_its_own_tags_is_asked_without() {
    for mode in MODES {
        let (bare, store) = over(tricky(Tags::Strong, Conditions::Failing), mode);
        run(async {
            let bytes = pattern(1, 5 << 20);
            put(&bare.inner, "a", &bytes).await;
            store.head(&"a".into()).await.unwrap();
            let ranges = [0..10, 4_000_000..4_000_010];
            let read = store.get_ranges(&"a".into(), &ranges).await.unwrap();
            assert_eq!(read[1], bytes[4_000_000..4_000_010], "{mode:?}");
            assert!(bare.requests().len() <= 10, "{mode:?}");
            for _ in 0..3 {
                assert!(whole(&store, "a").await.unwrap() == bytes, "{mode:?}");
            }
            // Changes are seen by the answers.
            put(&bare.inner, "a", &pattern(2, 5 << 20)).await;
            let ranges = [1_000_000..1_000_010, 2_500_000..2_500_010];
            store.invalidate(&"a".into());
            let read = store.get_ranges(&"a".into(), &ranges).await.unwrap();
            assert_eq!(read[0], pattern(2, 5 << 20)[1_000_000..1_000_010], "{mode:?}");
        });
    }
}

#[test]
fn an_object_that_shrinks_is_not_read_past_its_end() {
    for conditions in [Conditions::Kept, Conditions::Ignored] {
        for mode in MODES {
            let (bare, store) = over(tricky(Tags::Strong, conditions), mode);
            run(async {
                put(&bare.inner, "a", &pattern(1, 1 << 20)).await;
                store.get_range(&"a".into(), 0..10).await.unwrap();
                put(&bare.inner, "a", &pattern(2, 5000)).await;
                let result = store.get_range(&"a".into(), 900_000..900_010).await;
                // It is not there any more: the store refuses it, as it would without the cache.
                let expected = bare.inner.get_range(&"a".into(), 900_000..900_010).await;
                let (error, expected) = (result.unwrap_err(), expected.unwrap_err());
                if mode == Consistency::Validated {
                    assert_eq!(error.to_string(), expected.to_string());
                }
                assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, 5000), "{mode:?}");
            });
        }
    }
}

#[test]
fn an_object_that_is_written_again_shows_its_new_time() {
    for mode in ASKING {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, LEN)).await;
            for time in [OLDER, "2021-05-01T00:00:00Z"] {
                // The tag stays as it is.
                *bare.modified.lock().unwrap() = Some(time);
                whole(&store, "a").await.unwrap();
                assert_eq!(
                    store.head(&"a".into()).await.unwrap(),
                    bare.head(&"a".into()).await.unwrap()
                );
            }
            assert_eq!(store.stats().changed, 0);
        });
    }
}

#[test]
fn an_object_that_returns_to_an_old_version_keeps_conditions() {
    let (bare, store) = over(tricky(Tags::Size, Conditions::Kept), HOUR);
    run(async {
        for path in ["a", "z"] {
            put(&bare.inner, path, &pattern(1, 100_000)).await;
        }
        store.get_range(&"a".into(), 0..10).await.unwrap();
        put(&bare.inner, "a", &pattern(1, 100_001)).await;
        store.get_range(&"a".into(), 50_000..50_010).await.unwrap();
        put(&store, "a", &pattern(1, 100_000)).await;
        store.get_range(&"a".into(), 0..10).await.unwrap();
        store.head(&"z".into()).await.unwrap();
        bare.requests();
        store.get_range(&"z".into(), 90_000..90_010).await.unwrap();
        assert!(bare.requests()[0].if_match, "later requests have conditions");
    });
}

#[test]
fn a_store_without_heads_is_asked_for_a_byte() {
    // An HTTP server that knows no heads says 405, which some clients take for a missing object.
    for error in [no_heads, not_found] {
        for mode in MODES {
            let headless = Some(error as fn(&_) -> _);
            let (bare, store) = over(Tricky { headless, ..Tricky::in_memory() }, mode);
            run(async {
                for len in [LEN, 0, 5] {
                    put(&bare.inner, "a", &pattern(1, len)).await;
                    store.invalidate(&"a".into());
                    for _ in 0..3 {
                        assert_eq!(whole(&store, "a").await.unwrap(), pattern(1, len), "{mode:?}");
                    }
                }
                put(&bare.inner, "a", &pattern(2, LEN)).await;
                let newest = ASKING.contains(&mode);
                assert_eq!(whole(&store, "a").await.unwrap().len() == LEN, newest, "{mode:?}");
            });
        }
    }
}

/// As an HTTP server that ignores the header.
#[test]
fn whole_gets_of_a_store_without_ranges_succeed() {
    let headless: Option<fn(&_) -> _> = Some(no_heads);
    for (tags, headless) in [(Tags::Strong, None), (Tags::None, None), (Tags::Strong, headless)] {
        for mode in MODES {
            for len in [0, 1, LEN, 3 << 20] {
                let tricky = Tricky { rangeless: true, tags, headless, ..Tricky::in_memory() };
                let (bare, store) = over(tricky, mode);
                run(async {
                    let case = format!("{tags:?} {mode:?} {len}");
                    *bare.modified.lock().unwrap() = Some(OLD);
                    put(&bare.inner, "a", &pattern(1, len)).await;
                    if headless.is_none() {
                        store.head(&"a".into()).await.unwrap();
                    }
                    for _ in 0..3 {
                        assert!(whole(&store, "a").await.unwrap() == pattern(1, len), "{case}");
                    }
                    // Some pages leave: the others stay.
                    store.cache().reclaim(1);
                    for _ in 0..2 {
                        assert!(whole(&store, "a").await.unwrap() == pattern(1, len), "{case}");
                    }
                    let part = store.get_range(&"a".into(), 100..200).await;
                    let expected = pattern(1, len).get(100..200).map(<[u8]>::to_vec);
                    assert_eq!(part.ok().map(|it| it.to_vec()), expected, "{case}");
                    assert!(bare.requests().len() < 20, "{case}");
                });
            }
        }
    }
}

/// The answer is as old as its request: the object may have changed since, at the same time.
#[test]
fn a_slow_answer_without_a_strong_validator_is_not_kept() {
    let tricky = Tricky { late: Some(Semaphore::new(0)), ..tricky(Tags::None, Conditions::Kept) };
    let (bare, store) = over(tricky, Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, LEN)).await;
        let slow = async {
            tokio::time::sleep(QUIET).await;
            put(&bare.inner, "a", &pattern(2, LEN)).await;
            bare.late.as_ref().unwrap().add_permits(100);
        };
        let (read, ()) = tokio::join!(whole(&store, "a"), slow);
        assert_eq!(read.unwrap(), pattern(1, LEN));
        assert_eq!(store.stats().objects, 0);
        assert_eq!(whole(&store, "a").await.unwrap(), pattern(2, LEN));
    });
}
