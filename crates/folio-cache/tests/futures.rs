//! Futures and streams return the same as reads, need no runtime, and leak nothing when they are
//! dropped.

mod common;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use bytes::{Buf, Bytes};
use common::{Gated, StopOnDrop, Together, assert_nothing_leaked, file_of, plain};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, ByteStream, Cache, File, LocalFile};
use futures_core::Stream;
use pollster::block_on;

const PAGE: usize = 4096;

fn cache() -> Cache {
    Cache::new(2 << 20).unwrap()
}

fn memory_of(pages: usize) -> (Arc<Memory>, Vec<u8>) {
    let bytes: Vec<u8> = (0..pages * PAGE).map(|at| (at / PAGE) as u8 ^ at as u8).collect();
    (Arc::new(Memory::new(&bytes)), bytes)
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits for all futures at once. Returns their outputs in order.
async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

async fn next(stream: &mut ByteStream) -> Option<io::Result<Bytes>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Returns all pieces of a stream, and the error that ended it.
async fn collect(mut stream: ByteStream) -> (Vec<Bytes>, Option<io::Error>) {
    let mut pieces = Vec::new();
    loop {
        match next(&mut stream).await {
            Some(Ok(piece)) => pieces.push(piece),
            Some(Err(error)) => {
                assert!(next(&mut stream).await.is_none(), "the stream went on after an error");
                return (pieces, Some(error));
            }
            None => return (pieces, None),
        }
    }
}

#[test]
fn futures_return_the_contents_of_the_file() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_dir, path, bytes) = file_of((3 << 20) + 777);
    let cache = cache();
    let files: [Arc<dyn Backing>; 2] =
        [Arc::new(LocalFile::open(&path).unwrap()), Arc::new(Memory::new(&bytes))];
    for backing in files {
        let file = cache.open_backing(backing).unwrap();
        for _ in 0..500 {
            let longest = if random.u8(..) < 5 { 1_000_000 } else { 3 * PAGE };
            let (offset, len) = (random.usize(..bytes.len() + 3000), random.usize(..longest));
            let expected = plain(&bytes, offset, len);
            let at = offset as u64;
            block_on(async {
                let mut buf = vec![0; len];
                assert_eq!(file.read_at_async(&mut buf, at).await.unwrap(), expected.len());
                assert!(buf.starts_with(expected), "{len} bytes at {offset}");
                let mut range = file.range_async(at, len).await.unwrap();
                assert!(
                    range.copy_to_bytes(range.remaining()) == expected,
                    "{len} bytes at {offset}"
                );
                assert!(
                    file.bytes_async(at, len).await.unwrap() == expected,
                    "{len} bytes at {offset}"
                );
                let (pieces, error) = collect(file.stream(at, len as u64)).await;
                assert!(error.is_none() && pieces.concat() == expected, "{len} bytes at {offset}");
                let page = file.page_async(at).await.unwrap();
                let of_page = plain(&bytes, offset, PAGE - offset % PAGE);
                assert_eq!(page.as_deref().unwrap_or_default(), of_page);
            });
        }
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn cached_pages_are_ready_at_the_first_poll() {
    let (memory, bytes) = memory_of(40);
    let cache = cache();
    let file = cache.open_backing(memory.clone()).unwrap();
    file.read_at(&mut vec![0; bytes.len()], 0).unwrap();
    cache.quiesce();
    let calls = memory.calls(Call::Fill);
    let mut buf = vec![0; 30 * PAGE];
    for len in [1, 500, 5000, 30 * PAGE] {
        let read = poll_once(pin!(file.read_at_async(&mut buf[..len], 77)));
        assert!(matches!(read, Poll::Ready(Ok(n)) if n == len));
        assert_eq!(buf[..len], bytes[77..77 + len]);
        let Poll::Ready(Ok(range)) = poll_once(pin!(file.range_async(77, len))) else {
            panic!("a cached range is not ready")
        };
        assert_eq!(range.len(), len);
    }
    assert!(matches!(poll_once(pin!(file.page_async(PAGE as u64))), Poll::Ready(Ok(Some(_)))));
    let mut stream = file.stream(0, 10 * PAGE as u64);
    assert!(matches!(poll_once(pin!(next(&mut stream))), Poll::Ready(Some(Ok(_)))));
    assert_eq!(memory.calls(Call::Fill), calls);
    drop((file, stream));
    assert_nothing_leaked(&cache);
}

#[test]
fn dropped_futures_leak_nothing_and_start_no_more_requests() {
    let (memory, bytes) = memory_of(400);
    let cache = cache();
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Fill, 0, u64::MAX, Fault::Delay(Duration::from_millis(200)));
    // Far apart and in unequal steps, so that nothing is read ahead.
    let pages = (0..100).map(|n: usize| (n * n * 3 % 397) as u64);
    let mut futures: Vec<_> =
        pages.map(|page| Box::pin(file.range_async(page * PAGE as u64, 10))).collect();
    for future in &mut futures {
        assert!(poll_once(future.as_mut()).is_pending());
        // A second poll with another waker changes nothing.
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let mut stream = file.stream(398 * PAGE as u64, u64::MAX);
    assert!(poll_once(pin!(next(&mut stream))).is_pending());
    // Requests that were started end, although their futures are dropped.
    while memory.calls(Call::Fill) == 0 {
        thread::yield_now();
    }
    drop((futures, stream));
    cache.quiesce();
    let calls = memory.calls(Call::Fill);
    assert!(calls < 100, "{calls} requests were made for dropped futures");
    memory.heal();
    assert_eq!(block_on(file.bytes_async(0, bytes.len())).unwrap(), bytes);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn many_futures_on_a_slow_page_share_one_request_and_thread() {
    let (memory, bytes) = memory_of(40);
    let cache = cache();
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Fill, 0, 1, Fault::Delay(Duration::from_millis(300)));
    // 200 futures on the slow page, and one on another page.
    let offsets: Vec<usize> = (0..200).chain([20 * PAGE]).collect();
    let got = block_on(all(offsets.iter().map(|&offset| file.bytes_async(offset as u64, 10))));
    for (offset, got) in offsets.into_iter().zip(got) {
        assert_eq!(got.unwrap(), bytes[offset..offset + 10]);
    }
    // No thread waited for the page: its fetch woke the other futures.
    assert_eq!((memory.calls(Call::Fill), cache.stats().waits), (2, 0));
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn errors_reach_every_future() {
    let (memory, bytes) = memory_of(100);
    let cache = cache();
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Fill, 0, u64::MAX, Fault::Error(5));
    let futures = (0..20).map(|n| file.bytes_async(n / 4 * 17 * PAGE as u64, 10));
    for result in block_on(all(futures)) {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(5));
    }
    assert_eq!(
        block_on(file.page_async(u64::MAX)).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        block_on(file.read_at_async(&mut [0; 5000], 5)).unwrap_err().raw_os_error(),
        Some(5)
    );
    memory.heal();
    assert_eq!(block_on(file.bytes_async(0, PAGE)).unwrap(), bytes[..PAGE]);
    cache.quiesce();
    // A stream returns the bytes before the error, then the error, then nothing.
    file.invalidate();
    memory.inject(Call::Fill, 1, u64::MAX, Fault::Error(5));
    let (pieces, error) = block_on(collect(file.stream(0, u64::MAX)));
    assert_eq!(error.unwrap().raw_os_error(), Some(5));
    let read = pieces.concat();
    drop(pieces);
    assert!((PAGE..bytes.len()).contains(&read.len()) && bytes.starts_with(&read));
    memory.heal();
    // At its end the stream queries the length of the file.
    memory.inject(Call::Version, 0, 1, Fault::Error(5));
    let (pieces, error) = block_on(collect(file.stream(0, u64::MAX)));
    assert_eq!((pieces.concat(), error.unwrap().raw_os_error()), (bytes, Some(5)));
    drop((file, pieces));
    assert_nothing_leaked(&cache);
}

