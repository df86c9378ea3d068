//! Distant stores that answer short, wrong, late or never, and readers that go away.

mod common;

use std::error::Error as _;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{end_distant, end_read_ahead, eventually, plain};
use folio_cache::testing::{Distant, DistantError, DistantFault};
use folio_cache::{Advice, Cache, File, OnChange, Preferences, Validator};
use futures_core::Stream as _;
use pollster::block_on;

const PAGE: usize = 4096;

fn bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(1..)).collect()
}

fn open_with(
    pages: usize,
    change: impl FnOnce(Distant) -> Distant,
) -> (Cache, Arc<Distant>, File, Vec<u8>) {
    let all = bytes(pages * PAGE);
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let distant = Arc::new(change(Distant::new(&all)));
    let file = cache.open_async(distant.clone()).unwrap();
    (cache, distant, file, all)
}

fn open(pages: usize) -> (Cache, Arc<Distant>, File, Vec<u8>) {
    open_with(pages, |distant| distant)
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[test]
fn short_answers_are_continued() {
    let (cache, distant, file, all) = open(8);
    distant.inject(0, 1, DistantFault::Short(5000));
    distant.inject(1, 1, DistantFault::Short(1));
    assert_eq!(file.bytes(0, 8 * PAGE).unwrap(), all);
    assert_eq!(distant.requests(), [0..32_768, 5000..32_768, 5001..32_768]);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_store_that_is_always_short_is_an_error_or_slow() {
    let (cache, distant, file, all) = open(64);
    // Each request brings some pages: enough to go on.
    distant.inject(0, usize::MAX, DistantFault::Short(1000));
    assert_eq!(file.bytes(0, 64 * PAGE).unwrap(), all);
    file.invalidate();
    distant.heal();
    distant.inject(0, usize::MAX, DistantFault::Short(0));
    let before = distant.requests().len();
    assert_eq!(file.bytes(0, 10).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(distant.requests().len(), before + 1);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_length_that_is_too_short_cuts_and_one_too_long_is_an_error() {
    let (cache, distant, file, all) = open(8);
    distant.inject(0, 1, DistantFault::Length(5000));
    assert_eq!(file.bytes(0, 8 * PAGE).unwrap(), all[..5000]);
    assert_eq!(file.len(), 5000);
    // The next answer has another length, which is another version.
    file.evict(0..4096);
    assert_eq!(file.bytes(0, 8 * PAGE).unwrap(), all);
    file.invalidate();
    distant.inject(0, usize::MAX, DistantFault::Length(u64::MAX));
    assert_eq!(file.bytes(0, 8 * PAGE).unwrap(), all, "what is there is read");
    let error = file.bytes(8 * PAGE as u64, 10).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(file.read_at(&mut [0; 10], 1 << 45).unwrap_err().kind(), ErrorKind::FileTooLarge);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_late_answer_is_waited_for_and_harms_no_other() {
    let (cache, distant, file, all) = open(8);
    let late = Duration::from_secs(1);
    distant.inject(0, 1, DistantFault::Late(late));
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(file.bytes(0, 10).unwrap(), all[..10]));
        while distant.requests().is_empty() {
            thread::yield_now();
        }
        assert_eq!(file.bytes(4096, 10).unwrap(), all[4096..4106]);
        assert!(begin.elapsed() < late);
    });
    assert!(begin.elapsed() >= late);
    end_distant(&cache, &distant, file);
}

/// No call waits for a request that is never answered: nor invalidation, nor reclaim, nor a close.
#[test]
fn an_answer_that_never_comes_holds_nothing_up() {
    let (cache, distant, file, all) = open(64);
    distant.inject(0, 1, DistantFault::Never);
    let mut stuck = Box::pin(file.bytes_async(0, 32 * PAGE));
    assert!(stuck.as_mut().poll(&mut noop()).is_pending());
    assert_eq!(file.bytes(32 * PAGE as u64, 10).unwrap(), all[32 * PAGE..32 * PAGE + 10]);
    file.evict(0..u64::MAX);
    cache.reclaim(100);
    cache.set_capacity(8 << 20).unwrap();
    cache.set_capacity(16 << 20).unwrap();
    assert!(cache.invalidate(&file.key()));
    // The request is of the past: a new reader makes its own.
    assert_eq!(file.bytes(0, 10).unwrap(), all[..10]);
    cache.frames().compact(1);
    drop(stuck);
    end_distant(&cache, &distant, file);
}

#[test]
fn another_validator_in_the_middle_begins_anew() {
    let preferences = Preferences::default().request_bytes(4 * PAGE as u64);
    let (cache, distant, file, all) =
        open_with(32, |distant| distant.with_preferences(preferences));
    distant.inject(3, 1, DistantFault::Validator(Validator::new(*b"other")));
    assert!(file.bytes(0, 32 * PAGE).unwrap() == all);
    let known = file.known_version().unwrap();
    assert_eq!(known, distant.now());
    // Within one request that is continued.
    file.invalidate();
    let before = distant.requests().len();
    distant.inject(0, 1, DistantFault::Short(5000));
    distant.inject(1, 1, DistantFault::Validator(Validator::new(*b"other")));
    assert_eq!(file.bytes(0, 4 * PAGE).unwrap(), all[..4 * PAGE]);
    assert!(distant.requests().len() > before + 2);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_changed_object_is_an_error_if_the_backing_wants_it() {
    let (cache, distant, file, all) =
        open_with(8, |distant| distant.with_on_change(OnChange::Fail));
    assert_eq!(file.bytes(0, PAGE).unwrap(), all[..PAGE]);
    let new = bytes(3 * PAGE);
    distant.replace(&new);
    let error = file.bytes(PAGE as u64, PAGE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleNetworkFileHandle);
    assert_eq!(folio_cache::raw_os_error(&error), Some(116), "{error}");
    assert_eq!(file.bytes(0, PAGE).unwrap(), all[..PAGE], "the old version stays");
    assert!(cache.open_async_with(distant.clone(), &distant.now()).is_err());
    assert!(file.revalidate().is_err());
    assert!(cache.invalidate(&file.key()));
    assert_eq!(file.bytes(0, 8 * PAGE).unwrap(), new);
    end_distant(&cache, &distant, file);
}

#[test]
fn an_object_that_changes_with_each_answer_ends_in_an_error() {
    let (cache, distant, file, _) = open_with(8, |distant| {
        distant.with_preferences(Preferences::default().request_bytes(4096))
    });
    for n in 0..200_u8 {
        distant.inject(usize::from(n), 1, DistantFault::Validator(Validator::new([n])));
    }
    let error = file.bytes(0, 8 * PAGE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleNetworkFileHandle, "{error}");
    distant.heal();
    assert_eq!(file.bytes(0, 8 * PAGE).unwrap().len(), 8 * PAGE);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_stream_of_a_changed_object_is_an_error() {
    let (cache, distant, file, _) = open_with(1024, |distant| {
        distant.with_preferences(Preferences::default().request_bytes(64 << 10))
    });
    let mut stream = file.stream(0, u64::MAX);
    let mut next = || block_on(std::future::poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)));
    assert!(next().unwrap().is_ok());
    distant.replace(&bytes(1024 * PAGE));
    file.invalidate();
    let error = next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleNetworkFileHandle);
    assert!(next().is_none());
    drop(stream);
    end_read_ahead(&cache, &distant, file);
}

#[test]
fn errors_that_pass_pass_and_errors_that_stay_reach_all() {
    let (cache, distant, file, all) = open(8);
    distant.inject(0, 2, DistantFault::Error(ErrorKind::HostUnreachable));
    for _ in 0..2 {
        let error = file.read_at(&mut [0; 10], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        assert!(error.source().unwrap().is::<DistantError>());
    }
    assert_eq!(file.bytes(0, 10).unwrap(), all[..10]);
    file.invalidate();
    distant.inject(0, usize::MAX, DistantFault::Error(ErrorKind::PermissionDenied));
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..16 {
            let (file, failed) = (&file, &failed);
            scope.spawn(move || {
                let error = if n % 2 == 0 {
                    file.bytes(0, 3 * PAGE).unwrap_err()
                } else {
                    block_on(file.bytes_async(0, 3 * PAGE)).unwrap_err()
                };
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                assert!(error.source().unwrap().is::<DistantError>());
                failed.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(failed.load(Ordering::Relaxed), 16);
    // A read that got some bytes is short, and the next one has the error.
    distant.heal();
    assert_eq!(file.bytes(0, PAGE).unwrap(), all[..PAGE]);
    distant.inject(0, usize::MAX, DistantFault::Error(ErrorKind::TimedOut));
    let mut buf = vec![0; 2 * PAGE];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), PAGE);
    assert_eq!(file.read_at(&mut buf, PAGE as u64).unwrap_err().kind(), ErrorKind::TimedOut);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_store_that_panics_is_an_error() {
    let (cache, distant, file, all) = open(8);
    distant.inject(0, 1, DistantFault::Panic);
    let error = file.bytes(0, 10).unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    assert_eq!(file.bytes(0, 10).unwrap(), all[..10]);
    end_distant(&cache, &distant, file);
}

/// A waker that panics, or that is never followed by a poll, leaves no other waiter asleep.
#[test]
fn wakers_that_panic_or_do_nothing_harm_no_other() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics, on purpose");
        }
    }
    let (cache, distant, file, all) =
        open_with(8, |distant| distant.with_latency(Duration::from_millis(20)));
    let panics = Waker::from(Arc::new(Panics));
    let mut context = Context::from_waker(&panics);
    let mut first = Box::pin(file.bytes_async(0, 10));
    assert!(first.as_mut().poll(&mut context).is_pending());
    let mut second = Box::pin(file.bytes_async(0, 10));
    assert!(second.as_mut().poll(&mut noop()).is_pending());
    let third = block_on(file.bytes_async(0, 10)).unwrap();
    assert_eq!(third, all[..10]);
    assert_eq!(distant.requests().len(), 1);
    let Poll::Ready(Ok(bytes)) = first.as_mut().poll(&mut context) else { panic!("not ready") };
    assert_eq!(bytes, all[..10]);
    drop((bytes, third, first, second));
    end_distant(&cache, &distant, file);
}

#[test]
fn an_executor_may_be_dropped_with_requests_in_flight() {
    let (cache, distant, file, all) =
        open_with(64, |distant| distant.with_latency(Duration::from_millis(300)));
    let file = file.with_advice(Advice::Random);
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for n in 0..32_u64 {
        let file = file.clone();
        tasks.push(Box::pin(async move {
            file.bytes_async(n * 8192, 5000).await.unwrap();
        }));
    }
    for task in &mut tasks {
        assert!(task.as_mut().poll(&mut noop()).is_pending());
    }
    assert_eq!(distant.in_flight(), 32);
    thread::scope(|scope| {
        let reader = scope.spawn(|| file.bytes(0, 5000).unwrap());
        thread::sleep(Duration::from_millis(2));
        drop(tasks);
        assert_eq!(reader.join().unwrap(), all[..5000]);
    });
    end_distant(&cache, &distant, file);
}

/// 100,000 futures are dropped at any moment: before the first poll, in flight, at the end.
#[test]
fn futures_dropped_at_any_moment_leave_nothing() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let stop = AtomicBool::new(false);
    let (cache, distant, file, all) = open_with(256, |distant| {
        distant
            .with_latency(Duration::from_micros(200))
            .with_preferences(Preferences::default().request_bytes(16 << 10).in_flight(8))
    });
    thread::scope(|scope| {
        let _stop = common::StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                file.evict(0..u64::MAX);
                thread::sleep(Duration::from_micros(300));
            }
        });
        let readers: Vec<_> = (0..4)
            .map(|thread| {
                let (file, all) = (&file, &all);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed + thread);
                    let mut held: Vec<Pin<Box<dyn Future<Output = _> + Send>>> = Vec::new();
                    for n in 0..25_000 {
                        let (offset, len) = (random.usize(..256 * PAGE), random.usize(..40_000));
                        let read = async move {
                            let bytes = file.bytes_async(offset as u64, len).await.unwrap();
                            assert_eq!(bytes, plain(all, offset, len));
                        };
                        held.push(Box::pin(read));
                        for _ in 0..random.usize(..3) {
                            let n = random.usize(..held.len());
                            if held[n].as_mut().poll(&mut noop()).is_ready() {
                                drop(held.swap_remove(n));
                            }
                            if held.is_empty() {
                                break;
                            }
                        }
                        while held.len() > 16 || (n % 1000 == 0 && !held.is_empty()) {
                            drop(held.swap_remove(random.usize(..held.len())));
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
    });
    eventually("no request is in flight", || distant.in_flight() == 0);
    // All permits are back: as many requests as the backing allows go out at once.
    file.evict(0..u64::MAX);
    assert!(file.bytes(0, 256 * PAGE).unwrap() == all);
    end_distant(&cache, &distant, file);
}

