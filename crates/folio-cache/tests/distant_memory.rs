//! Local files and distant objects that need the same memory: what is in flight, or dirty, comes
//! back, so reads that need it wait, and none fails.

mod common;

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{Gated, OpenOnDrop, assert_nothing_leaked};
use folio_cache::testing::{Call, Distant, Fault, Memory};
use folio_cache::{Advice, Backing, Cache, File, PageHandle};
use pollster::block_on;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

fn zeroes(mib: usize) -> Memory {
    let memory = Memory::new(b"");
    memory.set_len((mib * MIB) as u64).unwrap();
    memory
}

/// Returns an object of a store that answers after a while.
fn open(cache: &Cache, latency: Duration) -> (File, Vec<u8>) {
    let mut random = fastrand::Rng::with_seed(7);
    let all: Vec<_> = (0..4 * MIB).map(|_| random.u8(1..)).collect();
    let distant = Distant::new(&all).with_latency(latency);
    (cache.open_async(Arc::new(distant)).unwrap(), all)
}

/// Returns a local file of zeroes, without readahead.
fn open_zeroes(cache: &Cache) -> File {
    cache.open_backing(Arc::new(zeroes(4))).unwrap().with_advice(Advice::Random)
}

/// Checks that the cache has all its memory, and nothing in flight.
fn is_whole(cache: &Cache) {
    cache.reclaim(usize::MAX);
    cache.quiesce();
    assert_nothing_leaked(cache);
}

/// Polls a future once, with a waker that does nothing.
fn poll_once<F: Future>(future: Pin<&mut F>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[test]
fn a_distant_read_waits_for_local_fills() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let (distant, all) = open(&cache, Duration::from_millis(20));
    let has_memory = || cache.frames().zone().stats().free_frames > 0;
    // A file leaves some of the memory to others.
    let files: Vec<_> = (0..40).map(|_| Gated::new(b"", |call, _| call == Call::Fill)).collect();
    thread::scope(|scope| {
        let mut opens = Vec::new();
        for (gated, arrivals) in files.iter().take_while(|_| has_memory()) {
            gated.memory.set_len(MIB as u64).unwrap();
            let local = cache.open_backing(gated.clone()).unwrap();
            opens.push(OpenOnDrop(gated));
            scope.spawn(move || local.read_at(&mut vec![0; MIB], 0).unwrap());
            arrivals.recv().unwrap();
        }
        assert!(!has_memory());
        let reads = [
            scope.spawn(|| block_on(distant.bytes_async(0, 3 * PAGE))),
            scope.spawn(|| distant.bytes(MIB as u64, 3 * PAGE)),
        ];
        // Much longer than a request waits where nothing is in flight.
        thread::sleep(Duration::from_millis(500));
        drop(opens);
        let [first, second] = reads.map(|read| read.join().unwrap().unwrap());
        assert_eq!(first, all[..3 * PAGE]);
        assert_eq!(second, all[MIB..MIB + 3 * PAGE]);
    });
    drop(distant);
    is_whole(&cache);
}

#[test]
fn reads_wait_for_distant_requests() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let (distant, all) = open(&cache, Duration::from_millis(500));
    let local = open_zeroes(&cache);
    for is_local in [true, false] {
        let mut request = Box::pin(distant.bytes_async(0, MIB / 4));
        poll_once(request.as_mut());
        let pinned = pin_free(&cache, &local);
        thread::scope(|scope| {
            let read = scope.spawn(|| {
                if is_local {
                    local.bytes(3 * MIB as u64, PAGE).map(|bytes| bytes[..] == [0; PAGE])
                } else {
                    distant.bytes(MIB as u64, PAGE).map(|bytes| bytes == all[MIB..MIB + PAGE])
                }
            });
            // Its pages can be evicted then.
            assert_eq!(block_on(request).unwrap(), all[..MIB / 4]);
            assert!(read.join().unwrap().unwrap(), "local: {is_local}");
        });
        drop(pinned);
        distant.invalidate();
        local.invalidate();
    }
    drop((local, distant));
    is_whole(&cache);
}

/// Pins all free memory.
fn pin_free(cache: &Cache, local: &File) -> Vec<PageHandle> {
    let mut pinned = Vec::new();
    while cache.frames().zone().stats().free_frames > 0 {
        pinned.extend(local.page((pinned.len() * PAGE) as u64).unwrap());
    }
    pinned
}

#[test]
fn reads_wait_for_dirty_pages() {
    [true, false].into_iter().for_each(waits_for_dirty_pages);
}

fn waits_for_dirty_pages(is_local: bool) {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let (distant, all) = open(&cache, Duration::from_millis(20));
    let slow = zeroes(1);
    slow.inject(Call::Write, 0, u64::MAX, Fault::Delay(Duration::from_millis(400)));
    let (written, local) = (cache.open_backing(Arc::new(slow)).unwrap(), open_zeroes(&cache));
    written.write_all_at(&vec![7; 8 * PAGE], 0).unwrap();
    let pinned = pin_free(&cache, &local);
    if is_local {
        assert_eq!(local.bytes(3 * MIB as u64, PAGE).unwrap()[..], [0; PAGE]);
    } else {
        assert_eq!(distant.bytes(MIB as u64, PAGE).unwrap(), all[MIB..MIB + PAGE]);
    }
    drop(pinned);
    written.sync_all().unwrap();
    drop((local, distant, written));
    is_whole(&cache);
}

/// The store has answered, but the future that would take the answer is not polled. Once others
/// need its memory, another task polls it.
#[test]
fn memory_of_a_future_that_is_held_is_not_waited_for() {
    let cache: Cache = Cache::new(2 * MIB).unwrap();
    let (distant, all) = open(&cache, Duration::from_millis(20));
    let local = open_zeroes(&cache);
    let mut held = Box::pin(distant.bytes_async(0, MIB / 4));
    poll_once(held.as_mut());
    let started = Instant::now();
    let mut pinned = Vec::new();
    let error = loop {
        match local.page((pinned.len() * PAGE) as u64) {
            Ok(page) => pinned.extend(page),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("0 are in flight"), "{error}");
    assert!(pinned.len() > 256, "{} pages", pinned.len());
    // A minute is the time after which a backing seems to hang.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    drop(pinned);
    assert_eq!(block_on(held).unwrap(), all[..MIB / 4]);
    drop((local, distant));
    is_whole(&cache);
}
