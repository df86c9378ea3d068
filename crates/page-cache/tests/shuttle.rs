//! The cache under schedules that shuttle plays: lookup, fill, eviction, writing, truncation.
//!
//! `cargo x prove` runs it: `RUSTFLAGS='--cfg shuttle' cargo test --release -p page-cache --test shuttle`. The real code, over
//! real memory; before each operation on a word, a slot, a descriptor, a length or a lock any other thread may go on.
//! With `DEEP=1` depth-first searches go one preemption further (`cargo x prove --all`).
//!
//! What this can not see: all is sequentially consistent, so the fences between a cut and a fill are not asked for; the
//! cache's own threads (flusher, readahead) do not run; depth first knows schedules up to its number of preemptions.

#![cfg(shuttle)]

mod common;

use std::sync::Arc;

use common::assert_nothing_leaked;
use page_cache::{Cache, Call, File, Memory};
use page_frames::FRAME_SIZE;
use page_ref::explore::{Search, deeper, explore, race};
use page_ref::stepped::step;

/// Some schedules of what has too many.
const BY_CHANCE: Search = Search::Pct { depth: 4, executions: 3_000, seed: 1 };

/// A cache with one file: so many pages, each full of its number plus 1.
struct World {
    cache: Cache,
    backing: Arc<Memory>,
    file: File,
}

impl World {
    fn new(pages: u8) -> Self {
        let cache = Cache::new(2 << 20).expect("memory for a test");
        let contents: Vec<u8> = (1..=pages).flat_map(|page| [page; FRAME_SIZE]).collect();
        let backing = Arc::new(Memory::new(&contents));
        let file = cache.open_backing(backing.clone()).unwrap();
        Self { cache, backing, file }
    }

    /// A thread of the race, with the file.
    fn thread(&self, act: impl FnOnce(&File) + Send + 'static) -> Box<dyn FnOnce() + Send> {
        let file = self.file.clone();
        Box::new(move || act(&file))
    }

    fn end(self) {
        let Self { cache, file, .. } = self;
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// `N` bytes of the file, and how many there were.
fn read<const N: usize>(file: &File, offset: u64) -> (usize, [u8; N]) {
    let mut buf = [0; N];
    (file.read_at(offset, &mut buf).unwrap(), buf)
}

/// A page is read without a reference, and then held, while it is reclaimed: whoever comes too late reads it again.
fn reader_against_eviction(search: Search) {
    explore("a reader against eviction", search, || {
        let world = World::new(1);
        assert_eq!(read::<1>(&world.file, 0), (1, [1]));
        let cache = world.cache.clone();
        race(vec![
            world.thread(|file| {
                assert_eq!(read::<64>(file, 8), (64, [1; 64]));
                let page = file.page(0).unwrap().unwrap();
                step();
                assert!(page.iter().all(|&byte| byte == 1), "a page that is held stays");
            }),
            Box::new(move || assert!(cache.reclaim(1) <= 1)),
        ]);
        assert_eq!(read::<1>(&world.file, 0), (1, [1]));
        world.end();
    });
}

#[test]
fn who_comes_too_late_for_a_page_reads_it_again() {
    reader_against_eviction(deeper(2));
    reader_against_eviction(BY_CHANCE);
}

/// Two readers miss one page: one request, and both have the page.
fn single_flight(search: Search) {
    explore("two readers of one missing page", search, || {
        let world = World::new(1);
        let reader = |file: &File| assert_eq!(read::<2048>(file, 100), (2048, [1; 2048]));
        race(vec![world.thread(reader), world.thread(reader)]);
        assert_eq!((world.backing.calls(Call::Fill), world.cache.stats().misses), (1, 1), "a page was read twice");
        world.end();
    });
}

#[test]
fn a_page_that_two_miss_is_requested_once() {
    single_flight(deeper(1));
    single_flight(BY_CHANCE);
}

/// One writes 64 bytes, one reads them without a reference, and one may hold the page: the reader has all of the write or
/// nothing of it, the holder what was there when it came.
fn writer_against_readers(search: Search, holder: bool) {
    explore(&format!("a writer against a reader{}", if holder { " and a holder" } else { "" }), search, move || {
        let world = World::new(1);
        // So it is there, and dirty already.
        assert_eq!(world.file.write_at(0, &[1; 64]).unwrap(), 64);
        let mut threads = vec![
            world.thread(|file| {
                let (n, bytes) = read::<64>(file, 0);
                assert!(n == 64 && (bytes == [1; 64] || bytes == [8; 64]), "half a write: {bytes:?}");
            }),
            world.thread(|file| assert_eq!(file.write_at(0, &[8; 64]).unwrap(), 64)),
        ];
        if holder {
            threads.push(world.thread(|file| {
                let page = file.page(0).unwrap().unwrap();
                let before = page[..64].to_vec();
                step();
                assert_eq!(page[..64], before, "a handle is a snapshot");
            }));
        }
        race(threads);
        assert_eq!(read::<64>(&world.file, 0), (64, [8; 64]));
        world.end();
    });
}

#[test]
fn a_write_is_seen_whole_or_not_at_all_and_no_handle_sees_it() {
    writer_against_readers(deeper(2), false);
    writer_against_readers(deeper(1), true);
    writer_against_readers(BY_CHANCE, true);
}

/// The second page is read while the file is cut before it: the reader has the page, or its file has ended; and nothing
/// of the page is left when the file is long again.
///
/// It found that a cut told fills of the backing's new length before it told readers of the file's: a fill between the two
/// took the missing page for one that is dirty elsewhere, and its reader got zeroes that no file ever held.
fn truncation_against_fill(search: Search) {
    explore("truncation against a fill", search, || {
        let world = World::new(2);
        let second = FRAME_SIZE as u64;
        race(vec![
            world.thread(move |file| {
                let (n, bytes) = read::<2048>(file, second);
                assert!(n == 0 || n == 2048 && bytes == [2; 2048], "{n} bytes: {:?}", &bytes[..8]);
            }),
            world.thread(|file| file.set_len(100).unwrap()),
        ]);
        assert_eq!(world.file.len(), 100);
        world.file.set_len(2 * second).unwrap();
        assert_eq!(read::<64>(&world.file, second), (64, [0; 64]), "bytes from before the cut");
        world.end();
    });
}

#[test]
fn a_page_that_was_cut_off_does_not_come_back() {
    truncation_against_fill(deeper(1));
    truncation_against_fill(BY_CHANCE);
}
