//! The capacity: growing, shrinking, and impossible requests.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{StopOnDrop, assert_nothing_leaked, file_of};
use folio_cache::policy::{Clock, Policy, S3Fifo, Sieve};
use folio_cache::testing::Memory;
use folio_cache::{CACHED, Cache};
use folio_frames::Peek;

#[test]
fn a_capacity_shrinks_and_grows_while_every_byte_is_read_right() {
    let (_dir, path, bytes) = file_of(12 << 20);
    let cache = Cache::builder().capacity(8 << 20).max_capacity(16 << 20).build().unwrap();
    assert_eq!((cache.capacity(), cache.frames().zone().stats().online_frames), (8 << 20, 4 * 512));
    let file = cache.open(&path).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            let mut random = fastrand::Rng::with_seed(3);
            let mut buf = vec![0; 9000];
            while !stop.load(Ordering::Relaxed) {
                let at = random.usize(..bytes.len() - buf.len());
                assert_eq!(file.read_at(&mut buf, at as u64).unwrap(), buf.len());
                assert!(buf == bytes[at..][..buf.len()], "at {at}");
            }
        });
        for capacity in [2, 16, 4, 6, 2, 12] {
            cache.set_capacity(capacity << 20).unwrap();
            assert_eq!(cache.frames().zone().stats().online_frames as usize, capacity / 2 * 512);
            let mut buf = vec![0; bytes.len()];
            assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
            assert!(buf == bytes);
        }
    });
    assert_eq!(cache.capacity(), 12 << 20);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn an_impossible_capacity_is_refused_and_changes_nothing() {
    let cache = Cache::builder().capacity(4 << 20).max_capacity(8 << 20).build().unwrap();
    for (bytes, named) in
        [(0, "0 bytes"), ((2 << 20) - 1, "2097151 bytes"), ((8 << 20) + 1, "8388609 bytes")]
    {
        let error = cache.set_capacity(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains(named) && error.to_string().contains("2097152 to 8388608"),
            "{error}"
        );
    }
    assert_eq!((cache.capacity(), cache.frames().zone().stats().online_frames), (4 << 20, 2 * 512));
    for bytes in [0, usize::MAX] {
        assert_eq!(Cache::new(bytes).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert!(
        Cache::builder().capacity(8 << 20).max_capacity(4 << 20).build().is_err(),
        "a capacity above the maximum was accepted"
    );
    let default = Cache::builder().build().unwrap();
    assert!(default.capacity() >= 2 << 20);
}

#[test]
fn a_capacity_below_the_pinned_bytes_reports_the_reached_one() {
    // Smaller than the capacity, so that nothing is reclaimed.
    let (_dir, path, bytes) = file_of(7 << 20);
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    file.read_at(&mut vec![0; bytes.len()], 0).unwrap();
    // One page in each of three blocks is pinned.
    let zone = cache.frames().zone();
    let is_in = |block, page| {
        let has = |seen: Peek| seen.kind == CACHED && seen.owner_data as u32 == page;
        zone.block_range(block).any(|pfn| has(zone.peek(pfn)))
    };
    let mut pinned: Vec<_> = (0..3)
        .map(|block| {
            let page = (0..1792).find(|&page| is_in(block, page)).unwrap();
            (page, file.page(u64::from(page) * 4096).unwrap().unwrap())
        })
        .collect();
    let error = cache.set_capacity(2 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(
        error.to_string().contains("6291456 bytes, not 2097152: 12288 bytes are pinned"),
        "{error}"
    );
    assert_eq!((cache.capacity(), zone.stats().online_frames), (6 << 20, 3 * 512));
    for (page, handle) in &pinned {
        assert!(**handle == bytes[*page as usize * 4096..][..4096], "page {page}");
    }
    pinned.clear();
    cache.set_capacity(2 << 20).unwrap();
    assert_eq!(cache.capacity(), 2 << 20);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn every_policy_works_with_a_changing_capacity() {
    type Make = fn(u32) -> Box<dyn Policy>;
    let all: [Make; 3] =
        [|_| Box::new(Clock::new()), |n| Box::new(Sieve::new(n)), |n| Box::new(S3Fifo::new(n))];
    let (_dir, path, bytes) = file_of(7 << 20);
    for make in all {
        let cache = Cache::builder().capacity(6 << 20).policy(make).build().unwrap();
        let file = cache.open(&path).unwrap();
        for capacity in [6, 2, 4, 2, 6] {
            cache.set_capacity(capacity << 20).unwrap();
            for _ in 0..2 {
                let mut buf = vec![0; bytes.len()];
                assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
                assert!(buf == bytes);
            }
        }
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// A reused frame has bytes of another file. A fill overwrites the whole frame, with zeroes past
/// the end of the file.
#[test]
fn nothing_of_one_file_is_ever_seen_in_another() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let secret = cache.open_backing(Arc::new(Memory::new(&vec![0xaa; 2 << 20]))).unwrap();
    secret.read_at(&mut vec![0; 2 << 20], 0).unwrap();
    let short = cache.open_backing(Arc::new(Memory::new(&[1; 4096 * 3 + 5]))).unwrap();
    short.read_at(&mut vec![0; 4096 * 4], 0).unwrap();
    drop(secret);
    let zone = cache.frames().zone();
    cache.quiesce();
    // A thread of the cache may keep the file open for a moment after its close.
    let end = Instant::now() + Duration::from_secs(10);
    while zone.count_kind(CACHED) > 4 && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    // The reclaimer may have evicted these pages while the other file was closed.
    short.read_at(&mut vec![0; 4096 * 4], 0).unwrap();
    let cached = zone.pfns().filter(|&pfn| zone.peek(pfn).kind == CACHED);
    let mut pages = 0;
    for pfn in cached {
        let folio = zone.try_get(pfn).unwrap();
        assert!(
            folio.as_slice().iter().all(|&byte| byte <= 1),
            "{pfn:?} has bytes of the other file"
        );
        pages += folio.order().frames();
    }
    assert_eq!(pages, 4);
}

/// Random reads of a sparse file of a terabyte need 4 KiB of index or more for each page. Indexes
/// have at most half of the capacity.
#[test]
fn a_large_index_has_half_the_capacity_until_the_last_close() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let sparse = cache.open_backing(Arc::new(folio_cache::LocalFile::new(file).unwrap())).unwrap();
    let online = || cache.frames().zone().stats().online_frames;
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        sparse.read_at(&mut [0; 1], random.u64(..1 << 40)).unwrap();
        assert!(cache.index_bytes() <= 4 << 20, "{:?}", cache.stats());
    }
    assert!(cache.index_bytes() >= 3 << 20 && cache.capacity() == 8 << 20);
    drop(sparse);
    // The threads of the cache may keep the file, or adjust the capacity, for a moment.
    let end = Instant::now() + Duration::from_secs(10);
    while cache.index_bytes() > 0 && Instant::now() < end {
        cache.quiesce();
        let _ = cache.open_backing(Arc::new(Memory::new(&[1]))).unwrap();
    }
    assert_eq!((online(), cache.index_bytes()), (4 * 512, 0));
    assert_nothing_leaked(&cache);
}

/// The watermarks of reclaim follow the current capacity, and an empty index costs nothing.
#[test]
fn the_watermarks_follow_the_capacity() {
    let cache = Cache::builder().capacity(4 << 20).max_capacity(64 << 20).build().unwrap();
    let low = || cache.frames().zone().watermarks().low;
    assert_eq!((low(), cache.index_bytes()), (4, 0));
    cache.set_capacity(64 << 20).unwrap();
    assert_eq!((low(), cache.index_bytes()), (64, 0));
    cache.set_capacity(16 << 20).unwrap();
    assert_eq!((low(), cache.index_bytes()), (16, 0));
}

/// Shrinking does not fail because of a page that is pinned a moment longer.
#[test]
fn a_shrinking_capacity_waits_for_short_pins() {
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 4 << 20]))).unwrap();
    // Every page, so that no block can go offline before.
    let pinned: Vec<_> = (0..).map_while(|page| file.page(page * 4096).ok().flatten()).collect();
    assert!(pinned.len() > 512, "{} pages", pinned.len());
    thread::scope(|scope| {
        scope.spawn(|| {
            while cache.capacity() > 2 << 20 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(20));
            drop(pinned);
        });
        cache.set_capacity(2 << 20).unwrap();
    });
    assert_eq!(cache.capacity(), 2 << 20);
}
