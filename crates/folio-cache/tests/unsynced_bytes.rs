//! The ranges of bytes that are not durable are exact, bounded, and those of this file.

mod common;

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::forgetful::{EIO, Forgetful};
use folio_cache::{Backing, Cache, Durable, File, FileId, LocalFile, OpenOptions, Version};

const PAGE: u64 = 4096;
const MIB: usize = 1 << 20;

fn open(cache: &Cache, pages: u64) -> (Arc<Forgetful>, File) {
    let backing = Forgetful::new();
    backing.set_len(pages * PAGE).unwrap();
    let file = cache.open_backing(backing.clone()).unwrap();
    (backing, file)
}

/// Fails one sync of the file.
fn fail_a_sync(backing: &Forgetful, file: &File) {
    backing.fail(true);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    backing.fail(false);
}

/// Writes each third page.
fn write_thirds(file: &File, pages: u64) {
    (0..pages).for_each(|n| file.write_all_at(&[7; 4096], n * 3 * PAGE).unwrap());
}

#[test]
fn pages_between_those_written_are_left_alone() {
    let cache: Cache = Cache::new(64 * MIB).unwrap();
    let (backing, file) = open(&cache, 3000);
    file.read_exact_at(&mut vec![0; 3000 * 4096], 0).unwrap();
    write_thirds(&file, 1000);
    file.flush().unwrap();
    // Another program writes pages that this cache never wrote.
    (0..1000).for_each(|n| backing.memory.scribble((n * 3 + 1) * PAGE, &[9; 4096]));
    fail_a_sync(&backing, &file);
    file.sync_data().unwrap();
    let now = backing.memory.contents();
    let page = |n: usize| &now[n * 4096..(n + 1) * 4096];
    for n in 0..1000 {
        assert_eq!((page(3 * n)[0], page(3 * n + 1)[0], page(3 * n + 2)[0]), (7, 9, 0), "{n}");
    }
    assert!(cache.unwritten().is_empty());
}

#[test]
fn a_gap_of_a_closed_file_is_not_lost() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (backing, file) = open(&cache, 0);
    let write = |file: &File| {
        file.write_all_at(&[7; 4096], 0).unwrap();
        file.write_all_at(&[7; 4096], 10_000 * PAGE).unwrap();
    };
    write(&file);
    file.close().unwrap();
    let file = cache.open_backing(backing.clone()).unwrap();
    fail_a_sync(&backing, &file);
    assert_eq!(cache.unwritten()[0].lost_bytes, 2 * PAGE);
    write(&file);
    file.sync_data().unwrap();
}

/// Their number counts as memory of files, and is bounded. What is not known exactly may be lost,
/// but is never written again.
#[test]
fn very_many_ranges_are_bounded() {
    let cache: Cache = Cache::new(4 * MIB).unwrap();
    let limit = 4 * MIB / 16;
    let before = cache.file_bytes();
    let files: Vec<_> = (0..20).map(|_| open(&cache, 3000)).collect();
    for (backing, file) in &files {
        write_thirds(file, 1000);
        file.flush().unwrap();
        backing.memory.scribble(PAGE, &[9; 4096]);
    }
    let own = cache.file_bytes() - before;
    assert!(own < limit + 20 * 4096, "{own} bytes");
    for (backing, file) in [&files[0], &files[19]] {
        fail_a_sync(backing, file);
        let error = file.sync_data().unwrap_err();
        assert!(error.to_string().contains("may be lost"), "{error}");
        assert_eq!(backing.memory.contents()[4096], 9);
        _ = file.discard().unwrap();
        file.sync_data().unwrap();
    }
    // A good sync needs no ranges, and a closed file leaves none behind.
    for (_, file) in files {
        file.sync_data().unwrap();
        file.close().unwrap();
    }
    assert_eq!(cache.file_bytes(), before);
}

#[test]
fn a_discard_keeps_what_it_does_not_drop() {
    let cache: Cache = Cache::builder().capacity(8 * MIB).io_threads(0).build().unwrap();
    let (backing, file) = open(&cache, 0);
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.flush().unwrap();
    file.write_all_at(&[8; 4096], PAGE).unwrap();
    assert_eq!(file.discard().unwrap(), PAGE);
    fail_a_sync(&backing, &file);
    file.sync_data().unwrap();
    assert_eq!(*backing.durable.lock(), [7; 4096]);
}