#[test]
fn a_panicking_backing_is_an_error_to_each_waiting_future() {
    let (memory, bytes) = memory_of(40);
    let cache = cache();
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Fill, 0, u64::MAX, Fault::Panic);
    let futures = (0..30).map(|n| file.bytes_async(20 * PAGE as u64 + n, 10));
    for result in block_on(all(futures)) {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Other);
    }
    memory.heal();
    assert_eq!(
        block_on(file.bytes_async(20 * PAGE as u64 + 5, 2)).unwrap(),
        bytes[20 * PAGE + 5..][..2]
    );
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_stream_follows_file_growth_and_triggers_readahead() {
    let (memory, mut bytes) = memory_of(300);
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut stream = file.stream(100, u64::MAX);
    let mut read = Vec::new();
    while read.len() < 100 * PAGE {
        read.extend(block_on(next(&mut stream)).unwrap().unwrap());
    }
    memory.scribble(300 * PAGE as u64, b"more");
    bytes.extend(b"more");
    while let Some(piece) = block_on(next(&mut stream)) {
        read.extend(piece.unwrap());
    }
    assert_eq!((stream.offset(), read == bytes[100..]), (bytes.len() as u64, true));
    assert!(cache.stats().ahead > 0, "{:?}", cache.stats());
    assert!(block_on(next(&mut stream)).is_none());
    // A stream keeps its file open, and its pieces outlive it.
    stream = file.stream(0, 10);
    drop(file);
    let piece = block_on(next(&mut stream)).unwrap().unwrap();
    drop(stream);
    cache.reclaim(usize::MAX);
    assert_eq!(piece, bytes[..10]);
    drop(piece);
    assert_nothing_leaked(&cache);
}

