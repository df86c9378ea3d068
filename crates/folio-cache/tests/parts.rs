//! Large folios: who holds what of them, who splits them, and what becomes of pages that leave one
//! that is held.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::policy::{FrameState, Frames, Policy};
use folio_cache::{CACHED, Cache, File, Memory};
use folio_frames::{FRAME_SIZE, Order, Peek};
use folio_ref::Snapshot;

/// 64 KiB: as many pages as the largest folio has.
const PAGES: u64 = 16;
const PAGE: u64 = FRAME_SIZE as u64;

/// A file of so many pages, each full of its number plus 1, all of it read by one request.
fn world(pages: u64) -> (Cache, Arc<Memory>, File) {
    let contents: Vec<u8> = (1..=pages).flat_map(|page| [page as u8; FRAME_SIZE]).collect();
    let cache = Cache::new(4 << 20).unwrap();
    let backing = Arc::new(Memory::new(&contents));
    let file = cache.open_backing(backing.clone()).unwrap();
    assert_eq!(file.read_at(0, &mut vec![0; contents.len()]).unwrap(), contents.len());
    cache.quiesce();
    (cache, backing, file)
}

/// The heads of what is cached, with their orders and counts.
fn folios(cache: &Cache) -> Vec<(u8, Snapshot)> {
    let zone = cache.zone();
    let seen = zone.pfns().map(|pfn| zone.peek(pfn)).filter(|seen: &Peek| seen.kind == CACHED);
    seen.map(|seen| (seen.order.as_u8(), seen.snapshot)).collect()
}

fn count_singles(cache: &Cache) -> usize {
    folios(cache).iter().filter(|folio| folio.0 == 0).count()
}

#[test]
fn what_one_request_read_is_one_folio_and_a_range_of_it_one_reference() {
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
fn a_page_handle_pins_its_page_alone_unless_others_hold_the_folio() {
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
    let range = file.range(0, 2 * FRAME_SIZE).unwrap();
    let page = file.page(3 * PAGE + 5).unwrap().unwrap();
    let in_the_end = file.bytes(15 * PAGE, 10).unwrap();
    assert_eq!(folios(&cache), [(4, Snapshot::Live(19))]);
    assert_eq!((&*page, &*in_the_end), (&[4; FRAME_SIZE - 5][..], &[16; 10][..]));
    drop((range, page, in_the_end));
    drop(file.bytes(15 * PAGE, 10).unwrap());
    assert_eq!(count_singles(&cache), 16);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_write_splits_what_nobody_holds_and_copies_its_page_of_what_somebody_does() {
    let (cache, backing, file) = world(PAGES);
    file.write_at(4 * PAGE, &[99; 10]).unwrap();
    assert_eq!(count_singles(&cache), 16);
    file.sync_all().unwrap();

    let (held_cache, _, held) = world(PAGES);
    let range = held.bytes(0, 16 * FRAME_SIZE).unwrap();
    held.write_at(4 * PAGE, &[99; 10]).unwrap();
    // The page has left its folio, which the range holds as it was.
    assert_eq!((count_singles(&held_cache), range[4 * FRAME_SIZE]), (1, 5));
    assert!(folios(&held_cache).contains(&(4, Snapshot::Live(16))), "15 slots and the range");
    let again = held.range(0, 16 * FRAME_SIZE).unwrap();
    let pieces: Vec<_> = again.chunks().collect();
    assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), 16 * FRAME_SIZE);
    assert!(
        pieces.concat()[4 * FRAME_SIZE..].starts_with(&[99; 10]) && pieces.len() == 3,
        "{}",
        pieces.len()
    );
    assert_eq!(pieces.concat()[5 * FRAME_SIZE], 6);
    drop((range, again));
    // Who wants a frame of it splits it, and the frame that was left is free.
    let free = held_cache.zone().stats().free_frames;
    held.write_at(0, &[1]).unwrap();
    assert_eq!((count_singles(&held_cache), held_cache.zone().stats().free_frames), (16, free + 1));
    for (file, cache) in [(file, cache), (held, held_cache)] {
        let mut buf = [0; 12];
        assert_eq!(file.read_at(4 * PAGE - 1, &mut buf).unwrap(), 12);
        assert_eq!(buf, [4, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 5]);
        drop(file);
        assert_nothing_leaked(&cache);
    }
    assert_eq!(backing.contents()[4 * FRAME_SIZE..][..10], [99; 10]);
}

#[test]
fn a_cut_and_a_hole_free_the_pages_of_what_nobody_holds() {
    let (cache, _, file) = world(PAGES);
    let free = || {
        cache.zone().drain();
        cache.zone().stats().free_frames
    };
    let before = free();
    file.punch_hole(4 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(free(), before + 2);
    file.set_len(10 * PAGE).unwrap();
    assert_eq!(free(), before + 2 + 6);
    drop(file);
    assert_nothing_leaked(&cache);

    // Held, they go with the holder.
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
        "10 pages were in the file, 6 frames had left it"
    );
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn reclaim_takes_what_is_cold_of_a_folio_and_leaves_what_is_hot() {
    let (cache, _, file) = world(PAGES);
    // Read once each by the request's reader; these again and again.
    let read_hot = || {
        for page in [2, 9] {
            assert_eq!(file.read_at(page * PAGE, &mut [0; 64]).unwrap(), 64);
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

/// On its way to cold pages the policy's hand takes the marks of the hot ones beside them, for
/// which they gain a life. Reclaim looked at marks alone, and all went.
#[test]
fn what_the_policy_holds_for_hot_stays_though_its_mark_was_taken() {
    let (cache, _, file) = world(16);
    let read_hot =
        || (0..4).for_each(|page| assert_eq!(file.read_at(page * PAGE, &mut [0; 64]).unwrap(), 64));
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
fn migration_and_a_smaller_capacity_split_them() {
    let (cache, _, file) = world(400);
    assert!(folios(&cache).iter().any(|folio| folio.0 == Order::new(4).unwrap().as_u8()));
    cache.set_capacity(2 << 20).unwrap();
    let mut buf = vec![0; 400 * FRAME_SIZE];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), buf.len());
    assert!(buf.chunks(FRAME_SIZE).zip(1_u64..).all(|(page, n)| page == [n as u8; FRAME_SIZE]));
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Names every frame, and panics when it is told of pages that go along.
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
                .filter(|&frame| frames.look(frame) != FrameState::NotCached)
                .take(wanted),
        );
    }
    fn evicted_with(&mut self, _: u32, _: u64) {
        panic!("a policy that panics");
    }
    fn restore(&mut self, _: u32) {}
    fn moved(&mut self, _: u32, _: u32) {}
    fn resize(&mut self, _: u32) {}
}

/// The folio was nobody's while the policy was told of its pages, and lost if that panicked.
#[test]
fn a_policy_that_panics_loses_no_folio() {
    let cache: Cache = Cache::with_policy(4 << 20, |_| Box::new(Panics)).unwrap();
    let file =
        cache.open_backing(Arc::new(Memory::new(&[7; FRAME_SIZE].repeat(PAGES as usize)))).unwrap();
    drop(file.range(0, PAGES as usize * FRAME_SIZE).unwrap());
    cache.zone().pfns().for_each(|pfn| _ = cache.zone().take_referenced(pfn));
    let reclaim = AssertUnwindSafe(|| cache.reclaim(PAGES as usize));
    assert!(catch_unwind(reclaim).is_err(), "it was not told");
    assert_eq!(cache.zone().count_kind(CACHED), 0);
    drop(file);
    assert_nothing_leaked(&cache);
}
