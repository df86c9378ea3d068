//! A failure that passes has no lasting effect: descriptors run out, and come back.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::file_of;
use folio_cache::{Cache, LocalFile};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// No file can be opened while it exists.
struct NoDescriptors(Rlimit);

impl NoDescriptors {
    fn begin() -> Self {
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit { current: Some(0), ..before };
        setrlimit(Resource::Nofile, none).unwrap();
        Self(before)
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

/// Returns the number of descriptors of this process that are past the kernel's cache, of a file.
fn direct_descriptors(path: &Path) -> usize {
    let inode = fs::metadata(path).unwrap().ino();
    let is_direct = |number: &str| -> Option<bool> {
        let is_same = fs::metadata(format!("/proc/self/fd/{number}")).ok()?.ino() == inode;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
        let flags = i32::from_str_radix(flags, 8).ok()?;
        Some(is_same && flags & libc::O_DIRECT != 0)
    };
    let numbers = fs::read_dir("/proc/self/fd").unwrap();
    numbers
        .filter(|entry| {
            entry.as_ref().is_ok_and(|entry| {
                entry.file_name().to_str().and_then(is_direct).unwrap_or_default()
            })
        })
        .count()
}

#[test]
fn direct_reads_come_back_after_descriptors_ran_out() {
    let (_dir, path, bytes) = file_of(40 * 4096);
    // A file system that has no way past the cache has nothing to come back.
    let has_direct = {
        let cache = Cache::new(2 << 20).unwrap();
        let file = cache.open_backing(Arc::new(LocalFile::open(&path).unwrap().direct())).unwrap();
        file.read_at(&mut [0; 4096], 0).unwrap();
        direct_descriptors(&path) > 0
    };
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(LocalFile::open(&path).unwrap().direct())).unwrap();
    let mut buf = vec![0; 4096];
    let none = NoDescriptors::begin();
    for page in 0..8 {
        assert_eq!(file.read_at(&mut buf, page * 4096).unwrap(), 4096);
        assert!(buf[..] == bytes[page as usize * 4096..][..4096], "page {page}");
    }
    drop(none);
    assert_eq!(direct_descriptors(&path), 0);
    let end = Instant::now() + Duration::from_secs(20);
    while has_direct && direct_descriptors(&path) == 0 {
        assert!(Instant::now() < end, "the file is read through the kernel's cache for ever");
        file.invalidate();
        file.read_at(&mut buf, 0).unwrap();
        assert!(buf[..] == bytes[..4096]);
        thread::sleep(Duration::from_millis(10));
    }
}
