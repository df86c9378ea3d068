//! Files that the kernel makes up as they are read are refused at the open, with a reason.

mod common;

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use common::assert_nothing_leaked;
use folio_cache::{Cache, LocalFile};

#[track_caller]
fn assert_refused(opened: io::Result<folio_cache::File>, reason: &str) {
    let error = opened.expect_err("it has no stable size");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn files_of_pseudo_file_systems_are_refused_with_a_reason() {
    let cache = Cache::new(2 << 20).unwrap();
    let files = [
        ("/proc/meminfo", "/proc/meminfo has no stable size (procfs)"),
        ("/proc/self/maps", "(procfs)"),
        ("/proc/self/cmdline", "(procfs)"),
        ("/proc/sys/kernel/ostype", "(procfs)"),
        ("/proc/version", "(procfs)"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "(sysfs)"),
        ("/sys/devices/system/cpu/online", "(sysfs)"),
        ("/sys/fs/cgroup/cgroup.controllers", "(cgroup2)"),
        ("/sys/kernel/debug/sleep_time", "(debugfs)"),
        ("/sys/kernel/tracing/trace", "(tracefs)"),
        ("/proc/self/ns/net", "(nsfs)"),
    ];
    let mut met = 0;
    for (path, reason) in files {
        // Not every machine has each, nor lets a test read it.
        let Ok(file) = fs::File::open(path) else { continue };
        met += 1;
        assert_refused(cache.open(path), reason);
        let reason = &reason[reason.find('(').unwrap()..];
        let taken = LocalFile::new(file).and_then(|file| cache.open_backing(Arc::new(file)));
        assert_refused(taken, reason);
    }
    assert!(met >= 4, "{met} of them are here");
    assert_nothing_leaked(&cache);
}

/// An empty file, an empty file through a link, one that is written while it is opened, one in
/// memory, one with a hole: all of them have their size.
#[test]
fn regular_files_without_blocks_are_no_pseudo_files() {
    let cache = Cache::new(2 << 20).unwrap();
    for dir in [None, Some(Path::new("/dev/shm"))] {
        let dir = match dir {
            None => tempfile::tempdir().unwrap(),
            Some(dir) if dir.is_dir() => tempfile::tempdir_in(dir).unwrap(),
            Some(_) => continue,
        };
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&path, b"").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let file = cache.open(path).unwrap();
            assert_eq!(file.read_at(&mut [1; 10], 0).unwrap(), 0);
        }
        let opened = fs::File::open(&path).unwrap();
        let file = cache.open(format!("/proc/self/fd/{}", fd_of(&opened))).unwrap();
        fs::File::create(&path).unwrap().set_len(4096).unwrap();
        let mut buf = [1; 10];
        assert_eq!(file.read_at(&mut buf, 4090).unwrap(), 6);
        assert_eq!(buf, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
        cache.open(&path).unwrap();
    }
    assert_nothing_leaked(&cache);
}

#[test]
fn a_file_that_grows_from_nothing_during_the_open_is_accepted() {
    let cache = Cache::new(2 << 20).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..200 {
        let path = dir.path().join(round.to_string());
        let mut plain = fs::File::create(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for byte in 0..50 {
                    plain.write_all(&[byte; 10]).unwrap();
                }
            });
            for _ in 0..5 {
                cache.open(&path).unwrap();
            }
        });
        assert_eq!(cache.open(&path).unwrap().len(), 500);
    }
    assert_nothing_leaked(&cache);
}

fn fd_of(file: &fs::File) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(file)
}

/// A link under /proc leads to its file: a regular one opens, and a pipe is refused at once.
#[test]
fn a_link_under_proc_is_what_it_leads_to() {
    let cache = Cache::new(2 << 20).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 5000]).unwrap();
    let by_number = format!("/proc/self/fd/{}", fd_of(&file));
    let opened = cache.open(&by_number).unwrap();
    assert!(opened.bytes(0, 9000).unwrap() == [7; 5000][..]);
    drop(opened);
    let (reader, _writer) = io::pipe().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&reader);
    assert_refused(cache.open(format!("/proc/self/fd/{number}")), "is a FIFO");
    assert_refused(cache.open("/dev/zero"), "is a character device");
    assert_refused(cache.open("/proc/self/fd"), "is a directory");
    assert_nothing_leaked(&cache);
}
