//! Pin owners: the source line that pinned each page. Only with the feature `track`.
#![cfg(feature = "track")]

mod common;

use std::io::ErrorKind;
use std::panic::Location;

use common::{assert_nothing_leaked, file_of};
use folio_cache::Cache;

const PAGE: usize = 4096;

/// Returns the line of the caller, in the format of a pin owner.
#[track_caller]
fn line() -> String {
    let at = Location::caller();
    format!("{}:{}:", at.file(), at.line())
}

#[test]
fn the_owner_of_a_pin_is_the_line_that_requested_it() {
    let (_dir, path, _) = file_of(64 * PAGE);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let owners = || cache.frames().zone().pin_owners_of(cache.frames().zone().pfns()).to_string();
    // The first round misses, the second hits.
    for _ in 0..2 {
        let (page, by_page) = (file.page(5).unwrap().unwrap(), line());
        let (range, by_range) = (file.range(0, 3 * PAGE).unwrap(), line());
        let (bytes, by_bytes) = (file.bytes(PAGE as u64, 2 * PAGE).unwrap(), line());
        let (copies, by_copies) = ((page.clone(), range.clone()), line());
        let all = owners();
        for (line, references) in [(by_page, 1), (by_range, 3), (by_bytes, 2)] {
            assert!(
                all.contains(&format!("{references} from {line}")),
                "{references}, {line}: {all}"
            );
        }
        assert_eq!(all.matches(&by_copies).count(), 2, "{all}");
        assert!(!all.contains("src/"), "{all}");
        drop((page, range, bytes, copies));
        assert_eq!(owners(), "none except slots");
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn out_of_memory_names_the_pin_owners() {
    let (_dir, path, _) = file_of(3 << 20);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let mut pinned = Vec::new();
    let (error, by) = loop {
        match (file.page((pinned.len() * PAGE) as u64), line()) {
            (Ok(page), _) => pinned.push(page.unwrap()),
            (Err(error), by) => break (error, by),
        }
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let expected = format!("references are held: {} from {by}", pinned.len());
    assert!(error.to_string().contains(&expected), "{error}: expected {expected}");
    drop((pinned, file));
    assert_nothing_leaked(&cache);
}
