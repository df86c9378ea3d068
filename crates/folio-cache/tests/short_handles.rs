//! Short handles pin little: at most four times what they show, or two pages.

mod common;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::testing::Memory;
use folio_cache::{Bytes, Cache, File};
use folio_frames::FRAME_SIZE;
use futures_core::Stream;

const PAGE: u64 = FRAME_SIZE as u64;

/// Returns a file of pages in large folios that are pinned, so that none can be split.
fn pinned_file(cache: &Cache, pages: usize) -> (File, impl Sized) {
    let contents: Vec<u8> = (0..pages * FRAME_SIZE).map(|byte| (byte / FRAME_SIZE) as u8).collect();
    let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
    let range = file.range(0, pages * FRAME_SIZE).unwrap();
    (file, range)
}

fn used_frames(cache: &Cache) -> usize {
    let zone = cache.frames().zone().stats();
    (zone.online_frames - zone.free_frames) as usize
}

/// Asserts the pinned memory of 32 handles. They outlive the file: only they use frames then.
fn assert_pins<T>(take: impl Fn(&File, u64) -> T, max_pages: usize) {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (file, pinned) = pinned_file(&cache, 512);
    let handles: Vec<T> = (0..32).map(|n| take(&file, n * 16 * PAGE + 4090)).collect();
    drop(pinned);
    file.invalidate();
    drop(file);
    cache.quiesce();
    assert!(used_frames(&cache) <= 32 * max_pages, "{} frames are used", used_frames(&cache));
    drop(handles);
    assert_nothing_leaked(&cache);
}

#[test]
fn short_bytes_pin_at_most_two_pages() {
    assert_pins(|file, offset| file.bytes(offset, 10).unwrap(), 2);
}

#[test]
fn short_pieces_of_streams_pin_at_most_two_pages() {
    assert_pins(|file, offset| next_piece(file, offset, 10), 2);
}

#[test]
fn short_ranges_pin_at_most_two_pages() {
    assert_pins(|file, offset| file.range(offset, 10).unwrap(), 2);
}

#[test]
fn page_handles_pin_at_most_two_pages() {
    assert_pins(|file, offset| file.page(offset).unwrap(), 2);
}

#[test]
fn short_handles_of_futures_pin_at_most_two_pages() {
    assert_pins(|file, offset| pollster::block_on(file.range_async(offset, 10)).unwrap(), 2);
    assert_pins(|file, offset| pollster::block_on(file.page_async(offset)).unwrap(), 2);
    assert_pins(|file, offset| pollster::block_on(file.bytes_async(offset, 10)).unwrap(), 2);
}

/// Ranges of all lengths and places, across the edges of folios.
#[test]
fn no_handle_pins_more_than_four_times_what_it_shows() {
    for len in [1, 4097, 5000, 9000, 3 * 4096, 5 * 4096, 9 * 4096 + 2, 11 * 4096, 20 * 4096] {
        let max_pages = (len / (FRAME_SIZE / 4)).max(2);
        // All in one piece of memory: one request fills 256 pages.
        let at = |offset: u64| offset / 2 % (224 * PAGE) + offset / PAGE * 1021 % (8 * PAGE);
        assert_pins(|file, offset| file.range(at(offset), len).unwrap(), max_pages);
        assert_pins(|file, offset| file.bytes(at(offset), len).unwrap(), max_pages);
        assert_pins(|file, offset| next_piece(file, at(offset), len as u64), max_pages);
    }
}

fn next_piece(file: &File, offset: u64, len: u64) -> Bytes {
    let mut stream = file.stream(offset, len);
    let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
    let piece = pollster::block_on(next).unwrap().unwrap();
    assert!(piece.len() as u64 == len, "the piece is shorter");
    piece
}

/// A long range is not copied, though its edges pin whole folios.
#[test]
fn a_long_range_shares_the_memory_of_the_cache() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (file, _pinned) = pinned_file(&cache, 64);
    let long = file.bytes(15 * PAGE, 18 * FRAME_SIZE).unwrap();
    assert_eq!(file.bytes(15 * PAGE, 18 * FRAME_SIZE).unwrap().as_ptr(), long.as_ptr());
}

#[test]
fn a_copied_handle_shows_the_bytes_of_the_file() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (file, _pinned) = pinned_file(&cache, 64);
    let bytes = file.bytes(3 * PAGE + 4090, 10).unwrap();
    assert_eq!(bytes, [[3; 6].as_slice(), [4; 4].as_slice()].concat());
    let range = file.range(3 * PAGE + 4090, 2 * FRAME_SIZE).unwrap();
    let shown: Vec<u8> = range.chunks().flatten().copied().collect();
    let expected = [vec![3; 6], vec![4; FRAME_SIZE], vec![5; 4090]].concat();
    assert!(shown == expected);
}
