//! The cache under schedules that shuttle plays: lookup, fill, eviction, writing, truncation.
//!
//! `cargo x prove` runs it: `RUSTFLAGS='--cfg shuttle' cargo test --release -p folio-cache --test
//! shuttle`. The real code, over real memory; before each operation on a word, a slot, a
//! descriptor, a length or a lock any other thread may go on. With `DEEP=1` depth-first searches go
//! one preemption, or one delay, further (`cargo x prove --all`).
//!
//! What this can not see: all is sequentially consistent, so the fences between a cut and a fill
//! are not asked for; depth first knows schedules up to its number of preemptions or delays.

#![cfg(shuttle)]

#[path = "../common/mod.rs"]
mod common;
mod large_folio;
mod syncs;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use common::assert_nothing_leaked;
use folio_cache::{Cache, Call, File, Memory};
use folio_frames::{FRAME_SIZE, Order};
use folio_ref::explore::{Search, deeper, delays, explore, race};
use folio_ref::stepped::{self, step};

/// Some schedules of what has too many.
const BY_CHANCE: Search = Search::Pct { depth: 4, executions: 3_000, seed: 1 };

/// The same where the cache has threads of its own. 3 to 6 s each.
const THREADS_BY_CHANCE: Search = Search::Pct { depth: 4, executions: 5_000, seed: 1 };

/// See [`World::at`].
const LAST: u64 = 511 * FRAME_SIZE as u64;

/// A cache with one file: so many pages, each full of its number plus 1.
struct World {
    cache: Cache,
    backing: Arc<Memory>,
    file: File,
}

impl World {
    fn new(pages: u8) -> Self {
        let contents: Vec<u8> = (1..=pages).flat_map(|page| [page; FRAME_SIZE]).collect();
        Self::of(&contents)
    }

    fn of(contents: &[u8]) -> Self {
        Self::at(0, contents)
    }

