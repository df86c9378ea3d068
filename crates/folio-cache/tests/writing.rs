//! Writes and changes of length, as readers, handles, the file and other opens see them.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{assert_nothing_leaked, file_of};
use folio_cache::testing::Memory;
use folio_cache::{Cache, OpenOptions};

fn cache() -> Cache {
    Cache::new(2 << 20).unwrap()
}

fn memory(contents: &[u8]) -> (Arc<Memory>, Cache) {
    (Arc::new(Memory::new(contents)), cache())
}

#[test]
fn a_write_is_readable_at_once_and_in_the_file_after_close() {
    let (_dir, path, mut bytes) = file_of(10_000);
    let cache = cache();
    let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    let reader = cache.open(&path).unwrap();
    assert_eq!(file.write_at(b"over the border of two pages", 4000).unwrap(), 28);
    bytes[4000..4028].copy_from_slice(b"over the border of two pages");
    let mut buf = vec![0; 10_000];
    assert_eq!(reader.read_at(&mut buf, 0).unwrap(), 10_000);
    assert!(buf == bytes);
    drop(file);
    // The reader keeps the file open: this was not the last close.
    reader.revalidate().unwrap();
    reader.read_at(&mut buf, 0).unwrap();
    assert!(buf == bytes);
    drop(reader);
    assert!(fs::read(&path).unwrap() == bytes);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_handle_is_a_snapshot_and_the_next_shows_the_write() {
    let (memory, cache) = memory(&[1; 5000]);
    let file = cache.open_backing(memory).unwrap();
    let before = file.page(0).unwrap().unwrap();
    file.write_at(&[2; 5000], 0).unwrap();
    assert!(before.iter().all(|&byte| byte == 1));
    assert!(file.page(0).unwrap().unwrap().iter().all(|&byte| byte == 2));
    // The pages are not pinned: they are written in place, in the same frames.
    let dirty = |cache: &Cache| {
        cache
            .frames()
            .zone()
            .pfns()
            .filter(|&pfn| cache.frames().zone().peek(pfn).dirty)
            .collect::<Vec<_>>()
    };
    drop(before);
    let frames = dirty(&cache);
    file.write_at(&[3; 5000], 0).unwrap();
    assert_eq!((frames.len(), dirty(&cache)), (2, frames));
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_file_opened_for_reading_refuses_writes() {
    let (_dir, path, bytes) = file_of(100);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    // Another open with write access changes nothing.
    let writer = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    let refused = [
        file.write_at(b"x", 0).map(drop),
        file.append(b"x").map(drop),
        file.write_all_at(b"", 0),
        file.set_len(0),
        file.punch_hole(0, 1),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("reading only"), "{error}");
    }
    file.sync_all().unwrap();
    drop((file, writer));
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn create_makes_an_empty_file_or_keeps_an_existing_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new");
    let cache = cache();
    assert_eq!(
        OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let open = |path: &std::path::Path| {
        OpenOptions::new().read(true).write(true).create(true).open(&cache, path)
    };
    assert_eq!(open(&path).unwrap().append(b"one").unwrap(), 0);
    assert_eq!(open(&path).unwrap().append(b"two").unwrap(), 3);
    assert_eq!(fs::read(&path).unwrap(), b"onetwo");
    assert_eq!(open(dir.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn impossible_offsets_are_refused_before_any_write() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    let max = i64::MAX as u64;
    for (offset, len) in [(max, 1), (max - 1, 2), (1 << 63, 1), (u64::MAX, 1), (u64::MAX, 2)] {
        let error = file.write_at(&vec![1; len], offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{offset}");
        assert!(error.to_string().contains(&offset.to_string()), "{error}");
    }
    let past = 1 << 44;
    for (offset, len) in [(past, 1), (past - 1, 2), (past - 4096, 4097), (max - 1, 1)] {
        assert_eq!(
            file.write_at(&vec![1; len], offset).unwrap_err().kind(),
            ErrorKind::FileTooLarge,
            "{offset}"
        );
    }
    assert_eq!(file.set_len(1 << 63).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file.len(), 0);
    // The last byte that can be cached, and an empty write past it.
    assert_eq!(file.write_at(b"x", past - 1).unwrap(), 1);
    assert_eq!(file.write_at(b"", past).unwrap(), 0);
    let mut buf = [1; 4];
    assert_eq!(file.read_at(&mut buf, past - 2).unwrap(), 2);
    assert_eq!(buf, [0, b'x', 1, 1]);
    // A hole of any length ends at the end of the file.
    for (offset, len) in [(u64::MAX, u64::MAX), (max, 1), (past, 1), (past - 1, u64::MAX)] {
        file.punch_hole(offset, len).unwrap();
    }
    assert_eq!(file.len(), past);
    assert_eq!((file.read_at(&mut buf, past - 1).unwrap(), buf[0]), (1, 0));
    assert_eq!(file.set_len(max).unwrap_err().kind(), ErrorKind::FileTooLarge);
    memory.cut(max);
    file.revalidate().unwrap();
    assert_eq!(file.append(b"y").unwrap_err().kind(), ErrorKind::InvalidInput);
    file.set_len(0).unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}

/// All whole pages are written directly from their frames, a partial last page through the kernel's
/// cache. Readers see both.
#[test]
fn writes_past_the_kernels_cache_are_in_the_file() {
    let (_dir, path, mut bytes) = file_of(3 * 4096 + 50);
    let cache = cache();
    let file = cache
        .open_backing(Arc::new(
            OpenOptions::new().read(true).write(true).direct(true).open_local(&path).unwrap(),
        ))
        .unwrap();
    let plain = fs::File::open(&path).unwrap();
    for step in 1..40 {
        // The kernel caches the bytes before they are overwritten.
        let mut seen = vec![0; bytes.len()];
        plain.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == bytes, "before step {step}");
        let (offset, more) = (step * 1777 % bytes.len(), [step as u8; 5000]);
        file.write_at(&more, offset as u64).unwrap();
        bytes.resize(bytes.len().max(offset + more.len()), 0);
        bytes[offset..offset + more.len()].copy_from_slice(&more);
        if step % 2 == 0 { file.sync_data() } else { file.flush() }.unwrap();
        file.invalidate();
        seen = vec![0; bytes.len()];
        assert_eq!(file.read_at(&mut seen, 0).unwrap(), bytes.len());
        assert!(seen == bytes, "step {step}");
    }
    assert!(!file.revalidate().unwrap());
    drop(file);
    assert!(fs::read(&path).unwrap() == bytes);
    assert_nothing_leaked(&cache);
}

/// Contiguous pages are one buffer for the disk and one slice for `File::bytes`.
#[test]
fn pages_added_by_one_call_are_contiguous() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory).unwrap();
    file.append(&vec![1; 32 * 4096]).unwrap();
    file.write_at(&vec![2; 15 * 4096], 40 * 4096 + 9).unwrap();
    for (first, pages) in [(0, 32), (40, 16)] {
        let range = file.range(first * 4096, pages * 4096).unwrap();
        assert_eq!(range.chunks().count(), 1, "{range:?}");
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Neither the external append nor the cached write is lost, though both are in one page.
#[test]
fn external_growth_merges_with_dirty_bytes() {
    let (memory, cache) = memory(&[1; 10]);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&[2; 5], 5).unwrap();
    memory.scribble(10, &[3; 10]);
    let mut buf = [0; 30];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 20);
    assert_eq!(buf[..20], [[1; 5], [2; 5], [3; 5], [3; 5]].concat());
    assert_eq!(file.append(b"end").unwrap(), 20);
    memory.cut(3);
    // After an external truncation the dirty bytes stay, and so does the length.
    assert_eq!(file.read_at(&mut buf, 1000).unwrap(), 0);
    assert_eq!(file.len(), 23);
    file.close().unwrap();
    assert_eq!(&memory.contents()[20..], b"end");
}

/// Another program lengthened the file, so a write past the known end is inside the file.
#[test]
fn a_write_past_the_known_end_keeps_external_appends() {
    let (memory, cache) = memory(&[1; 10]);
    let file = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10);
    memory.scribble(10, &[3; 10]);
    assert_eq!(file.write_at(&[9; 2], 15).unwrap(), 2);
    assert_eq!(file.len(), 20);
    file.close().unwrap();
    assert_eq!(memory.contents(), [[1; 5], [1; 5], [3; 5], [9, 9, 3, 3, 3]].concat());
}

#[test]
fn truncated_or_punched_bytes_read_as_zeroes_after_regrowth() {
    let (memory, cache) = memory(&vec![1; 20_000]);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&[2; 9000], 0).unwrap();
    let handle = file.page(4096).unwrap().unwrap();
    file.set_len(5000).unwrap();
    file.set_len(12_000).unwrap();
    let mut buf = vec![9; 20_000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 12_000);
    assert!(
        buf[..5000].iter().all(|&byte| byte == 2)
            && buf[5000..12_000].iter().all(|&byte| byte == 0)
    );
    assert!(handle.iter().all(|&byte| byte == 2), "a handle changed");
    file.punch_hole(100, 9000).unwrap();
    file.punch_hole(30_000, 9).unwrap();
    file.read_at(&mut buf, 0).unwrap();
    assert!(
        buf[..100].iter().all(|&byte| byte == 2) && buf[100..12_000].iter().all(|&byte| byte == 0)
    );
    file.close().unwrap();
    buf.truncate(12_000);
    assert!(memory.contents() == buf);
    drop(handle);
    assert_nothing_leaked(&cache);
}

