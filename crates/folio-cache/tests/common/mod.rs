//! Helpers: files with known contents, special backings, and the check that nothing leaked.

#![allow(dead_code, reason = "each test file uses some of it")]

/// Implements these methods of a `Backing` by its field `memory`. Import it by its name.
macro_rules! by_memory {
    ($($method:ident),*) => { $(by_memory!(@$method);)* };
    (@file_id) => {
        fn file_id(&self) -> folio_cache::FileId {
            self.memory.file_id()
        }
    };
    (@version) => {
        fn version(&self) -> std::io::Result<folio_cache::Version> {
            self.memory.version()
        }
    };
    (@fill) => {
        fn fill(
            &self,
            offset: u64,
            buffers: &mut [std::io::IoSliceMut<'_>],
        ) -> std::io::Result<usize> {
            self.memory.fill(offset, buffers)
        }
    };
    (@is_writable) => {
        fn is_writable(&self) -> bool {
            self.memory.is_writable()
        }
    };
    (@write) => {
        fn write(&self, offset: u64, buffers: &[std::io::IoSlice<'_>]) -> std::io::Result<()> {
            self.memory.write(offset, buffers)
        }
    };
    (@set_len) => {
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.memory.set_len(len)
        }
    };
    (@sync) => {
        fn sync(&self, what: folio_cache::Durable) -> std::io::Result<()> {
            self.memory.sync(what)
        }
    };
}

#[allow(unused_imports, reason = "each test file uses some of it")]
pub(crate) use by_memory;

pub(crate) mod forgetful;
pub(crate) mod hanging;
pub(crate) mod healthy;

use std::fmt;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use folio_cache::testing::{Call, Distant, Memory};
use folio_cache::{Backing, CACHED, Cache, File, Fill};
use folio_frames::Kind;
use folio_ref::Scheme;
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

/// Returns a directory with one file of `len` pseudo-random bytes, the same in each run.
pub(crate) fn file_of(len: usize) -> (TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut random = fastrand::Rng::with_seed(len as u64);
    // No zeroes: a zero in the bytes read is a page tail that should not be visible.
    let bytes: Vec<u8> = (0..len).map(|_| random.u8(1..)).collect();
    fs::write(&path, &bytes).unwrap();
    (dir, path, bytes)
}

/// Returns the bytes that a plain file returns for a read of `len` bytes at `offset`.
pub(crate) fn plain(bytes: &[u8], offset: usize, len: usize) -> &[u8] {
    let rest = &bytes[offset.min(bytes.len())..];
    &rest[..len.min(rest.len())]
}

/// Ends the threads of a scope when it is dropped. A failed assertion drops it as well: otherwise
/// the scope would wait forever.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Memory with a gate: some calls wait until it is opened.
pub(crate) struct Gated {
    pub(crate) memory: Memory,
    /// Selects the calls that wait, by kind (fill or write) and offset.
    waits: fn(Call, u64) -> bool,
    arrivals: Mutex<mpsc::Sender<u64>>,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gated {
    /// Returns the memory with its gate closed, and a receiver of the offsets of the calls that
    /// reach the gate.
    pub(crate) fn new(
        bytes: &[u8],
        waits: fn(Call, u64) -> bool,
    ) -> (Arc<Self>, mpsc::Receiver<u64>) {
        let (sender, arrivals) = mpsc::channel();
        let (memory, is_open, opened) = (Memory::new(bytes), Mutex::new(false), Condvar::new());
        (Arc::new(Self { memory, waits, arrivals: Mutex::new(sender), is_open, opened }), arrivals)
    }

    pub(crate) fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    fn pass(&self, call: Call, offset: u64) {
        if (self.waits)(call, offset) {
            // The receiver may be dropped.
            let _ = self.arrivals.lock().send(offset);
            self.opened.wait_while(&mut self.is_open.lock(), |is_open| !*is_open);
        }
    }
}

impl Backing for Gated {
    by_memory!(file_id, version, is_writable, set_len, sync);

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.pass(Call::Fill, offset);
        self.memory.fill(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.pass(Call::Write, offset);
        self.memory.write(offset, buffers)
    }
}

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gated").field(&self.memory).finish_non_exhaustive()
    }
}

/// Opens a gate when it is dropped. A failed assertion drops it as well: otherwise the scope would
/// wait forever.
pub(crate) struct OpenOnDrop<'a>(pub(crate) &'a Gated);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Memory that handles many requests in one call (`fills_together`). Reads of page `bad` fail;
/// reads of page `trap` panic.
#[derive(Debug)]
pub(crate) struct Together {
    pub(crate) memory: Arc<Memory>,
    pub(crate) calls: AtomicUsize,
    pub(crate) bad: Option<u64>,
    pub(crate) trap: Option<u64>,
}

impl Together {
    pub(crate) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), calls: AtomicUsize::new(0), bad: None, trap: None }
    }
}

impl Backing for Together {
    by_memory!(file_id, version, is_writable, write, set_len);

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        assert_ne!(Some(offset / 4096), self.trap, "a panic of the backing, on purpose");
        if Some(offset / 4096) == self.bad {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.memory.fill(offset, buffers)
    }

    fn fill_all(&self, requests: &mut [Fill<'_>]) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        // Meanwhile other requests queue up.
        thread::sleep(Duration::from_millis(2));
        for request in requests {
            request.result = self.fill(request.offset, &mut request.buffers);
        }
    }

    fn fills_together(&self) -> bool {
        true
    }
}

/// Waits until something is true.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "{what}: it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Drops what is left of a cache with a distant object, and checks that nothing is in flight,
/// cached or pinned.
#[track_caller]
pub(crate) fn end_distant(cache: &Cache, distant: &Distant, file: File) {
    assert_eq!(distant.in_flight(), 0);
    end_read_ahead(cache, distant, file);
}

/// Does what [`end_distant`] does where requests have no reader: a thread of the cache that polls
/// one drops it only after the poll.
#[track_caller]
pub(crate) fn end_read_ahead(cache: &Cache, distant: &Distant, file: File) {
    eventually("no request is in flight", || distant.in_flight() == 0);
    cache.invalidate(&file.key());
    drop(file);
    assert_nothing_leaked(cache);
}

/// Asserts that no page is left after all files and handles were dropped.
#[track_caller]
pub(crate) fn assert_nothing_leaked<S: Scheme>(cache: &Cache<S>) {
    cache.quiesce();
    let zone = cache.frames().zone();
    // A thread of the cache may keep a file open for a moment after its close, and frames for a
    // moment after their request.
    let is_empty = || {
        let stats = zone.stats();
        zone.count_kind(CACHED) == 0 && stats.free_frames == stats.online_frames
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !is_empty() && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(zone.count_kind(CACHED), 0, "cached pages leaked: {zone:?}");
    assert_eq!(zone.count_kind(Kind::PLAIN), 0, "frames without an owner leaked: {zone:?}");
    let stats = zone.stats();
    assert_eq!(stats.free_frames, stats.online_frames, "{zone:?}");
}