#[test]
fn one_file_that_is_closed_often_pushes_no_other_out() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let [(backing, file), (busy, first)] = [(); 2].map(|()| open(&cache, 0));
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.close().unwrap();
    first.close().unwrap();
    for _ in 0..4100 {
        let file = cache.open_backing(busy.clone()).unwrap();
        file.write_all_at(&[7; 10], 0).unwrap();
        file.close().unwrap();
    }
    let file = cache.open_backing(backing.clone()).unwrap();
    fail_a_sync(&backing, &file);
    assert!(file.sync_data().unwrap_err().to_string().contains("may be lost"));
}

#[test]
fn a_closed_file_with_lost_bytes_is_listed_and_can_be_given_up() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (backing, file) = open(&cache, 0);
    file.write_all_at(&[7; 8192], 0).unwrap();
    file.flush().unwrap();
    file.invalidate();
    fail_a_sync(&backing, &file);
    file.close().unwrap();
    let listed = cache.unwritten();
    assert_eq!((listed.len(), listed[0].lost_bytes, listed[0].is_open), (1, 8192, false));
    assert_eq!(listed[0].file_id, backing.file_id());
    assert_eq!(cache.discard(backing.file_id()).unwrap(), 0);
    assert!(cache.unwritten().is_empty());
    cache.open_backing(backing.clone()).unwrap().sync_data().unwrap();
}

/// The sync of the first caller panics after it has lost the bytes. The other one waits for its
/// turn, and its sync succeeds: it must not say that they are durable.
#[test]
fn a_sync_that_panics_fails_for_all() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let (backing, file) = open(&cache, 0);
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.flush().unwrap();
    backing.panics.store(true, Ordering::SeqCst);
    let other = cache.open_backing(backing.clone()).unwrap();
    thread::scope(|scope| {
        let gate = backing.gate.lock();
        let first = scope.spawn(|| file.sync_data());
        while backing.syncs.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        let second = scope.spawn(|| other.sync_data());
        // It waits for its turn by then, or comes later: both must hold.
        thread::sleep(Duration::from_millis(200));
        drop(gate);
        assert!(first.join().is_err(), "the panic continues in its caller");
        let synced = second.join().unwrap();
        assert!(synced.is_err() || *backing.durable.lock() == [7; 4096]);
    });
    file.sync_data().ok();
    other.sync_data().unwrap();
    assert_eq!(*backing.durable.lock(), [7; 4096]);
}

/// A local file of which a sync fails when it is told to.
#[derive(Debug)]
struct Failing {
    file: LocalFile,
    fails: AtomicBool,
}

impl Backing for Failing {
    fn file_id(&self) -> FileId {
        self.file.file_id()
    }

    fn generation(&self) -> Option<u64> {
        self.file.generation()
    }

    fn version(&self) -> io::Result<Version> {
        self.file.version()
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.file.fill(offset, buffers)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn is_unlinked(&self) -> bool {
        self.file.is_unlinked()
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write(offset, buffers)
    }

    fn sync(&self, what: Durable) -> io::Result<()> {
        if self.fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.file.sync(what)
    }
}

/// Makes a file with lost bytes and closes it. Returns its number.
fn lose_bytes(cache: &Cache, path: &Path) -> FileId {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open_local(path).unwrap();
    let failing = Arc::new(Failing { file, fails: AtomicBool::new(true) });
    let file = cache.open_backing(failing.clone()).unwrap();
    file.write_all_at(&vec![1; 10 * 4096], 0).unwrap();
    file.flush().unwrap();
    file.invalidate();
    file.sync_data().unwrap_err();
    assert!(file.sync_data().unwrap_err().to_string().contains("may be lost"));
    failing.file_id()
}

/// A new file may get the inode of one that was deleted. Where the file system never does that,
/// only the first part of this says something.
#[test]
fn a_new_file_with_the_same_inode_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let path = dir.path().join("lost");
    lose_bytes(&cache, &path);
    // Opened again, it is the same file. Cut off by another program, the bytes are of no concern.
    let file = cache.open(&path).unwrap();
    assert!(file.sync_data().is_err());
    drop(file);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    cache.open(&path).unwrap().sync_data().unwrap();
    for round in 0..20 {
        let path = dir.path().join(format!("lost {round}"));
        let lost = lose_bytes(&cache, &path);
        fs::remove_file(&path).unwrap();
        let path = dir.path().join(format!("new {round}"));
        // As long, so that only its generation tells it from the old one.
        fs::write(&path, vec![2; 10 * 4096]).unwrap();
        let file = cache.open(&path).unwrap();
        if file.backing().file_id() == lost {
            file.sync_data().unwrap();
        }
    }
}
