//! A sick file harms no other: its requests hang, fail forever, or are slow, while healthy files
//! beside it are read, written, flushed, synced, opened and closed.

mod common;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::assert_nothing_leaked;
use common::hanging::{Hanging, HealOnDrop, ends, within};
use common::healthy::assert_healthy;
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, File};

const EIO: i32 = 5;
const PAGE: u64 = 4096;

/// Makes one call on the sick file in a thread of its own, which will hang.
fn call(file: &File, call: Call) -> thread::JoinHandle<()> {
    let file = file.clone();
    thread::spawn(move || match call {
        Call::Version => _ = file.revalidate().unwrap(),
        Call::Fill => {
            file.invalidate();
            file.read_at(&mut [0; 8], 280 * PAGE).unwrap();
        }
        Call::Write => file.flush().unwrap(),
        Call::SetLen => file.set_len(1000 * PAGE).unwrap(),
        _ => file.sync_data().unwrap(),
    })
}

#[test]
fn a_healthy_file_works_beside_one_with_calls_that_hang() {
    for hangs in [Call::Write, Call::Sync, Call::Version, Call::SetLen, Call::Fill] {
        let cache: Cache = Cache::new(8 << 20).unwrap();
        let sick = Hanging::new(&vec![1; 300 * 4096]);
        let file = cache.open_backing(sick.clone()).unwrap();
        // 1 MiB is dirty.
        file.write_at(&vec![7; 1 << 20], 0).unwrap();
        sick.hang(hangs);
        let _heal = HealOnDrop(vec![sick.clone()]);
        let calls = [(); 3].map(|()| call(&file, hangs));
        sick.wait_until_it_hangs();
        assert_healthy(&cache, &format!("a {hangs:?} that hangs"));
        let quiet = cache.clone();
        ends("quiesce", move || quiet.quiesce());
        assert!(calls.iter().all(|call| !call.is_finished()), "{hangs:?} does not hang");
        sick.heal();
        for call in calls {
            call.join().unwrap();
        }
        file.sync_data().unwrap();
        assert!(sick.memory.durable()[..1 << 20] == vec![7; 1 << 20], "{hangs:?}");
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Fills that hang take all threads of the pool. Fills of other files get threads all the same.
#[test]
fn a_future_of_a_healthy_file_is_read_beside_many_that_hang() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    cache.set_io_threads(4);
    let sick = Hanging::new(&vec![1; 300 * 4096]);
    let file = cache.open_backing(sick.clone()).unwrap();
    sick.hang(Call::Fill);
    let heal = HealOnDrop(vec![sick.clone()]);
    let mut bufs = vec![[0; 8]; 40];
    let mut futures: Vec<_> = (0..)
        .zip(&mut bufs)
        .map(|(n, buf)| Box::pin(file.read_at_async(buf, n * 7 * PAGE)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    assert!(futures.iter_mut().all(|future| future.as_mut().poll(&mut context).is_pending()));
    let healthy = cache.open_backing(Arc::new(Memory::new(&vec![2; 100 * 4096]))).unwrap();
    let reading = healthy.clone();
    ends("a future", move || {
        for n in 0..100 {
            let mut buf = [0; 8];
            assert_eq!(pollster::block_on(reading.read_at_async(&mut buf, n * PAGE)).unwrap(), 8);
            assert_eq!(buf, [2; 8]);
        }
    });
    drop(heal);
    for future in futures {
        assert_eq!(pollster::block_on(future).unwrap(), 8);
    }
    assert!(bufs.iter().all(|buf| *buf == [1; 8]));
    drop((file, healthy));
    assert_nothing_leaked(&cache);
}

/// Polls futures of many pages once: those that are pending wait for a thread, or hang.
fn hang_futures<'f>(file: &'f File, bufs: &'f mut [[u8; 8]]) -> Vec<Pin<Box<Read<'f>>>> {
    let mut futures: Vec<Pin<Box<Read<'f>>>> = (0..)
        .zip(bufs)
        .map(|(n, buf)| Box::pin(file.read_at_async(buf, n * n % 299 * PAGE)) as _)
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    futures.retain_mut(|future| future.as_mut().poll(&mut context).is_pending());
    futures
}

type Read<'f> = dyn Future<Output = io::Result<usize>> + 'f;

/// Many sick files, each with more fetches than there are threads: each leaves half of the free
/// threads to the others, until its work is slow. A unit test of the queue needs no clock.
#[test]
fn hung_fetches_leave_threads_to_other_files() {
    const THREADS: usize = 16;
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let sick = [(); 3].map(|()| Hanging::new(&vec![1; 300 * 4096]));
    let files = sick.each_ref().map(|sick| cache.open_backing(sick.clone()).unwrap());
    for sick in &sick {
        sick.hang(Call::Fill);
    }
    let heal = HealOnDrop(sick.to_vec());
    let mut bufs = [(); 3].map(|()| vec![[0; 8]; 200]);
    let began = Instant::now();
    let futures: Vec<_> =
        files.iter().zip(&mut bufs).map(|(file, bufs)| hang_futures(file, bufs)).collect();
    for sick in &sick {
        sick.wait_until_it_hangs();
    }
    let healthy = cache.open_backing(Arc::new(Memory::new(&vec![2; 100 * 4096]))).unwrap();
    let reading = healthy.clone();
    ends("a future", move || {
        for n in 0..100 {
            let mut buf = [0; 8];
            assert_eq!(pollster::block_on(reading.read_at_async(&mut buf, n * PAGE)).unwrap(), 8);
        }
    });
    let hung = sick.each_ref().map(|sick| sick.hung.load(Ordering::SeqCst));
    let is_slow = began.elapsed() >= Duration::from_millis(100);
    assert!(is_slow || hung.iter().sum::<usize>() < 2 * THREADS, "{hung:?}");
    // They wait for threads for ever, and nothing waits for them.
    let waiting = cache.clone();
    ends("quiesce", move || waiting.quiesce());
    drop(heal);
    for future in futures.into_iter().flatten() {
        assert_eq!(pollster::block_on(future).unwrap(), 8);
    }
    drop((files, healthy));
    assert_nothing_leaked(&cache);
}

/// More fetches hang than there can be threads.
#[test]
fn hundreds_of_hung_fetches_leave_a_thread_to_a_healthy_file() {
    let cache: Cache = Cache::new(32 << 20).unwrap();
    let sick: Vec<_> = (0..40).map(|_| Hanging::new(&vec![1; 300 * 4096])).collect();
    let files: Vec<_> = sick.iter().map(|sick| cache.open_backing(sick.clone()).unwrap()).collect();
    for sick in &sick {
        sick.hang(Call::Fill);
    }
    let heal = HealOnDrop(sick.clone());
    let mut bufs: Vec<_> = sick.iter().map(|_| vec![[0; 8]; 20]).collect();
    let futures: Vec<_> =
        files.iter().zip(&mut bufs).map(|(file, bufs)| hang_futures(file, bufs)).collect();
    let healthy = cache.open_backing(Arc::new(Memory::new(&vec![2; 100 * 4096]))).unwrap();
    // At any time: soon after the sick ones began, and later.
    for round in 0..4 {
        let reading = healthy.clone();
        ends("a future", move || {
            reading.invalidate();
            for n in 0..25 {
                let (mut buf, page) = ([0; 8], round * 25 + n);
                let read = reading.read_at_async(&mut buf, page * PAGE);
                assert_eq!(pollster::block_on(read).unwrap(), 8);
            }
        });
        thread::sleep(Duration::from_secs(1));
    }
    drop(heal);
    for future in futures.into_iter().flatten() {
        assert_eq!(pollster::block_on(future).unwrap(), 8);
    }
    drop((files, healthy));
    assert_nothing_leaked(&cache);
}

/// Fills that hang hold memory: each file leaves half of what is free to the others.
#[test]
fn hung_fills_of_large_ranges_leave_memory_to_other_files() {
    const MIB: usize = 1 << 20;
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let sick = [(); 2].map(|()| Hanging::new(&vec![1; 20 * MIB]));
    let files = sick.each_ref().map(|sick| cache.open_backing(sick.clone()).unwrap());
    for sick in &sick {
        sick.hang(Call::Fill);
    }
    let heal = HealOnDrop(sick.to_vec());
    let readers: Vec<_> = (0..40)
        .map(|n| {
            let file = files[n % 2].clone();
            thread::spawn(move || {
                let mut buf = vec![0; MIB];
                assert_eq!(file.read_at(&mut buf, (n / 2 * MIB) as u64).unwrap(), MIB);
                assert!(buf.iter().all(|&byte| byte == 1));
            })
        })
        .collect();
    within("the readers do not come", || {
        sick.iter().all(|sick| sick.hung.load(Ordering::SeqCst) > 1)
    });
    let memory = Arc::new(Memory::new(&vec![2; 100 * 4096]));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    let cache_of_other = cache.clone();
    let file = healthy.clone();
    ends("a healthy file", move || {
        let mut buf = vec![0; 100 * 4096];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), buf.len());
        file.invalidate();
        assert_eq!(pollster::block_on(file.read_at_async(&mut buf, 0)).unwrap(), buf.len());
        assert_eq!(file.write_at(&buf, 4096).unwrap(), buf.len());
        file.sync_data().unwrap();
        assert_eq!(memory.durable().len(), 101 * 4096);
        let other = cache_of_other.open_backing(Arc::new(Memory::new(&buf))).unwrap();
        assert_eq!(other.bytes(0, buf.len()).unwrap(), buf);
        other.close().unwrap();
    });
    drop(heal);
    for reader in readers {
        reader.join().unwrap();
    }
    drop((files, healthy));
    assert_nothing_leaked(&cache);
}

#[test]
fn quiesce_does_not_wait_for_fills_that_hang() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let sick = Hanging::new(&vec![1; 300 * 4096]);
    let file = cache.open_backing(sick.clone()).unwrap();
    sick.hang(Call::Fill);
    let heal = HealOnDrop(vec![sick.clone()]);
    let mut buf = [0; 8];
    let mut future = Box::pin(file.read_at_async(&mut buf, 0));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    sick.wait_until_it_hangs();
    let waiting = cache.clone();
    ends("quiesce", move || waiting.quiesce());
    drop(heal);
    assert_eq!(pollster::block_on(future).unwrap(), 8);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The flusher meets the hung file first, in most orders of the files.
#[test]
fn the_flusher_writes_healthy_files_beside_many_hung_ones() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let sick: Vec<_> = (0..100).map(|_| Hanging::new(b"old")).collect();
    let files: Vec<_> = sick
        .iter()
        .map(|memory| {
            let file = cache.open_backing(memory.clone()).unwrap();
            file.write_at(b"new", 0).unwrap();
            memory.hang(Call::Write);
            file
        })
        .collect();
    let heal = HealOnDrop(sick.clone());
    within("not all hang", || sick.iter().all(|memory| memory.hung.load(Ordering::SeqCst) > 0));
    let memory = Arc::new(Memory::new(b"old"));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    healthy.write_at(b"new", 0).unwrap();
    within("the flusher hangs", || memory.contents() == b"new");
    // One request of each file: the flusher does not come again.
    assert!(sick.iter().all(|memory| memory.hung.load(Ordering::SeqCst) == 1));
    assert_eq!(cache.unwritten().len(), 100);
    drop(heal);
    drop((files, healthy));
    assert_nothing_leaked(&cache);
    assert!(sick.iter().all(|memory| memory.memory.contents() == b"new"));
}

