//! An allocation waits for memory that is in flight, and fails soon if all of it is pinned. A
//! capacity that cannot be reached is refused soon.

mod common;

use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{Gated, assert_nothing_leaked};
use folio_cache::policy::{Clock, HotCold, Policy, S3Fifo, Sieve};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, File, ReadRequest};
use pollster::block_on;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Zeroes of which each fill takes a while.
fn slow(bytes: usize, delay: Duration) -> Arc<Memory> {
    let memory = Memory::new(b"");
    memory.set_len(bytes as u64).unwrap();
    memory.inject(Call::Fill, 0, u64::MAX, Fault::Delay(delay));
    Arc::new(memory)
}

/// Returns the time that this thread has run.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn readers_wait_for_fills_in_flight() {
    for (readers, delay) in [(3, 300), (64, 20)] {
        let cache: Cache = Cache::new(2 * MIB).unwrap();
        let memory = slow(readers * MIB, Duration::from_millis(delay));
        let file = cache.open_backing(memory).unwrap();
        thread::scope(|scope| {
            for reader in 0..readers {
                let file = &file;
                scope.spawn(move || {
                    let mut buf = vec![1; MIB];
                    assert_eq!(file.read_at(&mut buf, (reader * MIB) as u64).unwrap(), MIB);
                    assert!(buf.iter().all(|&byte| byte == 0));
                });
            }
        });
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn futures_wait_for_fills_in_flight() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let file = cache.open_backing(slow(24 * MIB, Duration::from_millis(50))).unwrap();
    thread::scope(|scope| {
        for reader in 0..24 {
            let file = &file;
            scope.spawn(move || {
                let mut buf = vec![1; MIB];
                let read = file.read_at_async(&mut buf, (reader * MIB) as u64);
                assert_eq!(block_on(read).unwrap(), MIB);
            });
        }
    });
}

#[test]
fn writers_wait_for_writeback_in_flight() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let memory = Arc::new(Memory::new(b""));
    memory.inject(Call::Write, 0, u64::MAX, Fault::Delay(Duration::from_millis(100)));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.set_len((8 * MIB) as u64).unwrap();
    thread::scope(|scope| {
        for writer in 0..8 {
            let file = &file;
            scope.spawn(move || {
                let bytes = vec![7; MIB];
                let mut done = 0;
                while done < MIB {
                    done += file.write_at(&bytes[done..], (writer * MIB + done) as u64).unwrap();
                }
            });
        }
    });
    file.sync_data().unwrap();
    assert!(memory.contents().iter().all(|&byte| byte == 7));
}

#[test]
fn a_fill_that_hangs_is_waited_for_without_cpu_time() {
    let (gated, arrivals) = Gated::new(b"", |call, _| call == Call::Fill);
    gated.memory.set_len((3 * MIB) as u64).unwrap();
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    cache.set_io_threads(0);
    let file = cache.open_backing(gated.clone()).unwrap();
    let read = |at: usize| {
        let before = cpu_time();
        file.read_at(&mut vec![0; MIB], (at * MIB) as u64).unwrap();
        cpu_time().saturating_sub(before)
    };
    thread::scope(|scope| {
        let open = common::OpenOnDrop(&gated);
        scope.spawn(|| read(0));
        scope.spawn(|| read(1));
        // Both have all of the memory.
        (0..2).for_each(|_| _ = arrivals.recv().unwrap());
        let third = scope.spawn(|| read(2));
        thread::sleep(Duration::from_secs(1));
        assert!(!third.is_finished());
        drop(open);
        let time = third.join().unwrap();
        assert!(time < Duration::from_millis(500), "{time:?}");
    });
}

fn policies() -> [fn(u32) -> Box<dyn Policy>; 4] {
    [
        |frames| Box::new(HotCold::new(frames)),
        |frames| Box::new(S3Fifo::new(frames)),
        |frames| Box::new(Sieve::new(frames)),
        |_| Box::new(Clock::new()),
    ]
}

