//! Distant stores: advice, what is requested ahead of a reader, and what drives it.

mod common;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{end_read_ahead, eventually};
use folio_cache::testing::{Distant, DistantFault};
use folio_cache::{Advice, BoxFuture, Cache, File, Preferences};
use futures_core::Stream as _;
use parking_lot::Mutex;
use pollster::block_on;

const PAGE: usize = 4096;

fn bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(1..)).collect()
}

fn preferences(request_bytes: u64) -> Preferences {
    Preferences::default().request_bytes(request_bytes)
}

fn fetched(distant: &Distant) -> usize {
    distant.requests().iter().map(|range| (range.end - range.start) as usize).sum()
}

/// A spawner with a thread for each future.
fn threads(count: &Arc<AtomicUsize>) -> impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static {
    let count = Arc::clone(count);
    move |future| {
        count.fetch_add(1, Ordering::Relaxed);
        thread::spawn(|| block_on(future));
    }
}

#[test]
fn prefetched_ranges_are_there_when_they_are_read() {
    let all = bytes(1 << 20);
    let spawned = Arc::new(AtomicUsize::new(0));
    for with_spawner in [false, true] {
        let builder = Cache::builder().capacity(16 << 20);
        let builder = if with_spawner { builder.spawner(threads(&spawned)) } else { builder };
        let cache = builder.build().unwrap();
        let distant = Arc::new(Distant::new(&all).with_latency(Duration::from_millis(5)));
        let file = cache.open_async_with(distant.clone(), &distant.now()).unwrap();
        file.prefetch(&[0..10_000, 500_000..600_000, 2 << 20..3 << 20]);
        eventually("the pages are cached", || file.try_bytes(500_000, 100_000).is_some());
        eventually("the pages are cached", || file.try_bytes(0, 10_000).is_some());
        assert_eq!(file.try_bytes(5, 9_995).unwrap(), all[5..10_000]);
        assert_eq!(distant.requests().len(), 2);
        // Again: everything is there.
        file.prefetch(from_ref(&(0..10_000)));
        assert_eq!(file.bytes(0, 100).unwrap(), all[..100]);
        assert_eq!(distant.requests().len(), 2);
        file.evict(0..9_000);
        assert!(file.try_bytes(0, 10).is_none() && file.try_bytes(4096, 10).is_none());
        assert!(file.try_bytes(8192, 10).is_some(), "not wholly in the range");
        end_read_ahead(&cache, &distant, file);
    }
    assert_eq!(spawned.load(Ordering::Relaxed), 2);
}

#[test]
fn without_threads_and_spawner_nothing_is_prefetched() {
    let cache = Cache::builder().capacity(4 << 20).io_threads(0).build().unwrap();
    let distant = Arc::new(Distant::new(&bytes(100_000)).with_latency(Duration::from_millis(2)));
    let file = cache.open_async(distant.clone()).unwrap();
    file.prefetch(from_ref(&(0..100_000)));
    assert_eq!((distant.in_flight(), distant.requests().len()), (0, 0));
    // Readers drive their own requests.
    assert_eq!(file.bytes(0, 100_000).unwrap().len(), 100_000);
    assert_eq!(block_on(file.bytes_async(0, 100_000)).unwrap().len(), 100_000);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_prefetch_in_flight_ends_with_the_cache() {
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let distant = Arc::new(Distant::new(&bytes(100_000)));
    distant.inject(0, 9, DistantFault::Never);
    let file = cache.open_async(distant.clone()).unwrap();
    file.prefetch(from_ref(&(0..100_000)));
    eventually("a request is in flight", || distant.in_flight() == 1);
    drop(file);
    drop(cache);
    eventually("nothing is left", || distant.in_flight() == 0 && Arc::strong_count(&distant) == 1);
}

#[test]
fn a_reader_joins_what_is_prefetched_and_cancels_nothing() {
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let distant = Arc::new(Distant::new(&bytes(100_000)));
    distant.inject(0, 1, DistantFault::Late(Duration::from_millis(30)));
    let file = cache.open_async(distant.clone()).unwrap();
    file.prefetch(from_ref(&(0..4096)));
    {
        let mut read = pin!(file.bytes_async(0, 10));
        let mut context = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut context).is_pending());
    }
    eventually("the pages are cached", || file.try_bytes(0, 10).is_some());
    assert_eq!(distant.requests().len(), 1);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn an_invalidated_prefetch_is_cancelled() {
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let distant = Arc::new(Distant::new(&bytes(100_000)));
    distant.inject(0, 1, DistantFault::Never);
    let file = cache.open_async(distant.clone()).unwrap();
    file.prefetch(from_ref(&(0..4096)));
    eventually("a request is in flight", || distant.in_flight() == 1);
    file.invalidate();
    eventually("no request is in flight", || distant.in_flight() == 0);
    assert_eq!(file.bytes(0, 10).unwrap().len(), 10);
    end_read_ahead(&cache, &distant, file);
}

