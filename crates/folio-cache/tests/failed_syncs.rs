//! No sync succeeds before all bytes are durable, however many syncs of the backing failed before.

mod common;

use std::sync::Arc;

use common::assert_nothing_leaked;
use common::forgetful::{EIO, Forgetful};
use folio_cache::{Cache, File};

const PAGE: u64 = 4096;

fn open(capacity: usize) -> (Cache, Arc<Forgetful>, File) {
    let (cache, backing) = (Cache::new(capacity).unwrap(), Forgetful::new());
    let file = cache.open_backing(backing.clone()).unwrap();
    (cache, backing, file)
}

fn bytes(pages: u64) -> Vec<u8> {
    (0..pages * PAGE).map(|n| (n / 1000 + n % 255) as u8 | 1).collect()
}

#[test]
fn what_a_failed_sync_covers_is_written_again() {
    let (cache, backing, file) = open(8 << 20);
    let bytes = bytes(1000);
    file.write_at(&bytes, 0).unwrap();
    file.sync_data().unwrap();
    assert!(*backing.durable.lock() == bytes);
    // Some in an earlier flush, some before the sync, with errors of two syncs between them.
    backing.fail(true);
    file.write_at(&vec![7; 100 * 4096], 0).unwrap();
    file.flush().unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    file.write_at(&vec![8; 100 * 4096], 500 * PAGE).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    backing.fail(false);
    file.sync_data().unwrap();
    let mut expected = bytes;
    expected[..100 * 4096].fill(7);
    expected[500 * 4096..][..100 * 4096].fill(8);
    assert!(*backing.durable.lock() == expected);
    // And no more than once.
    let written = cache.stats().written_bytes;
    file.sync_data().unwrap();
    assert_eq!(cache.stats().written_bytes, written);
    assert!(cache.unwritten().is_empty());
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The cache is smaller than what was written, so it cannot write it again.
#[test]
fn syncs_fail_until_lost_bytes_are_written_again() {
    let (cache, backing, file) = open(2 << 20);
    let other = cache.open_backing(backing.clone()).unwrap();
    let bytes = bytes(2000);
    backing.fail(true);
    file.write_at(&bytes, 0).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    backing.fail(false);
    assert_eq!(other.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    // What is read again has not been in the cache all the time.
    let mut buf = vec![0; bytes.len()];
    file.read_at(&mut buf, 0).unwrap();
    for file in [&file, &other, &file] {
        let error = file.sync_data().unwrap_err();
        assert!(error.to_string().contains("may be lost"), "{error}");
    }
    let listed = cache.unwritten();
    assert!(listed[0].lost_bytes > 1000 * PAGE, "{listed:?}");
    // In any order and size: bytes count, not pages.
    for (n, chunk) in bytes.chunks(1000).enumerate().rev() {
        assert!(file.sync_data().is_err() || *backing.durable.lock() == bytes);
        file.write_at(chunk, n as u64 * 1000).unwrap();
    }
    file.sync_data().unwrap();
    assert!(*backing.durable.lock() == bytes);
    assert!(cache.unwritten().is_empty());
    drop((file, other));
    assert_nothing_leaked(&cache);
}

#[test]
fn a_discard_or_a_truncate_gives_lost_bytes_up() {
    for truncates in [false, true] {
        let (cache, backing, file) = open(2 << 20);
        backing.fail(true);
        file.write_at(&bytes(2000), 0).unwrap();
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
        backing.fail(false);
        file.sync_data().unwrap_err();
        if truncates {
            file.set_len(0).unwrap();
        } else {
            _ = file.discard().unwrap();
        }
        file.sync_data().unwrap();
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Pages that left the cache in other ways than by reclaim.
#[test]
fn dropped_pages_of_a_failed_sync_are_lost() {
    let drops: [fn(&Cache, &Forgetful, &File); 3] = [
        |_, _, file| file.invalidate(),
        |cache, _, _| assert!(cache.reclaim(1000) > 0),
        |_, backing, file| {
            backing.memory.scribble(0, b"x");
            assert!(file.revalidate().unwrap());
        },
    ];
    for drop_pages in drops {
        let (cache, backing, file) = open(2 << 20);
        file.write_at(&vec![7; 10 * 4096], 0).unwrap();
        file.flush().unwrap();
        drop_pages(&cache, &backing, &file);
        backing.fail(true);
        file.sync_data().unwrap_err();
        backing.fail(false);
        assert!(file.sync_data().unwrap_err().to_string().contains("may be lost"));
        file.write_at(&vec![8; 10 * 4096], 0).unwrap();
        file.sync_data().unwrap();
        assert!(*backing.durable.lock() == vec![8; 10 * 4096]);
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Whenever a sync succeeds, every byte is durable.
#[test]
fn random_failures_never_let_a_sync_succeed_too_early() {
    for seed in 0..10 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (cache, backing, file) = open(2 << 20);
        if seed % 2 == 0 {
            cache.set_io_threads(0);
        }
        let (mut model, mut successes) = (Vec::new(), 0);
        for step in 0..400 {
            let (offset, len) = (random.usize(..700 * 4096), random.usize(1..60_000));
            match random.u8(..12) {
                0..=4 => {
                    let byte = random.u8(1..);
                    assert_eq!(file.write_at(&vec![byte; len], offset as u64).unwrap(), len);
                    if model.len() < offset + len {
                        model.resize(offset + len, 0);
                    }
                    model[offset..offset + len].fill(byte);
                }
                5 => file.flush().unwrap_or(()),
                6 => _ = cache.reclaim(random.usize(1..300)),
                7 => {
                    let mut buf = vec![0; len];
                    let n = file.read_at(&mut buf, offset as u64).unwrap();
                    let end = model.len().min(offset + len);
                    assert!(buf[..n] == model[offset.min(end)..end], "{seed}, {step}");
                }
                8 if random.u8(..4) == 0 => {
                    file.set_len(offset as u64).unwrap();
                    model.resize(offset, 0);
                }
                9 if random.u8(..4) == 0 => {
                    // The end of an outage: all is written again.
                    backing.fail(false);
                    assert_eq!(file.write_at(&model, 0).unwrap(), model.len());
                    let _ = file.sync_data();
                    file.sync_data().unwrap();
                    assert!(*backing.durable.lock() == model, "{seed}, {step}");
                }
                _ => {
                    backing.fail(random.bool());
                    if file.sync_data().is_ok() {
                        successes += 1;
                        assert!(*backing.durable.lock() == model, "{seed}, {step}: not durable");
                    }
                }
            }
        }
        assert!(successes > 0, "seed {seed}");
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Between a failed sync and the next come a close and an open, another open, a flush, or a new
/// length.
#[test]
fn no_open_syncs_too_early_after_a_failure() {
    type Between = fn(&Cache, &Arc<Forgetful>, File) -> File;
    let betweens: [(&str, Between); 5] = [
        ("nothing", |_, _, file| file),
        ("a close", |cache, backing, file| {
            file.close().unwrap();
            cache.open_backing(backing.clone()).unwrap()
        }),
        ("another open", |cache, backing, file| {
            let other = cache.open_backing(backing.clone()).unwrap();
            drop(file);
            other
        }),
        ("a flush", |cache, _, file| {
            cache.flush().unwrap();
            file
        }),
        ("a new length", |_, _, file| {
            file.set_len(500 * PAGE).unwrap();
            file.set_len(200 * PAGE).unwrap();
            file
        }),
    ];
    for (name, between) in betweens {
        let (cache, backing, file) = open(8 << 20);
        let bytes = bytes(200);
        file.write_at(&bytes, 0).unwrap();
        backing.fail(true);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
        backing.fail(false);
        let file = between(&cache, &backing, file);
        // The new open may have the error reported, once.
        let synced = file.sync_data().or_else(|_| file.sync_data());
        synced.unwrap();
        assert!(*backing.durable.lock() == bytes, "after {name}");
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// The pages left with the last close, so the cache cannot write them again.
#[test]
fn a_close_does_not_forget_what_is_not_durable() {
    let (cache, backing, file) = open(8 << 20);
    file.write_at(&bytes(10), 0).unwrap();
    drop(file);
    let file = cache.open_backing(backing.clone()).unwrap();
    backing.fail(true);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    backing.fail(false);
    let error = file.sync_data().unwrap_err();
    assert!(error.to_string().contains("may be lost"), "{error}");
    // Closed and opened again, they are lost all the same.
    drop(file);
    let file = cache.open_backing(backing.clone()).unwrap();
    let error = file.sync_data().unwrap_err();
    assert!(error.to_string().contains("may be lost"), "{error}");
    file.write_at(&bytes(10), 0).unwrap();
    file.sync_data().unwrap();
    assert!(*backing.durable.lock() == bytes(10));
}

#[test]
fn a_good_sync_after_a_reopen_forgets_what_was_left() {
    let (cache, backing, file) = open(8 << 20);
    file.write_at(&bytes(10), 0).unwrap();
    drop(file);
    let file = cache.open_backing(backing.clone()).unwrap();
    file.sync_data().unwrap();
    file.write_at(&bytes(2), 4 * PAGE).unwrap();
    backing.fail(true);
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    backing.fail(false);
    file.sync_data().unwrap();
    let mut expected = bytes(10);
    expected[4 * 4096..][..2 * 4096].copy_from_slice(&bytes(2));
    assert!(*backing.durable.lock() == expected);
}
