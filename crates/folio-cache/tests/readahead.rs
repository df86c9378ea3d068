//! Extents and readahead: few requests, the right bytes, and errors only for readers of a bad page.

mod common;

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{assert_nothing_leaked, by_memory};
use folio_cache::policy::{Clock, FrameState, Frames, Policy};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, CACHED, Cache};
use parking_lot::{Condvar, Mutex};

const PAGE: u64 = 4096;

/// Returns memory of `pages` pages, each filled with its number as a `u64`.
fn memory(pages: u64) -> Memory {
    let bytes: Vec<u8> = (0..pages).flat_map(|page| page.to_le_bytes().repeat(512)).collect();
    Memory::new(&bytes)
}

#[track_caller]
fn assert_page(page: u64, bytes: &[u8]) {
    assert!(bytes == page.to_le_bytes().repeat(512), "not the bytes of page {page}");
}

/// A backing that calls `rule` before each fill.
struct Ruled {
    memory: Memory,
    rule: Box<dyn Fn(u64, u64) -> io::Result<()> + Send + Sync>,
}

impl Ruled {
    /// Returns a backing of `pages` pages. `rule` gets the first page of a request and its number
    /// of pages.
    fn new(
        pages: u64,
        rule: impl Fn(u64, u64) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { memory: memory(pages), rule: Box::new(rule) })
    }
}

impl std::fmt::Debug for Ruled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(f)
    }
}

impl Backing for Ruled {
    by_memory!(file_id, version);

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let bytes: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        (self.rule)(offset / PAGE, bytes as u64 / PAGE)?;
        self.memory.fill(offset, buffers)
    }
}

fn is_background() -> bool {
    thread::current().name() == Some("folio-fill")
}

#[test]
fn one_read_of_neighbours_is_one_request() {
    let memory = Arc::new(memory(300));
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut buf = vec![0; 256 * 4096];
    assert_eq!(file.read_at(&mut buf, 10 * PAGE).unwrap(), buf.len());
    (10..).zip(buf.chunks(4096)).for_each(|(page, bytes)| assert_page(page, bytes));
    assert_eq!(
        (memory.calls(Call::Fill), cache.stats().requests, cache.stats().misses),
        (1, 1, 256)
    );
    // Cached pages are not read again: one request before them, one after them.
    assert_eq!(file.read_at(&mut vec![0; 258 * 4096], 9 * PAGE).unwrap(), 258 * 4096);
    assert_eq!((cache.stats().requests, cache.stats().misses), (3, 258));
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_scan_is_read_ahead_in_few_requests_at_any_latency() {
    let memory = Arc::new(memory(9000));
    for delay in [Duration::ZERO, Duration::from_micros(100), Duration::from_millis(5)] {
        memory.heal();
        memory.inject(Call::Fill, 0, u64::MAX, Fault::Delay(delay));
        for backward in [false, true] {
            let cache: Cache = Cache::new(32 << 20).unwrap();
            let file = cache.open_backing(memory.clone()).unwrap();
            for n in 0..9000_u64 {
                let page = if backward { 8999 - n } else { n };
                let mut buf = [0; 8];
                file.read_at(&mut buf, page * PAGE + 800).unwrap();
                assert_eq!(buf, page.to_le_bytes());
            }
            cache.quiesce();
            let stats = cache.stats();
            // 3 requests before the scan is detected, then windows of 16, 32, 64 and 85 pages, a
            // share of the cache's 8192 pages. The scan does not fit into the cache, and no page is
            // evicted before its use.
            assert!(stats.requests < 120, "{delay:?}, {backward}: {stats:?}");
            assert_eq!(
                (stats.misses, stats.ahead),
                (9000, 8997),
                "{delay:?}, {backward}: {stats:?}"
            );
            drop(file);
            assert_nothing_leaked(&cache);
        }
    }
}

#[test]
fn random_reads_trigger_no_readahead() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let memory = Arc::new(Memory::new(&[]));
    memory.cut(1 << 40);
    let cache: Cache = Cache::new(32 << 20).unwrap();
    let file = cache.open_backing(memory).unwrap();
    let mut pages = BTreeSet::new();
    for _ in 0..4000 {
        let page = random.u64(..1 << 28);
        file.read_at(&mut [0; 64], page * PAGE + 5).unwrap();
        pages.insert(page);
    }
    cache.quiesce();
    let stats = cache.stats();
    assert_eq!(
        (stats.misses, stats.requests, stats.ahead),
        (pages.len() as u64, pages.len() as u64, 0)
    );
}

