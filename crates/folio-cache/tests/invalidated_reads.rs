//! Reads of a distant object beside invalidations: each answer of the store is progress, and what
//! is read is of one version.

mod common;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use common::{StopOnDrop, end_distant, eventually};
use folio_cache::testing::{Distant, Memory};
use folio_cache::{
    AsyncBacking, BoxFuture, Bytes, Cache, File, FillBuffer, FillRequest, Key, Preferences,
    RemoteVersion, Validator,
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

/// Something that happens before an answer arrives. Gets the number of requests for bytes so far.
type During = Box<dyn FnMut(usize, &Distant, &File) + Send>;

/// A store during the requests of which something happens.
struct Store {
    distant: Distant,
    during: Mutex<Option<(During, File)>>,
}

impl Store {
    fn disturb(&self) {
        let now = self.during.lock().unwrap().take();
        if let Some((mut during, file)) = now {
            during(self.distant.requests().len(), &self.distant, &file);
            self.during.lock().unwrap().get_or_insert((during, file));
        }
    }
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
            self.disturb();
            version
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async move {
            let version = self.distant.version().await;
            self.disturb();
            version
        })
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

    /// Has others act during the next request, and no later one.
    fn during_the_next(&self, act: impl FnOnce(&Distant, &File) + Send + 'static) {
        let mut act = Some(act);
        self.during_each(move |_, distant, file| {
            if let Some(act) = act.take() {
                act(distant, file);
            }
        });
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
        end_distant(&cache, &store.distant, file);
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
fn an_invalidation_in_each_request_costs_no_further_one() {
    for extra in [0, 5] {
        read_all_ways(&bytes(10 * REQUEST + extra, 1));
    }
}

/// Reads an object that is invalidated in each request.
fn read_all_ways(all: &[u8]) {
    let world = World::invalidated_in_each(all);
    let (file, len) = (&world.file, all.len());
    // No answer is ever cached.
    assert!(file.bytes(3, 10).unwrap() == all[3..13]);
    assert_eq!(world.requests(), 1);
    assert!(file.bytes(0, 3 * REQUEST).unwrap() == all[..3 * REQUEST]);
    assert_eq!(world.requests(), 1 + 3);
    assert!(file.bytes(0, usize::MAX).unwrap() == all, "to an end that is not known");
    assert_eq!(world.requests(), 1 + 3 + len.div_ceil(REQUEST));
    assert!(block_on(file.bytes_async(PAGE as u64, REQUEST)).unwrap() == all[PAGE..][..REQUEST]);
    let mut read = vec![0; len + 10];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), len);
    assert!(read[..len] == *all);
    assert_eq!(file.read_at(&mut read, len as u64 + 1).unwrap(), 0, "past the end");
    let far = (8 * REQUEST) as u64;
    let ranges = file.read_ranges(&[far..far + 10, 5..10, 0..0, 7..len as u64]).unwrap();
    assert!(ranges[0] == all[far as usize..][..10] && ranges[1] == all[5..10]);
    assert!(ranges[2].is_empty() && ranges[3] == all[7..]);
    drop(ranges);
    let end = len as u64;
    let ranges = file.read_ranges(&[end..end + 1, 3..end + 9, end + 5..end + 9]).unwrap();
    assert!(ranges[0].is_empty() && ranges[1] == all[3..] && ranges[2].is_empty());
    drop(ranges);
    assert_eq!(block_on(file.len_async()).unwrap(), end);
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
            if number == at + 1 {
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

/// The end of the old version was told for one range when another is read.
#[test]
fn ranges_of_an_object_that_changes_are_of_one_version() {
    let (old, new) = (bytes(50, 1), bytes(1000, 2));
    let world = World::new(&old);
    assert_eq!(block_on(world.file.len_async()).unwrap(), 50);
    world.store.distant.replace(&new);
    let ranges = world.file.read_ranges(&[100..200, 0..10]).unwrap();
    assert!(ranges[0] == new[100..200] && ranges[1] == new[..10], "{ranges:?}");
    drop(ranges);
    world.end();
    // The length is not known, and the first answer tells the end.
    let world = World::new(&old);
    let new = bytes(300 * REQUEST, 2);
    let mut changed = Some(new.clone());
    world.during_each(move |_, distant, file| {
        changed.take().inspect(|new| distant.replace(new));
        file.invalidate();
    });
    let far = 200 * REQUEST;
    let ranges = world.file.read_ranges(&[60..70, far as u64..far as u64 + 10]).unwrap();
    assert!(ranges.iter().all(Bytes::is_empty), "what the old version has there: {ranges:?}");
    drop(ranges);
    world.end();
}

#[test]
fn a_version_from_before_an_invalidation_is_not_kept() {
    let (old, new) = (bytes(50, 1), bytes(1000, 2));
    let world = World::new(&old);
    let changed = new.clone();
    world.during_the_next(move |distant, file| {
        distant.replace(&changed);
        file.invalidate();
    });
    // The call is older than the change.
    assert_eq!(block_on(world.file.len_async()).unwrap(), 50);
    assert_eq!(world.file.known_len(), None);
    assert!(world.file.bytes(60, 10).unwrap() == new[60..70]);
    world.end();
}

#[test]
fn a_version_from_before_a_revalidation_is_not_kept() {
    let (old, new) = (bytes(50, 1), bytes(1000, 2));
    let world = World::new(&old);
    let changed = new.clone();
    world.during_the_next(move |distant, file| {
        distant.replace(&changed);
        assert!(!file.revalidate().unwrap(), "no other version was known");
    });
    assert_eq!(block_on(world.file.len_async()).unwrap(), 50);
    assert_eq!(world.file.known_version(), Some(world.store.distant.now()));
    assert!(world.file.bytes(60, 10).unwrap() == new[60..70]);
    world.end();
}

/// A request was answered before the object changes, and the answer comes after a revalidation.
#[test]
fn an_answer_from_before_a_revalidation_is_not_kept() {
    let (old, new) = (bytes(50, 1), bytes(1000, 2));
    for knows in [false, true] {
        let world = World::new(&old);
        let changed = new.clone();
        world.during_the_next(move |distant, file| {
            distant.replace(&changed);
            if knows {
                assert!(file.bytes(5000, 1).unwrap().is_empty());
            }
            assert!(!file.revalidate().unwrap(), "no other version was known");
            // Nor does a later read join the request.
            assert!(file.bytes(0, 10).unwrap() == changed[..10]);
        });
        let read = world.file.bytes(0, 10).unwrap();
        assert!(read == old[..10] || read == new[..10], "the call is older than the change");
        assert!(world.file.bytes(0, 10).unwrap() == new[..10]);
        assert_eq!(world.file.known_len(), Some(1000));
        drop(read);
        world.end();
    }
}

#[test]
fn an_answer_from_before_an_open_with_a_version_is_not_kept() {
    let (old, new) = (bytes(50, 1), bytes(1000, 2));
    let world = World::new(&old);
    let (changed, cache) = (new.clone(), world.cache.clone());
    let store = Arc::downgrade(&world.store);
    world.during_the_next(move |distant, file| {
        distant.replace(&changed);
        let store = store.upgrade().expect("it answers");
        let again = cache.open_async_with(store, &distant.now()).unwrap();
        assert_eq!(again.key(), file.key());
        assert!(again.bytes(0, 10).unwrap() == changed[..10]);
    });
    world.file.bytes(0, 10).unwrap();
    assert!(world.file.bytes(0, 10).unwrap() == new[..10]);
    world.end();
}

/// The answers that a stream does not take are all that may wait for readers.
#[test]
fn a_stream_that_pauses_leaves_others_their_answers() {
    let all = bytes(3 << 20, 1);
    let world = World::invalidated_in_each(&all);
    let mut stream = pin!(world.file.stream(0, u64::MAX));
    let mut next = || block_on(poll_fn(|context| stream.as_mut().poll_next(context)));
    let mut read = 0;
    while world.requests() < 50 {
        read += next().unwrap().unwrap().len();
    }
    eventually("no request is in flight", || world.store.distant.in_flight() == 0);
    let far = 2 << 20;
    assert!(world.file.bytes(far as u64, 8 * REQUEST).unwrap() == all[far..][..8 * REQUEST]);
    let piece = next().unwrap().unwrap();
    assert!(piece == all[read..][..piece.len()]);
}

/// An object of 32 TiB. Its file is invalidated in each request.
#[derive(Debug, Default)]
struct Huge(OnceLock<File>);

impl AsyncBacking for Huge {
    fn key(&self) -> Key {
        Key::new("test", *b"huge")
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        buffer.put_slice(&vec![9; request.len as usize]);
        if let Some(file) = self.0.get() {
            file.invalidate();
        }
        self.version()
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        let version = RemoteVersion { len: 1 << 45, validator: Validator::new(*b"huge") };
        Box::pin(async { Ok(version) })
    }
}

#[test]
fn what_is_too_far_is_an_error_also_if_the_length_is_unknown() {
    let huge = Arc::new(Huge::default());
    let file = Cache::new(4 << 20).unwrap().open_async(huge.clone()).unwrap();
    let far = [1 << 44, (1 << 44) + 4096, (1 << 45) - 1];
    for n in 0..6 {
        let error = file.read_at(&mut [0; 10], far[n % 3]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{n}");
        file.invalidate();
        if n == 2 {
            huge.0.set(file.clone()).unwrap();
        }
    }
    assert_eq!(file.read_at(&mut [0; 10], 1 << 45).unwrap(), 0);
    assert_eq!(file.bytes((1 << 44) - 5, 5).unwrap(), [9; 5][..]);
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