    /// These bytes behind a hole. [`LAST`]: in the last page of a leaf of the index, so that who
    /// visits all pages from there on visits one and not five hundred.
    fn at(offset: u64, contents: &[u8]) -> Self {
        let cache = Cache::new(2 << 20).expect("memory for a test");
        let backing = Arc::new(Memory::new(&[]));
        backing.scribble(offset, contents);
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

/// A page is read without a reference, and then held, while it is reclaimed: whoever comes too late
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
                assert!(page.iter().all(|&byte| byte == 1), "a page that is held stays");
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
    reader_against_eviction(BY_CHANCE);
}

/// Two readers miss one page: one request, and both have the page.
fn single_flight(search: Search) {
    explore("two readers of one missing page", search, || {
        let world = World::new(1);
        let reader = |file: &File| assert_eq!(read::<2048>(file, 100), (2048, [1; 2048]));
        race(vec![world.thread(reader), world.thread(reader)]);
        assert_eq!(
            (world.backing.calls(Call::Fill), world.cache.stats().misses),
            (1, 1),
            "a page was read twice"
        );
        world.end();
    });
}

#[test]
fn two_misses_of_one_page_make_one_request() {
    single_flight(deeper(1));
    single_flight(BY_CHANCE);
}

/// One writes 64 bytes, one reads them without a reference, and one may hold the page: the reader
/// has all of the write or nothing of it, the holder what was there when it came.
fn writer_against_readers(search: Search, holder: bool) {
    explore(
        &format!("a writer against a reader{}", if holder { " and a holder" } else { "" }),
        search,
        move || {
            let world = World::new(1);
            // So it is there, and dirty already.
            assert_eq!(world.file.write_at(0, &[1; 64]).unwrap(), 64);
            let mut threads = vec![
                world.thread(|file| {
                    let (n, bytes) = read::<64>(file, 0);
                    assert!(
                        n == 64 && (bytes == [1; 64] || bytes == [8; 64]),
                        "half a write: {bytes:?}"
                    );
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
        },
    );
}

#[test]
fn a_write_is_seen_whole_or_not_and_never_by_a_handle() {
    writer_against_readers(deeper(2), false);
    writer_against_readers(deeper(1), true);
    writer_against_readers(BY_CHANCE, true);
}

/// The last page is read while the file is cut before it: the reader has the page, or its file has
/// ended; and nothing of the page is left when the file is long again.
///
/// It found that a cut told fills of the backing's new length before it told readers of the file's:
/// a fill between the two took the missing page for one that is dirty elsewhere, and its reader got
/// zeroes that no file ever held.
fn truncation_against_fill(search: Search) {
    explore("truncation against a fill", search, || {
        let world = World::at(LAST, &[2; FRAME_SIZE]);
        race(vec![
            world.thread(|file| {
                let (n, bytes) = read::<2048>(file, LAST);
                assert!(n == 0 || n == 2048 && bytes == [2; 2048], "{n} bytes: {:?}", &bytes[..8]);
            }),
            world.thread(|file| file.set_len(LAST).unwrap()),
        ]);
        assert_eq!(world.file.len(), LAST);
        world.file.set_len(LAST + FRAME_SIZE as u64).unwrap();
        assert_eq!(read::<64>(&world.file, LAST), (64, [0; 64]), "bytes from before the cut");
        world.end();
    });
}

#[test]
fn a_truncated_page_does_not_come_back() {
    truncation_against_fill(deeper(2));
    truncation_against_fill(BY_CHANCE);
}

/// A page is missed and held while the file is cut in its middle: the handle has the page, or what
/// is left of it.
///
/// `models/length.pml` found that it could have zeroes that no file ever held: its reader knew the
/// longer length, whoever read the page the shorter one, and the cut was not counted yet.
fn cut_against_handle(search: Search) {
    explore("a cut against who misses the page and holds it", search, || {
        let world = World::at(LAST, &[1; FRAME_SIZE]);
        race(vec![
            world.thread(|file| {
                let page = file.page(LAST).unwrap().unwrap();
                assert!(matches!(page.len(), 100 | FRAME_SIZE), "{} bytes", page.len());
                assert!(
                    page.iter().all(|&byte| byte == 1),
                    "a zero that no file ever held, of {} bytes",
                    page.len()
                );
            }),
            world.thread(|file| file.set_len(LAST + 100).unwrap()),
        ]);
        world.end();
    });
}

#[test]
fn a_handle_racing_a_truncate_has_bytes_the_file_held() {
    cut_against_handle(deeper(2));
    cut_against_handle(BY_CHANCE);
}

/// Another program appends to the file, whose last page is written to just when that is noticed.
///
/// `models/length.pml` found that the page could become dirty after the look whether it is, and
/// then stayed, with zeroes where the other program's bytes are, which the next writeback brought
/// to the file.
fn append_beside_us(search: Search) {
    explore(
        "a write to the last page against a look at a file that grew beside us",
        search,
        || {
            let world = World::at(LAST, &[1; 100]);
            assert_eq!(read::<100>(&world.file, LAST), (100, [1; 100]));
            world.backing.scribble(LAST + 100, &[7; 100]);
            race(vec![
                world.thread(|file| assert_eq!(file.write_at(LAST, &[8; 10]).unwrap(), 10)),
                world.thread(|file| {
                    let (n, bytes) = read::<100>(file, LAST + 100);
                    assert!(
                        n == 0 || n == 100 && bytes == [7; 100],
                        "{n} bytes, of an append {:?}",
                        &bytes[..8]
                    );
                }),
            ]);
            let whole = [[8; 10].as_slice(), &[1; 90], &[7; 100]].concat();
            assert_eq!(world.file.read_at(LAST, &mut [0; 300]).unwrap(), 200);
            world.file.sync_all().unwrap();
            assert!(
                world.backing.contents()[LAST as usize..] == whole,
                "an append of somebody else was lost"
            );
            world.end();
        },
    );
}

#[test]
fn an_external_append_survives_a_write_before_it() {
    append_beside_us(deeper(2));
    append_beside_us(BY_CHANCE);
}

/// Another program cuts the file before its last page, which is written to just when that is
/// noticed: what was written is newer, so the file reaches as far again.
fn write_against_a_cut_beside_us(search: Search) {
    explore(
        "a write to the last page against a look at a file that was cut beside us",
        search,
        || {
            let before = LAST - FRAME_SIZE as u64;
            let world = World::at(before, &[1; 2 * FRAME_SIZE]);
            assert_eq!(read::<64>(&world.file, LAST), (64, [1; 64]));
            world.backing.cut(LAST);
            race(vec![
                world.thread(|file| assert_eq!(file.write_at(LAST, &[8; 64]).unwrap(), 64)),
                world.thread(|file| {
                    // What is past the end is asked of the backing.
                    assert_eq!(file.read_at(LAST + FRAME_SIZE as u64, &mut [0; 1]).unwrap(), 0);
                }),
            ]);
            assert!(
                world.file.len() >= LAST + 64,
                "the file ends at {} of {LAST} + 64 bytes",
                world.file.len()
            );
            assert_eq!(read::<64>(&world.file, LAST), (64, [8; 64]), "a write was lost");
            world.file.sync_all().unwrap();
            assert!(
                world.backing.contents()[LAST as usize..][..64] == [8; 64],
                "a write was not written"
            );
            world.end();
        },
    );
}

#[test]
fn a_write_past_an_external_truncation_is_in_the_file() {
    write_against_a_cut_beside_us(deeper(2));
    write_against_a_cut_beside_us(BY_CHANCE);
}

/// Two write to a page while it is written back and read: the reader has all of the first write or
/// nothing of it, what is not dirty the backing has, and nobody's write is lost.
fn writers_against_writeback(search: Search) {
    explore("two writers against writeback and a reader", search, || {
        let world = World::of(&[1; FRAME_SIZE]);
        assert_eq!(world.file.write_at(500, &[2; 64]).unwrap(), 64);
        race(vec![
            world.thread(|file| assert_eq!(file.write_at(0, &[8; 64]).unwrap(), 64)),
            world.thread(|file| assert_eq!(file.write_at(100, &[9; 64]).unwrap(), 64)),
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
        // If it goes it is clean, and is read from the backing.
        world.cache.reclaim(1);
        assert!(
            read::<FRAME_SIZE>(&world.file, 0) == (FRAME_SIZE, all),
            "it was clean, and the backing did not have it"
        );
        world.file.sync_data().unwrap();
        assert!(world.backing.contents() == all, "a sync left something out");
        world.end();
    });
}

#[test]
fn no_write_is_lost_to_the_writeback_of_its_page() {
    writers_against_writeback(deeper(1));
    writers_against_writeback(BY_CHANCE);
}

/// A file of 24 pages whose readers are read ahead of from the next miss on, which is that of page
/// 2.
fn read_ahead_soon() -> World {
    let world = World::new(24);
    for page in 0..2 {
        assert_eq!(read::<1>(&world.file, page * FRAME_SIZE as u64), (1, [page as u8 + 1]));
    }
    world
}

/// A run of readahead, filled by a thread of the cache, or by who misses a page of it first, while
/// pages are reclaimed.
fn readahead_against_a_miss(search: Search) {
    let ahead = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&ahead);
    explore("a run of readahead against who misses a page of it, and reclaim", search, move || {
        let world = read_ahead_soon();
        let reader = |page: u8| {
            world.thread(move |file| {
                assert_eq!(
                    read::<64>(file, u64::from(page) * FRAME_SIZE as u64),
                    (64, [page + 1; 64])
                );
            })
        };
        let cache = world.cache.clone();
        race(vec![reader(2), reader(5), Box::new(move || assert!(cache.reclaim(4) <= 4))]);
        world.cache.quiesce();
        assert_eq!(read::<64>(&world.file, 5 * FRAME_SIZE as u64), (64, [6; 64]));
        counted.fetch_add(world.cache.stats().ahead, Ordering::Relaxed);
        world.end();
    });
    assert!(ahead.load(Ordering::Relaxed) > 0, "nothing was read ahead");
}

#[test]
fn a_miss_in_a_queued_extent_gets_its_page() {
    readahead_against_a_miss(THREADS_BY_CHANCE);
}

/// An executor of one future.
struct Signal(AtomicBool);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        stepped::wake_all(Arc::as_ptr(&self).addr());
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let signal = Arc::new(Signal(AtomicBool::new(false)));
    let waker = Arc::clone(&signal).into();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        while !signal.0.swap(false, Ordering::SeqCst) {
            stepped::wait(Arc::as_ptr(&signal).addr(), &|| !signal.0.load(Ordering::SeqCst));
        }
    }
}

/// Two futures and a run need the threads of the cache, of which there are two, while the file is
/// cut before the run: whoever cuts holds the lock that the futures' fetches need, and waits for a
/// page of the run, if that came into the queue just behind its back.
///
/// The futures ask for what is past the end of the file, which nobody knows without that lock.
/// One delay is enough to find a pool whose every thread may fetch.
fn futures_against_a_cut(search: Search) {
    const PAGE: u64 = FRAME_SIZE as u64;
    explore("two futures against a run and a cut", search, || {
        let contents: Vec<u8> = (1..=4).flat_map(|page| [page; FRAME_SIZE]).collect();
        let world = World::at(LAST - 3 * PAGE, &contents);
        for page in 1..=2 {
            assert_eq!(read::<1>(&world.file, LAST - (4 - page) * PAGE), (1, [page as u8]));
        }
        world.cache.set_io_threads(2);
        race(vec![
            world.thread(|file| {
                let mut bufs = [[0; 64]; 2];
                let mut futures: Vec<_> = bufs
                    .iter_mut()
                    .map(|buf| Box::pin(file.read_at_async(LAST + PAGE, buf)))
                    .collect();
                // One may have its answer at once.
                futures.retain_mut(|future| {
                    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
                });
                // The third miss in a row: the last page is read ahead.
                assert_eq!(read::<1>(file, LAST - PAGE), (1, [3]));
                futures.into_iter().for_each(|future| assert_eq!(block_on(future).unwrap(), 0));
            }),
            world.thread(|file| file.set_len(LAST).unwrap()),
        ]);
        world.cache.quiesce();
        assert_eq!(world.file.len(), LAST);
        world.end();
    });
}

#[test]
fn truncate_ends_with_futures_and_extents_waiting() {
    futures_against_a_cut(delays(2));
    futures_against_a_cut(THREADS_BY_CHANCE);
}

/// Two write to a page and close their files, while the flusher writes it: whoever of the three has
/// the file last, all is written.
fn flusher_against_closes(search: Search, flushed: &Arc<AtomicU64>) {
    let flushed = Arc::clone(flushed);
    explore("two writers and their closes against the flusher", search, move || {
        let World { cache, backing, file } = World::new(1);
        cache.set_io_threads(1);
        let other = cache.open_backing(backing.clone()).unwrap();
        race(vec![
            Box::new(move || assert_eq!(file.write_at(0, &[8; 64]).unwrap(), 64)),
            Box::new(move || {
                assert_eq!(other.write_at(100, &[9; 64]).unwrap(), 64);
                assert_eq!(read::<64>(&other, 100), (64, [9; 64]));
            }),
        ]);
        cache.quiesce();
        let mut all = [1; FRAME_SIZE];
        (all[..64].fill(8), all[100..164].fill(9));
        assert!(backing.contents() == all, "a write was lost");
        // Of one page: the last close is enough for all of it, unless the flusher was there before.
        flushed.fetch_add(u64::from(backing.calls(Call::Write) > 1), Ordering::Relaxed);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn closes_racing_the_flusher_lose_no_write() {
    let flushed = Arc::default();
    flusher_against_closes(delays(1), &flushed);
    flusher_against_closes(THREADS_BY_CHANCE, &flushed);
    assert!(flushed.load(Ordering::Relaxed) > 0, "the flusher was never before the last close");
}

/// Pages are missed while the cache gives back half of its memory and the reclaimer frees what it
/// can of the rest, of which most is taken: seven frames are left for pages.
fn reclaimer_against_a_capacity(search: Search) {
    let moved = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&moved);
    explore("a reader against the reclaimer and a smaller capacity", search, move || {
        let cache = Cache::new(4 << 20).expect("memory for a test");
        let backing = Arc::new(Memory::new(&[]));
        let contents: Vec<u8> = (1..=8).flat_map(|page| [page; FRAME_SIZE]).collect();
        backing.scribble(0, &contents);
        let file = cache.open_backing(backing).unwrap();
        let taken = cache.alloc_contig(505, Order::ZERO).expect("nothing is in the way");
        // Not in a row: nothing is read ahead.
        for page in [0, 3, 1, 5] {
            assert_eq!(read::<1>(&file, page * FRAME_SIZE as u64), (1, [page as u8 + 1]));
        }
        cache.set_io_threads(1);
        let (shrinking, reading) = (cache.clone(), file.clone());
        race(vec![
            Box::new(move || shrinking.set_capacity(2 << 20).unwrap()),
            Box::new(move || {
                for page in [0, 7, 2, 5] {
                    let offset = page * FRAME_SIZE as u64;
                    assert_eq!(
                        read::<2048>(&reading, offset),
                        (2048, [page as u8 + 1; 2048]),
                        "page {page}"
                    );
                }
            }),
        ]);
        cache.quiesce();
        assert_eq!(cache.zone().stats().online_frames, 512);
        for page in 0..8 {
            assert_eq!(read::<64>(&file, page * FRAME_SIZE as u64), (64, [page as u8 + 1; 64]));
        }
        counted.fetch_add(cache.stats().reclaimed, Ordering::Relaxed);
        drop(file);
        taken.free();
        assert_nothing_leaked(&cache);
    });
    assert!(moved.load(Ordering::Relaxed) > 0, "nothing was reclaimed");
}

#[test]
fn reads_succeed_while_capacity_shrinks_under_reclaim() {
    // 4 ms each, most of them the block that goes: the 5641 with one delay, half a minute and more,
    // are for `DEEP`.
    if std::env::var_os("DEEP").is_some() {
        reclaimer_against_a_capacity(Search::Delays(1));
    }
    reclaimer_against_a_capacity(Search::Pct { depth: 4, executions: 1000, seed: 1 });
}
