//! Futures that are polled once and then held: what they have taken passes on to others.
//!
//! A task that waits inside the loop over a buffered stream does this: the futures in the buffer
//! are not polled meanwhile.

mod common;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use common::assert_nothing_leaked;
use folio_cache::testing::Distant;
use folio_cache::{Advice, BoxFuture, Bytes, Cache, File, Preferences};
use pollster::block_on;

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

fn bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(1..)).collect()
}

/// Returns an object of a store that answers late, of which so many requests may be in flight.
fn open(cache: &Cache, len: usize, in_flight: usize) -> (Arc<Distant>, File, Vec<u8>) {
    open_after(Duration::from_millis(20), cache, len, in_flight)
}

/// Does what [`open`] does, of a store that answers after a while.
fn open_after(
    latency: Duration,
    cache: &Cache,
    len: usize,
    in_flight: usize,
) -> (Arc<Distant>, File, Vec<u8>) {
    let all = bytes(len);
    let distant = Distant::new(&all)
        .with_latency(latency)
        .with_preferences(Preferences::default().in_flight(in_flight));
    let distant = Arc::new(distant);
    let file = cache.open_async(distant.clone()).unwrap();
    (distant, file, all)
}

/// Polls a future once, with a waker that does nothing.
fn poll_once<F: Future>(future: Pin<&mut F>) {
    assert!(future.poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// Returns what a read in another thread returns, which must end.
fn ends<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = mpsc::channel();
    thread::spawn(move || sender.send(read()));
    result.recv_timeout(Duration::from_mins(1)).expect("the reader sleeps for ever")
}

/// Reads a page by a future in another thread.
fn page(file: &File, page: usize) -> Bytes {
    let file = file.clone();
    ends(move || block_on(file.bytes_async((page * PAGE) as u64, PAGE))).unwrap()
}

/// Returns a spawner with a thread for each future, and the number of futures so far.
fn spawner() -> (Arc<AtomicUsize>, impl Fn(BoxFuture<'static, ()>) + Send + Sync + 'static) {
    let spawns = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&spawns);
    let spawner = move |future| {
        count.fetch_add(1, Ordering::Relaxed);
        thread::spawn(|| block_on::<BoxFuture<'static, ()>>(future));
    };
    (spawns, spawner)
}

#[test]
fn requests_of_a_future_that_is_held_hold_up_no_other() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (_, file, all) = open(&cache, 64 * PAGE, 1);
    let mut held = Box::pin(file.bytes_async(0, PAGE));
    poll_once(held.as_mut());
    assert_eq!(page(&file, 20), all[20 * PAGE..21 * PAGE]);
    assert_eq!(block_on(held).unwrap(), all[..PAGE]);
    drop(file);
    cache.reclaim(64);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

#[test]
fn those_that_wait_for_a_permit_and_are_held_pass_it_on() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (_, file, all) = open(&cache, 64 * PAGE, 2);
    let mut held: Vec<_> =
        (0..8).map(|n| Box::pin(file.bytes_async(n * 4 * PAGE as u64, PAGE))).collect();
    for future in &mut held {
        poll_once(future.as_mut());
    }
    let blocking = file.clone();
    let read = ends(move || blocking.bytes(40 * PAGE as u64, PAGE));
    assert_eq!(read.unwrap(), all[40 * PAGE..41 * PAGE]);
    drop(held);
    assert_eq!(page(&file, 50), all[50 * PAGE..51 * PAGE]);
    cache.invalidate(&file.key());
    drop(file);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

/// Without threads of the cache the spawner has all that it needs.
#[test]
fn the_memory_of_requests_that_are_held_passes_on() {
    [0, 4].into_iter().for_each(memory_passes_on);
}

fn memory_passes_on(threads: usize) {
    let (spawns, spawner) = spawner();
    let builder = Cache::builder().capacity(8 * MIB).io_threads(threads);
    let cache: Cache = builder.spawner(spawner).build().unwrap();
    let (_, first, all) = open(&cache, 8 * MIB, 100);
    let (_, second, _) = open(&cache, 8 * MIB, 100);
    // All that may be in flight: a quarter of the memory.
    let mut held: Vec<_> =
        (0..8).map(|n| Box::pin(first.bytes_async(n * MIB as u64, MIB / 2))).collect();
    for future in &mut held {
        poll_once(future.as_mut());
    }
    assert_eq!(page(&second, 1000), all[1000 * PAGE..1001 * PAGE]);
    assert!(spawns.load(Ordering::Relaxed) > 0);
    drop(held);
    cache.invalidate(&first.key());
    cache.invalidate(&second.key());
    drop((first, second));
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

#[test]
fn a_question_for_the_length_that_is_held_holds_up_no_other() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (_, file, all) = open(&cache, 64 * PAGE, 1);
    let mut held = Box::pin(file.len_async());
    poll_once(held.as_mut());
    assert_eq!(page(&file, 3), all[3 * PAGE..4 * PAGE]);
    assert_eq!(block_on(held).unwrap(), all.len() as u64);
    drop(file);
    cache.reclaim(64);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

/// A store that is slower than some looks is not stuck.
#[test]
fn requests_that_are_polled_get_no_driver() {
    let (spawns, spawner) = spawner();
    let cache: Cache = Cache::builder().capacity(8 * MIB).spawner(spawner).build().unwrap();
    let (_, file, all) = open_after(Duration::from_millis(700), &cache, 64 * PAGE, 1);
    let file = file.with_advice(Advice::Random);
    thread::scope(|scope| {
        for n in [0, 20, 40] {
            let (file, all) = (&file, &all);
            scope.spawn(move || {
                let bytes = block_on(file.bytes_async((n * PAGE) as u64, PAGE)).unwrap();
                assert_eq!(bytes, all[n * PAGE..(n + 1) * PAGE]);
            });
        }
    });
    assert_eq!(spawns.load(Ordering::Relaxed), 1, "what looks for those that are stuck");
}
