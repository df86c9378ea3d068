//! Reads of a distant object beside invalidations: each answer of the store is progress, and what
//! is read is of one version.

mod common;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{StopOnDrop, assert_nothing_leaked};
use folio_cache::testing::{Distant, Memory};
use folio_cache::{
    AsyncBacking, BoxFuture, Bytes, Cache, File, FillBuffer, FillRequest, Key, Preferences,
    RemoteVersion,
};
use futures_core::Stream;
use pollster::block_on;

const PAGE: usize = 4096;

/// The bytes of a request.
const REQUEST: usize = 4 * PAGE;

/// Returns pseudo-random bytes without zeroes.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(1..)).collect()
}

/// What others do while a request is answered: the number of the request, counted from 0.
type During = Box<dyn FnMut(usize, &Distant, &File) + Send>;

/// A store during whose requests others act.
struct Store {
    distant: Distant,
    during: Mutex<Option<(During, File)>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.distant.fmt(f)
    }
}

impl AsyncBacking for Store {
    fn key(&self) -> Key {
        self.distant.key()
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(async move {
            let version = self.distant.fill(request, buffer).await;
            if let Some((during, file)) = &mut *self.during.lock().unwrap() {
                during(self.distant.requests().len() - 1, &self.distant, file);
            }
            version
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        self.distant.version()
    }

    fn preferences(&self) -> Preferences {
        self.distant.preferences()
    }
}

/// An object of a store in a cache.
struct World {
    cache: Cache,
    store: Arc<Store>,
    file: File,
}

impl World {
    fn new(bytes: &[u8]) -> Self {
        let preferences = Preferences::default().request_bytes(REQUEST as u64);
        let distant = Distant::new(bytes).with_preferences(preferences);
        let store = Arc::new(Store { distant, during: Mutex::new(None) });
        let cache = Cache::new(4 << 20).unwrap();
        let file = cache.open_async(store.clone()).unwrap();
        Self { cache, store, file }
    }

    /// Has others act during each request from now on.
    fn during_each(&self, act: impl FnMut(usize, &Distant, &File) + Send + 'static) {
        *self.store.during.lock().unwrap() = Some((Box::new(act), self.file.clone()));
    }

    fn invalidated_in_each(bytes: &[u8]) -> Self {
        let world = Self::new(bytes);
        world.during_each(|_, _, file| file.invalidate());
        world
    }

    fn requests(&self) -> usize {
        self.store.distant.requests().len()
    }

    fn end(self) {
        let Self { cache, store, file } = self;
        *store.during.lock().unwrap() = None;
        assert_eq!(store.distant.in_flight(), 0);
        cache.invalidate(&file.key());
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Returns all pieces of a stream, or its error.
fn collect(stream: impl Stream<Item = io::Result<Bytes>>) -> io::Result<Vec<u8>> {
    let mut stream = pin!(stream);
    let mut all = Vec::new();
    while let Some(piece) = block_on(poll_fn(|context| stream.as_mut().poll_next(context))) {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

#[test]
fn an_invalidation_in_each_request_costs_no_read_more_requests() {
    let all = bytes(10 * REQUEST + 5, 1);
    let world = World::invalidated_in_each(&all);
    let (file, len) = (&world.file, all.len());
    // No answer is ever cached.
    assert!(file.bytes(3, 10).unwrap() == all[3..13]);
    assert_eq!(world.requests(), 1);
    assert!(file.bytes(0, 3 * REQUEST).unwrap() == all[..3 * REQUEST]);
    assert_eq!(world.requests(), 1 + 3);
    assert!(file.bytes(0, usize::MAX).unwrap() == all, "to an end that is not known");
    assert!(block_on(file.bytes_async(PAGE as u64, REQUEST)).unwrap() == all[PAGE..][..REQUEST]);
    let mut read = vec![0; len + 10];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), len);
    assert!(read[..len] == all);
    assert_eq!(file.read_at(&mut read, len as u64 + 1).unwrap(), 0, "past the end");
    let far = (8 * REQUEST) as u64;
    let ranges = file.read_ranges(&[far..far + 10, 5..10, 0..0, 7..len as u64]).unwrap();
    assert!(ranges[0] == all[far as usize..][..10] && ranges[1] == all[5..10]);
    assert!(ranges[2].is_empty() && ranges[3] == all[7..]);
    drop(ranges);
    let range = file.range(2, 2 * REQUEST).unwrap();
    assert_eq!(range.len(), 2 * REQUEST);
    drop(range);
    let before = world.requests();
    assert!(collect(file.stream(1, u64::MAX)).unwrap() == all[1..]);
    // What was requested ahead before an invalidation does not answer a later call.
    assert!(world.requests() > before + 10);
    world.end();
}

/// Pages of the old version were handed out when the object changes.
#[test]
fn a_read_of_an_object_that_changes_is_of_the_new_version() {
    let (old, new) = (bytes(6 * REQUEST, 1), bytes(6 * REQUEST, 2));
    for told in [false, true] {
        let world = World::new(&old);
        // Of these, the first are hits, and the others change with the first request.
        assert!(world.file.bytes(0, 5).unwrap() == old[..5]);
        let (at, changed) = (world.requests(), new.clone());
        world.during_each(move |number, distant, file| {
            if number == at {
                distant.replace(&changed);
            }
            if told {
                file.invalidate();
            }
        });
        let read = world.file.bytes(0, 6 * REQUEST).unwrap();
        assert!(read == new, "told: {told}");
        drop(read);
        world.end();
    }
}

#[test]
fn a_stream_of_an_object_that_changes_ends_with_an_error() {
    let (old, new) = (bytes(40 * REQUEST, 1), bytes(40 * REQUEST, 2));
    let world = World::new(&old);
    let mut stream = pin!(world.file.stream(0, u64::MAX));
    let mut next = || block_on(poll_fn(|context| stream.as_mut().poll_next(context)));
    let first = next().unwrap().unwrap();
    let second = next().unwrap().unwrap();
    let read = first.len() + second.len();
    assert!([&first[..], &second[..]].concat() == old[..read]);
    assert!(world.requests() * REQUEST > read + REQUEST, "nothing is requested ahead");
    // From here on, no call returns what the store had before.
    world.store.distant.replace(&new);
    world.file.invalidate();
    let error = next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleNetworkFileHandle, "{error}");
    assert!(next().is_none());
}

/// The file never changes, so no read may say that it did.
fn read_beside_invalidations(cache: &Cache, file: &File, all: &[u8], pause: Duration) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    cache.invalidate(&file.key());
                    if !pause.is_zero() {
                        thread::sleep(pause);
                    }
                }
            });
        }
        for n in 0..300 {
            let (offset, len) = (n * 37 % 60 * PAGE, [10, 3 * PAGE][n % 2]);
            let (range, expected) = (offset as u64.., &all[offset..offset + len]);
            assert!(file.bytes(range.start, len).unwrap() == expected);
            let ranges = file.read_ranges(&[0..10, range.start..(offset + len) as u64]).unwrap();
            assert!(ranges[0] == all[..10] && ranges[1] == expected);
            assert!(collect(file.stream(range.start, len as u64)).unwrap() == expected);
        }
    });
}

#[test]
fn reads_beside_invalidations_return_the_bytes() {
    let all = bytes(64 * PAGE, 1);
    for micros in [0, 100] {
        let latency = Duration::from_micros(micros);
        let cache = Cache::new(4 << 20).unwrap();
        let distant = Arc::new(Distant::new(&all).with_latency(latency));
        let file = cache.open_async(distant).unwrap();
        read_beside_invalidations(&cache, &file, &all, latency * 4);
        let file = cache.open_backing(Arc::new(Memory::new(&all))).unwrap();
        read_beside_invalidations(&cache, &file, &all, latency);
    }
}
