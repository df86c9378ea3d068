//! Advice for files of blocking backings.

mod common;

use std::sync::Arc;

use folio_cache::testing::Memory;
use folio_cache::{Advice, Cache, File};
use folio_frames::FRAME_SIZE;

const PAGE: usize = FRAME_SIZE;
const PAGES: usize = 512;

fn open() -> (Cache, File) {
    let cache = Cache::new(16 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; PAGES * PAGE]))).unwrap();
    (cache, file)
}

/// Reads some pages, one after the other, by a call or by a future.
fn read(file: &File, pages: impl Iterator<Item = usize>, is_async: bool) {
    let mut buf = [0; PAGE];
    for page in pages {
        let offset = (page * PAGE) as u64;
        let read = if is_async {
            pollster::block_on(file.read_at_async(&mut buf, offset))
        } else {
            file.read_at(&mut buf, offset)
        };
        assert_eq!((read.unwrap(), buf), (PAGE, [7; PAGE]));
    }
    file.quiesce();
}

#[test]
fn random_reads_nothing_ahead() {
    for is_async in [false, true] {
        let (cache, file) = open();
        read(&file.with_advice(Advice::Random), 0..20, is_async);
        assert_eq!((cache.stats().ahead, cache.stats().misses), (0, 20), "async: {is_async}");
        // Without advice, the same reads are a stream.
        let (cache, file) = open();
        read(&file, 0..20, is_async);
        assert!(cache.stats().ahead > 0, "async: {is_async}");
    }
}

#[test]
fn sequential_reads_ahead_from_the_first_miss() {
    for is_async in [false, true] {
        let (cache, file) = open();
        read(&file.with_advice(Advice::Sequential), 40..41, is_async);
        assert!(cache.stats().ahead >= 16, "async: {is_async}");
        let (cache, file) = open();
        read(&file, 40..41, is_async);
        assert_eq!(cache.stats().ahead, 0, "async: {is_async}");
    }
}

#[test]
fn once_keeps_no_page_and_displaces_none() {
    for is_async in [false, true] {
        let (cache, file) = open();
        // Pages that others use.
        for _ in 0..2 {
            read(&file.with_advice(Advice::Random), (0..PAGES).step_by(8), is_async);
        }
        let kept = file.memory_use().cached_bytes;
        let once = file.with_advice(Advice::Once);
        read(&once, 0..PAGES, is_async);
        assert_eq!(file.memory_use().cached_bytes, kept, "async: {is_async}");
        assert_eq!(cache.stats().ahead, 0);
        let before = cache.stats();
        read(&file.with_advice(Advice::Random), (0..PAGES).step_by(8), is_async);
        assert_eq!((cache.stats() - before).misses, 0, "async: {is_async}");
    }
}

#[test]
fn once_reads_each_page_once_in_small_steps_and_long_ones() {
    let (cache, file) = open();
    let once = file.with_advice(Advice::Once);
    let mut at = 0;
    for len in [100, 1000, 5000, 100_000, 33].into_iter().cycle() {
        let mut buf = vec![0; len];
        let read = once.read_at(&mut buf, at).unwrap();
        assert!(buf[..read].iter().all(|&byte| byte == 7));
        at += read as u64;
        if read < len {
            break;
        }
    }
    assert_eq!(at as usize, PAGES * PAGE);
    assert_eq!((cache.stats().misses as usize, file.memory_use().cached_bytes), (PAGES, 0));
}

#[test]
fn bytes_of_a_page_that_is_read_once_stay() {
    let (_cache, file) = open();
    let once = file.with_advice(Advice::Once);
    let bytes = once.bytes(0, 8 * PAGE).unwrap();
    let page = once.page(9 * PAGE as u64).unwrap().unwrap();
    assert_eq!(file.memory_use().cached_bytes, 0);
    assert!(bytes.iter().chain(page.iter()).all(|&byte| byte == 7));
}
