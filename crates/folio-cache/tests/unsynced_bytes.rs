//! What the cache knows of the bytes that are not durable is exact, bounded, and of this file.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use common::forgetful::{EIO, Forgetful};
use folio_cache::{Backing, Cache, File};

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
    let (backing, file) = &files[0];
    fail_a_sync(backing, file);
    let error = file.sync_data().unwrap_err();
    assert!(error.to_string().contains("may be lost"), "{error}");
    assert_eq!(backing.memory.contents()[4096], 9);
    _ = file.discard().unwrap();
    file.sync_data().unwrap();
    // A good sync needs no ranges, and a closed file leaves none behind.
    for (_, file) in files {
        file.sync_data().unwrap();
        file.close().unwrap();
    }
    assert_eq!(cache.file_bytes(), before);
}

#[test]
fn a_discard_keeps_what_it_does_not_drop() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
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
        thread::sleep(std::time::Duration::from_millis(200));
        drop(gate);
        assert!(first.join().is_err(), "the panic continues in its caller");
        let synced = second.join().unwrap();
        assert!(synced.is_err() || *backing.durable.lock() == [7; 4096]);
    });
    file.sync_data().ok();
    other.sync_data().unwrap();
    assert_eq!(*backing.durable.lock(), [7; 4096]);
}