/// Pins pages from the first on until there is no memory. The cache has no threads: one that evicts
/// keeps a folio from being split for a moment, and a page that is pinned then is a copy, or pins
/// the whole folio.
fn pin_all(file: &File) -> Vec<folio_cache::PageHandle> {
    let pages = (0..).map_while(|page| file.page((page * PAGE) as u64).ok().flatten());
    pages.collect()
}

#[test]
fn an_error_of_a_pinned_cache_takes_little_cpu_time() {
    for make in policies() {
        let cache: Cache =
            Cache::builder().capacity(128 * MIB).io_threads(0).policy(make).build().unwrap();
        let file = cache.open_backing(slow(256 * MIB, Duration::ZERO)).unwrap();
        let mut pinned = pin_all(&file);
        assert_eq!(pinned.len(), 128 * MIB / PAGE);
        for is_indexed in [true, false] {
            for _ in 0..3 {
                let before = cpu_time();
                let error = file.page((200 * MIB) as u64).unwrap_err();
                // A debug build on a busy machine. Scans of all pages take seconds.
                let time = cpu_time().saturating_sub(before);
                assert!(time < Duration::from_millis(200), "{time:?}");
                assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                let text = error.to_string();
                let all = format!("{} are pinned by handles, 0 are dirty", 128 * MIB);
                assert!(text.contains(&all) && text.contains("0 are in flight"), "{text}");
            }
            // One page of all is found.
            pinned.swap_remove(pinned.len() / 3);
            pinned.push(
                file.page((200 * MIB + usize::from(is_indexed) * PAGE) as u64).unwrap().unwrap(),
            );
            file.invalidate();
        }
        drop((file, pinned));
        assert_nothing_leaked(&cache);
    }
}

/// Fails only when all is pinned, whatever the size of the cache.
#[test]
fn the_only_page_that_is_not_pinned_is_found() {
    const BYTES: usize = 512 * MIB;
    let cache: Cache = Cache::builder().capacity(BYTES).io_threads(0).build().unwrap();
    let file = cache.open_backing(slow(2 * BYTES, Duration::ZERO)).unwrap();
    let mut pinned = pin_all(&file);
    // The index may have taken a block of the capacity.
    let online = cache.frames().zone().stats().online_frames as usize;
    assert!(online >= BYTES / PAGE - 512, "{online} frames are online");
    assert_eq!(pinned.len(), online);
    for round in 1..4 {
        let missing = || file.page((BYTES + round * PAGE) as u64);
        assert_eq!(missing().unwrap_err().kind(), ErrorKind::OutOfMemory);
        pinned.swap_remove(pinned.len() / round - 1);
        pinned.push(missing().unwrap().unwrap());
    }
}

