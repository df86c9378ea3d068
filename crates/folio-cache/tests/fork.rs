//! After `fork()`: the child gets its own bytes or a clear error, and the parent notices nothing.

mod common;

use std::fs;
use std::future::{Future, poll_fn};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use common::{Gated, StopOnDrop};
use folio_cache::testing::{Call, Distant, Memory};
use folio_cache::{Cache, File, MemoryUse, OpenOptions, Preferences, ReadRequest};
use folio_frames::{FRAME_SIZE, Pfn};
use futures_core::Stream as _;

const PAGE: u64 = FRAME_SIZE as u64;

/// A child that takes longer than this hangs.
const LIMIT_SECONDS: u32 = 30;

/// One test forks at a time, so that the locks of the others are free in its child.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `act` in a child. Fails if it panics there, or hangs.
fn in_child(act: impl FnOnce()) {
    let (mut from_child, mut to_parent) = io::pipe().unwrap();
    // SAFETY: no lock that the child needs is held: the other tests wait for their turn, the C
    // library keeps its own locks consistent, and a cache of the parent takes none in the child.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        // SAFETY: sets a timer; its signal ends the child.
        unsafe { libc::alarm(LIMIT_SECONDS) };
        let panicked = panic::catch_unwind(AssertUnwindSafe(act)).err().map(|payload| {
            let text = payload.downcast_ref::<String>().cloned();
            text.or_else(|| payload.downcast_ref::<&str>().map(|&text| text.to_owned()))
        });
        if let Some(text) = &panicked {
            let _ = to_parent.write_all(text.as_deref().unwrap_or("a panic").as_bytes());
        }
        // SAFETY: ends the child, without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(panicked.is_some())) };
    }
    drop(to_parent);
    let mut text = String::new();
    from_child.read_to_string(&mut text).unwrap();
    let mut status = 0;
    // SAFETY: the status is ours to write to.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    assert!(!libc::WIFSIGNALED(status), "the child hung: signal {}", libc::WTERMSIG(status));
    assert_eq!((libc::WEXITSTATUS(status), text.as_str()), (0, ""), "in the child");
}

/// The error of a cache that another process made.
#[track_caller]
fn assert_foreign<T>(result: io::Result<T>) {
    let Err(error) = result else {
        panic!("it succeeded in the child: {}", panic::Location::caller())
    };
    assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("after a fork"), "{error}");
}

/// A file in which each byte of page `n` is `n`.
fn numbered(path: &Path) {
    fs::write(path, (0..256 * PAGE).map(|at| (at / PAGE) as u8).collect::<Vec<_>>()).unwrap();
}

/// Reads 64 pages by one call, 50 times, none of them cached. Returns the reads that succeeded.
fn read_many(file: &File, shift: u64) -> usize {
    let mut answered = 0;
    let mut bufs = vec![[0_u8; FRAME_SIZE]; 64];
    for _ in 0..50 {
        file.invalidate();
        let offset = |n: usize| (n as u64 * 4 + shift) % 256 * PAGE;
        let mut reads: Vec<_> =
            bufs.iter_mut().enumerate().map(|(n, buf)| ReadRequest::new(buf, offset(n))).collect();
        file.read_many(&mut reads);
        for read in reads {
            match read.result {
                Ok(bytes) => {
                    assert_eq!(bytes, FRAME_SIZE);
                    assert_eq!(u64::from(read.buf[0]), read.offset / PAGE, "wrong bytes as Ok");
                    answered += 1;
                }
                error => assert_foreign(error),
            }
        }
    }
    answered
}

#[test]
fn parent_and_child_read_their_own_bytes_after_a_fork() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    numbered(&path);
    let cache: Cache = Cache::new(4 << 20).unwrap();
    cache.set_io_threads(0);
    let file = cache.open(&path).unwrap();
    // This thread has a ring from here on.
    assert_eq!(read_many(&file, 0), 50 * 64);
    in_child(|| _ = read_many(&file, 7));
    assert_eq!(read_many(&file, 3), 50 * 64, "after a child that used the parent's cache");
    in_child(|| {
        let cache: Cache = Cache::new(4 << 20).unwrap();
        let file = cache.open(&path).unwrap();
        assert_eq!(read_many(&file, 7), 50 * 64);
        // A child of the child, with the cache of each.
        in_child(|| _ = read_many(&file, 1));
        assert_eq!(read_many(&file, 2), 50 * 64);
    });
    assert_eq!(read_many(&file, 3), 50 * 64, "after a child with a cache of its own");
}