/// Reads a stream to its end. Returns its bytes.
fn read_stream(file: &File, offset: u64, len: u64) -> Vec<u8> {
    let mut stream = file.stream(offset, len);
    let mut all = Vec::new();
    let mut next = || block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context)));
    while let Some(piece) = next() {
        all.extend_from_slice(&piece.unwrap());
    }
    all
}

#[test]
fn a_stream_requests_all_that_the_capacity_allows_at_once() {
    let all = bytes(8 << 20);
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let distant = Arc::new(
        Distant::new(&all)
            .with_latency(Duration::from_millis(100))
            .with_preferences(preferences(1 << 20)),
    );
    let file = cache.open_async(distant.clone()).unwrap();
    let begin = Instant::now();
    assert!(read_stream(&file, 0, 8 << 20) == all);
    assert_eq!((distant.requests().len(), distant.most_in_flight()), (8, 8));
    assert!(begin.elapsed() < Duration::from_millis(750), "one latency, and no more");
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_stream_longer_than_the_cache_stays_within_its_share() {
    let all = bytes(24 << 20);
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let distant = Arc::new(
        Distant::new(&all)
            .with_latency(Duration::from_millis(1))
            .with_preferences(preferences(256 << 10)),
    );
    let file = cache.open_async(distant.clone()).unwrap();
    assert!(read_stream(&file, 0, u64::MAX) == all);
    assert!(fetched(&distant) <= (24 << 20) + (1 << 20), "{} bytes", fetched(&distant));
    assert!(distant.most_in_flight() <= 8, "a quarter of the capacity");
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_paused_stream_does_not_starve_other_readers() {
    let all = bytes(8 << 20);
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let distant = Arc::new(Distant::new(&all).with_latency(Duration::from_millis(100)));
    let file = cache.open_async(distant.clone()).unwrap();
    let mut streams: Vec<_> = (0..4).map(|n| file.stream(n * (2 << 20), 2 << 20)).collect();
    let mut context = Context::from_waker(Waker::noop());
    for stream in &mut streams {
        assert!(Pin::new(stream).poll_next(&mut context).is_pending());
    }
    // They are never polled again.
    assert_eq!(file.bytes((8 << 20) - 10, 10).unwrap(), all[(8 << 20) - 10..]);
    drop(streams);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_dropped_stream_cancels_what_it_requested() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let distant = Arc::new(Distant::new(&bytes(1 << 20)));
    distant.inject(0, 9, DistantFault::Never);
    let file = cache.open_async(distant.clone()).unwrap();
    let mut stream = file.stream(0, 1 << 20);
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut stream).poll_next(&mut context).is_pending());
    assert_eq!(distant.in_flight(), 1);
    drop(stream);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_random_reader_fetches_what_it_reads() {
    let all = bytes(16 << 20);
    let cache: Cache = Cache::new(32 << 20).unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap().with_advice(Advice::Random);
    // In order, and still: nothing ahead.
    for n in 0..50 {
        assert_eq!(file.bytes(n * 8192, 4096).unwrap().len(), 4096);
    }
    assert_eq!(fetched(&distant), 50 * 4096);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn sixteen_reads_with_a_stride_fetch_what_they_read() {
    let all = bytes(32 << 20);
    let spawned = Arc::new(AtomicUsize::new(0));
    let builder = Cache::builder().capacity(64 << 20).spawner(threads(&spawned));
    let cache: Cache = builder.build().unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap();
    for n in 0..16_usize {
        let range = n << 20..(n << 20) + 65_536;
        assert_eq!(block_on(file.bytes_async(range.start as u64, 65_536)).unwrap(), all[range]);
    }
    assert_eq!((fetched(&distant), spawned.load(Ordering::Relaxed)), (16 * 65_536, 0));
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_sequential_reader_is_read_ahead_of_from_its_first_read() {
    let all = bytes(16 << 20);
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap();
    let scan = file.with_advice(Advice::Sequential);
    for n in 0..1024_usize {
        let range = n * 8192..(n + 1) * 8192;
        assert_eq!(scan.bytes(range.start as u64, 8192).unwrap(), all[range]);
        if n == 0 {
            eventually("the pages are cached", || file.try_bytes(8192, 65_536).is_some());
        }
    }
    assert!(distant.requests().len() < 200, "{} requests for 1024 reads", distant.requests().len());
    cache.quiesce();
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_request_ahead_that_has_ended_pins_nothing() {
    let all = bytes(32 << 20);
    let spawned = Arc::new(Mutex::new(Vec::<BoxFuture<'static, ()>>::new()));
    let its = Arc::clone(&spawned);
    let builder = Cache::builder().capacity(64 << 20).spawner(move |it| its.lock().push(it));
    let cache: Cache = builder.build().unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap().with_advice(Advice::Sequential);
    assert_eq!(block_on(file.bytes_async(0, 65_536)).unwrap(), all[..65_536]);
    let mut ended = std::mem::take(&mut *spawned.lock());
    assert!(!ended.is_empty());
    for future in &mut ended {
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
    // An executor may keep a future for long after its end.
    for page in (32..64_usize).step_by(8) {
        let bytes = file.try_bytes(page as u64 * 4096, 4096).unwrap();
        assert_eq!(bytes, all[page * 4096..(page + 1) * 4096]);
        assert_eq!(bytes.as_ptr().addr() % PAGE, 0, "page {page} is a copy on the heap");
    }
    drop(ended);
    drop(std::mem::take(&mut *spawned.lock()));
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_reader_that_reads_once_keeps_nothing() {
    let all = bytes(4 << 20);
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap();
    assert_eq!(file.bytes(1 << 20, 100).unwrap().len(), 100);
    let once = file.with_advice(Advice::Once);
    let handle = once.bytes(0, 2 << 20).unwrap();
    assert!(handle == all[..2 << 20]);
    assert!(read_stream(&once, 2 << 20, 1 << 20) == all[2 << 20..3 << 20]);
    let kept: Vec<_> = (0..1024).filter(|&page| file.try_bytes(page * 4096, 1).is_some()).collect();
    assert_eq!(kept, [256], "the page that another reader has brought");
    assert!(handle == all[..2 << 20], "a handle keeps its pages");
    drop(handle);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_spawner_drives_blocking_readers_until_it_ends() {
    let all = bytes(100 * PAGE);
    // The futures are kept, and dropped unpolled.
    let kept = Arc::new(Mutex::new(Vec::<BoxFuture<'static, ()>>::new()));
    let into = Arc::clone(&kept);
    let spawn = move |future| into.lock().push(future);
    let cache = Cache::builder().capacity(4 << 20).spawner(spawn).build().unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap();
    let reader = {
        let file = file.clone();
        thread::spawn(move || file.bytes(0, 10).unwrap().len())
    };
    eventually("a task is kept", || !kept.lock().is_empty());
    assert_eq!(distant.requests().len(), 0, "the reader does not poll the store itself");
    let futures = std::mem::take(&mut *kept.lock());
    drop(futures);
    assert_eq!(reader.join().unwrap(), 10, "the executor was dropped: the reader takes over");
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_spawner_that_panics_loses_nothing_but_the_prefetch() {
    let spawn = |_: BoxFuture<'static, ()>| panic!("there is no runtime any more");
    let cache = Cache::builder().capacity(4 << 20).spawner(spawn).build().unwrap();
    let distant = Arc::new(Distant::new(&bytes(10 * PAGE)));
    let file = cache.open_async(distant.clone()).unwrap();
    file.prefetch(from_ref(&(0..100)));
    assert_eq!(file.bytes(0, 10).unwrap().len(), 10);
    end_read_ahead(&cache, &distant, file);
}

/// A task of which all reads hit is pending now and then, and is woken at once.
#[test]
fn reads_that_only_hit_let_other_tasks_run() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let distant = Arc::new(Distant::new(&bytes(10 * PAGE)));
    let file = cache.open_async(distant.clone()).unwrap();
    assert_eq!(file.bytes(0, 10 * PAGE).unwrap().len(), 10 * PAGE);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let mut reads = pin!(async {
        for n in 0..10_000 {
            let page = n % 10;
            assert_eq!(file.read_at_async(&mut [0; 10], page * 4096).await.unwrap(), 10);
        }
    });
    let mut pending = 0;
    while reads.as_mut().poll(&mut context).is_pending() {
        pending += 1;
    }
    assert!((5..100).contains(&pending), "pending {pending} times");
    assert_eq!(count.0.load(Ordering::Relaxed), pending);
}

#[cfg(feature = "tokio")]
#[test]
fn a_tokio_runtime_drives_what_no_reader_waits_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let handle = runtime.handle().clone();
    let (stop, stopped) = mpsc::channel::<()>();
    let driver = thread::spawn(move || {
        runtime.block_on(async {
            while stopped.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        });
    });
    let cache = Cache::builder().capacity(4 << 20).spawner(handle).build().unwrap();
    let distant = Arc::new(Distant::new(&bytes(10 * PAGE)).with_latency(Duration::from_millis(2)));
    let file = cache.open_async(distant.clone()).unwrap();
    file.prefetch(from_ref(&(0..4096)));
    eventually("the pages are cached", || file.try_bytes(0, 10).is_some());
    assert_eq!(file.bytes(8192, 10).unwrap().len(), 10);
    stop.send(()).unwrap();
    driver.join().unwrap();
    // The runtime is gone.
    assert_eq!(file.bytes(4096, 10).unwrap().len(), 10);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn a_future_moves_between_executors() {
    let all = bytes(10 * PAGE);
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let distant = Arc::new(Distant::new(&all).with_latency(Duration::from_millis(20)));
    let file = cache.open_async(distant.clone()).unwrap();
    let (sender, receiver) = mpsc::channel::<Pin<Box<dyn Future<Output = usize> + Send>>>();
    let reader = file.clone();
    let mut read: Pin<Box<dyn Future<Output = usize> + Send>> =
        Box::pin(async move { reader.bytes_async(0, 8192).await.unwrap().len() });
    let other = thread::spawn(move || block_on(receiver.recv().unwrap()));
    assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    sender.send(read).unwrap();
    assert_eq!(other.join().unwrap(), 8192);
    assert_eq!(distant.requests().len(), 1);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn polls_of_one_read_grow_with_the_number_of_its_requests() {
    let all = bytes(4 << 20);
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let distant = Arc::new(
        Distant::new(&all)
            .with_latency(Duration::from_millis(1))
            .with_preferences(preferences(4096)),
    );
    let file = cache.open_async(distant.clone()).unwrap();
    let mut polls = 0;
    let mut read = pin!(file.bytes_async(0, 4 << 20));
    let read = block_on(poll_fn(|context| {
        polls += 1;
        match read.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => Poll::Ready(read),
        }
    }));
    assert!(read.unwrap() == all);
    assert_eq!(distant.requests().len(), 1024);
    assert!(distant.most_in_flight() <= 256 && polls < 5000, "{polls} polls");
    end_read_ahead(&cache, &distant, file.clone());
}
