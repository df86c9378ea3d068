//! Requests to distant stores under the schedules of shuttle: several waiters, of which one drives,
//! is dropped, is never polled again, or takes over.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use folio_cache::{
    AsyncBacking, BoxFuture, Bytes, Cache, CacheBuilder, File, FillBuffer, FillRequest, Key,
    RemoteVersion, Validator,
};
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;
use parking_lot::Mutex;

use crate::RANDOM;
use crate::common::assert_nothing_leaked;

type Thread = Box<dyn FnOnce() + Send>;
type Read = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// A store of which the answers wait at a gate. All bytes of its object are the version.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    requests: AtomicUsize,
    in_flight: AtomicUsize,
}

#[derive(Debug, Default)]
struct GateState {
    is_open: bool,
    version: u8,
    wakers: Vec<Waker>,
}

impl Gate {
    fn open(&self) {
        let wakers = {
            let mut state = self.state.lock();
            state.is_open = true;
            std::mem::take(&mut state.wakers)
        };
        step();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until the gate is open. Returns the version.
    async fn pass(&self) -> u8 {
        poll_fn(|context| {
            let waker = context.waker().clone();
            step();
            let mut state = self.state.lock();
            if state.is_open {
                return Poll::Ready(state.version);
            }
            state.wakers.push(waker);
            drop(state);
            step();
            Poll::Pending
        })
        .await
    }

    fn told(version: u8) -> RemoteVersion {
        RemoteVersion { len: 4 * FRAME_SIZE as u64, validator: Validator::new([version]) }
    }
}

struct InFlight<'g>(&'g Gate);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncBacking for Gate {
    fn key(&self) -> Key {
        Key::new("gate", *b"object")
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(async move {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            let _in_flight = InFlight(self);
            let version = self.pass().await;
            buffer.put_slice(&vec![version; request.len as usize]);
            Ok(Self::told(version))
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async { Ok(Self::told(self.pass().await)) })
    }
}

struct World {
    cache: Cache,
    gate: Arc<Gate>,
    file: File,
}

impl World {
    fn new() -> Self {
        Self::of(Cache::builder())
    }

    fn of(builder: CacheBuilder) -> Self {
        let cache = builder.capacity(2 << 20).build().expect("memory for a test");
        let gate = Arc::new(Gate::default());
        gate.state.lock().version = 1;
        let file = cache.open_async_with(gate.clone(), &Gate::told(1)).unwrap();
        Self { cache, gate, file }
    }

    fn thread(&self, act: impl FnOnce(&File) + Send + 'static) -> Thread {
        let file = self.file.clone();
        Box::new(move || act(&file))
    }

    fn opener(&self) -> Thread {
        let gate = Arc::clone(&self.gate);
        Box::new(move || gate.open())
    }

    /// Returns a reader that waits for a page.
    fn reader(&self, page: u64) -> Thread {
        self.thread(move |file| {
            let read = file.bytes(page * FRAME_SIZE as u64, 8).unwrap();
            assert!(read.len() == 8 && read.iter().all(|byte| *byte == read[0]), "{read:?}");
        })
    }

