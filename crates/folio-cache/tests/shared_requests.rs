//! Requests that many threads need are shared, or made side by side: looks at the length, writes
//! before a sync, the writes of the flusher, and fills that fail.

mod common;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::assert_nothing_leaked;
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, Durable, File, FileId, Version};

const DELAY: Duration = Duration::from_millis(100);

/// Runs `act` in `threads` threads at once. Returns the time that all of them took.
fn at_once(threads: usize, act: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads);
    let begin = Instant::now();
    thread::scope(|scope| {
        for n in 0..threads {
            let (barrier, act) = (&barrier, &act);
            scope.spawn(move || {
                barrier.wait();
                act(n);
            });
        }
    });
    begin.elapsed()
}

fn slow(call: Call, bytes: &[u8]) -> (Arc<Memory>, Cache, File) {
    let cache = Cache::new(8 << 20).unwrap();
    let memory = Arc::new(Memory::new(bytes));
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(call, 0, u64::MAX, Fault::Delay(DELAY));
    (memory, cache, file)
}

#[test]
fn readers_at_the_end_share_looks_at_the_length() {
    let (memory, cache, file) = slow(Call::Version, b"short");
    let before = memory.calls(Call::Version);
    at_once(64, |_| assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 5));
    // One for those that came before it began, one for the rest. A thread may come late.
    let looks = memory.calls(Call::Version) - before;
    assert!(looks <= 12, "{looks} looks");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Each reader must find what was appended before it came, so it shares no look that began before.
#[test]
fn a_shared_look_is_not_older_than_its_reader() {
    let (memory, _cache, file) = slow(Call::Version, b"");
    thread::scope(|scope| {
        for n in 0..20_u64 {
            memory.scribble(n, &[7]);
            let file = &file;
            scope.spawn(move || {
                assert_eq!(file.read_at(&mut [0], n).unwrap(), 1, "byte {n} is not seen");
            });
            thread::sleep(Duration::from_millis(7));
        }
    });
}

#[test]
fn a_failed_look_fails_for_all_that_share_it_and_no_later_one() {
    let (memory, _cache, file) = slow(Call::Version, b"short");
    let read = || file.read_at(&mut [0; 10], 5).map_err(|error| error.raw_os_error());
    memory.inject(Call::Version, 0, u64::MAX, Fault::Error(5));
    at_once(16, |_| assert_eq!(read(), Err(Some(5))));
    memory.heal();
    assert_eq!(read(), Ok(0));
}

#[test]
fn opens_of_an_open_file_share_their_revalidation() {
    let (memory, cache, file) = slow(Call::Version, b"short");
    let before = memory.calls(Call::Version);
    at_once(32, |_| assert_eq!(cache.open_backing(memory.clone()).unwrap().len(), 5));
    // One for each open, before the file is found, and a few of two calls each.
    let looks = memory.calls(Call::Version) - before;
    assert!(looks <= 32 + 24, "{looks} looks");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn writes_before_a_shared_sync_are_shared() {
    for call in [Call::Write, Call::Sync] {
        let (memory, cache, file) = slow(call, b"");
        at_once(50, |n| {
            file.append(&[n as u8 + 1; 100]).unwrap();
            file.sync_data().unwrap();
            assert!(memory.durable().contains(&(n as u8 + 1)), "{n} is not durable");
        });
        assert!(memory.calls(call) <= 12, "{} calls of {call:?}", memory.calls(call));
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn flushes_of_one_file_share_their_writes() {
    let (memory, cache, file) = slow(Call::Write, b"");
    at_once(50, |n| {
        file.append(&[n as u8 + 1; 100]).unwrap();
        file.flush().unwrap();
        assert!(memory.contents().contains(&(n as u8 + 1)), "{n} is not written");
    });
    assert!(memory.calls(Call::Write) <= 12, "{} writes", memory.calls(Call::Write));
    drop(file);
    assert_nothing_leaked(&cache);
}

fn many_slow(cache: &Cache, files: usize) -> Vec<(Arc<Memory>, File)> {
    let slow = |_| {
        let memory = Arc::new(Memory::new(b""));
        memory.inject(Call::Write, 0, u64::MAX, Fault::Delay(DELAY));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(b"new", 0).unwrap();
        (memory, file)
    };
    (0..files).map(slow).collect()
}

/// One after the other they take 20 s.
#[test]
fn the_flusher_writes_many_slow_files_side_by_side() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let files = many_slow(&cache, 200);
    let begin = Instant::now();
    while files.iter().any(|(memory, _)| memory.contents() != b"new") {
        assert!(begin.elapsed() < Duration::from_secs(8), "the flusher takes too long");
        thread::sleep(Duration::from_millis(10));
    }
    drop(files);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_flush_of_all_writes_slow_files_side_by_side() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let files = many_slow(&cache, 200);
    let begin = Instant::now();
    cache.flush().unwrap();
    assert!(files.iter().all(|(memory, _)| memory.contents() == b"new"));
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    drop(files);
    assert_nothing_leaked(&cache);
}

/// The error type of a store.
#[derive(Debug)]
struct Status(u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.0)
    }
}

impl Error for Status {}

