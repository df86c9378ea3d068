//! Less memory than data: reclaim, pinned pages, and all operations at once.

mod common;

use std::io::{self, ErrorKind, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_nothing_leaked, file_of};
use folio_cache::policy::{Clock, FrameState, Frames, Policy};
use folio_cache::testing::Memory;
use folio_cache::{Backing, CACHED, Cache, CacheBuilder, FileId, Version};
use folio_frames::{MigrateError, Watermarks};
use folio_ref::{Scheme, schemes};

#[test]
fn a_file_larger_than_the_capacity_is_read_by_reclaim() {
    let (_dir, path, bytes) = file_of(5 << 20);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    for _ in 0..2 {
        let mut buf = vec![0; bytes.len()];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
        assert!(buf == bytes);
    }
    // The reclaimer counts a batch at its end.
    cache.quiesce();
    let stats = cache.stats();
    assert!(stats.direct_reclaims > 0 && stats.reclaimed >= stats.misses - 512, "{stats:?}");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A page that only its handle pins seems evictable: one reference, referenced bit clear. A policy
/// that names such pages first must not keep reclaim from the others.
#[test]
fn handles_on_pages_that_left_their_file_do_not_stop_reclaim() {
    let (_dir, path, bytes) = file_of(5 << 20);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let read_all = || {
        for (page, bytes) in bytes.chunks(4096).enumerate() {
            let mut buf = [0; 4096];
            assert_eq!(file.read_at(&mut buf, page as u64 * 4096).unwrap(), 4096);
            assert!(buf == bytes);
        }
    };
    let handles: Vec<_> = (0..200).map(|page| file.page(page * 4096).unwrap().unwrap()).collect();
    read_all();
    file.invalidate();
    for _ in 0..3 {
        read_all();
        // Reclaim cannot evict a page that is still read ahead or just being freed.
        cache.quiesce();
        while cache.reclaim(1) == 1 {}
        assert_eq!(cache.frames().zone().stats().free_frames, 512 - 200, "{:?}", cache.stats());
    }
    drop((file, handles));
    assert_nothing_leaked(&cache);
}

#[test]
fn every_scheme_reads_right_under_reclaim_and_migration() {
    fn run<S: Scheme>() {
        let (_dir, path, bytes) = file_of(3 << 20);
        let cache = CacheBuilder::<S>::with_scheme().capacity(2 << 20).build().unwrap();
        let file = cache.open(&path).unwrap();
        thread::scope(|scope| {
            for seed in 0..2 {
                let (file, bytes) = (&file, &bytes);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    for _ in 0..5000 {
                        let offset = random.usize(..bytes.len());
                        let mut buf = [0; 500];
                        let n = file.read_at(&mut buf, offset as u64).unwrap();
                        assert!(
                            n > 0 && buf[..n] == bytes[offset..][..n],
                            "{} at {offset}",
                            S::NAME
                        );
                    }
                });
            }
            scope.spawn(|| {
                for pfn in cache.frames().zone().pfns() {
                    let _ = cache.frames().migrate(pfn);
                    cache.reclaim(1);
                }
            });
        });
        assert!(cache.stats().misses > 512, "{}: {:?}", S::NAME, cache.stats());
        drop(file);
        assert_nothing_leaked(&cache);
    }
    run::<schemes::ZeroFrozen>();
    run::<schemes::GuessOne>();
    run::<schemes::FrozenBit>();
    run::<schemes::LiveBitHigh>();
    run::<schemes::LiveBitLow>();
    run::<schemes::Generational>();
    run::<schemes::Tagged>();
}

