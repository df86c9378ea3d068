//! Ranges without copies: what one request filled, or one writer appended, lies together.

mod common;

use std::sync::Arc;

use folio_cache::testing::Distant;
use folio_cache::{Advice, Cache, File};

const MIB: usize = 1 << 20;

/// Reads ranges of some lengths, each in a part of the file that nothing has read, twice. Returns
/// the share of their bytes that was copied.
fn copied(cache: &Cache, file: &File, aside: usize) -> f64 {
    let before = cache.stats();
    let mut total = 0;
    let mut at = 0;
    for len in [32 << 10, 100_000, 256 << 10, MIB, 3_000_000, 4 * MIB] {
        for _ in 0..2 {
            for _ in 0..2 {
                let bytes = file.bytes((at + aside) as u64, len).unwrap();
                assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 7));
                total += len;
            }
            at += 5 * MIB;
        }
    }
    (cache.stats() - before).copied_bytes as f64 / total as f64
}

#[test]
fn ranges_of_one_request_are_not_copied() {
    for aside in [0, 100, 5000] {
        let cache = Cache::new(256 << 20).unwrap();
        let object = Distant::new(&vec![7; 64 * MIB]);
        let share = copied(&cache, &cache.open_async(Arc::new(object)).unwrap(), aside);
        assert!(share <= 0.05, "{share} of a distant object, {aside} aside");
    }
}

/// Requests end at other places than the ranges, and at other sizes than blocks of memory.
#[test]
fn ranges_of_several_requests_are_not_copied() {
    let cache = Cache::new(256 << 20).unwrap();
    let object = Distant::new(&vec![7; 64 * MIB]);
    let file = cache.open_async(Arc::new(object)).unwrap().with_advice(Advice::Random);
    for len in [MIB, 3 * MIB, 5 * MIB] {
        for at in (0..64 * MIB).step_by(len) {
            file.bytes(at as u64, len).unwrap();
        }
        let before = cache.stats();
        let share = copied(&cache, &file, 100);
        assert!(share <= 0.05, "{share}, after requests of {len} bytes");
        assert_eq!((cache.stats() - before).misses, 0);
        cache.invalidate(&file.key());
    }
}

#[test]
fn what_a_writer_appends_is_not_copied() {
    let cache = Cache::new(256 << 20).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = cache.create(dir.path().join("file")).unwrap();
    for _ in 0..64 {
        file.append(&vec![7; MIB]).unwrap();
    }
    let share = copied(&cache, &file, 100);
    assert!(share <= 0.05, "{share}");
}