#[test]
fn child_writes_nothing_of_the_parents_dirty_pages() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("file"), dir.path().join("other"));
    numbered(&path);
    let mut cache = Some(Cache::new(4 << 20).unwrap());
    cache.as_ref().unwrap().set_io_threads(0);
    let mut file = Some(
        OpenOptions::new().read(true).write(true).open(cache.as_ref().unwrap(), &path).unwrap(),
    );
    file.as_ref().unwrap().write_at(b"of the parent", 5 * PAGE).unwrap();
    let on_disk = || {
        let mut bytes = [0; 13];
        fs::File::open(&path).unwrap().read_exact_at(&mut bytes, 5 * PAGE).unwrap();
        bytes
    };
    in_child(|| drop((file.take(), cache.take())));
    assert_eq!(on_disk(), [5; 13], "the last close in a child");
    in_child(|| {
        let (cache, file) = (cache.take().unwrap(), file.take().unwrap());
        assert_foreign(file.sync_data());
        assert_foreign(file.sync_all());
        assert_foreign(file.flush());
        assert_foreign(cache.flush());
        assert_foreign(file.write_at(b"of the child", 0));
        assert_foreign(file.append(b"of the child"));
        assert_foreign(file.set_len(3));
        assert_foreign(file.punch_hole(0, 3 * PAGE));
        assert_foreign(cache.create(&other));
        assert_foreign(OpenOptions::new().read(true).write(true).open(&cache, &path));
        assert_foreign(file.clone().close());
        drop((file, cache));
    });
    assert_eq!((on_disk(), other.exists()), ([5; 13], false));
    assert_eq!(fs::metadata(&path).unwrap().len(), 256 * PAGE);
    // What the parent wrote later is not overwritten by a child that was there before.
    let file = file.take().unwrap();
    in_child(|| {
        let mut bytes = [0; 13];
        assert_eq!(file.read_at(&mut bytes, 5 * PAGE).unwrap(), 13);
        assert_eq!(&bytes, b"of the parent", "the bytes as of the fork");
        file.invalidate();
        assert_foreign(file.read_at(&mut bytes, 5 * PAGE));
        assert_foreign(file.page(5 * PAGE));
        assert_foreign(file.revalidate());
    });
    file.close().unwrap();
    assert_eq!(&on_disk(), b"of the parent");
}

#[test]
fn child_never_waits_for_threads_of_the_parent() {
    let _turn = turn();
    let waits = |call, offset| call == Call::Fill && offset >= 2 * PAGE;
    let (backing, came) = Gated::new(&vec![7; 64 * FRAME_SIZE], waits);
    let mut cache = Some(Cache::new(4 << 20).unwrap());
    let mut file = Some(cache.as_ref().unwrap().open_backing(backing.clone()).unwrap());
    let mut bytes = [0; FRAME_SIZE];
    assert_eq!(file.as_ref().unwrap().read_at(&mut bytes[..100], 0).unwrap(), 100);
    let reader = file.clone().unwrap();
    let reader = thread::spawn(move || reader.read_at(&mut [0; 10], 2 * PAGE).unwrap());
    let mut later = [0; 100];
    let in_flight = file.clone().unwrap();
    let mut future = pin!(in_flight.read_at_async(&mut later, 9 * PAGE));
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    came.recv().unwrap();
    came.recv().unwrap();
    in_child(|| {
        let (cache, file) = (cache.take().unwrap(), file.take().unwrap());
        assert_eq!(file.read_at(&mut bytes[..100], 0).unwrap(), 100, "a hit");
        assert_foreign(file.read_at(&mut bytes, PAGE));
        // Pages that are being filled: their threads are not here.
        assert_foreign(file.read_at(&mut bytes, 2 * PAGE));
        assert_foreign(file.page(9 * PAGE));
        assert_foreign(file.range(0, 20 * FRAME_SIZE));
        assert_foreign(file.bytes(20 * PAGE, 100));
        assert_foreign(file.read_at(&mut bytes, 64 * PAGE));
        let Poll::Ready(ended) = future.as_mut().poll(&mut context) else { panic!("it waits") };
        assert_foreign(ended);
        assert_foreign(pollster::block_on(file.page_async(9 * PAGE)));
        cache.quiesce();
        cache.set_io_threads(4);
        assert_eq!(cache.reclaim(10), 0);
        assert_foreign(cache.set_capacity(2 << 20));
        assert_foreign(cache.open_backing(Arc::new(Memory::new(b""))));
        assert!(cache.frames().migrate(Pfn::new(1 << 20)).is_err());
        assert!(cache.frames().offline(0).is_err());
        assert!(cache.frames().shrink_to(1).is_err());
        let _ = (
            cache.frames().compact(1),
            cache.frames().grow_to(2),
            cache.index_bytes(),
            cache.stats(),
        );
        let _ = format!("{cache:?} {file:?}");
        drop((file, cache));
    });
    backing.open();
    assert_eq!(reader.join().unwrap(), 10);
    assert_eq!(pollster::block_on(future).unwrap(), 100);
    assert_eq!(file.unwrap().read_at(&mut bytes, PAGE).unwrap(), FRAME_SIZE);
}