#[test]
fn concurrent_appends_neither_overlap_nor_leave_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let cache = cache();
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (cache, path) = (&cache, &path);
            scope.spawn(move || {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .open(cache, path)
                    .unwrap();
                for n in 0..300_u16 {
                    let record = [[thread, n as u8], n.to_le_bytes()].concat().repeat(60);
                    let at = file.append(&record).unwrap();
                    let mut buf = vec![0; record.len()];
                    assert_eq!(file.read_at(&mut buf, at).unwrap(), record.len());
                    assert!(buf == record, "at {at}");
                }
            });
        }
    });
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 4 * 300 * 240);
    let mut next = [0_u16; 4];
    for record in bytes.chunks(240) {
        let thread = usize::from(record[0]);
        assert!(record.chunks(4).all(|chunk| chunk
            == [record[0], next[thread] as u8, next[thread] as u8, (next[thread] >> 8) as u8]));
        next[thread] += 1;
    }
    assert_nothing_leaked(&cache);
}

/// Every page is filled with one byte. Writers overwrite whole pages, so no reader may see two
/// different bytes in one page, also under reclaim, migration, syncs and revalidation.
#[test]
fn readers_see_each_write_to_a_page_whole() {
    let (memory, cache) = memory(&vec![0; 64 * 4096]);
    let file = cache.open_backing(memory.clone()).unwrap();
    let stop = AtomicBool::new(false);
    let running = || !stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for seed in 0..2 {
            let (file, running) = (&file, &running);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut buf = vec![0; 4096];
                while running() {
                    let page = random.u64(..64);
                    let (within, n) = (random.usize(..4000), random.usize(1..96));
                    file.read_at(&mut buf[..n], page * 4096 + within as u64).unwrap();
                    assert!(buf[..n].iter().all(|&byte| byte == buf[0]), "{:?}", &buf[..n]);
                    file.read_at(&mut buf, page * 4096).unwrap();
                    assert!(buf.iter().all(|&byte| byte == buf[0]));
                    let handle = file.page(page * 4096).unwrap().unwrap();
                    assert!(handle.iter().all(|&byte| byte == handle[0]));
                }
            });
        }
        scope.spawn(|| {
            while running() {
                cache.reclaim(40);
                for pfn in cache.frames().zone().pfns() {
                    let _ = cache.frames().migrate(pfn);
                }
                file.sync_data().unwrap();
                file.revalidate().unwrap();
            }
        });
        let writers: Vec<_> = (0..2_u8)
            .map(|thread| {
                let file = &file;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(u64::from(thread));
                    for _ in 0..3000 {
                        file.write_at(&[random.u8(..); 4096], random.u64(..64) * 4096).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let mut buf = vec![0; 64 * 4096];
    file.read_at(&mut buf, 0).unwrap();
    file.sync_data().unwrap();
    assert!(memory.durable() == buf);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A file that is renamed and removed while it is open stays usable.
#[test]
fn an_unlinked_file_is_written_and_read() {
    let (dir, path, _) = file_of(5000);
    let cache = cache();
    let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    file.write_at(b"moved", 0).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    file.sync_all().unwrap();
    let plain = fs::File::open(&elsewhere).unwrap();
    fs::remove_file(&elsewhere).unwrap();
    file.write_at(b"gone", 0).unwrap();
    file.flush().unwrap();
    let mut buf = [0; 5];
    plain.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"goned");
    drop(file);
    assert_nothing_leaked(&cache);
}
