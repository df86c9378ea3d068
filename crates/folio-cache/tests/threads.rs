//! A cache with few threads of its own, or none, returns the same results and never deadlocks.

mod common;

use std::collections::HashSet;
use std::fs;
use std::future::{Future, poll_fn};
use std::io::{self, BufRead, BufReader};
use std::pin::{Pin, pin};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use common::{Together, assert_nothing_leaked};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, ByteStream, Cache, File};
use futures_core::Stream;
use pollster::block_on;
use rustix::process::{Resource, Rlimit, getuid, setrlimit};
use rustix::thread::{Uid, set_thread_res_uid};

const PAGE: usize = 4096;
const PAGES: usize = 1000;

/// Returns [`PAGES`] pages, each filled with its number modulo 250.
fn contents() -> Vec<u8> {
    (0..PAGES * PAGE).map(|at| (at / PAGE % 250) as u8).collect()
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Returns the rest of a stream.
fn collect(mut stream: ByteStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context))) {
        bytes.extend(piece.unwrap());
    }
    bytes
}

/// Runs `test` in a thread, and panics if it does not end within two minutes. The thread then ends
/// with the process.
fn ends(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let running = thread::spawn(move || {
        test();
        sender.send(())
    });
    let ended = receiver.recv_timeout(Duration::from_mins(2));
    assert!(ended != Err(mpsc::RecvTimeoutError::Timeout), "the test hangs");
    running.join().expect("the test panicked").expect("the receiver is alive");
}

/// Changes or drops pages that are being read ahead. A cache without threads has no thread to fill
/// them, and must not wait for one.
fn change_pages_under_readahead(cache: &Cache) {
    let page = |n| n * PAGE as u64;
    let changes: [fn(&File, &Memory); 5] = [
        |file, _| assert_eq!(file.write_at(&[251; PAGE], 7 * PAGE as u64).unwrap(), PAGE),
        |file, _| file.set_len(5 * PAGE as u64 + 1).unwrap(),
        |file, _| file.punch_hole(6 * PAGE as u64, 2 * PAGE as u64).unwrap(),
        |file, _| file.invalidate(),
        |file, memory| {
            memory.cut(5 * PAGE as u64);
            assert!(file.revalidate().unwrap());
        },
    ];
    for change in changes {
        let memory = Arc::new(Memory::new(&contents()));
        let file = cache.open_backing(memory.clone()).unwrap();
        let ahead = cache.stats().ahead;
        // The third page in a row triggers readahead.
        for n in 0..3 {
            file.read_at(&mut [0; 8], page(n)).unwrap();
        }
        assert!(cache.stats().ahead > ahead);
        change(&file, &memory);
        file.sync_all().unwrap();
        assert!(file.bytes(0, usize::MAX).unwrap() == memory.contents());
    }
    assert_nothing_leaked(cache);
}

/// Runs all operations of a file, one after the other.
fn everything(cache: &Cache) {
    change_pages_under_readahead(cache);
    let (memory, bytes) = (Arc::new(Memory::new(&contents())), contents());
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut buf = vec![0; 3 * PAGE];
    for (n, expected) in bytes.chunks(buf.len()).enumerate() {
        let offset = (n * buf.len()) as u64;
        let read = file.read_at(&mut buf[..], offset).unwrap();
        assert!(buf[..read] == *expected, "read {n}");
    }
    assert!(cache.stats().ahead > 0, "{:?}", cache.stats());
    file.invalidate();
    for page in (0..PAGES).rev().step_by(3) {
        let got = block_on(file.page_async((page * PAGE) as u64)).unwrap().unwrap();
        assert!(*got == bytes[page * PAGE..][..PAGE], "page {page}");
    }
    file.invalidate();
    assert!(collect(file.stream(5, u64::MAX)) == bytes[5..]);
    assert!(block_on(file.bytes_async(9, 300_000)).unwrap() == bytes[9..300_009]);
    // Truncates dirty pages in the middle, and reads the end again.
    let new = vec![251; 500 * PAGE];
    assert_eq!(file.write_at(&new, 300 * PAGE as u64 + 7).unwrap(), new.len());
    file.set_len(600 * PAGE as u64 + 100).unwrap();
    assert_eq!(file.append(b"end").unwrap(), 600 * PAGE as u64 + 100);
    file.punch_hole(10 * PAGE as u64, 20 * PAGE as u64).unwrap();
    file.sync_data().unwrap();
    let expected = memory.contents();
    assert_eq!(
        (expected.len(), expected[600 * PAGE + 99], expected[11 * PAGE]),
        (600 * PAGE + 103, 251, 0)
    );
    file.invalidate();
    assert!(file.bytes(0, usize::MAX).unwrap() == expected);
    // More than the dirty limit: the writer writes back.
    for n in 0..10 {
        assert_eq!(file.write_at(&new, n * new.len() as u64).unwrap(), new.len());
    }
    assert!(
        cache.stats().throttled > 0 && cache.stats().written_bytes > 8 << 20,
        "{:?}",
        cache.stats()
    );
    file.close().unwrap();
    assert!(memory.contents() == vec![251; 10 * new.len()]);
    assert_nothing_leaked(cache);
}

