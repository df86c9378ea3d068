//! The threads of the cache (readahead, fetches of futures, flusher, reclaimer) under the schedules
//! of shuttle.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use folio_cache::Cache;
use folio_cache::testing::{Call, Fault, Memory};
use folio_frames::{FRAME_SIZE, Order};
use folio_ref::testing::explore::{Search, delays, explore, race};
use folio_ref::testing::stepped;

use crate::common::assert_nothing_leaked;
use crate::{LAST, World, read};

/// A random sample for tests of the cache's own threads. 3 to 6 s each.
const THREADS_RANDOM: Search = Search::Pct { depth: 4, executions: 5_000, seed: 1 };

/// Returns a world with 24 pages, in which the next miss, that of page 2, triggers readahead.
fn before_readahead() -> World {
    let world = World::new(24);
    for page in 0..2 {
        assert_eq!(read::<1>(&world.file, page * FRAME_SIZE as u64), (1, [page as u8 + 1]));
    }
    world
}

/// An extent of readahead is filled by a thread of the cache or by the first miss of one of its
/// pages, while pages are reclaimed.
fn readahead_against_a_miss(search: Search) {
    let ahead = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&ahead);
    explore("an extent of readahead against a miss in it and reclaim", search, move || {
        let world = before_readahead();
        let reader = |page: u8| {
            world.thread(move |file| {
                assert_eq!(
                    read::<64>(file, u64::from(page) * FRAME_SIZE as u64),
                    (64, [page + 1; 64])
                );
            })
        };
        let cache = world.cache.clone();
        race(vec![reader(2), reader(5), Box::new(move || assert!(cache.reclaim(4) <= 6))]);
        world.cache.quiesce();
        assert_eq!(read::<64>(&world.file, 5 * FRAME_SIZE as u64), (64, [6; 64]));
        counted.fetch_add(world.cache.stats().ahead, Ordering::Relaxed);
        world.end();
    });
    assert!(ahead.load(Ordering::Relaxed) > 0, "nothing was read ahead");
}

#[test]
fn a_miss_in_a_queued_extent_gets_its_page() {
    readahead_against_a_miss(THREADS_RANDOM);
}

/// A reader goes on through windows that wait for it, since the file answered at once. A future
/// needs one of their pages, and another thread truncates the file.
fn windows_that_wait_for_their_reader(search: Search) {
    explore("windows for a reader against a future and a truncate", search, || {
        let world = before_readahead();
        race(vec![
            world.thread(|file| {
                for page in 2..9_u8 {
                    let at = u64::from(page) * FRAME_SIZE as u64;
                    let (n, bytes) = read::<64>(file, at);
                    assert!(n == 0 || (n, bytes) == (64, [page + 1; 64]), "page {page}");
                    assert!(page >= 7 || n > 0, "page {page} is not truncated");
                }
            }),
            world.thread(|file| {
                let mut bytes = [0; 64];
                let at = 6 * FRAME_SIZE as u64;
                assert_eq!(block_on(file.read_at_async(&mut bytes, at)).unwrap(), 64);
                assert_eq!(bytes, [7; 64]);
            }),
            world.thread(|file| file.set_len(7 * FRAME_SIZE as u64).unwrap()),
        ]);
        world.cache.quiesce();
        world.end();
    });
}

#[test]
fn a_reader_gets_the_windows_that_wait_for_it() {
    windows_that_wait_for_their_reader(THREADS_RANDOM);
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

/// Two futures and an extent need the threads of the cache, of which there are two, while the file
/// is truncated before the extent. The truncate holds the lock that the fetches of the futures
/// need. It waits for a page of the extent if that was queued just before.
///
/// The futures read past the end of the file, which requires that lock. One delay is enough to find
/// a pool in which every thread may fetch.
fn futures_against_a_truncate(search: Search) {
    const PAGE: u64 = FRAME_SIZE as u64;
    explore("two futures against an extent and a truncate", search, || {
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
                    .map(|buf| Box::pin(file.read_at_async(buf, LAST + PAGE)))
                    .collect();
                // One may be ready at once.
                futures.retain_mut(|future| {
                    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
                });
                // The third miss in a row triggers readahead of the last page.
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
    futures_against_a_truncate(delays(2));
    futures_against_a_truncate(THREADS_RANDOM);
}

/// The first fill of a page fails. A thread and a future that need the page get its error, or read
/// the page after it. Neither is left asleep, and no later reader gets the error.
fn readers_of_a_failing_page(search: Search) {
    let shared = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&shared);
    explore("a thread and a future against a fill that fails", search, move || {
        let world = World::new(2);
        world.cache.set_io_threads(1);
        world.backing.inject(Call::Fill, 0, 1, Fault::Error(5));
        let failed = Arc::new(AtomicU64::new(0));
        let count = |failed: &Arc<AtomicU64>, read: std::io::Result<usize>| match read {
            Ok(n) => assert_eq!(n, 64),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(5));
                failed.fetch_add(1, Ordering::Relaxed);
            }
        };
        let [first, second] = [(); 2].map(|()| Arc::clone(&failed));
        race(vec![
            world.thread(move |file| count(&first, file.read_at(&mut [0; 64], 8))),
            world.thread(move |file| {
                count(&second, block_on(file.read_at_async(&mut [0; 64], 100)));
            }),
        ]);
        world.cache.quiesce();
        let failed = failed.load(Ordering::Relaxed);
        assert!((1..=2).contains(&failed), "{failed} errors of one");
        counted.fetch_add(failed - 1, Ordering::Relaxed);
        assert_eq!(read::<64>(&world.file, 0), (64, [1; 64]));
        world.end();
    });
    assert!(shared.load(Ordering::Relaxed) > 0, "no error was shared");
}

