//! Short handles pin little: at most four times what they show, or two pages.

mod common;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use allocation_counter::measure;
use common::assert_nothing_leaked;
use folio_cache::testing::{Distant, Memory};
use folio_cache::{Buf, Bytes, Cache, File, RangeHandle};
use folio_frames::FRAME_SIZE;
use futures_core::Stream;

const PAGE: u64 = FRAME_SIZE as u64;

/// Returns a file of pages in large folios that are pinned, so that none can be split.
fn pinned_file(cache: &Cache, pages: usize) -> (File, RangeHandle) {
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

/// Returns what the ranges of a cache show and pin, in bytes.
fn shown_and_pinned(cache: &Cache) -> (u64, u64) {
    (cache.stats().shown_bytes, cache.stats().pinned_bytes)
}

#[test]
fn stats_count_the_bytes_that_ranges_show_and_pin() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (file, pinned) = pinned_file(&cache, 64);
    assert_eq!(shown_and_pinned(&cache), (64 * PAGE, 64 * PAGE));
    let again = pinned.clone();
    assert_eq!(shown_and_pinned(&cache), (128 * PAGE, 128 * PAGE));
    drop((again, pinned));
    assert_eq!(shown_and_pinned(&cache), (0, 0));
    // A quarter of a folio of 64 KiB.
    let bytes = file.bytes(PAGE, 4 * FRAME_SIZE).unwrap();
    assert_eq!(shown_and_pinned(&cache), (4 * PAGE, 16 * PAGE));
    // A copy on the heap pins nothing.
    let copied = file.bytes(PAGE + 4090, 10).unwrap();
    assert_eq!(shown_and_pinned(&cache), (4 * PAGE, 16 * PAGE));
    let slice = bytes.slice(5..6);
    drop(bytes);
    assert_eq!(shown_and_pinned(&cache), (4 * PAGE, 16 * PAGE), "a slice keeps the whole");
    drop((slice, copied));
    let piece = next_piece(&file, 0, 32 * PAGE);
    assert_eq!(shown_and_pinned(&cache), (32 * PAGE, 32 * PAGE));
    // On another thread, after the file and the cache.
    let others = file.range(10 * PAGE, 3 * FRAME_SIZE).unwrap();
    let stats = cache.clone();
    drop((file, cache));
    std::thread::spawn(move || drop((piece, others))).join().unwrap();
    assert_eq!(shown_and_pinned(&stats), (0, 0));
}

/// The counts of a cache that is gone are taken by another, which sees none of the old ranges.
#[test]
fn ranges_that_outlive_their_cache_are_not_counted_by_another() {
    for _ in 0..20 {
        let cache: Cache = Cache::new(4 << 20).unwrap();
        assert_eq!(shown_and_pinned(&cache), (0, 0));
        let file = cache.open_backing(Arc::new(Memory::new(&vec![1; 8 * FRAME_SIZE]))).unwrap();
        let range = file.range(0, 8 * FRAME_SIZE).unwrap();
        drop((file, cache));
        let next: Cache = Cache::new(4 << 20).unwrap();
        assert_eq!(shown_and_pinned(&next), (0, 0));
        drop(range);
        assert_eq!(shown_and_pinned(&next), (0, 0));
    }
}

/// The folios that a long range passed are unpinned: at most 64 KiB stay.
#[test]
fn a_range_unpins_the_folios_that_it_passed() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (file, pinned) = pinned_file(&cache, 512);
    drop(pinned);
    let mut range = file.range(5 * PAGE, 500 * FRAME_SIZE).unwrap();
    file.invalidate();
    drop(file);
    cache.quiesce();
    let mut left = 500 * FRAME_SIZE;
    for step in [1, 4095, 10 * FRAME_SIZE, 100 * FRAME_SIZE, 300 * FRAME_SIZE + 7] {
        let shown = range.chunk()[0];
        range.advance(step);
        left -= step;
        assert_eq!((range.remaining(), shown_and_pinned(&cache).0), (left, left as u64));
        assert!(range.chunk()[0] == shown || step > 1);
        let most = left.div_ceil(FRAME_SIZE) + 2 * 15 + 1;
        assert!(used_frames(&cache) <= most, "{} frames are used", used_frames(&cache));
        assert!(shown_and_pinned(&cache).1 <= most as u64 * PAGE);
        let page = 5 + (500 * FRAME_SIZE - left) / FRAME_SIZE;
        assert_eq!(range.chunk()[0], page as u8);
    }
    range.advance(left - 10);
    assert!(used_frames(&cache) <= 16, "{} frames are used", used_frames(&cache));
    assert_eq!(range.chunk(), [(504 % 256) as u8; 10]);
    range.advance(10);
    assert_eq!((used_frames(&cache), shown_and_pinned(&cache)), (0, (0, 0)));
    assert_nothing_leaked(&cache);
}