    fn end(self) {
        let Self { cache, gate, file } = self;
        assert_eq!(gate.in_flight.load(Ordering::Relaxed), 0, "a request was left in flight");
        cache.invalidate(&file.key());
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Begins a read of a page, and polls it once with a waker that does nothing.
fn polled_once(file: &File, page: u64) -> Read {
    let file = file.clone();
    let mut read: Read =
        Box::pin(async move { file.bytes_async(page * FRAME_SIZE as u64, 8).await });
    let _ = read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    read
}

/// Two readers of one page make one request, which either of them drives to its end.
fn shared(search: Search) {
    explore("two readers of one request to a distant store", search, || {
        let world = World::new();
        race(vec![world.reader(0), world.reader(0), world.opener()]);
        assert_eq!(world.gate.requests.load(Ordering::Relaxed), 1);
        world.end();
    });
}

#[test]
fn any_waiter_drives_the_request_of_all() {
    shared(deeper(1));
    shared(RANDOM);
}

/// One waiter is dropped after a poll. The other gets the page.
fn dropped(search: Search) {
    explore("a waiter that is dropped beside one that waits", search, || {
        let world = World::new();
        let drops = world.thread(|file| {
            let read = polled_once(file, 0);
            step();
            drop(read);
        });
        race(vec![drops, world.reader(0), world.opener()]);
        assert!(world.gate.requests.load(Ordering::Relaxed) <= 2);
        world.end();
    });
}

#[test]
fn a_dropped_waiter_leaves_the_request_to_the_others() {
    dropped(deeper(1));
    dropped(RANDOM);
}

/// A waiter polls, perhaps while another one tries to, and is never polled again. The other one
/// takes over.
fn taken_over(search: Search) {
    explore("a waiter that is never polled again", search, || {
        let world = World::new();
        let kept = Arc::new(Mutex::new(None));
        let into = Arc::clone(&kept);
        let once = world.thread(move |file| {
            let read = polled_once(file, 0);
            *into.lock() = Some(read);
        });
        race(vec![once, world.reader(0), world.opener()]);
        drop(kept.lock().take());
        world.end();
    });
}

#[test]
fn a_waiter_takes_over_from_one_that_is_not_polled() {
    taken_over(deeper(1));
    taken_over(RANDOM);
}

/// The same for the length, of which a poll is one poll of the request, and no more.
fn taken_over_in_a_poll(search: Search) {
    explore("a waiter that meets the last poll of another", search, || {
        let world = World::new();
        world.cache.invalidate(&world.file.key());
        let kept = Arc::new(Mutex::new(None));
        let into = Arc::clone(&kept);
        let once = world.thread(move |file| {
            let file = file.clone();
            let mut len = Box::pin(async move { file.len_async().await });
            let _ = len.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            *into.lock() = Some(len);
        });
        let waits = world.thread(|file| assert_eq!(file.len(), 4 * FRAME_SIZE as u64));
        race(vec![once, waits, world.opener()]);
        drop(kept.lock().take());
        world.end();
    });
}

#[test]
fn a_waiter_that_meets_the_last_poll_of_another_takes_over() {
    taken_over_in_a_poll(deeper(1));
    taken_over_in_a_poll(RANDOM);
}

/// All waiters are dropped at any moment. Nothing is left.
fn cancelled(search: Search) {
    explore("waiters that are all dropped", search, || {
        let world = World::new();
        let drops = || world.thread(|file| drop(polled_once(file, 0)));
        race(vec![drops(), drops(), world.opener()]);
        world.end();
    });
}

#[test]
fn the_last_waiter_cancels_the_request() {
    cancelled(deeper(1));
    cancelled(RANDOM);
}

/// The object changes and is invalidated while two pages are read. The read is of one version, and
/// no page of the old version is left.
fn invalidated(search: Search) {
    explore("an invalidation beside a request", search, || {
        let world = World::new();
        let (cache, gate, key) = (world.cache.clone(), Arc::clone(&world.gate), world.file.key());
        let change: Thread = Box::new(move || {
            gate.state.lock().version = 2;
            step();
            cache.invalidate(&key);
        });
        let reader = world.thread(|file| {
            let read = file.bytes(FRAME_SIZE as u64 - 4, 8).unwrap();
            let first = read[0];
            assert!(read.len() == 8 && read.iter().all(|&byte| byte == first), "{read:?}");
        });
        race(vec![reader, change, world.opener()]);
        let read = world.file.bytes(0, 2 * FRAME_SIZE).unwrap();
        assert!(read.iter().all(|&byte| byte == 2), "a page of the old version is cached");
        drop(read);
        world.end();
    });
}

#[test]
fn no_page_of_an_invalidated_version_is_published() {
    invalidated(deeper(1));
    invalidated(RANDOM);
}

/// The change of an object while two of its pages are read, of which the first is cached.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// It is invalidated twice, and stays as it is: no read fails.
    Invalidations,
    /// It changes and is invalidated.
    Told,
    /// It changes, and another reader is the first that finds this.
    Found,
}

fn half_cached(search: Search, change: Change) {
    explore("a change beside a read of which a page is cached", search, move || {
        let world = World::new();
        world.gate.open();
        assert!(world.file.bytes(0, 1).unwrap()[0] == 1);
        let gate = Arc::clone(&world.gate);
        let changes = world.thread(move |file| {
            let times = match change {
                Change::Invalidations => 2,
                Change::Told => 1,
                Change::Found => 0,
            };
            if times < 2 {
                gate.state.lock().version = 2;
            }
            for _ in 0..times {
                step();
                file.invalidate();
            }
            assert_eq!(file.bytes(2 * FRAME_SIZE as u64, 8).unwrap().len(), 8);
        });
        let reader = world.thread(|file| {
            let read = file.bytes(FRAME_SIZE as u64 - 4, 8).unwrap();
            let first = read[0];
            assert!(read.len() == 8 && read.iter().all(|&byte| byte == first), "{read:?}");
        });
        race(vec![reader, changes, world.reader(0)]);
        world.end();
    });
}

#[test]
fn what_is_cached_and_what_is_requested_are_of_one_version() {
    for change in [Change::Invalidations, Change::Told, Change::Found] {
        half_cached(deeper(1), change);
        half_cached(RANDOM, change);
    }
}

/// A spawner has the future that drives the request of a blocking reader, and drops it.
fn driver_dropped(search: Search) {
    explore("a driver that is dropped", search, || {
        // `None`: the executor has ended.
        let spawned = Arc::new(Mutex::new(Some(Vec::<BoxFuture<'static, ()>>::new())));
        let into = Arc::clone(&spawned);
        let world = World::of(Cache::builder().spawner(move |future| {
            let mut spawned = into.lock();
            if let Some(spawned) = &mut *spawned {
                return spawned.push(future);
            }
            drop(spawned);
            drop(future);
        }));
        world.gate.open();
        let executor: Thread = Box::new(move || {
            step();
            let futures = spawned.lock().take();
            drop(futures);
        });
        race(vec![world.reader(0), executor]);
        world.end();
    });
}

#[test]
fn a_waiter_takes_over_from_a_driver_that_is_dropped() {
    driver_dropped(deeper(1));
    driver_dropped(RANDOM);
}

/// There is one permit. One of the readers that wait for it is dropped.
fn permits(search: Search) {
    explore("two requests and one permit", search, || {
        let world = World::of(Cache::builder().requests(1));
        let drops = world.thread(|file| {
            let read = polled_once(file, 1);
            step();
            drop(read);
        });
        race(vec![drops, world.reader(0), world.opener()]);
        world.end();
    });
}

#[test]
fn a_permit_goes_on_to_the_next() {
    permits(deeper(1));
    permits(RANDOM);
}