/// Writers of a healthy file write as often themselves as without the sick file: never, or past the
/// limit of their own pages.
fn throttled_beside(cache: &Cache) -> u64 {
    let memory = Arc::new(Memory::new(b""));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    let before = cache.stats().throttled;
    for round in 0..200 {
        healthy.write_at(&[round as u8; 4096], round % 50 * PAGE).unwrap();
    }
    let throttled = cache.stats().throttled - before;
    healthy.close().unwrap();
    throttled
}

#[test]
fn a_hung_file_at_the_dirty_limit_throttles_no_other() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let sick = Hanging::new(b"");
    let file = cache.open_backing(sick.clone()).unwrap();
    sick.hang(Call::Write);
    let _heal = HealOnDrop(vec![sick.clone()]);
    let writer = thread::spawn({
        let file = file.clone();
        move || (0..200).for_each(|page| _ = file.write_at(&[1; 4096], page * PAGE).unwrap())
    });
    sick.wait_until_it_hangs();
    within("it is not listed", || cache.unwritten().len() == 1);
    within("its writer is not throttled", || cache.stats().throttled > 0);
    assert!(!writer.is_finished());
    assert_eq!(throttled_beside(&cache), 0);
    let listed = cache.unwritten();
    assert_eq!((listed[0].file_id, listed[0].is_open), (sick.file_id(), true));
    assert_eq!(listed[0].error.kind(), io::ErrorKind::TimedOut);
    assert!(listed[0].dirty_bytes > 100 * PAGE, "{listed:?}");
    sick.heal();
    writer.join().unwrap();
    file.sync_data().unwrap();
    assert!(cache.unwritten().is_empty());
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_failing_file_is_tried_rarely_and_throttles_no_other() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let sick = Arc::new(Memory::new(b""));
    sick.inject(Call::Write, 0, u64::MAX, Fault::Error(EIO));
    let file = cache.open_backing(sick.clone()).unwrap();
    let error = (0..).find_map(|page| file.write_at(&[1; 4096], page * PAGE).err()).unwrap();
    assert_eq!(error.raw_os_error(), Some(EIO));
    drop(file);
    let before = sick.calls(Call::Write);
    for _ in 0..20 {
        assert_eq!(throttled_beside(&cache), 0);
    }
    thread::sleep(Duration::from_secs(2));
    assert!(sick.calls(Call::Write) - before <= 4, "{}", sick.calls(Call::Write) - before);
    let listed = cache.unwritten();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].file_id, listed[0].is_open), (sick.file_id(), false));
    assert_eq!(listed[0].error.raw_os_error(), Some(EIO));
    // Memory is short: it is tried for that, but misses of the other file do not fail.
    let other = cache.open_backing(Arc::new(Memory::new(&vec![3; 4 << 20]))).unwrap();
    let mut buf = vec![0; 4 << 20];
    assert_eq!(other.read_at(&mut buf, 0).unwrap(), 4 << 20);
    drop(other);
    assert_eq!(cache.discard(sick.file_id()).unwrap(), listed[0].dirty_bytes);
    assert_eq!((cache.unwritten().len(), cache.discard(sick.file_id()).unwrap()), (0, 0));
    assert_eq!(Arc::strong_count(&sick), 1, "the file is not released");
    assert!(sick.contents().is_empty());
    assert_nothing_leaked(&cache);
}

