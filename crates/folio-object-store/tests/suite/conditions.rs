//! Conditions of a get: judged by what is cached where the rule of consistency allows it.

use std::time::Duration;

use super::os::{Error, GetOptions, GetRange, ObjectStoreExt};
use super::tricky::Tags;
use super::{Consistency, HOUR, MODES, Tricky, get, in_memory, over, pattern, put, run};

/// Returns what a get with these options says.
fn said(result: &Result<Vec<u8>, Error>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::Precondition { .. }) => "precondition",
        Err(Error::NotModified { .. }) => "not modified",
        Err(Error::NotFound { .. }) => "not found",
        Err(_) => "another error",
    }
}

#[test]
fn all_conditions_are_judged_as_the_store_does() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 10_000)).await;
            let meta = bare.inner.head(&"a".into()).await.unwrap();
            let tag = meta.e_tag.clone().unwrap();
            let hour = Duration::from_hours(1);
            let tags = [None, Some(tag.clone()), Some("\"no\"".into()), Some("*".into())];
            let both = Some(format!("\"no\", {tag}"));
            let times = [
                None,
                Some(meta.last_modified - hour),
                Some(meta.last_modified),
                Some(meta.last_modified + hour),
            ];
            let mut checked = 0;
            for if_match in tags.iter().chain([&both]) {
                for if_none_match in tags.iter().chain([&both]) {
                    for &since in &times {
                        for &until in &times {
                            for head in [false, true] {
                                let options = GetOptions {
                                    if_match: if_match.clone(),
                                    if_none_match: if_none_match.clone(),
                                    if_modified_since: since,
                                    if_unmodified_since: until,
                                    head,
                                    range: Some(GetRange::Bounded(1..9)),
                                    ..GetOptions::default()
                                };
                                let expected = get(&bare.inner, "a", options.clone()).await;
                                let result = get(&store, "a", options.clone()).await;
                                assert_eq!(said(&result), said(&expected), "{options:?}");
                                if !head && let (Ok(a), Ok(b)) = (result, expected) {
                                    assert_eq!(a, b);
                                }
                                checked += 1;
                            }
                        }
                    }
                }
            }
            assert_eq!(checked, 800);
        });
    }
}

#[test]
fn a_condition_on_a_cached_version_needs_no_request() {
    for (mode, heads) in [(Consistency::Immutable, 0), (HOUR, 0), (Consistency::Validated, 1)] {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 100)).await;
            let tag = store.head(&"a".into()).await.unwrap().e_tag;
            get(&store, "a", GetOptions::default()).await.unwrap();
            bare.requests();
            let options = GetOptions { if_none_match: tag.clone(), ..GetOptions::default() };
            let result = get(&store, "a", options).await;
            assert!(matches!(result, Err(Error::NotModified { .. })), "{result:?}");
            assert_eq!(bare.counts(), (0, heads));
            let options = GetOptions { if_match: tag, ..GetOptions::default() };
            get(&store, "a", options).await.unwrap();
            assert_eq!(bare.counts(), (0, heads));
        });
    }
}

#[test]
fn a_condition_on_a_newer_version_makes_the_cache_ask() {
    for mode in MODES {
        let (bare, store) = in_memory(mode);
        run(async {
            put(&bare.inner, "a", &pattern(1, 5000)).await;
            get(&store, "a", GetOptions::default()).await.unwrap();
            put(&bare.inner, "a", &pattern(2, 6000)).await;
            let tag = bare.inner.head(&"a".into()).await.unwrap().e_tag;
            let options = GetOptions { if_match: tag, ..GetOptions::default() };
            assert_eq!(get(&store, "a", options).await.unwrap(), pattern(2, 6000));
            // The others see it from then on.
            let read = get(&store, "a", GetOptions::default()).await.unwrap();
            assert_eq!(read, pattern(2, 6000));
        });
    }
}

#[test]
fn a_condition_that_fails_at_once_is_the_stores_answer() {
    let (bare, store) = in_memory(Consistency::Immutable);
    run(async {
        put(&bare.inner, "a", &pattern(1, 5000)).await;
        let options = GetOptions { if_match: Some("\"no\"".into()), ..GetOptions::default() };
        let expected = get(&bare.inner, "a", options.clone()).await.unwrap_err();
        let error = get(&store, "a", options).await.unwrap_err();
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(bare.counts(), (1, 0));
    });
}

#[test]
fn tags_are_compared_without_quotes_and_with_commas() {
    for (tags, tag) in [(Tags::Size, "size,100"), (Tags::Weak, "same")] {
        let mut bare = Tricky::in_memory();
        bare.tags = tags;
        *bare.modified.lock().unwrap() = Some("2020-01-01T00:00:00Z");
        let (bare, store) = over(bare, HOUR);
        run(async {
            put(&bare.inner, "a", &pattern(1, 100)).await;
            let kept = store.head(&"a".into()).await.unwrap().e_tag.unwrap();
            for tag in [tag, &format!("\"{tag}\""), &format!("W/\"{tag}\""), &kept] {
                let options = GetOptions { if_match: Some(tag.into()), ..GetOptions::default() };
                assert_eq!(get(&store, "a", options).await.unwrap(), pattern(1, 100), "{tag}");
                let options =
                    GetOptions { if_none_match: Some(tag.into()), ..GetOptions::default() };
                assert_eq!(said(&get(&store, "a", options).await), "not modified", "{tag}");
            }
            let options = GetOptions { if_match: Some("\"x\"".into()), ..GetOptions::default() };
            assert_eq!(said(&get(&store, "a", options).await), "precondition");
        });
    }
}
