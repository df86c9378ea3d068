//! Large folios: their references, their splits, and pages that leave a pinned folio.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::policy::{FrameState, Frames, Policy};
use folio_cache::testing::Memory;
use folio_cache::{CACHED, Cache, File};
use folio_frames::{FRAME_SIZE, Order, Peek};
use folio_ref::Snapshot;

/// The number of pages in the largest folio, 64 KiB.
const PAGES: u64 = 16;
const PAGE: u64 = FRAME_SIZE as u64;

/// Returns a file of `pages` pages, each filled with its number plus 1, all read by one request.
fn world(pages: u64) -> (Cache, Arc<Memory>, File) {
    let contents: Vec<u8> = (1..=pages).flat_map(|page| [page as u8; FRAME_SIZE]).collect();
    let cache = Cache::new(4 << 20).unwrap();
    let backing = Arc::new(Memory::new(&contents));
    let file = cache.open_backing(backing.clone()).unwrap();
    assert_eq!(file.read_at(&mut vec![0; contents.len()], 0).unwrap(), contents.len());
    cache.quiesce();
    (cache, backing, file)
}

/// Returns the order and the snapshot of each cached folio.
fn folios(cache: &Cache) -> Vec<(u8, Snapshot)> {
    let zone = cache.frames().zone();
    let seen = zone.pfns().map(|pfn| zone.peek(pfn)).filter(|seen: &Peek| seen.kind == CACHED);
    seen.map(|seen| (seen.order.as_u8(), seen.snapshot)).collect()
}

fn count_singles(cache: &Cache) -> usize {
    folios(cache).iter().filter(|folio| folio.0 == 0).count()
}

#[test]
fn one_request_makes_one_folio_and_a_range_one_reference() {
    let (cache, _, file) = world(PAGES);
    assert_eq!(folios(&cache), [(4, Snapshot::Live(16))]);
    let range = file.range(PAGE + 7, 5 * FRAME_SIZE).unwrap();
    assert_eq!(folios(&cache), [(4, Snapshot::Live(17))]);
    assert_eq!((range.len(), range.chunks().count()), (5 * FRAME_SIZE, 1));
    let all = file.bytes(0, 16 * FRAME_SIZE).unwrap();
    assert!(all.chunks(FRAME_SIZE).zip(1..).all(|(page, n)| page == [n; FRAME_SIZE]));
    assert_eq!(folios(&cache), [(4, Snapshot::Live(18))]);
    drop((range, all));
    assert_eq!(folios(&cache), [(4, Snapshot::Live(16))]);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_page_handle_splits_the_folio_unless_it_is_pinned() {
    let (cache, _, file) = world(PAGES);
    let page = file.page(3 * PAGE).unwrap().unwrap();
    assert_eq!((count_singles(&cache), folios(&cache).len()), (16, 16));
    assert_eq!(folios(&cache).iter().filter(|folio| folio.1 == Snapshot::Live(2)).count(), 1);
    drop(page);
    let one = pollster::block_on(file.page_async(5 * PAGE)).unwrap().unwrap();
    assert_eq!(*one, [6; FRAME_SIZE]);
    drop((one, file));
    assert_nothing_leaked(&cache);

    let (cache, _, file) = world(PAGES);
    let range = file.range(0, 4 * FRAME_SIZE).unwrap();
    let page = file.page(3 * PAGE + 5).unwrap().unwrap();
    let in_last_page = file.bytes(15 * PAGE, 10).unwrap();
    // Only the range pins the folio: the others have copies.
    assert!(folios(&cache).contains(&(4, Snapshot::Live(17))), "{:?}", folios(&cache));
    assert_eq!((&*page, &*in_last_page), (&[4; FRAME_SIZE - 5][..], &[16; 10][..]));
    drop((range, page, in_last_page));
    drop(file.bytes(15 * PAGE, 10).unwrap());
    assert_eq!(count_singles(&cache), 16);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_write_splits_an_unpinned_folio_or_copies_one_page() {
    let (cache, backing, file) = world(PAGES);
    file.write_at(&[99; 10], 4 * PAGE).unwrap();
    assert_eq!(count_singles(&cache), 16);
    file.sync_all().unwrap();

    let (pinned_cache, _, pinned) = world(PAGES);
    let range = pinned.bytes(0, 16 * FRAME_SIZE).unwrap();
    pinned.write_at(&[99; 10], 4 * PAGE).unwrap();
    // The page has left its folio, which the range pins unchanged.
    assert_eq!((count_singles(&pinned_cache), range[4 * FRAME_SIZE]), (1, 5));
    assert!(folios(&pinned_cache).contains(&(4, Snapshot::Live(16))), "15 slots and the range");
    let again = pinned.range(0, 16 * FRAME_SIZE).unwrap();
    let pieces: Vec<_> = again.chunks().collect();
    assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), 16 * FRAME_SIZE);
    assert!(
        pieces.concat()[4 * FRAME_SIZE..].starts_with(&[99; 10]) && pieces.len() == 3,
        "{}",
        pieces.len()
    );
    assert_eq!(pieces.concat()[5 * FRAME_SIZE], 6);
    drop((range, again));
    // A write to another page splits the folio, and the frame that the page left is freed.
    let free = pinned_cache.frames().zone().stats().free_frames;
    pinned.write_at(&[1], 0).unwrap();
    let free_now = pinned_cache.frames().zone().stats().free_frames;
    assert_eq!((count_singles(&pinned_cache), free_now), (16, free + 1));
    for (file, cache) in [(file, cache), (pinned, pinned_cache)] {
        let mut buf = [0; 12];
        assert_eq!(file.read_at(&mut buf, 4 * PAGE - 1).unwrap(), 12);
        assert_eq!(buf, [4, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 5]);
        drop(file);
        assert_nothing_leaked(&cache);
    }
    assert_eq!(backing.contents()[4 * FRAME_SIZE..][..10], [99; 10]);
}