#[test]
fn child_is_not_stopped_by_locks_held_at_the_fork() {
    let _turn = turn();
    let (backing, came) = Gated::new(&vec![7; 64 * FRAME_SIZE], |call, _| call == Call::Write);
    let cache: Cache = Cache::new(4 << 20).unwrap();
    cache.set_io_threads(0);
    let mut file = Some(cache.open_backing(backing.clone()).unwrap());
    file.as_ref().unwrap().write_at(b"dirty", 3 * PAGE).unwrap();
    let writer = file.clone().unwrap();
    // It holds the mapping's locks while the backing writes.
    let writer = thread::spawn(move || writer.flush());
    came.recv().unwrap();
    in_child(|| {
        let file = file.take().unwrap();
        assert_foreign(file.flush());
        assert_foreign(file.sync_data());
        assert_foreign(file.write_at(b"child", 3 * PAGE));
        assert_foreign(cache.flush());
        file.invalidate();
        assert_foreign(file.revalidate());
        drop(file);
    });
    backing.open();
    writer.join().unwrap().unwrap();
}

/// A thread of the parent that counts frames has the locks of the zone at many a fork.
#[test]
fn a_child_looks_at_a_cache_without_the_locks_of_its_zone() {
    let _turn = turn();
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let group = cache.group("one").create().unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&[7; 9000]))).unwrap();
    file.read_at(&mut [0; 9000], 0).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                cache.frames().zone().stats();
            }
        });
        for _ in 0..20 {
            in_child(|| {
                assert_eq!(cache.memory_use(), MemoryUse::default());
                assert_eq!(group.memory_use(), MemoryUse::default());
                assert_eq!(file.memory_use(), MemoryUse::default());
                let _ = format!("{cache:?} {file:?} {group:?}");
                let _ = (cache.stats(), file.stats(), group.stats(), group.limit());
                let _ = (cache.capacity(), cache.unwritten(), cache.groups(), cache.relieve());
                assert_foreign(file.page(3 * PAGE));
            });
        }
    });
}

/// Locks that threads of the parent wait for at the fork hold up no cache of the child.
#[test]
fn a_child_uses_a_new_cache_while_threads_of_the_parent_wait() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    numbered(&path);
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    file.invalidate();
                    for page in 0..256 {
                        pollster::block_on(file.read_at_async(&mut [0; 9], page * PAGE)).unwrap();
                    }
                }
            });
        }
        for _ in 0..20 {
            in_child(|| {
                let cache: Cache = Cache::new(2 << 20).unwrap();
                let file = cache.open(&path).unwrap();
                let read = |page: u64| {
                    let mut bytes = [0; 9];
                    file.read_at(&mut bytes, page * PAGE).unwrap();
                    assert_eq!(bytes, [page as u8; 9]);
                    let bytes = pollster::block_on(file.bytes_async(page * PAGE, 9)).unwrap();
                    assert_eq!(&bytes[..], [page as u8; 9]);
                };
                thread::scope(|scope| {
                    (0..4).for_each(|_| _ = scope.spawn(|| (0..256).for_each(read)));
                });
                file.invalidate();
                (0..256).for_each(read);
            });
        }
    });
}