/// The scan reads ahead over the bad page, and the long read requests it together with good ones.
/// Neither may return its error to a reader of another page.
#[test]
fn the_error_of_a_page_reaches_only_its_readers() {
    const BAD: u64 = 100;
    let fails = |first, pages| {
        let has_bad = (first..first + pages).contains(&BAD);
        if has_bad { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    };
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let file = cache.open_backing(Ruled::new(300, fails)).unwrap();
    for _ in 0..2 {
        for page in 0..300 {
            let mut buf = [0; 4096];
            let read = file.read_at(&mut buf, page * PAGE);
            if page == BAD {
                assert_eq!(read.unwrap_err().raw_os_error(), Some(5));
            } else {
                assert_eq!(read.unwrap(), 4096);
                assert_page(page, &buf);
            }
        }
        cache.quiesce();
        file.invalidate();
        let mut buf = vec![0; 300 * 4096];
        assert_eq!(file.read_at(&mut buf, 50 * PAGE).unwrap(), 50 * 4096, "up to the bad page");
        (50..100).zip(buf.chunks(4096)).for_each(|(page, bytes)| assert_page(page, bytes));
        assert_eq!(file.read_at(&mut buf, BAD * PAGE).unwrap_err().raw_os_error(), Some(5));
        assert_eq!(file.read_at(&mut buf, (BAD + 1) * PAGE).unwrap(), 199 * 4096);
        cache.quiesce();
        file.invalidate();
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_reader_does_not_wait_for_the_requests_of_others() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let closed = Arc::clone(&gate);
    let waits = move |_, _| {
        let mut open = closed.0.lock();
        while is_background() && !*open {
            closed.1.wait(&mut open);
        }
        Ok(())
    };
    let cache: Cache = Cache::new(32 << 20).unwrap();
    let file = cache.open_backing(Ruled::new(4000, waits)).unwrap();
    let read = |page: u64| {
        let mut buf = [0; 4096];
        assert_eq!(file.read_at(&mut buf, page * PAGE).unwrap(), 4096);
        assert_page(page, &buf);
    };
    // More requests than can be in flight: two readers with strides, 16 pages each.
    for reader in [0, 2000] {
        (0..3).for_each(|n| read(reader + 7 * n));
    }
    assert_eq!(cache.stats().ahead, 32);
    // The later requests are not started, and these reads do not wait for the earlier ones. A page
    // that was not requested yet is read at once.
    for page in [2000 + 7 * 18, 2000 + 7 * 17, 2000 + 7 * 16, 999] {
        read(page);
    }
    *gate.0.lock() = true;
    gate.1.notify_all();
    read(21);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_panic_in_background_readahead_leaks_nothing() {
    let panics = |_, _| {
        assert!(!is_background(), "a panic of the backing, on purpose");
        Ok(())
    };
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let file = cache.open_backing(Ruled::new(200, panics)).unwrap();
    for page in 0..200 {
        let mut buf = [0; 4096];
        file.read_at(&mut buf, page * PAGE).unwrap();
        assert_page(page, &buf);
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_cache_dropped_during_readahead_leaks_nothing() {
    let memory = Arc::new(memory(1000));
    memory.inject(Call::Fill, 0, u64::MAX, Fault::Delay(Duration::from_millis(1)));
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let zone = cache.frames().zone();
    let file = cache.open_backing(memory.clone()).unwrap();
    for page in 0..30 {
        file.read_at(&mut [0; 64], page * PAGE).unwrap();
    }
    drop((file, cache));
    // The last request keeps the backing alive.
    let memory_is_ours = || Arc::strong_count(&memory) == 1;
    (0..2000)
        .take_while(|_| !memory_is_ours())
        .for_each(|_| thread::sleep(Duration::from_millis(5)));
    assert!(memory_is_ours());
    assert_eq!(zone.count_kind(CACHED), 0);
}

/// Notes how many pages were pinned when the policy learned of them.
#[derive(Debug)]
struct PinnedAtInsert(Clock, Arc<AtomicUsize>);

impl Policy for PinnedAtInsert {
    fn name(&self) -> &'static str {
        "pinned at insert"
    }

    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        let is_pinned = frames.inspect(frame) == FrameState::Pinned;
        self.1.fetch_add(usize::from(is_pinned), Ordering::SeqCst);
        self.0.insert(frames, frame, page);
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        self.0.pick_victims(frames, wanted, victims);
    }

    fn restore(&mut self, frame: u32) {
        self.0.restore(frame);
    }

    fn moved(&mut self, frames: &dyn Frames, from: u32, to: u32) {
        self.0.moved(frames, from, to);
    }

    fn resize(&mut self, frames: u32) {
        self.0.resize(frames);
    }
}

#[test]
fn pages_that_are_read_ahead_are_not_pinned() {
    let pinned = Arc::new(AtomicUsize::new(0));
    let policy = PinnedAtInsert(Clock::new(), Arc::clone(&pinned));
    let cache: Cache =
        Cache::builder().capacity(8 << 20).policy(|_| Box::new(policy)).build().unwrap();
    let file = cache.open_backing(Arc::new(memory(1024))).unwrap();
    file.prefetch(&[0..1 << 19, 1 << 19..1 << 20]);
    cache.quiesce();
    assert!(file.try_bytes(0, 4096).is_some(), "nothing was prefetched");
    assert_eq!(pinned.load(Ordering::SeqCst), 0);
}
