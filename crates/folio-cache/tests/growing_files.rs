//! Readers of a file that another program lengthens and truncates.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{StopOnDrop, assert_nothing_leaked, file_of};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, File};

/// Runs four readers of random ranges beside one `writer`. `check(offset, bytes)` checks each read.
fn read_beside(
    file: &File,
    len: usize,
    check: impl Fn(usize, &[u8]) + Sync,
    mut writer: impl FnMut() -> bool,
) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let readers: Vec<_> = (0..4)
            .map(|seed| {
                let (stop, check) = (&stop, &check);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed);
                    while !stop.load(Ordering::Relaxed) {
                        let offset = random.usize(..len);
                        let mut buf = vec![0; random.usize(1..9000)];
                        let n = file.read_at(&mut buf, offset as u64).unwrap();
                        check(offset, &buf[..n]);
                    }
                })
            })
            .collect();
        while readers.iter().all(|reader| !reader.is_finished()) && writer() {}
    });
}

#[test]
fn readers_of_a_growing_file_see_no_zeroes_past_its_old_end() {
    let (_dir, path, bytes) = file_of(1 << 20);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..3 {
        let writer = std::fs::File::create(&path).unwrap();
        let file = cache.open(&path).unwrap();
        let check = |offset: usize, read: &[u8]| {
            assert!(*read == bytes[offset..][..read.len()], "at {offset}");
        };
        let mut len = 0;
        read_beside(&file, bytes.len(), check, || {
            let new = bytes.len().min(len + random.usize(1..2000));
            writer.write_all_at(&bytes[len..new], len as u64).unwrap();
            len = new;
            thread::sleep(Duration::from_micros(50));
            len < bytes.len()
        });
        let mut buf = vec![0; bytes.len()];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
        assert!(buf == bytes);
    }
    assert_nothing_leaked(&cache);
}

/// While the system truncates a file, its own reads may see zeroes before the new size, and so may
/// these. Other bytes are wrong; zeroes are wrong as soon as the file no longer changes.
#[test]
fn readers_of_a_file_that_grows_and_shrinks_see_its_bytes() {
    let (_dir, path, bytes) = file_of(5 * 4096);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open(&path).unwrap();
    let writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let check = |offset: usize, read: &[u8]| {
        let right =
            read.iter().zip(&bytes[offset..]).all(|(&read, &byte)| read == byte || read == 0);
        assert!(right && read.len() <= bytes.len() - offset, "{} bytes at {offset}", read.len());
    };
    let mut random = fastrand::Rng::with_seed(9);
    let mut len = bytes.len();
    for _ in 0..20 {
        let end = Instant::now() + Duration::from_millis(25);
        read_beside(&file, bytes.len(), check, || {
            let new = random.usize(1..bytes.len());
            if new < len {
                writer.set_len(new as u64).unwrap();
            } else {
                writer.write_all_at(&bytes[len..new], len as u64).unwrap();
            }
            len = new;
            thread::sleep(Duration::from_micros(100));
            Instant::now() < end
        });
        file.revalidate().unwrap();
        let mut buf = vec![0; bytes.len()];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), len);
        assert!(buf[..len] == bytes[..len]);
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Another program changes the first page, and appends into the last one, which is dirty and cannot
/// be written.
#[test]
fn a_change_beside_an_append_that_cannot_be_taken_over_is_seen() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let memory = Arc::new(Memory::new(&[1; 10_000]));
    let file = cache.open_backing(memory.clone()).unwrap();
    let first = |file: &File| {
        let mut first = [0];
        file.read_exact_at(&mut first, 0).unwrap();
        first[0]
    };
    assert_eq!(first(&file), 1);
    file.write_all_at(&[2; 10], 9000).unwrap();
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(28));
    memory.scribble(0, &[9]);
    memory.scribble(10_000, &[9; 10]);
    assert!(file.revalidate().unwrap());
    assert_eq!(first(&file), 9);
    memory.scribble(0, &[8]);
    assert_eq!(first(&cache.open_backing(memory.clone()).unwrap()), 8);
    memory.heal();
    file.sync_data().ok();
    file.sync_data().unwrap();
    assert_eq!(memory.contents()[9000..9010], [2; 10]);
}
