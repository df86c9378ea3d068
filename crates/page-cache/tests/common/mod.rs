//! Files with known contents, and the check that nothing leaked.

#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use page_cache::Cache;
use page_frames::Kind;
use page_ref::Scheme;
use tempfile::TempDir;

/// The kind of the cache's pages.
const CACHED: Kind = Kind::owner(0);

/// A directory with one file of `len` bytes that look random and are the same each time.
pub(crate) fn file_of(len: usize) -> (TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut random = fastrand::Rng::with_seed(len as u64);
    // No zeroes: a zero in what was read is a tail that should not be there.
    let bytes: Vec<u8> = (0..len).map(|_| random.u8(1..)).collect();
    fs::write(&path, &bytes).unwrap();
    (dir, path, bytes)
}

/// What a plain file gives.
pub(crate) fn plain(bytes: &[u8], offset: usize, len: usize) -> &[u8] {
    let rest = &bytes[offset.min(bytes.len())..];
    &rest[..len.min(rest.len())]
}

/// Ends the threads of a scope when it is dropped: a failed assertion drops it as well, else the scope would wait for ever.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All files and handles are gone: so are all pages.
#[track_caller]
pub(crate) fn assert_nothing_leaked<S: Scheme>(cache: &Cache<S>) {
    cache.settle();
    let zone = cache.zone();
    // A thread of the cache may hold a file for a moment when it is closed.
    let end = Instant::now() + Duration::from_secs(10);
    while zone.count_kind(CACHED) > 0 && Instant::now() < end {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(zone.count_kind(CACHED), 0, "cached pages are left: {zone:?}");
    assert_eq!(zone.count_kind(Kind::PLAIN), 0, "frames without an owner are left: {zone:?}");
    let stats = zone.stats();
    assert_eq!(stats.free_frames, stats.online_frames, "{zone:?}");
}