#[test]
fn a_fill_that_fails_answers_the_readers_that_wait() {
    readers_of_a_failing_page(THREADS_RANDOM);
}

/// Two threads write to a page and close their files while the flusher writes it. Everything is
/// written, in any order of the three.
fn flusher_against_closes(search: Search, flushed: &Arc<AtomicU64>) {
    let flushed = Arc::clone(flushed);
    explore("two writers and their closes against the flusher", search, move || {
        let World { cache, backing, file } = World::new(1);
        cache.set_io_threads(1);
        let other = cache.open_backing(backing.clone()).unwrap();
        race(vec![
            Box::new(move || assert_eq!(file.write_at(&[8; 64], 0).unwrap(), 64)),
            Box::new(move || {
                assert_eq!(other.write_at(&[9; 64], 100).unwrap(), 64);
                assert_eq!(read::<64>(&other, 100), (64, [9; 64]));
            }),
        ]);
        cache.quiesce();
        let mut all = [1; FRAME_SIZE];
        (all[..64].fill(8), all[100..164].fill(9));
        assert!(backing.contents() == all, "a write was lost");
        // One page: the last close writes it in one request, unless the flusher was first.
        flushed.fetch_add(u64::from(backing.calls(Call::Write) > 1), Ordering::Relaxed);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn closes_racing_the_flusher_lose_no_write() {
    let flushed = Arc::default();
    flusher_against_closes(delays(1), &flushed);
    flusher_against_closes(THREADS_RANDOM, &flushed);
    assert!(flushed.load(Ordering::Relaxed) > 0, "the flusher never ran before the last close");
}

/// Pages are missed while the cache gives back half of its memory and the reclaimer frees pages of
/// the rest. Most of the rest is taken: seven frames are left for pages.
fn reclaimer_against_a_capacity(search: Search) {
    let reclaimed = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&reclaimed);
    explore("a reader against the reclaimer and a smaller capacity", search, move || {
        let cache = Cache::new(4 << 20).expect("memory for a test");
        let backing = Arc::new(Memory::new(&[]));
        let contents: Vec<u8> = (1..=8).flat_map(|page| [page; FRAME_SIZE]).collect();
        backing.scribble(0, &contents);
        let file = cache.open_backing(backing).unwrap();
        let taken = cache.frames().alloc_contig(505, Order::ZERO).expect("no frame is pinned");
        // Not in a row, so that nothing is read ahead.
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
        assert_eq!(cache.frames().zone().stats().online_frames, 512);
        for page in 0..8 {
            assert_eq!(read::<64>(&file, page * FRAME_SIZE as u64), (64, [page as u8 + 1; 64]));
        }
        counted.fetch_add(cache.stats().reclaimed, Ordering::Relaxed);
        drop(file);
        taken.free();
        assert_nothing_leaked(&cache);
    });
    assert!(reclaimed.load(Ordering::Relaxed) > 0, "nothing was reclaimed");
}

#[test]
fn reads_succeed_while_capacity_shrinks_under_reclaim() {
    // 4 ms each, mostly for taking the block offline. The 5641 schedules with one delay take more
    // than half a minute, and run with `DEEP` only.
    if std::env::var_os("DEEP").is_some() {
        reclaimer_against_a_capacity(Search::Delays(1));
    }
    reclaimer_against_a_capacity(Search::Pct { depth: 4, executions: 1000, seed: 1 });
}