#[test]
fn without_threads_callers_do_all_the_work() {
    ends(|| {
        let cache: Cache = Cache::new(8 << 20).unwrap();
        cache.set_io_threads(0);
        everything(&cache);
        // The readers reclaimed by themselves.
        assert!(cache.stats().direct_reclaims > 0, "{:?}", cache.stats());
        let file = cache.open_backing(Arc::new(Memory::new(&contents()))).unwrap();
        for page in [0, 600, 3, 700] {
            let read = poll_once(pin!(file.page_async(page * PAGE as u64)));
            assert!(
                matches!(read, Poll::Ready(Ok(Some(_)))),
                "the first poll did not read the page"
            );
        }
        // Threads are started again as soon as they are allowed.
        cache.set_io_threads(3);
        let page = block_on(file.page_async(300 * PAGE as u64)).unwrap().unwrap();
        assert!(page.iter().all(|&byte| byte == 50));
        drop((page, file));
        everything(&cache);
    });
}

#[test]
fn without_threads_each_poll_returns_its_own_error() {
    ends(|| {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(0);
        let memory = Arc::new(Memory::new(&contents()));
        let file = cache.open_backing(memory.clone()).unwrap();
        memory.inject(Call::Fill, 0, u64::MAX, Fault::Error(5));
        for page in 0..10 {
            let Poll::Ready(Err(error)) = poll_once(pin!(file.bytes_async(page * PAGE as u64, 9)))
            else {
                panic!("the first poll did not return the error")
            };
            assert_eq!(error.raw_os_error(), Some(5));
        }
        memory.heal();
        assert!(collect(file.stream(0, u64::MAX)) == contents());
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

/// Readers of all kinds, with readahead, beside a writer and a thread that truncates and lengthens
/// the file. With `None`, the number of threads changes meanwhile as well.
fn readers_and_writers(threads: Option<usize>, of: fn(Arc<Memory>) -> Arc<dyn Backing>) {
    const STEPS: usize = 60;
    let seed = fastrand::u64(..);
    println!("{threads:?} threads, seed {seed}");
    let cache: Cache = Cache::new(4 << 20).unwrap();
    cache.set_io_threads(threads.unwrap_or(16));
    let file = cache.open_backing(of(Arc::new(Memory::new(&contents())))).unwrap();
    // Zeroes are bytes that were truncated.
    let check = |page: usize, bytes: &[u8]| {
        let right = bytes.iter().all(|&byte| byte == bytes[0])
            && [0, page % 250].contains(&bytes[0].into());
        assert!(right, "page {page}: {:?}", bytes.iter().collect::<HashSet<_>>());
    };
    let check_from = |at: usize, bytes: &[u8]| {
        for (n, bytes) in bytes.chunks(PAGE).enumerate() {
            check(at + n, bytes);
        }
    };
    let random = |n| fastrand::Rng::with_seed(seed + n);
    let scan = |n| {
        let mut random = random(n);
        for _ in 0..STEPS / 4 {
            let (first, mut buf) = (random.usize(..PAGES), vec![0; PAGE * random.usize(1..4)]);
            let pages = buf.len() / PAGE;
            for page in (first..(first + 200).min(PAGES)).step_by(pages) {
                let read = file.read_at(&mut buf, (page * PAGE) as u64).unwrap();
                check_from(page, &buf[..read]);
            }
        }
    };
    let wait = |n| {
        let mut random = random(n);
        for _ in 0..STEPS {
            let (page, pages) = (random.usize(..PAGES), random.usize(1..30));
            let mut future = pin!(file.bytes_async((page * PAGE) as u64, pages * PAGE));
            let polled = poll_once(future.as_mut());
            match polled {
                Poll::Ready(got) => check_from(page, &got.unwrap()),
                Poll::Pending if random.bool() => check_from(page, &block_on(future).unwrap()),
                Poll::Pending => {}
            }
            if random.u8(..16) == 0 {
                check_from(page, &collect(file.stream((page * PAGE) as u64, 1 << 20)));
            }
        }
    };
    let write = || {
        let mut random = random(5);
        for _ in 0..STEPS * 3 {
            let page = random.usize(..PAGES);
            file.write_at(&[(page % 250) as u8; PAGE], (page * PAGE) as u64).unwrap();
            if random.u8(..100) == 0 {
                file.sync_data().unwrap();
            }
        }
    };
    let truncate = || {
        let mut random = random(6);
        for _ in 0..STEPS {
            file.set_len((random.usize(..PAGES) * PAGE) as u64).unwrap();
            if random.bool() {
                file.set_len((PAGES * PAGE) as u64).unwrap();
            }
            if threads.is_none() {
                cache.set_io_threads(random.usize(..4));
            }
            cache.reclaim(random.usize(..300));
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| scan(1));
        scope.spawn(|| scan(2));
        scope.spawn(|| wait(3));
        scope.spawn(|| wait(4));
        scope.spawn(write);
        scope.spawn(truncate);
    });
    file.close().unwrap();
    assert_nothing_leaked(&cache);
}

#[test]
fn no_number_of_threads_deadlocks() {
    ends(|| {
        for threads in [Some(0), Some(1), Some(2), Some(16), Some(usize::MAX), None] {
            readers_and_writers(threads, |memory| memory);
            readers_and_writers(threads, |memory| Arc::new(Together::new(&memory)));
        }
    });
}

/// The flusher must survive a panic of the backing, and write the pages in its next round.
#[test]
fn a_panicking_backing_ends_no_thread() {
    ends(|| {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let memory = Arc::new(Memory::new(b"old"));
        memory.inject(Call::Write, 0, 1, Fault::Panic);
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(b"new", 0).unwrap();
        while memory.contents() != b"new" {
            thread::sleep(Duration::from_millis(10));
        }
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn the_flusher_retries_failed_writes() {
    ends(|| {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let memory = Arc::new(Memory::new(b"old"));
        memory.inject(Call::Write, 0, 1, Fault::Error(28));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(b"new", 0).unwrap();
        // There are no further writes, so only the flusher can notify itself.
        while memory.contents() != b"new" {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((memory.calls(Call::Write), cache.stats().write_errors), (2, 1));
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

const CHILD: &str = "FOLIO_NO_THREADS";
const DONE: &str = "everything is done";

#[test]
#[ignore = "runs as the child of everything_works_if_the_system_refuses_threads"]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // For this thread only: the limit does not apply to root.
    let unprivileged = Uid::from_raw(65_534);
    if getuid().is_root() {
        set_thread_res_uid(unprivileged, unprivileged, unprivileged).unwrap();
    }
    setrlimit(Resource::Nproc, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    thread::Builder::new().spawn(|| ()).expect_err("the system refuses threads");
    everything(&Cache::new(8 << 20).unwrap());
    let names = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
    assert!(names.into_iter().all(|name| !name.unwrap().starts_with("folio")));
    println!("{DONE}");
}

/// In a child process that may start no more threads.
#[test]
fn everything_works_if_the_system_refuses_threads() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    // Reads to the end, so that the child never writes into a closed pipe.
    thread::spawn(move || {
        // With one thread for tests, the test's name stands before it.
        let is_done = |line: &io::Result<String>| line.as_ref().is_ok_and(|it| it.ends_with(DONE));
        sender.send(out.lines().filter(is_done).count())
    });
    let done = receiver.recv_timeout(Duration::from_mins(2));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(done, Ok(1), "the child hangs or failed");
}

/// `set_io_threads` must notify the flusher of pages that are dirty already.
#[test]
fn pages_dirtied_without_threads_are_flushed_by_later_ones() {
    ends(|| {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(0);
        let memory = Arc::new(Memory::new(b"old"));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(b"new", 0).unwrap();
        cache.set_io_threads(1);
        while memory.contents() != b"new" {
            thread::sleep(Duration::from_millis(10));
        }
        drop(file);
        assert_nothing_leaked(&cache);
    });
}
