//! Futures that are dropped at any moment: nothing stays in flight, pinned or allocated.

mod common;

use std::future::{self, Future};
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use common::assert_nothing_leaked;
use folio_cache::{
    Advice, AsyncBacking, Backing, BoxFuture, Cache, File, FileId, FillBuffer, FillRequest, Key,
    Preferences, RemoteVersion, Validator, Version,
};
use parking_lot::Mutex;

const PAGE: u64 = 4096;
const PAGES: u64 = 6000;

/// The threads, and the futures that each of them begins: 100,000 in both tests together.
const THREADS: u64 = 2;
const FUTURES: usize = 25_000;

/// The futures that a thread does not drop yet.
const HELD: usize = 48;

/// A source of which each byte is the low byte of its page's number. Requests take some polls.
#[derive(Debug, Default)]
struct Slow {
    requests: AtomicUsize,
    in_flight: AtomicUsize,
}

/// A request in flight.
struct Begun<'s>(&'s Slow);

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slow {
    /// Returns a request, and the number of its pauses.
    fn begin(&self) -> (Begun<'_>, usize) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        (Begun(self), request.wrapping_mul(0x9E37_79B9) % 7)
    }
}

/// Is pending a number of times, and wakes its task each time.
async fn pause(mut times: usize) {
    future::poll_fn(|context| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl AsyncBacking for Slow {
    fn key(&self) -> Key {
        Key::new("dropped futures", *b"slow")
    }

    fn fill<'a>(
        &'a self,
        request: FillRequest,
        buffer: &'a mut FillBuffer<'_>,
    ) -> BoxFuture<'a, io::Result<RemoteVersion>> {
        Box::pin(async move {
            let (_begun, pauses) = self.begin();
            for page in request.offset / PAGE..(request.offset + request.len) / PAGE {
                buffer.put_slice(&[page as u8; PAGE as usize]);
            }
            pause(pauses).await;
            AsyncBacking::version(self).await
        })
    }

    fn version(&self) -> BoxFuture<'_, io::Result<RemoteVersion>> {
        Box::pin(async {
            let (_begun, pauses) = self.begin();
            pause(pauses).await;
            Ok(RemoteVersion { len: PAGES * PAGE, validator: Validator::new(*b"v1") })
        })
    }

    fn preferences(&self) -> Preferences {
        Preferences::default().request_bytes(16 * PAGE).in_flight(64)
    }
}

