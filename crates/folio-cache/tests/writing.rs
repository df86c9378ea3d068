//! What writes do: to readers, to holders, to the file, to other opens.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{assert_nothing_leaked, file_of};
use folio_cache::{Cache, Call, Fault, LocalFile, Memory};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

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
    let file = cache.open_rw(&path).unwrap();
    let reader = cache.open(&path).unwrap();
    assert_eq!(file.write_at(4000, b"over the border of two pages").unwrap(), 28);
    bytes[4000..4028].copy_from_slice(b"over the border of two pages");
    let mut buf = vec![0; 10_000];
    assert_eq!(reader.read_at(0, &mut buf).unwrap(), 10_000);
    assert!(buf == bytes);
    drop(file);
    // The reader has it open: not the last close.
    reader.revalidate().unwrap();
    reader.read_at(0, &mut buf).unwrap();
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
    file.write_at(0, &[2; 5000]).unwrap();
    assert!(before.iter().all(|&byte| byte == 1));
    assert!(file.page(0).unwrap().unwrap().iter().all(|&byte| byte == 2));
    // Nobody holds it: in place, on the same frame.
    let pfn = |cache: &Cache| {
        cache.zone().pfns().filter(|&pfn| cache.zone().peek(pfn).dirty).collect::<Vec<_>>()
    };
    drop(before);
    let frames = pfn(&cache);
    file.write_at(0, &[3; 5000]).unwrap();
    assert_eq!((frames.len(), pfn(&cache)), (2, frames));
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_file_opened_for_reading_refuses_writes() {
    let (_dir, path, bytes) = file_of(100);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    // That somebody else may write changes nothing.
    let writer = cache.open_rw(&path).unwrap();
    let refused = [
        file.write_at(0, b"x").map(drop),
        file.append(b"x").map(drop),
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
    assert_eq!(cache.open_rw(&path).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(cache.create(&path).unwrap().append(b"one").unwrap(), 0);
    assert_eq!(cache.create(&path).unwrap().append(b"two").unwrap(), 3);
    assert_eq!(fs::read(&path).unwrap(), b"onetwo");
    assert_eq!(cache.create(dir.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn impossible_offsets_are_refused_before_any_write() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    let max = i64::MAX as u64;
    for (offset, len) in [(max, 1), (max - 1, 2), (1 << 63, 1), (u64::MAX, 1), (u64::MAX, 2)] {
        let error = file.write_at(offset, &vec![1; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{offset}");
        assert!(error.to_string().contains(&offset.to_string()), "{error}");
    }
    let past = 1 << 44;
    for (offset, len) in [(past, 1), (past - 1, 2), (past - 4096, 4097), (max - 1, 1)] {
        assert_eq!(
            file.write_at(offset, &vec![1; len]).unwrap_err().kind(),
            ErrorKind::FileTooLarge,
            "{offset}"
        );
    }
    assert_eq!(file.set_len(1 << 63).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file.len(), 0);
    // The last byte that can be cached, and nothing.
    assert_eq!(file.write_at(past - 1, b"x").unwrap(), 1);
    assert_eq!(file.write_at(past, b"").unwrap(), 0);
    let mut buf = [1; 4];
    assert_eq!(file.read_at(past - 2, &mut buf).unwrap(), 2);
    assert_eq!(buf, [0, b'x', 1, 1]);
    // A hole ends with the file, however long it is.
    for (offset, len) in [(u64::MAX, u64::MAX), (max, 1), (past, 1), (past - 1, u64::MAX)] {
        file.punch_hole(offset, len).unwrap();
    }
    assert_eq!(file.len(), past);
    assert_eq!((file.read_at(past - 1, &mut buf).unwrap(), buf[0]), (1, 0));
    file.set_len(max).unwrap();
    assert_eq!(file.append(b"y").unwrap_err().kind(), ErrorKind::InvalidInput);
    file.set_len(0).unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Whole pages go to the disk from where they lie, the last part of one through the kernel: whoever
/// reads sees both.
#[test]
fn writes_past_the_kernels_cache_are_in_the_file() {
    let (_dir, path, mut bytes) = file_of(3 * 4096 + 50);
    let cache = cache();
    let file = cache.open_backing(Arc::new(LocalFile::open_rw(&path).unwrap().direct())).unwrap();
    let beside = fs::File::open(&path).unwrap();
    for step in 1..40 {
        // The kernel has cached what is overwritten.
        let mut seen = vec![0; bytes.len()];
        beside.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == bytes, "before step {step}");
        let (offset, more) = (step * 1777 % bytes.len(), [step as u8; 5000]);
        file.write_at(offset as u64, &more).unwrap();
        bytes.resize(bytes.len().max(offset + more.len()), 0);
        bytes[offset..offset + more.len()].copy_from_slice(&more);
        if step % 2 == 0 { file.sync_data() } else { file.flush() }.unwrap();
        file.invalidate();
        seen = vec![0; bytes.len()];
        assert_eq!(file.read_at(0, &mut seen).unwrap(), bytes.len());
        assert!(seen == bytes, "step {step}");
    }
    assert!(!file.revalidate().unwrap());
    drop(file);
    assert!(fs::read(&path).unwrap() == bytes);
    assert_nothing_leaked(&cache);
}

/// As where they are read: one buffer for a disk, one slice for `File::bytes`.
#[test]
fn pages_added_by_one_call_are_contiguous() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory).unwrap();
    file.append(&vec![1; 32 * 4096]).unwrap();
    file.write_at(40 * 4096 + 9, &vec![2; 15 * 4096]).unwrap();
    for (first, pages) in [(0, 32), (40, 16)] {
        let range = file.range(first * 4096, pages * 4096).unwrap();
        assert_eq!(range.chunks().count(), 1, "{range:?}");
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Without the flusher: it follows a slow writer with any number of requests. With it there were 4
/// once, under `ThreadSanitizer`.
#[test]
fn neighbours_are_written_in_one_request() {
    let (memory, cache) = memory(b"");
    cache.set_io_threads(0);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(0, &vec![1; 100 * 4096]).unwrap();
    file.write_at(101 * 4096, &[1; 10]).unwrap();
    file.flush().unwrap();
    assert_eq!(memory.calls(Call::Write), 2);
    assert_eq!(cache.stats().written_bytes, 100 * 4096 + 10);
    file.flush().unwrap();
    file.sync_data().unwrap();
    assert_eq!((memory.calls(Call::Write), memory.calls(Call::Sync)), (2, 1));
}

/// What was synced is durable; what was not, need not be.
#[test]
fn a_sync_makes_earlier_writes_durable() {
    let (memory, cache) = memory(&[9; 4096]);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(3, b"abc").unwrap();
    file.sync_data().unwrap();
    file.write_at(4, b"x").unwrap();
    file.flush().unwrap();
    assert_eq!(&memory.durable()[2..7], b"\x09abc\x09");
    assert_eq!(&memory.contents()[2..7], b"\x09axc\x09");
}

#[test]
fn each_open_reports_a_writeback_error_once_and_keeps_data() {
    let (memory, cache) = memory(b"");
    let first = cache.open_backing(memory.clone()).unwrap();
    let second = cache.open_backing(memory.clone()).unwrap();
    first.write_at(0, b"precious").unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(ENOSPC));
    assert_eq!(first.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    // Reclaim leaves it alone, and so do invalidation and somebody else's change.
    cache.reclaim(1000);
    first.invalidate();
    memory.scribble(100, b"x");
    assert!(first.revalidate().unwrap());
    let mut buf = [0; 8];
    assert_eq!(second.read_at(0, &mut buf).unwrap(), 8);
    assert_eq!(&buf, b"precious");
    // Tried again it succeeds; the other open learns of the first try all the same, a later one
    // does not.
    first.sync_data().unwrap();
    assert_eq!(&memory.durable()[..8], b"precious");
    let third = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(second.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    second.sync_data().unwrap();
    third.sync_data().unwrap();
    // A sync of the backing that fails is told in the same way.
    memory.inject(Call::Sync, 0, 1, Fault::Error(EIO));
    assert_eq!(third.sync_all().unwrap_err().raw_os_error(), Some(EIO));
    assert_eq!(first.clone().flush().unwrap_err().raw_os_error(), Some(EIO));
    first.flush().unwrap();
}

/// The last close can not say that it failed, so it keeps the data: for the next open, the flusher,
/// and `flush`.
#[test]
fn dirty_data_of_a_failed_last_close_is_kept() {
    let (memory, cache) = memory(b"");
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.append(b"precious").unwrap();
    drop(file);
    assert!(cache.stats().write_errors > 0);
    let file = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(file.len(), 8);
    let mut buf = [0; 8];
    file.read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"precious");
    assert_eq!(file.close().unwrap_err().raw_os_error(), Some(ENOSPC));
    assert!(cache.flush().is_err());
    memory.heal();
    cache.flush().unwrap();
    assert_eq!(memory.contents(), b"precious");
    assert_nothing_leaked(&cache);
}

/// Nothing that is dirty is dropped for room: the writer learns that there is none.
#[test]
fn a_full_backing_stops_only_its_own_writer() {
    let (memory, cache) = memory(b"");
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write_at(written, &[7; 4096]) {
            Ok(n) => written += n as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    assert!((512 / 4 * 4096..=512 * 4096).contains(&written), "{written}");
    let healthy = Arc::new(Memory::new(b""));
    let other = cache.open_backing(healthy.clone()).unwrap();
    for n in 0..2000_u64 {
        other.write_at(n * 4096, &n.to_le_bytes()).unwrap();
    }
    other.close().unwrap();
    assert_eq!(healthy.contents().len(), 1999 * 4096 + 8);
    memory.heal();
    // Told once, of what is long past.
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    file.sync_data().unwrap();
    assert!(memory.durable() == vec![7; written as usize]);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_file_larger_than_the_capacity_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    let cache = cache();
    let file = cache.create(&path).unwrap();
    let bytes: Vec<u8> = (0..7_000_000_u32).map(|n| (n / 3) as u8).collect();
    for chunk in bytes.chunks(100_001) {
        file.append(chunk).unwrap();
    }
    assert!(cache.stats().throttled > 0, "{:?}", cache.stats());
    file.close().unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    assert_nothing_leaked(&cache);
}

/// Neither what somebody else appended nor what was written here is lost, though both lie in one
/// page.
#[test]
fn external_growth_merges_with_dirty_bytes() {
    let (memory, cache) = memory(&[1; 10]);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(5, &[2; 5]).unwrap();
    memory.scribble(10, &[3; 10]);
    let mut buf = [0; 30];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 20);
    assert_eq!(buf[..20], [[1; 5], [2; 5], [3; 5], [3; 5]].concat());
    assert_eq!(file.append(b"end").unwrap(), 20);
    memory.cut(3);
    // Cut beside us: what was not written yet stays, and so does the length.
    assert_eq!(file.read_at(1000, &mut buf).unwrap(), 0);
    assert_eq!(file.len(), 23);
    file.close().unwrap();
    assert_eq!(&memory.contents()[20..], b"end");
}

/// Neither what was written back nor what was cut off is dirty any more: nobody waits for it.
#[test]
fn pages_no_longer_dirty_throttle_no_writer() {
    let (memory, cache) = memory(b"");
    cache.set_io_threads(0);
    let file = cache.open_backing(memory.clone()).unwrap();
    for round in 0..8 {
        // Of 128 that may be dirty.
        assert_eq!(file.write_at(0, &vec![round; 100 * 4096]).unwrap(), 100 * 4096);
        if round % 2 == 0 { file.sync_data() } else { file.set_len(0) }.unwrap();
    }
    assert_eq!((cache.stats().throttled, memory.calls(Call::Write)), (0, 4));
    assert_eq!(file.write_at(0, &vec![9; 200 * 4096]).unwrap(), 200 * 4096);
    assert!(cache.stats().throttled > 0);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Not after a while, when it would be the writer who has to write.
#[test]
fn the_flusher_starts_at_half_of_the_dirty_limit() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(file.write_at(0, &vec![1; 100 * 4096]).unwrap(), 100 * 4096);
    cache.quiesce();
    assert!(memory.contents().len() > 64 * 4096, "{} bytes were written", memory.contents().len());
    assert_eq!(cache.stats().throttled, 0);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A write past the end that is known is one within the file, which somebody else made longer.
#[test]
fn a_write_past_the_known_end_keeps_external_appends() {
    let (memory, cache) = memory(&[1; 10]);
    let file = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(file.read_at(0, &mut [0; 10]).unwrap(), 10);
    memory.scribble(10, &[3; 10]);
    assert_eq!(file.write_at(15, &[9; 2]).unwrap(), 2);
    assert_eq!(file.len(), 20);
    file.close().unwrap();
    assert_eq!(memory.contents(), [[1; 5], [1; 5], [3; 5], [9, 9, 3, 3, 3]].concat());
}

#[test]
fn truncated_or_punched_bytes_read_as_zeroes_after_regrowth() {
    let (memory, cache) = memory(&vec![1; 20_000]);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(0, &[2; 9000]).unwrap();
    let held = file.page(4096).unwrap().unwrap();
    file.set_len(5000).unwrap();
    file.set_len(12_000).unwrap();
    let mut buf = vec![9; 20_000];
    assert_eq!(file.read_at(0, &mut buf).unwrap(), 12_000);
    assert!(
        buf[..5000].iter().all(|&byte| byte == 2)
            && buf[5000..12_000].iter().all(|&byte| byte == 0)
    );
    assert!(held.iter().all(|&byte| byte == 2), "a handle changed");
    file.punch_hole(100, 9000).unwrap();
    file.punch_hole(30_000, 9).unwrap();
    file.read_at(0, &mut buf).unwrap();
    assert!(
        buf[..100].iter().all(|&byte| byte == 2) && buf[100..12_000].iter().all(|&byte| byte == 0)
    );
    file.close().unwrap();
    buf.truncate(12_000);
    assert!(memory.contents() == buf);
    drop(held);
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
                let file = cache.create(path).unwrap();
                for n in 0..300_u16 {
                    let record = [[thread, n as u8], n.to_le_bytes()].concat().repeat(60);
                    let at = file.append(&record).unwrap();
                    let mut buf = vec![0; record.len()];
                    assert_eq!(file.read_at(at, &mut buf).unwrap(), record.len());
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
        assert!(record.chunks(4).all(|part| part
            == [record[0], next[thread] as u8, next[thread] as u8, (next[thread] >> 8) as u8]));
        next[thread] += 1;
    }
    assert_nothing_leaked(&cache);
}

/// Every page holds one byte throughout. Writers change pages whole, so no reader may see two bytes
/// in one page, whatever else is done to it.
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
                    file.read_at(page * 4096 + within as u64, &mut buf[..n]).unwrap();
                    assert!(buf[..n].iter().all(|&byte| byte == buf[0]), "{:?}", &buf[..n]);
                    file.read_at(page * 4096, &mut buf).unwrap();
                    assert!(buf.iter().all(|&byte| byte == buf[0]));
                    let handle = file.page(page * 4096).unwrap().unwrap();
                    assert!(handle.iter().all(|&byte| byte == handle[0]));
                }
            });
        }
        scope.spawn(|| {
            while running() {
                cache.reclaim(40);
                for pfn in cache.zone().pfns() {
                    let _ = cache.migrate(pfn);
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
                        file.write_at(random.u64(..64) * 4096, &[random.u8(..); 4096]).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    let mut buf = vec![0; 64 * 4096];
    file.read_at(0, &mut buf).unwrap();
    file.sync_data().unwrap();
    assert!(memory.durable() == buf);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A file that is renamed and removed while it is open is the same file.
#[test]
fn an_unlinked_file_is_written_and_read() {
    let (dir, path, _) = file_of(5000);
    let cache = cache();
    let file = cache.open_rw(&path).unwrap();
    file.write_at(0, b"moved").unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    file.sync_all().unwrap();
    let plain = fs::File::open(&elsewhere).unwrap();
    fs::remove_file(&elsewhere).unwrap();
    file.write_at(0, b"gone").unwrap();
    file.flush().unwrap();
    let mut buf = [0; 5];
    plain.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"goned");
    drop(file);
    assert_nothing_leaked(&cache);
}