#[test]
fn truncate_and_punch_free_pages_of_unpinned_folios() {
    let (cache, _, file) = world(PAGES);
    let free = || {
        cache.frames().zone().drain();
        cache.frames().zone().stats().free_frames
    };
    let before = free();
    file.punch_hole(4 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(free(), before + 2);
    file.set_len(10 * PAGE).unwrap();
    assert_eq!(free(), before + 2 + 6);
    drop(file);
    assert_nothing_leaked(&cache);

    // Pages of a pinned folio are freed with the last handle.
    let (cache, _, file) = world(PAGES);
    let range = file.bytes(0, 16 * FRAME_SIZE).unwrap();
    file.set_len(10 * PAGE).unwrap();
    assert_eq!(folios(&cache), [(4, Snapshot::Live(11))]);
    assert_eq!(file.range(0, 1 << 20).unwrap().len(), 10 * FRAME_SIZE);
    assert_eq!(range[15 * FRAME_SIZE], 16);
    drop(range);
    let mut left = 16;
    while cache.reclaim(1) == 1 {
        left -= 1;
    }
    assert_eq!(
        (left, folios(&cache).len()),
        (6, 0),
        "10 pages belonged to the file, 6 frames had left it"
    );
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn reclaim_evicts_cold_subpages_and_keeps_hot_ones() {
    let (cache, _, file) = world(PAGES);
    // The read of the whole file touched each page once; these are read again and again.
    let read_hot = || {
        for page in [2, 9] {
            assert_eq!(file.read_at(&mut [0; 64], page * PAGE).unwrap(), 64);
        }
    };
    for _ in 0..3 {
        read_hot();
        assert_eq!(cache.reclaim(2), 2);
    }
    let misses = cache.stats().misses;
    read_hot();
    assert_eq!((cache.stats().misses, folios(&cache).len()), (misses, 10));
    assert_eq!(count_singles(&cache), 10);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// While it searches cold pages, the policy's hand takes the referenced bits of the hot subpages
/// beside them, and gives each another round. Reclaim must ask the policy as well as the bits.
#[test]
fn hot_subpages_stay_after_their_referenced_bit_was_taken() {
    let (cache, _, file) = world(16);
    let read_hot =
        || (0..4).for_each(|page| assert_eq!(file.read_at(&mut [0; 64], page * PAGE).unwrap(), 64));
    read_hot();
    assert_eq!(folios(&cache).len(), 1);
    assert_eq!(cache.reclaim(12), 12);
    let misses = cache.stats().misses;
    read_hot();
    assert_eq!(cache.stats().misses, misses);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn migration_and_a_smaller_capacity_split_large_folios() {
    let (cache, _, file) = world(400);
    assert!(folios(&cache).iter().any(|folio| folio.0 == Order::new(4).unwrap().as_u8()));
    cache.set_capacity(2 << 20).unwrap();
    let mut buf = vec![0; 400 * FRAME_SIZE];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), buf.len());
    assert!(buf.chunks(FRAME_SIZE).zip(1_u64..).all(|(page, n)| page == [n as u8; FRAME_SIZE]));
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A policy that names every frame, and panics when further subpages are evicted with a victim.
#[derive(Debug)]
struct Panics;

impl Policy for Panics {
    fn name(&self) -> &'static str {
        "panics"
    }
    fn insert(&mut self, _: &dyn Frames, _: u32, _: u64) {}
    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        victims.extend(
            (0..frames.count())
                .filter(|&frame| frames.inspect(frame) != FrameState::NotCached)
                .take(wanted),
        );
    }
    fn evicted_with(&mut self, _: u32, _: u64) {
        panic!("a policy that panics");
    }
    fn restore(&mut self, _: u32) {}
    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}
    fn resize(&mut self, _: u32) {}
}