/// A store of which each call except `version` takes a while and fails, or panics.
#[derive(Debug)]
struct Refusing {
    memory: Memory,
    fills: AtomicUsize,
    panics: bool,
}

impl Refusing {
    fn new(panics: bool) -> Arc<Self> {
        let memory = Memory::new(&vec![1; 8 * 4096]);
        Arc::new(Self { memory, fills: AtomicUsize::new(0), panics })
    }

    fn refuse<T>(&self) -> io::Result<T> {
        thread::sleep(DELAY);
        assert!(!self.panics, "a panic of the backing, on purpose");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, Status(503)))
    }
}

impl Backing for Refusing {
    fn file_id(&self) -> FileId {
        self.memory.file_id()
    }

    fn version(&self) -> io::Result<Version> {
        self.memory.version()
    }

    fn fill(&self, _: u64, _: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.fills.fetch_add(1, Ordering::Relaxed);
        self.refuse()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        self.refuse()
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        self.refuse()
    }
}

#[track_caller]
fn assert_is_of_the_store(error: &io::Error) {
    let status = error.source().and_then(|source| source.downcast_ref::<Status>());
    assert_eq!(status.map(|status| status.0), Some(503), "{error:?}");
    assert_eq!(
        (error.kind(), error.to_string()),
        (io::ErrorKind::QuotaExceeded, "status 503".into())
    );
}

#[test]
fn one_failing_request_answers_all_threads_that_wait() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let store = Refusing::new(false);
    let file = cache.open_backing(store.clone()).unwrap();
    at_once(50, |n| {
        let error = match n % 3 {
            0 => file.read_at(&mut [0; 8], n as u64).unwrap_err(),
            1 => file.page(n as u64).unwrap_err(),
            // It reads the page that it changes.
            _ => file.write_at(&[2; 8], n as u64).unwrap_err(),
        };
        assert_is_of_the_store(&error);
    });
    // A thread may come late.
    let fills = store.fills.load(Ordering::Relaxed);
    assert!(fills <= 6, "{fills} fills");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Counts how often it is woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Read<'f> = Pin<Box<dyn Future<Output = io::Error> + 'f>>;

/// Polls the reads, each by a task of its own, whenever it is woken. Returns their errors, and the
/// number of times that all were woken.
fn errors_of(mut reads: Vec<Read<'_>>) -> (Vec<io::Error>, usize) {
    let tasks: Vec<_> = reads.iter().map(|_| Arc::new(Task::default())).collect();
    let mut polls = vec![0; reads.len()];
    let mut errors: Vec<_> = reads.iter().map(|_| None).collect();
    let end = Instant::now() + Duration::from_mins(1);
    while errors.iter().any(Option::is_none) {
        assert!(Instant::now() < end, "a future is left asleep");
        let before = polls.clone();
        for (n, read) in reads.iter_mut().enumerate() {
            if errors[n].is_none() && polls[n] <= tasks[n].0.load(Ordering::SeqCst) {
                polls[n] += 1;
                let waker = Waker::from(tasks[n].clone());
                if let Poll::Ready(error) = read.as_mut().poll(&mut Context::from_waker(&waker)) {
                    errors[n] = Some(error);
                }
            }
        }
        if polls == before {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let wakes = tasks.iter().map(|task| task.0.load(Ordering::SeqCst)).sum();
    (errors.into_iter().flatten().collect(), wakes)
}

#[test]
fn one_failing_request_answers_all_futures_that_wait() {
    const FUTURES: usize = 20_000;
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let store = Refusing::new(false);
    let file = cache.open_backing(store.clone()).unwrap();
    let read = |n| -> Read<'_> {
        let file = &file;
        Box::pin(async move { file.bytes_async(n as u64 % 4000, 8).await.unwrap_err() })
    };
    let (errors, wakes) = errors_of((0..FUTURES).map(read).collect());
    errors.iter().for_each(assert_is_of_the_store);
    // The first polls may take longer than a request.
    let fills = store.fills.load(Ordering::Relaxed);
    assert!(fills <= 20, "{fills} fills");
    assert!(wakes <= 2 * FUTURES, "{wakes} wakes");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn one_panicking_request_answers_all_futures_that_wait() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let store = Refusing::new(true);
    let file = cache.open_backing(store.clone()).unwrap();
    let read = |_| -> Read<'_> {
        let file = &file;
        Box::pin(async move { file.page_async(0).await.unwrap_err() })
    };
    let (errors, _) = errors_of((0..1000).map(read).collect());
    assert!(errors.iter().all(|error| error.to_string() == "the backing panicked"));
    let fills = store.fills.load(Ordering::Relaxed);
    assert!(fills <= 6, "{fills} fills");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Each open of a file, and each caller of a shared sync, gets the error of the store.
#[test]
fn errors_of_writes_and_syncs_keep_their_source() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let store = Refusing::new(false);
    let opens = [(); 8].map(|()| cache.open_backing(store.clone()).unwrap());
    opens[0].write_at(&[2; 4096], 0).unwrap();
    at_once(opens.len(), |n| assert_is_of_the_store(&opens[n].sync_data().unwrap_err()));
    assert_is_of_the_store(&cache.unwritten()[0].error);
    opens[0].discard().unwrap();
    drop(opens);
    assert_nothing_leaked(&cache);
}
