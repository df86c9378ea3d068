//! The cache under the schedules of shuttle: lookup, fill, eviction and writing. Its modules have
//! the other subjects.
//!
//! `cargo x prove` runs it: `RUSTFLAGS='--cfg shuttle' cargo test --release -p folio-cache --test
//! shuttle`. The real code runs over real memory. Before each operation on a word, a slot, a
//! descriptor, a length or a lock, any other thread may be scheduled. With `DEEP=1` depth-first
//! searches go one preemption, or one delay, further (`cargo x prove --all`).
//!
//! Limits: depth-first searches are sequentially consistent, and cover schedules up to their number
//! of preemptions or delays. Over a weak memory these cases are played by chance; `weak.rs` has
//! those that are searched for each ordering and fence.

#![cfg(shuttle)]

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod deleted;
mod distant;
mod index;
mod large_folio;
mod length;
mod pressure;
mod sync_group;
mod threads;
mod writeback;

use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::testing::{Call, Memory};
use folio_cache::{Cache, File};
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;

/// A random sample, for tests with too many schedules.
const RANDOM: Search = Search::Pct { depth: 4, executions: 3_000, seed: 1 };

/// A random sample over a weak memory.
const WEAK: Search = Search::WeakPct { depth: 4, executions: 3_000, seed: 1 };

/// See [`World::at`].
const LAST: u64 = 511 * FRAME_SIZE as u64;

/// A cache with one file.
struct World {
    cache: Cache,
    backing: Arc<Memory>,
    file: File,
}

impl World {
    /// Returns a world with a file of `pages` pages, each filled with its number plus 1.
    fn new(pages: u8) -> Self {
        let contents: Vec<u8> = (1..=pages).flat_map(|page| [page; FRAME_SIZE]).collect();
        Self::of(&contents)
    }

    /// Returns a world with a file of these contents.
    fn of(contents: &[u8]) -> Self {
        Self::at(0, contents)
    }

    /// Returns a world with a file of a hole of `offset` bytes and then these contents. [`LAST`] is
    /// the last page of a leaf of the index: a walk of all pages from there visits one page and not
    /// five hundred.
    fn at(offset: u64, contents: &[u8]) -> Self {
        let cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Memory::new(&[]));
        backing.scribble(offset, contents);
        let file = cache.open_backing(backing.clone()).unwrap();
        Self { cache, backing, file }
    }

    /// Returns a thread for a race, which runs `act` with the file.
    fn thread(&self, act: impl FnOnce(&File) + Send + 'static) -> Box<dyn FnOnce() + Send> {
        let file = self.file.clone();
        Box::new(move || act(&file))
    }

    /// Closes the file, and asserts that nothing leaked.
    fn end(self) {
        let Self { cache, file, .. } = self;
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Reads `N` bytes of the file. Returns the number of bytes read, and the buffer.
fn read<const N: usize>(file: &File, offset: u64) -> (usize, [u8; N]) {
    let mut buf = [0; N];
    (file.read_at(&mut buf, offset).unwrap(), buf)
}

/// A page is read optimistically and then pinned while it is reclaimed. A reader that is too late
/// reads it again.
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
                assert!(page.iter().all(|&byte| byte == 1), "a pinned page changed");
            }),
            Box::new(move || assert!(cache.reclaim(1) <= 1)),
        ]);
        assert_eq!(read::<1>(&world.file, 0), (1, [1]));
        world.end();
    });
}

#[test]
fn a_reader_of_an_evicted_page_reads_it_again() {
    reader_against_eviction(deeper(2));
    reader_against_eviction(RANDOM);
    reader_against_eviction(WEAK);
}

/// Two readers miss one page. One request fills it, and both get the page.
fn single_flight(search: Search) {
    explore("two readers of one missing page", search, || {
        let world = World::new(1);
        let reader = |file: &File| assert_eq!(read::<2048>(file, 100), (2048, [1; 2048]));
        race(vec![world.thread(reader), world.thread(reader)]);
        assert_eq!(
            (world.backing.calls(Call::Fill), world.cache.stats().misses),
            (1, 1),
            "a page was requested twice"
        );
        world.end();
    });
}

#[test]
fn two_misses_of_one_page_make_one_request() {
    single_flight(deeper(1));
    single_flight(RANDOM);
    single_flight(WEAK);
}

/// One thread writes 64 bytes, one reads them optimistically, and one may pin the page. The reader
/// sees all of the write or nothing of it; the handle keeps the bytes that it had first.
fn writer_against_readers(search: Search, handle: bool) {
    explore(
        &format!("a writer against a reader{}", if handle { " and a handle" } else { "" }),
        search,
        move || {
            let world = World::new(1);
            // The page is cached, and dirty already.
            assert_eq!(world.file.write_at(&[1; 64], 0).unwrap(), 64);
            let mut threads = vec![
                world.thread(|file| {
                    let (n, bytes) = read::<64>(file, 0);
                    assert!(
                        n == 64 && (bytes == [1; 64] || bytes == [8; 64]),
                        "half a write: {bytes:?}"
                    );
                }),
                world.thread(|file| assert_eq!(file.write_at(&[8; 64], 0).unwrap(), 64)),
            ];
            if handle {
                threads.push(world.thread(|file| {
                    let page = file.page(0).unwrap().unwrap();
                    let before = page[..64].to_vec();
                    step();
                    assert_eq!(page[..64], before, "the bytes of a handle changed");
                }));
            }
            race(threads);
            assert_eq!(read::<64>(&world.file, 0), (64, [8; 64]));
            world.end();
        },
    );
}

#[test]
fn a_write_is_seen_whole_or_not_and_never_by_a_handle() {
    writer_against_readers(deeper(2), false);
    writer_against_readers(deeper(1), true);
    writer_against_readers(RANDOM, true);
    writer_against_readers(WEAK, true);
}

/// Two threads write to a page while it is written back and read. The reader sees all of the first
/// write or nothing of it, the backing has every byte that is not dirty, and no write is lost.
fn writers_against_writeback(search: Search) {
    explore("two writers against writeback and a reader", search, || {
        let world = World::of(&[1; FRAME_SIZE]);
        assert_eq!(world.file.write_at(&[2; 64], 500).unwrap(), 64);
        race(vec![
            world.thread(|file| assert_eq!(file.write_at(&[8; 64], 0).unwrap(), 64)),
            world.thread(|file| assert_eq!(file.write_at(&[9; 64], 100).unwrap(), 64)),
            world.thread(|file| file.sync_data().unwrap()),
            world.thread(|file| {
                let (n, bytes) = read::<64>(file, 0);
                assert!(
                    n == 64 && (bytes == [1; 64] || bytes == [8; 64]),
                    "half a write: {bytes:?}"
                );
            }),
        ]);
        let mut all = [1; FRAME_SIZE];
        (all[..64].fill(8), all[100..164].fill(9), all[500..564].fill(2));
        assert!(read::<FRAME_SIZE>(&world.file, 0) == (FRAME_SIZE, all), "a write was lost");
        // If the page can be evicted, it is clean and is read from the backing.
        world.cache.reclaim(1);
        assert!(
            read::<FRAME_SIZE>(&world.file, 0) == (FRAME_SIZE, all),
            "a page was clean, and the backing did not have its bytes"
        );
        world.file.sync_data().unwrap();
        assert!(world.backing.contents() == all, "a sync left out a write");
        world.end();
    });
}

#[test]
fn no_write_is_lost_to_the_writeback_of_its_page() {
    writers_against_writeback(deeper(1));
    writers_against_writeback(RANDOM);
    writers_against_writeback(WEAK);
}