/// Futures can move to any thread; streams and ranges borrow nothing.
#[test]
fn futures_are_send_and_streams_static() {
    fn send<T: Send>(_: &T) {}
    fn send_static<T: Send + Unpin + 'static>(_: &T) {}
    let (memory, _) = memory_of(1);
    let file = cache().open_backing(memory).unwrap();
    let mut buf = [0; 10];
    send(&file.read_at_async(&mut buf, 0));
    send(&file.page_async(0));
    send(&file.range_async(0, 1));
    send(&file.bytes_async(0, 1));
    send_static(&file.stream(0, 1));
    send_static(&file.range(0, 1).unwrap());
}

/// Polls a future at most `polls + 1` times, then drops it. Returns its output, if there was one.
async fn impatient<T>(future: impl Future<Output = T>, mut polls: u32) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if polls == 0 => Poll::Ready(None),
        Poll::Pending => {
            polls -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Each page is filled with its number modulo 100, plus 0 or 100 after a write.
#[test]
fn futures_under_writes_truncation_and_reclaim_are_right() {
    const PAGES: usize = 600;
    let contents: Vec<u8> = (0..PAGES * PAGE).map(|at| (at / PAGE % 100) as u8).collect();
    let cache = cache();
    let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
    let stop = AtomicBool::new(false);
    let read = |file: &File, seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..1500 {
            let (page, pages) = (random.usize(..PAGES - 20), random.usize(1..20));
            let range = file.range_async((page * PAGE) as u64, pages * PAGE);
            let Some(range) = block_on(impatient(range, random.u32(..3))) else { continue };
            let bytes: Vec<u8> = range.unwrap().chunks().flatten().copied().collect();
            for (n, bytes) in bytes.chunks(PAGE).enumerate() {
                let same = bytes.iter().all(|&byte| byte == bytes[0]);
                assert!(
                    same && usize::from(bytes[0]) % 100 == (page + n) % 100,
                    "page {}",
                    page + n
                );
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            let mut random = fastrand::Rng::with_seed(1);
            while !stop.load(Ordering::Relaxed) {
                let page = random.usize(..PAGES);
                let byte = (page % 100) as u8 + 100 * random.u8(..2);
                file.write_at(&[byte; PAGE], (page * PAGE) as u64).unwrap();
                if random.u8(..) == 0 {
                    cache.reclaim(100);
                }
            }
        });
        let readers = [2, 3].map(|seed| {
            let (file, stop) = (&file, &stop);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                read(file, seed);
            })
        });
        let _ended = readers.map(|reader| reader.join().expect("a reader"));
    });
    // The last pages are truncated while they are fetched.
    let mut futures: Vec<_> =
        (500..600).map(|page| Box::pin(file.page_async(page * PAGE as u64))).collect();
    let polled: Vec<_> = futures.iter_mut().map(|future| poll_once(future.as_mut())).collect();
    file.set_len(550 * PAGE as u64).unwrap();
    for ((page, future), polled) in (500..).zip(futures).zip(polled) {
        let got = match polled {
            Poll::Ready(got) => got.unwrap(),
            Poll::Pending => block_on(future).unwrap(),
        };
        assert!(page >= 550 || got.is_some(), "page {page}");
        assert!(
            got.is_none_or(|got| got.iter().all(|byte| usize::from(*byte) % 100 == page % 100))
        );
    }
    file.sync_all().unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn misses_of_futures_are_batched_with_separate_results() {
    let (memory, bytes) = memory_of(3000);
    let mut together = Together::new(&memory);
    (together.bad, together.trap) = (Some(35), Some(63));
    let together = Arc::new(together);
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let file = cache.open_backing(together.clone()).unwrap();
    // In unequal steps, so that nothing is read ahead; the last one is past the end.
    let pages: Vec<usize> = (0..400_usize).map(|n| n * n % 2999 / 7 * 7).chain([3000]).collect();
    let got =
        block_on(all(pages.iter().map(|&page| file.bytes_async((page * PAGE) as u64 + 5, 10))));
    for (&page, got) in pages.iter().zip(&got) {
        match (page, got) {
            (35, Err(error)) => assert_eq!(error.raw_os_error(), Some(5)),
            (63, Err(error)) => assert_eq!(error.kind(), io::ErrorKind::Other),
            (_, Ok(got)) => assert_eq!(got, plain(&bytes, page * PAGE + 5, 10)),
            (_, Err(error)) => panic!("page {page}: {error}"),
        }
    }
    assert!(got.iter().any(Result::is_err), "neither page 35 nor page 63 was read");
    let (calls, misses) = (together.calls.load(Ordering::Relaxed), cache.stats().misses);
    assert!(misses > 100 && (calls as u64) < misses / 4, "{calls} calls for {misses} pages");
    drop((file, got));
    assert_nothing_leaked(&cache);
}