impl Backing for Slow {
    fn file_id(&self) -> FileId {
        FileId { space: "dropped futures", volume: 0, object: 1 }
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: PAGES * PAGE, change_token: [0; 4] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let (_begun, pauses) = self.begin();
        (0..pauses).for_each(|_| thread::yield_now());
        let pages = buffers.iter_mut().flat_map(|buffer| buffer.chunks_mut(PAGE as usize));
        for (page, bytes) in (offset / PAGE..PAGES).zip(pages) {
            bytes.fill(page as u8);
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

type Held = Pin<Box<dyn Future<Output = ()> + Send>>;

fn assert_pages(bytes: &[u8], offset: u64) {
    for (at, &byte) in (offset..).zip(bytes) {
        assert_eq!(byte, (at / PAGE) as u8, "at {at}");
    }
}

/// Returns what was read. `None`: the reader was polled so seldom that its pages left each time.
fn read<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::StaleNetworkFileHandle => None,
        result => Some(result.unwrap()),
    }
}

/// Returns some read of some pages.
fn any_read(file: File, random: &mut fastrand::Rng) -> Held {
    let (offset, len) = (random.u64(..PAGES * PAGE), random.usize(1..8 * PAGE as usize));
    match random.u32(..6) {
        0 => Box::pin(async move {
            let mut buf = vec![0; len];
            if let Some(read) = read(file.read_at_async(&mut buf, offset).await) {
                assert_pages(&buf[..read], offset);
            }
        }),
        1 => Box::pin(async move {
            if let Some(page) = read(file.page_async(offset).await) {
                assert_pages(&page.expect("it lies in the file"), offset);
            }
        }),
        2 => Box::pin(async move {
            if let Some(bytes) = read(file.bytes_async(offset, len).await) {
                assert_pages(&bytes, offset);
            }
        }),
        3 => Box::pin(async move {
            let ranges =
                [offset..offset + 10, 5..offset % 90_000 + 6, offset / 3..offset / 3 + 9000];
            let all = read(file.read_ranges_async(&ranges).await).unwrap_or_default();
            for (range, bytes) in ranges.iter().zip(all) {
                assert_pages(&bytes, range.start);
            }
        }),
        4 => Box::pin(async move {
            assert_eq!(file.len_async().await.unwrap(), PAGES * PAGE);
        }),
        _ => Box::pin(async move {
            if let Some(range) = read(file.range_async(offset, len).await) {
                assert_eq!(range.len() as u64, (len as u64).min(PAGES * PAGE - offset));
            }
        }),
    }
}

/// Begins, polls and drops reads at random, and passes some to other threads through `shared`.
fn play(cache: &Cache, file: &File, shared: &Mutex<Vec<Held>>, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut context = Context::from_waker(Waker::noop());
    let mut held: Vec<Held> = Vec::new();
    let mut begun = 0;
    while begun < FUTURES {
        match random.u32(..32) {
            0..4 if held.len() < HELD => {
                let advice = random.choice([Advice::Normal, Advice::Sequential, Advice::Once]);
                held.push(any_read(file.with_advice(advice.unwrap()), &mut random));
                begun += 1;
            }
            4..6 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
            6 if !held.is_empty() => {
                shared.lock().push(held.swap_remove(random.usize(..held.len())));
            }
            7 => {
                let taken = shared.lock().pop();
                held.extend(taken);
            }
            8 if random.u32(..20) == 0 => match random.u32(..4) {
                0 => file.invalidate(),
                1 => _ = cache.reclaim(random.usize(..1000)),
                2 => file.evict(random.u64(..PAGES * PAGE)..u64::MAX),
                _ => {
                    let from = random.u64(..PAGES * PAGE);
                    file.prefetch(&[from..PAGES * PAGE, 0..PAGE]);
                }
            },
            _ if !held.is_empty() => {
                let at = random.usize(..held.len());
                if held[at].as_mut().poll(&mut context).is_ready() {
                    drop(held.swap_remove(at));
                }
            }
            _ => {}
        }
    }
}

fn drop_at_random(cache: &Cache, slow: &Slow, file: File) {
    let shared = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (file, shared) = (&file, &shared);
            scope.spawn(move || play(cache, file, shared, seed));
        }
    });
    assert!(slow.requests.load(Ordering::Relaxed) > 1000, "{slow:?}");
    drop(shared);
    cache.quiesce();
    assert_eq!(slow.in_flight.load(Ordering::Relaxed), 0, "in flight");
    let stats = cache.stats();
    assert_eq!((stats.shown_bytes, stats.pinned_bytes), (0, 0), "{stats:?}");
    assert_eq!(file.len(), PAGES * PAGE);
    drop(file);
    while cache.reclaim(1000) > 0 {}
    assert_nothing_leaked(cache);
    assert_eq!((cache.file_bytes(), cache.index_bytes()), (0, 0));
}

#[test]
fn futures_of_a_distant_store_that_are_dropped_leave_nothing() {
    let cache = Cache::new(8 << 20).unwrap();
    let slow = Arc::new(Slow::default());
    let file = cache.open_async(slow.clone()).unwrap();
    drop_at_random(&cache, &slow, file);
    assert!(cache.stats().cancelled > 0, "{:?}", cache.stats());
}

#[test]
fn futures_of_a_blocking_backing_that_are_dropped_leave_nothing() {
    let cache = Cache::new(8 << 20).unwrap();
    let slow = Arc::new(Slow::default());
    let file = cache.open_backing(slow.clone()).unwrap();
    drop_at_random(&cache, &slow, file);
}