/// A slice of a long range pins the folios of its own bytes.
#[test]
fn a_slice_of_a_range_pins_its_own_folios() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (file, pinned) = pinned_file(&cache, 512);
    drop(pinned);
    let mut range = file.range(3, 500 * FRAME_SIZE).unwrap();
    range.advance(2 * FRAME_SIZE);
    let bytes: Vec<u8> = range.chunks().flatten().copied().collect();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let start = random.usize(..=bytes.len());
        let end = random.usize(start..=bytes.len().min(start + 40 * FRAME_SIZE));
        let slice = range.slice(start..end);
        let shown: Vec<u8> = slice.chunks().flatten().copied().collect();
        assert!(shown == bytes[start..end], "bytes {start}..{end}");
        let each: Vec<u8> = slice.into_each().flatten().collect();
        assert!(each == bytes[start..end], "bytes {start}..{end}");
    }
    let slices = (0..8).map(|n| range.slice(n * 60 * FRAME_SIZE..n * 60 * FRAME_SIZE + 10));
    let slices: Vec<_> = slices.collect();
    drop(range);
    file.invalidate();
    drop(file);
    cache.quiesce();
    assert!(used_frames(&cache) <= 8 * 16, "{} frames are used", used_frames(&cache));
    assert_eq!(shown_and_pinned(&cache).0, 80);
    drop(slices);
    assert_nothing_leaked(&cache);
}

/// One page of eight is held as `Bytes`, out of fetches of 4 MiB. What the handles take beside the
/// pages is little, no page is copied, and a hit on a page allocates nothing.
#[test]
fn pages_held_out_of_large_fetches_cost_their_memory() {
    const FETCH: u64 = 4 << 20;
    const FETCHES: u64 = 16;
    const CAPACITY: usize = 16 << 20;
    let cache = Cache::builder().capacity(CAPACITY).build().unwrap();
    let distant = Distant::new(&vec![7; (FETCH * FETCHES) as usize]);
    let file = cache.open_async(Arc::new(distant)).unwrap();
    let mut held = Vec::with_capacity((FETCH * FETCHES / PAGE / 8) as usize);
    let mut allocated = 0;
    for fetch in (0..FETCH * FETCHES).step_by(FETCH as usize) {
        assert_eq!(file.bytes(fetch, FETCH as usize).unwrap().len(), FETCH as usize);
        let info = measure(|| {
            for page in (fetch..fetch + FETCH).step_by(8 * FRAME_SIZE) {
                held.push(file.bytes(page, FRAME_SIZE).unwrap());
            }
        });
        allocated += info.bytes_current;
        let hit = measure(|| assert!(file.page(fetch).unwrap().is_some()));
        assert_eq!((hit.count_total, hit.bytes_current), (0, 0), "a hit on a page");
    }
    let pinned = held.len() * FRAME_SIZE;
    assert_eq!(cache.stats().pinned_bytes, pinned as u64);
    let copied = held.iter().filter(|bytes| bytes.as_ptr().addr() % FRAME_SIZE != 0).count();
    assert_eq!(copied, 0, "a page of the cache begins at a page");
    // The pages, their index, and the handles: all but the pages are within 5 % of the capacity.
    let handles = usize::try_from(allocated).unwrap() + held.len() * size_of::<Bytes>();
    let beside = handles + cache.index_bytes() + cache.file_bytes();
    assert!(beside <= CAPACITY / 20, "{handles} bytes of handles, {beside} beside the pages");
    assert!(used_frames(&cache) * FRAME_SIZE <= CAPACITY);
    drop(file);
    drop(held);
    while cache.reclaim(1000) > 0 {}
    assert_nothing_leaked(&cache);
}