#[test]
fn misses_beside_pinned_pages_cost_the_same() {
    for make in policies() {
        let cache: Cache = Cache::builder().capacity(128 * MIB).policy(make).build().unwrap();
        let file = cache.open_backing(slow(256 * MIB, Duration::ZERO)).unwrap();
        let mut pinned = pin_all(&file);
        // Every thousandth page is not pinned.
        let mut page = 0;
        pinned.retain(|_| {
            page += 1;
            page % 1000 > 0
        });
        let started = Instant::now();
        for miss in 0..10_000 {
            let page = 128 * 256 + miss * 7919 % (128 * 256);
            assert_eq!(file.read_at(&mut [0; 1], (page * PAGE) as u64).unwrap(), 1);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        // All become evictable at once.
        pinned.clear();
        cache.quiesce();
        let mut freed = 0;
        while freed < 100 * 256 {
            let more = cache.reclaim(1000);
            assert!(more > 0, "{freed} pages were evicted");
            freed += more;
        }
    }
}

#[test]
fn an_impossible_shrink_is_refused_soon_and_gives_back_the_rest() {
    for is_indexed in [true, false] {
        let cache: Cache = Cache::new(64 * MIB).unwrap();
        let file = cache.open_backing(slow(64 * MIB, Duration::ZERO)).unwrap();
        let all = pin_all(&file);
        // One page in each block, except the first four.
        let zone = cache.frames().zone();
        let frames = zone.pfns().skip(4 * 512 + 77).step_by(512);
        let kept: Vec<_> = frames.map(|pfn| zone.peek(pfn).owner_data as u32).collect();
        let mut page = 0;
        let mut pinned = all;
        pinned.retain(|_| {
            page += 1;
            kept.contains(&(page - 1))
        });
        assert_eq!(pinned.len(), 28);
        if !is_indexed {
            file.invalidate();
        }
        let (started, before) = (Instant::now(), cpu_time());
        let error = cache.set_capacity(2 * MIB).unwrap_err();
        let time = cpu_time().saturating_sub(before);
        assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        assert!(time < Duration::from_secs(1), "{time:?}");
        // The pages that are pinned need their blocks, and no other.
        assert_eq!(cache.capacity(), 28 * 2 * MIB);
        drop(pinned);
        cache.set_capacity(2 * MIB).unwrap();
    }
}

/// A call that makes many requests waits once, and so do many futures of one thread: otherwise this
/// takes 40 s.
#[test]
fn all_that_fail_for_want_of_memory_fail_together() {
    let cache: Cache = Cache::builder().capacity(2 * MIB).io_threads(1).build().unwrap();
    let file = cache.open_backing(slow(16 * MIB, Duration::ZERO)).unwrap();
    let pinned = pin_all(&file);
    let started = Instant::now();
    let mut bufs = vec![[0; 10]; 250];
    let offset = |n: usize| (8 * MIB + 2 * n * PAGE) as u64;
    let read = |(n, buf)| ReadRequest::new(buf, offset(n));
    let mut reads: Vec<_> = bufs.iter_mut().map(|buf| &mut buf[..]).enumerate().map(read).collect();
    file.read_many(&mut reads);
    let kind = |error: std::io::Error| error.kind();
    for read in reads {
        assert_eq!(read.result.map_err(kind), Err(ErrorKind::OutOfMemory));
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut futures: Vec<_> = (0..250).map(|n| Box::pin(file.bytes_async(offset(n), 10))).collect();
    for future in &mut futures {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    for future in futures {
        assert_eq!(block_on(future).map_err(kind), Err(ErrorKind::OutOfMemory));
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // A later call looks again.
    drop(pinned);
    assert_eq!(file.read_at(&mut [0; 10], offset(0)).unwrap(), 10);
    assert_eq!(block_on(file.bytes_async(offset(1), 10)).unwrap().len(), 10);
}

/// Results that their futures do not take pin a part of the memory only.
#[test]
fn unpolled_results_leave_memory_to_others() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let file = cache.open_backing(slow(16 * MIB, Duration::ZERO)).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut futures: Vec<_> =
        (0..4096).map(|page| Box::pin(file.page_async((page * PAGE) as u64))).collect();
    for future in &mut futures {
        if let Poll::Ready(page) = future.as_mut().poll(&mut context) {
            assert!(page.unwrap().is_some());
        }
    }
    cache.quiesce();
    assert_eq!(file.read_at(&mut vec![0; MIB], 0).unwrap(), MIB);
    drop(futures);
    let futures: Vec<_> = (0..4096).map(|page| file.page_async((page * PAGE) as u64)).collect();
    for future in futures {
        assert!(block_on(future).unwrap().is_some());
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

/// All memory is pinned or cannot be written. To cut a file off gives some of it back.
#[test]
fn a_truncation_that_frees_memory_needs_none() {
    let cache: Cache = Cache::builder().capacity(2 * MIB).io_threads(0).build().unwrap();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.append(&vec![7; 100 * PAGE]).unwrap();
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(28));
    let other = cache.open_backing(slow(4 * MIB, Duration::ZERO)).unwrap();
    let pinned = pin_all(&other);
    assert!(pinned.len() >= 400, "{} pages", pinned.len());
    file.set_len(100).unwrap();
    assert_eq!(file.len(), 100);
    assert!(cache.frames().zone().stats().free_frames >= 98);
    memory.heal();
    file.sync_data().ok();
    file.sync_data().unwrap();
    assert_eq!(memory.contents(), [7; 100]);
}