#[test]
fn reclaim_frees_the_requested_number_and_no_pinned_page() {
    let (_dir, path, bytes) = file_of(58 * 4096);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let handle = file.page(0).unwrap().unwrap();
    file.read_at(&mut vec![0; 58 * 4096], 0).unwrap();
    assert_eq!(cache.reclaim(3), 3);
    // More than one batch and fewer than two; the last folio is evicted as a whole.
    let freed = cache.reclaim(40);
    assert!((40..56).contains(&freed), "{freed}");
    assert_eq!(cache.reclaim(100), 54 - freed);
    assert_eq!(cache.reclaim(100), 0);
    assert_eq!(*handle, bytes[..4096]);
    drop(handle);
    assert_eq!(cache.reclaim(100), 1);
    assert_eq!(cache.stats().reclaimed, 58);

    // Pages of two files, alternately.
    let (_dir, path, _) = file_of(58 * 4096);
    let other = cache.open(&path).unwrap();
    for page in 0..58 {
        for file in [&file, &other] {
            file.read_at(&mut [0], page * 4096).unwrap();
        }
    }
    cache.quiesce(); // A page that is still read ahead is locked, and is not evicted.
    assert_eq!(cache.reclaim(1000), 116);
    drop((file, other));
    assert_nothing_leaked(&cache);
}

/// A policy that names every frame once, and records the victims restored to it and its sizes.
#[derive(Debug, Default)]
struct Recording {
    named: bool,
    restored: Arc<Mutex<Vec<u32>>>,
    sizes: Arc<Mutex<Vec<u32>>>,
}

impl Policy for Recording {
    fn name(&self) -> &'static str {
        "recording"
    }
    fn insert(&mut self, _: &dyn Frames, _: u32, _: u64) {}
    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let is_page = |&frame: &u32| frames.inspect(frame) != FrameState::NotCached;
        if !std::mem::replace(&mut self.named, true) {
            victims.extend((0..frames.count()).filter(is_page).take(wanted));
        }
    }
    fn restore(&mut self, frame: u32) {
        self.restored.lock().unwrap().push(frame);
    }
    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}
    fn resize(&mut self, frames: u32) {
        self.sizes.lock().unwrap().push(frames);
    }
}

#[test]
fn a_policy_learns_of_restored_victims_and_its_size() {
    let (_dir, path, _) = file_of(64 * 4096);
    let (restored, sizes) = (Arc::default(), Arc::default());
    let policy =
        Recording { named: false, restored: Arc::clone(&restored), sizes: Arc::clone(&sizes) };
    let cache = Cache::builder().capacity(64 << 20).policy(|_| Box::new(policy)).build().unwrap();
    let file = cache.open(&path).unwrap();
    let handle = file.page(9 * 4096).unwrap().unwrap();
    file.page(30 * 4096).unwrap().unwrap();
    let zone = cache.frames().zone();
    let is_pinned = |pfn| {
        let seen = zone.peek(pfn);
        seen.kind == CACHED && seen.owner_data as u32 == 9
    };
    let pinned = zone.pfns().position(is_pinned).unwrap() as u32;
    assert_eq!(cache.reclaim(10), 1, "one of two pages is pinned");
    assert_eq!(*restored.lock().unwrap(), [pinned]);

    cache.set_capacity(16 << 20).unwrap();
    let low = |blocks: u32| blocks * 512 / 256;
    assert_eq!(*sizes.lock().unwrap(), [32 * 512 - low(32), 8 * 512 - low(8)]);
    assert_eq!(cache.frames().zone().watermarks(), Watermarks { min: 0, low: 16, high: 64 });
    drop((handle, file));
    assert_nothing_leaked(&cache);
}