/// The deadlock to avoid: all threads of the cache wait for the lock of the truncate, the truncate
/// waits for pages of a queued extent, and the extent waits for a thread. So one thread is reserved
/// for extents; if there is none to reserve, extents are not queued.
#[test]
fn truncate_does_not_deadlock_with_extents_and_futures() {
    for threads in [16, 2, 1] {
        truncate_beside_futures(threads);
    }
}

fn truncate_beside_futures(threads: usize) {
    let (_, bytes) = memory_of(400);
    let (gated, _) =
        Gated::new(&bytes, |call, offset| call == Call::Fill && offset >= 200 * PAGE as u64);
    let cache = Cache::new(8 << 20).unwrap();
    cache.set_io_threads(threads);
    let file = cache.open_backing(gated.clone()).unwrap();
    // More futures than threads; each page is past the end when its fetch ends.
    let mut futures: Vec<_> =
        (0..40).map(|n| Box::pin(file.page_async(((200 + n * 37 % 199) * PAGE) as u64))).collect();
    for future in &mut futures {
        assert!(poll_once(future.as_mut()).is_pending());
    }
    // The third page in a row triggers readahead, by any free thread.
    for page in 0..3 {
        file.read_at(&mut [0; 8], page * PAGE as u64).unwrap();
    }
    gated.memory.cut(2 * PAGE as u64);
    let (sender, receiver) = mpsc::channel();
    let truncated = file.clone();
    thread::spawn(move || sender.send(truncated.revalidate().unwrap()));
    while file.len() > 2 * PAGE as u64 {
        thread::sleep(Duration::from_millis(1));
    }
    gated.open();
    // No scope: a deadlocked thread ends with the process.
    assert!(receiver.recv_timeout(Duration::from_secs(30)).expect("the truncate waits forever"));
    assert!(block_on(all(futures)).into_iter().all(|page| page.unwrap().is_none()));
    drop(file);
    assert_nothing_leaked(&cache);
}