#[test]
fn an_invalidated_file_has_no_length_in_a_child() {
    let _turn = turn();
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let near = cache.open_backing(Arc::new(Memory::new(&[7; 9000]))).unwrap();
    let far = cache.open_async(Arc::new(Distant::new(&[7; 9000]))).unwrap();
    for file in [near, far] {
        assert_eq!(file.read_at(&mut [0; 9000], 0).unwrap(), 9000);
        in_child(|| {
            assert_eq!(file.read_at(&mut [0; 9000], 0).unwrap(), 9000);
            assert_eq!((file.known_len(), file.try_read(&mut [0; 9], 8995)), (Some(9000), Some(5)));
            file.invalidate();
            // An end of the file would be an answer.
            assert_foreign(file.read_at(&mut [0; 9], 0));
            assert_foreign(file.bytes(5000, 10_000));
            assert_foreign(pollster::block_on(file.len_async()));
            assert_eq!((file.known_len(), file.try_read(&mut [0; 9], 0)), (None, None));
            assert_eq!(file.try_bytes(0, 9), None);
        });
        assert_eq!(file.read_at(&mut [0; 9000], 0).unwrap(), 9000);
    }
}

/// The parent has requests of the stream in flight, and their locks.
#[test]
fn a_child_reads_on_in_a_stream_what_is_cached() {
    let _turn = turn();
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let preferences = Preferences::default().request_bytes(16 << 10);
    let distant = Distant::new(&vec![7; 1 << 20]).with_preferences(preferences);
    let file = cache.open_async(Arc::new(distant)).unwrap();
    let mut stream = file.stream(0, u64::MAX);
    let mut read = 0;
    let mut next = || {
        let next = poll_fn(|context| Pin::new(&mut stream).poll_next(context));
        pollster::block_on(next)
    };
    while read < 64 << 10 {
        read += next().unwrap().unwrap().len();
    }
    // Its pages leave and return.
    file.invalidate();
    let rest = 128 << 10;
    assert_eq!(file.bytes(read as u64, rest).unwrap().len(), rest);
    in_child(|| {
        let mut more = 0;
        while more < rest {
            let piece = next().unwrap().unwrap();
            assert!(piece.iter().all(|&byte| byte == 7));
            more += piece.len();
        }
        while let Some(Ok(_)) = next() {}
    });
    while let Some(piece) = next() {
        read += piece.unwrap().len();
    }
    assert_eq!(read, 1 << 20);
}

/// Has threads that hold the locks of a recording at the fork.
struct HeldUp(mpsc::Sender<()>, Arc<Barrier>, usize);

impl io::Write for HeldUp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The header comes first.
        self.2 += 1;
        if self.2 == 3 {
            self.0.send(()).unwrap();
            self.1.wait();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_child_records_no_use_of_a_page() {
    /// More threads than a recording has buffers: the others share one.
    const THREADS: usize = 70;
    let _turn = turn();
    let (sender, is_held_up) = mpsc::channel();
    let go_on = Arc::new(Barrier::new(2));
    let to = HeldUp(sender, go_on.clone(), 0);
    let cache: Cache = Cache::builder().capacity(4 << 20).record_uses(to, 1).build().unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&[7; 9000]))).unwrap();
    let (began, end) = (Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let hit = || assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 9);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                hit();
                began.wait();
                end.wait();
            });
        }
        began.wait();
        // Both have the last buffer.
        let writer = scope.spawn(|| (0..600).for_each(|_| hit()));
        is_held_up.recv().unwrap();
        scope.spawn(|| in_child(|| (0..600).for_each(|_| hit()))).join().unwrap();
        go_on.wait();
        writer.join().unwrap();
        end.wait();
    });
}