/// A miss evicts a batch while some frames are free, so none has to evict before it goes on.
#[test]
fn frames_are_freed_before_a_miss_finds_none() {
    let (_dir, path, _) = file_of(16 << 20);
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..6000 {
        file.read_at(&mut [0], random.u64(..4096) * 4096).unwrap();
        cache.quiesce();
    }
    let stats = cache.stats();
    assert!(stats.direct_reclaims == 0 && stats.reclaimed >= stats.misses - 2048, "{stats:?}");
    // At most the high watermark, and a batch.
    let free = cache.frames().zone().stats().free_frames;
    assert!((1..=32 + 32).contains(&free), "{free} frames are free");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A file of 512 MiB without memory, in which each byte is 7.
#[derive(Debug)]
struct Sevens;

impl Backing for Sevens {
    fn file_id(&self) -> FileId {
        FileId { space: "sevens", volume: 0, object: 0 }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: 512 << 20, change_token: [0; 4] })
    }

    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        for buffer in &mut *buffers {
            buffer.fill(7);
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

/// Misses that evict single pages do not share the allocator: the frames of a thread's victims go
/// to its own list, and from there to its next misses. Without that half of them came from there.
#[test]
fn a_miss_takes_a_frame_that_its_own_thread_evicted() {
    let cache: Cache = Cache::builder().capacity(64 << 20).io_threads(0).build().unwrap();
    let file = cache.open_backing(Arc::new(Sevens)).unwrap();
    let pages = (512 << 20) / 4096;
    let mut next = 0;
    let mut miss = |misses: u64| {
        let (stats, before) = (cache.stats(), cache.frames().zone().counters());
        while (cache.stats() - stats).misses < misses {
            // All pages in turn, in no equal steps, so that nothing is read ahead.
            next = (next * 5 + 12345) % pages;
            assert_eq!(file.read_at(&mut [0; 8], (next ^ next >> 8) * 4096).unwrap(), 8);
        }
        cache.frames().zone().counters().buddy_allocated - before.buddy_allocated
    };
    miss(40_000);
    let shared = miss(20_000);
    assert!(shared < 1000, "{shared} of 20000 frames came from the allocator of all threads");
    assert_eq!(cache.stats().direct_reclaims, 0);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A policy of a scan may keep most frames for other pages.
#[test]
fn the_time_of_uses_advances_where_pages_come_into_few_frames() {
    const PAGE: u64 = 4096;
    const PAGES: u64 = 20_000;
    let cache = Cache::new(16 << 20).unwrap();
    let memory = Memory::new(&[]);
    memory.set_len(PAGES * PAGE).unwrap();
    let file = cache.open_backing(Arc::new(memory)).unwrap();
    let zone = cache.frames().zone();
    let before = zone.uses_now();
    for page in 0..PAGES {
        file.read_exact_at(&mut [0; 8], page * PAGE).unwrap();
    }
    let (passed, units) = (zone.uses_now() - before, PAGES as u32 / zone.uses_unit());
    // The last pages may wait for their report.
    assert!(passed >= units - 4, "{passed} of {units}");
}

#[test]
fn of_equal_pages_the_reused_one_stays() {
    let (_dir, path, _) = file_of(64 * 4096);
    let cache =
        Cache::builder().capacity(2 << 20).policy(|_| Box::new(Clock::new())).build().unwrap();
    let file = cache.open(&path).unwrap();
    // No constant stride, so that nothing is read ahead.
    let pages = [3, 50, 21, 60, 5, 33, 14, 41];
    let read = |page: u64| assert_eq!(file.read_at(&mut [0], page * 4096).unwrap(), 1);
    for used in pages {
        for page in pages {
            read(page);
        }
        for pfn in cache.frames().zone().pfns() {
            cache.frames().zone().take_referenced(pfn);
        }
        read(used);
        assert_eq!(cache.reclaim(7), 7);
        let misses = cache.stats().misses;
        read(used);
        assert_eq!(cache.stats().misses, misses, "page {used} was evicted before unused pages");
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

/// `HotCold` must evict a hot page if all pages in its cold queue are pinned. Otherwise a reader
/// gets out of memory although pages that were read ahead can be freed.
#[test]
fn a_fully_pinned_cache_reports_it_and_recovers() {
    let (_dir, path, bytes) = file_of(3 << 20);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let mut handles: Vec<_> =
        (0..512).map(|page| file.page(page * 4096).unwrap().unwrap()).collect();
    // The pages leave the index, but stay pinned.
    file.invalidate();
    let error = file.read_at(&mut [0; 8], 2 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("2097152 are pinned"), "{error}");
    for (page, handle) in handles.iter().enumerate() {
        assert!(**handle == bytes[page * 4096..][..4096]);
    }
    handles.truncate(500);
    let mut buf = [0; 8];
    assert_eq!(file.read_at(&mut buf, 2 << 20).unwrap(), 8);
    assert_eq!(buf, bytes[2 << 20..][..8]);
    drop((file, handles));
    assert_nothing_leaked(&cache);
}

#[test]
fn migration_moves_a_page_under_its_readers() {
    let (_dir, path, bytes) = file_of(4096);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let handle = file.page(0).unwrap().unwrap();
    let zone = cache.frames().zone();
    let pfn = zone.pfns().find(|&pfn| zone.peek(pfn).kind == CACHED).unwrap();
    assert_eq!(cache.frames().migrate(pfn), Err(MigrateError::Busy));
    drop(handle);
    let moved_to = cache.frames().migrate(pfn).unwrap();
    assert_ne!(moved_to, pfn);
    assert!(cache.frames().migrate(pfn).is_err());
    assert!(cache.frames().migrate(folio_frames::Pfn::new(0)).is_err());
    let mut buf = vec![0; 4096];
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!((buf, cache.stats().misses), (bytes, 1));
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn threads_that_miss_one_page_read_it_once() {
    let (_dir, path, _) = file_of(64 * 4096);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    for round in 0..20 {
        let file = cache.open(&path).unwrap();
        let barrier = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for page in 0..64 {
                        barrier.wait();
                        file.read_at(&mut [0; 64], page * 4096).unwrap();
                    }
                });
            }
        });
        // Readahead under way keeps the mapping after the close, and the next round would find its
        // pages.
        cache.quiesce();
        assert_eq!(cache.stats().misses, 64 * (round + 1), "{:?}", cache.stats());
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn closing_and_opening_again_races_with_reclaim() {
    let (_dir, path, bytes) = file_of(16 * 4096);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                cache.reclaim(1);
            }
        });
        let openers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let file = cache.open(&path).unwrap();
                        let mut buf = vec![0; bytes.len()];
                        file.read_at(&mut buf, 0).unwrap();
                        assert!(buf == bytes);
                    }
                })
            })
            .collect();
        let results: Vec<_> = openers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    assert_nothing_leaked(&cache);
}