/// The folio must not leak if the policy panics in `evicted_with`.
#[test]
fn a_policy_that_panics_loses_no_folio() {
    let cache = Cache::builder().capacity(4 << 20).policy(|_| Box::new(Panics)).build().unwrap();
    let file =
        cache.open_backing(Arc::new(Memory::new(&[7; FRAME_SIZE].repeat(PAGES as usize)))).unwrap();
    drop(file.range(0, PAGES as usize * FRAME_SIZE).unwrap());
    cache.frames().zone().pfns().for_each(|pfn| _ = cache.frames().zone().take_referenced(pfn));
    let reclaim = AssertUnwindSafe(|| cache.reclaim(PAGES as usize));
    assert!(catch_unwind(reclaim).is_err(), "evicted_with was not called");
    assert_eq!(cache.frames().zone().count_kind(CACHED), 0);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A policy that names no page.
#[derive(Debug)]
struct NamesNone;

impl Policy for NamesNone {
    fn name(&self) -> &'static str {
        "names none"
    }
    fn insert(&mut self, _: &dyn Frames, _: u32, _: u64) {}
    fn pick_victims(&mut self, _: &dyn Frames, _: usize, _: &mut Vec<u32>) {}
    fn restore(&mut self, _: u32) {}
    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}
    fn resize(&mut self, _: u32) {}
}

/// Its head is in no slot any more.
#[test]
fn a_folio_that_lost_its_first_page_is_evicted() {
    let cache = Cache::builder().capacity(4 << 20).policy(|_| Box::new(NamesNone)).build().unwrap();
    let bytes = [7; FRAME_SIZE].repeat(PAGES as usize);
    let file = cache.open_backing(Arc::new(Memory::new(&bytes))).unwrap();
    let pinned = file.range(0, bytes.len()).unwrap();
    file.evict(0..2 * FRAME_SIZE as u64);
    drop(pinned);
    let left = PAGES as usize - 2;
    assert_eq!(cache.memory_use().cached_bytes, (left * FRAME_SIZE) as u64);
    assert_eq!(cache.reclaim(usize::MAX), left);
    assert_eq!(cache.memory_use().cached_bytes, 0);
    drop(file);
    assert_nothing_leaked(&cache);
}