/// Many tasks read, cancel, evict and invalidate while the object changes. No read mixes versions.
#[test]
fn reads_under_changes_are_of_one_version() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    // Each version is one byte value throughout, and has a length of its own.
    let contents = |version: u8| vec![version; 64 * PAGE + 100 * usize::from(version % 7)];
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let distant = Arc::new(
        Distant::new(&contents(1))
            .with_latency(Duration::from_micros(100))
            .with_preferences(Preferences::default().request_bytes(32 << 10)),
    );
    let file = cache.open_async(distant.clone()).unwrap();
    let stop = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _stop = common::StopOnDrop(&stop);
        scope.spawn(|| {
            let mut version = 1;
            while !stop.load(Ordering::Relaxed) {
                version = version % 200 + 1;
                distant.replace(&contents(version));
                thread::sleep(Duration::from_millis(3));
                if version % 3 == 0 {
                    file.invalidate();
                }
            }
        });
        let readers: Vec<_> = (0..3)
            .map(|thread| {
                let (file, reads) = (&file, &reads);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed + thread);
                    let end = Instant::now() + Duration::from_secs(2);
                    while Instant::now() < end {
                        let (offset, len) = (random.usize(..64 * PAGE), random.usize(1..150_000));
                        let mut buf = vec![0; len];
                        let read = match random.u8(..4) {
                            0 => file.bytes(offset as u64, len).map(|bytes| bytes.to_vec()),
                            1 => file.read_at(&mut buf, offset as u64).map(|n| buf[..n].to_vec()),
                            2 => {
                                let n = file.try_read(&mut buf, offset as u64).unwrap_or(0);
                                Ok(buf[..n].to_vec())
                            }
                            _ => {
                                let ranges = [offset as u64..(offset + len) as u64, 0..5000];
                                let read = block_on(file.read_ranges_async(&ranges));
                                read.map(|read| read.concat())
                            }
                        };
                        match read {
                            Ok(bytes) => {
                                let first = bytes.first().copied().unwrap_or_default();
                                assert!(bytes.iter().all(|&byte| byte == first), "two versions");
                                reads.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                assert_eq!(
                                    error.kind(),
                                    ErrorKind::StaleNetworkFileHandle,
                                    "{error}"
                                );
                            }
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert!(reads.load(Ordering::Relaxed) > 50, "{reads:?} reads");
    end_distant(&cache, &distant, file);
}

#[test]
fn ranges_at_the_limits_are_read_or_refused() {
    let (cache, distant, file, all) = open(8);
    let most = i64::MAX as u64;
    for offset in [most + 1, u64::MAX] {
        assert_eq!(file.bytes(offset, 10).unwrap_err().kind(), ErrorKind::InvalidInput);
        let read = block_on(file.read_at_async(&mut [0; 3], offset));
        assert_eq!(read.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(distant.requests().len(), 0);
    // The length is not known: a request past the end tells it.
    assert_eq!(file.bytes(most, usize::MAX).unwrap().len(), 0);
    assert_eq!(file.known_len(), Some(8 * PAGE as u64));
    assert_eq!(file.bytes(1 << 44, 10).unwrap().len(), 0);
    assert_eq!(file.bytes(100, usize::MAX).unwrap(), all[100..]);
    file.prefetch(&[0..u64::MAX, 5..5, most..u64::MAX, 1..2]);
    file.evict(0..0);
    file.evict(u64::MAX..u64::MAX);
    let mut stream = pin!(file.stream(most, u64::MAX));
    let next = block_on(std::future::poll_fn(|context| stream.as_mut().poll_next(context)));
    assert!(next.is_none());
    assert_eq!(file.bytes(0, 0).unwrap().len(), 0);
    cache.quiesce();
    end_distant(&cache, &distant, file.clone());
}

#[test]
fn an_empty_object_has_no_bytes() {
    let (cache, distant, file, _) = open(0);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 0);
    assert!(file.is_empty() && file.page(0).unwrap().is_none());
    assert_eq!(file.read_ranges(&[0..10, 5..7]).unwrap().concat(), b"");
    assert_eq!(distant.requests().len(), 1);
    end_distant(&cache, &distant, file);
}

/// Handles pin all memory: a read fails, and one that comes after they are dropped succeeds.
#[test]
fn a_read_without_memory_fails_and_recovers() {
    let all = bytes(4 << 20);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let distant = Arc::new(Distant::new(&all));
    let file = cache.open_async(distant.clone()).unwrap();
    let mut handles = Vec::new();
    let error = loop {
        match file.page(handles.len() as u64 * 4096) {
            Ok(page) => handles.push(page.expect("the file is longer")),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(handles.len() > 400, "{}", handles.len());
    drop(handles);
    assert_eq!(file.bytes(3 << 20, 10_000).unwrap(), all[3 << 20..(3 << 20) + 10_000]);
    // A range longer than the cache cannot be pinned, but it can be copied.
    let mut buf = vec![0; 4 << 20];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 4 << 20);
    assert!(buf == all);
    end_distant(&cache, &distant, file);
}