#[test]
fn reads_stay_right_under_reclaim_migration_and_offline() {
    let (_dir, path, bytes) = file_of(8 << 20);
    let cache: Cache = Cache::new(6 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let end = Instant::now() + Duration::from_secs(1);
    let [moves, offlines, reads] = [const { AtomicU64::new(0) }; 3];
    // On a busy machine one of them may not happen within a second.
    let all = || [&moves, &offlines, &reads].iter().all(|count| count.load(Ordering::Relaxed) > 0);
    let running =
        || Instant::now() < end || !all() && Instant::now() < end + Duration::from_secs(30);
    thread::scope(|scope| {
        for seed in 0..4 {
            let (file, bytes, reads) = (&file, &bytes, &reads);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut pinned = None;
                while running() {
                    let offset = random.usize(..bytes.len());
                    if random.u8(..) < 8 {
                        let handle = file.page(offset as u64).unwrap().unwrap();
                        assert!(*handle == bytes[offset..][..handle.len()]);
                        pinned = Some((offset, handle));
                    }
                    let mut buf = vec![0; random.usize(1..9000)];
                    let n = file.read_at(&mut buf, offset as u64).unwrap();
                    assert!(
                        buf[..n] == bytes[offset..bytes.len().min(offset + buf.len())],
                        "at {offset}"
                    );
                    if let Some((offset, handle)) = &pinned {
                        assert!(**handle == bytes[*offset..][..handle.len()], "a handle changed");
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while running() {
                cache.reclaim(64);
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            for pfn in std::iter::repeat_with(|| cache.frames().zone().pfns())
                .flatten()
                .take_while(|_| running())
            {
                moves.fetch_add(u64::from(cache.frames().migrate(pfn).is_ok()), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            for block in (0..cache.frames().zone().blocks()).cycle().take_while(|_| running()) {
                if let Ok(offline) = cache.frames().offline(block) {
                    offlines.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                    cache.frames().online(offline);
                }
            }
        });
        scope.spawn(|| {
            while running() {
                file.invalidate();
                thread::sleep(Duration::from_millis(20));
            }
        });
    });
    let counts = (moves.into_inner(), offlines.into_inner(), reads.into_inner());
    assert!(counts.0 > 0 && counts.1 > 0 && counts.2 > 0, "moves, offlines, reads: {counts:?}");
    drop(file);
    assert_nothing_leaked(&cache);
}