/// A slow file is always at the limit of dirty pages, and no request of it hangs.
#[test]
fn a_slow_file_leaves_the_others_a_share_of_the_limit() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let slow = Arc::new(Memory::new(b""));
    slow.inject(Call::Write, 0, u64::MAX, Fault::Delay(Duration::from_millis(100)));
    let file = cache.open_backing(slow.clone()).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..1500).for_each(|page| _ = file.write_at(&[1; 4096], page * PAGE).unwrap());
        });
        within("the writer is not throttled", || cache.stats().throttled > 0);
        let memory = Arc::new(Memory::new(b""));
        let healthy = cache.open_backing(memory.clone()).unwrap();
        let begin = Instant::now();
        (0..5000).for_each(|n| _ = healthy.write_at(&[2; 4096], n % 100 * PAGE).unwrap());
        // Without a share, each page is written alone.
        assert!(memory.calls(Call::Write) < 500, "{} writes", memory.calls(Call::Write));
        assert!(writer.is_finished() || begin.elapsed() < Duration::from_secs(5));
    });
    file.sync_data().unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A flush of all files has the healthy ones written before it waits for the hung one.
#[test]
fn a_flush_of_all_files_writes_the_healthy_ones() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let sick = Hanging::new(b"");
    let file = cache.open_backing(sick.clone()).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    sick.hang(Call::Write);
    let _heal = HealOnDrop(vec![sick.clone()]);
    let memories: Vec<_> = (0..10).map(|_| Arc::new(Memory::new(b"old"))).collect();
    let files: Vec<_> = memories
        .iter()
        .map(|memory| {
            let file = cache.open_backing(memory.clone()).unwrap();
            file.write_at(b"new", 0).unwrap();
            file
        })
        .collect();
    let flushing = cache.clone();
    let flush = thread::spawn(move || flushing.flush());
    within("the healthy files wait", || memories.iter().all(|memory| memory.contents() == b"new"));
    assert!(!flush.is_finished());
    sick.heal();
    flush.join().unwrap().unwrap();
    assert_eq!(sick.memory.contents(), [1; 4096]);
    drop((file, files));
    assert_nothing_leaked(&cache);
}
