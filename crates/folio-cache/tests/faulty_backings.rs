//! Writes under adverse conditions: no room half-way, external truncation, a shrinking capacity, a
//! slow disk.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use common::{Gated, OpenOnDrop, assert_nothing_leaked, file_of};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, OpenOptions};

const ENOSPC: i32 = 28;
const PAGE: u64 = 4096;

/// Returns `len` bytes that follow from their offsets.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 7) as u8 | 1).collect()
}

/// An append that exceeds the dirty limit writes back while it runs. The bytes appended before the
/// disk was full stay.
#[test]
fn an_append_without_room_leaves_its_progress_as_length() {
    for requests in 0..4 {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let memory = Arc::new(Memory::new(b"head"));
        let file = cache.open_backing(memory.clone()).unwrap();
        memory.inject(Call::Write, requests, u64::MAX, Fault::Error(ENOSPC));
        let bytes = pattern(4 << 20);
        assert_eq!(
            file.append(&bytes).unwrap_err().raw_os_error(),
            Some(ENOSPC),
            "after {requests} requests"
        );
        let done = file.len() as usize - 4;
        assert!(
            (128 * 4096 - 4096..bytes.len()).contains(&done),
            "{done} after {requests} requests"
        );
        let mut buf = vec![0; done + 10];
        assert_eq!(file.read_at(&mut buf, 4).unwrap(), done);
        assert!(buf[..done] == bytes[..done]);
        memory.heal();
        // The error is reported once; the rest is appended at the end reached before.
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(file.append(&bytes[done..]).unwrap(), done as u64 + 4);
        file.sync_data().unwrap();
        assert!(memory.durable() == [b"head", &*bytes].concat());
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// The rest is not written, and the next write returns the error.
#[test]
fn a_write_out_of_room_half_way_returns_a_short_count() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let bytes = pattern(4 << 20);
    let done = file.write_at(&bytes, 0).unwrap();
    assert!((128 * 4096..bytes.len()).contains(&done), "{done}");
    assert_eq!(file.len(), done as u64);
    assert_eq!(
        file.write_at(&bytes[done..], done as u64).unwrap_err().raw_os_error(),
        Some(ENOSPC)
    );
    memory.heal();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(file.write_at(&bytes[done..], done as u64).unwrap(), bytes.len() - done);
    file.sync_data().unwrap();
    assert!(memory.durable() == bytes);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// If the file system's maximum file size is smaller than the cache's, a sync returns the error
/// that a plain write returns. A truncate drops the dirty page.
#[test]
fn a_sync_reports_a_last_page_the_system_refuses() {
    let (_dir, path, bytes) = file_of(100);
    let last = (1 << 44) - 8;
    let plain = fs::File::options().write(true).open(&path).unwrap();
    let expected = plain.write_all_at(b"the last", last).map_err(|error| error.raw_os_error());
    plain.set_len(100).unwrap();
    let cache: Cache = Cache::new(2 << 20).unwrap();
    for direct in [false, true] {
        let backing = OpenOptions::new().read(true).write(true).open_local(&path).unwrap();
        let file =
            cache.open_backing(Arc::new(if direct { backing.direct() } else { backing })).unwrap();
        assert_eq!(file.write_at(b"the last", last).unwrap(), 8);
        assert_eq!(
            file.sync_data().map_err(|error| error.raw_os_error()),
            expected,
            "direct: {direct}"
        );
        let mut buf = [0; 10];
        assert_eq!(file.read_at(&mut buf, last).unwrap(), 8);
        assert_eq!(buf, *b"the last\0\0");
        file.set_len(100).unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert!(fs::read(&path).unwrap() == bytes);
    }
    assert_nothing_leaked(&cache);
}

/// The cache's writes are newer than the truncation: they are in the file afterwards, with zeroes
/// before them.
#[test]
fn dirty_pages_survive_an_external_truncation() {
    for direct in [false, true] {
        let (_dir, path, _) = file_of(10 * 4096);
        let cache: Cache = Cache::new(2 << 20).unwrap();
        let backing = OpenOptions::new().read(true).write(true).open_local(&path).unwrap();
        let file =
            cache.open_backing(Arc::new(if direct { backing.direct() } else { backing })).unwrap();
        file.read_at(&mut vec![0; 10 * 4096], 0).unwrap();
        file.write_at(&[3; 4096], 3 * PAGE).unwrap();
        file.write_at(&[6; 5000], 6 * PAGE).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        file.sync_data().unwrap();
        // The last page is written up to the old length, with the bytes from its fill.
        let there = fs::read(&path).unwrap();
        assert_eq!(there.len(), 8 * 4096, "direct: {direct}");
        let is =
            |page: usize, byte| there[page * 4096..][..4096].iter().all(|&found| found == byte);
        assert!(
            is(1, 0) && is(2, 0) && is(3, 3) && is(4, 0) && is(5, 0) && is(6, 6),
            "direct: {direct}"
        );
        assert!(there[7 * 4096..][..904].iter().all(|&found| found == 6));
        file.revalidate().unwrap();
        let mut seen = vec![0; 10 * 4096];
        assert_eq!(file.read_at(&mut seen, 0).unwrap(), there.len());
        assert!(seen[..there.len()] == there, "direct: {direct}");
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Dirty pages are migrated when the capacity shrinks. They exceed the dirty limit then: a write
/// returns the error of writeback, and nothing is lost.
#[test]
fn a_capacity_below_the_dirty_pages_loses_nothing() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let bytes = pattern(400 * 4096);
    assert_eq!(file.write_at(&bytes, 0).unwrap(), bytes.len());
    cache.set_capacity(2 << 20).unwrap();
    assert_eq!(file.write_at(b"more", 0).unwrap_err().raw_os_error(), Some(ENOSPC));
    let mut buf = vec![0; bytes.len()];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), bytes.len());
    assert!(buf == bytes);
    memory.heal();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    file.sync_data().unwrap();
    assert!(memory.durable() == bytes);
    assert_eq!(file.write_at(b"more", 0).unwrap(), 4);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Returns a memory with writes that wait at a gate, and a receiver of their offsets.
fn gated(bytes: &[u8]) -> (Arc<Gated>, mpsc::Receiver<u64>) {
    Gated::new(bytes, |call, _| call == Call::Write)
}

/// A write request that never ends blocks syncs, and the writers of its file that are past the
/// dirty limit. It blocks nothing else: no read of a page that is under writeback, dirty, clean or
/// missing, no handle, and no write to another file while there is room.
#[test]
fn a_slow_write_blocks_no_reader_and_ends_for_its_writer() {
    let (gated, started) = gated(&pattern(100 * 4096));
    let cache: Cache = Cache::new(2 << 20).unwrap();
    // Without the flusher, the writer itself waits for the request.
    cache.set_io_threads(0);
    let file = cache.open_backing(gated.clone()).unwrap();
    file.read_at(&mut [0; 4096], 0).unwrap();
    thread::scope(|scope| {
        let gate = OpenOnDrop(&gated);
        let writer = scope.spawn(|| {
            // 50 pages past the dirty limit of 128.
            for page in 100..278 {
                file.write_at(&[page as u8; 4096], page * PAGE)?;
            }
            file.sync_data()
        });
        started.recv().unwrap();
        let mut buf = [0; 4096];
        // Clean, missing, under writeback.
        for page in [0, 50, 100] {
            assert_eq!(file.read_at(&mut buf, page * PAGE).unwrap(), 4096);
        }
        assert_eq!(buf, [100; 4096]);
        let handle = file.page(101 * PAGE).unwrap().unwrap();
        assert!(handle.iter().all(|&byte| byte == 101));
        let end = file.len();
        assert!((228 * PAGE..278 * PAGE).contains(&end), "{end}");
        assert_eq!(file.read_at(&mut buf, end - 1).unwrap(), 1);
        assert_eq!(cache.reclaim(1), 1);
        assert!(!writer.is_finished());
        drop(gate);
        writer.join().unwrap().unwrap();
    });
    assert!(cache.stats().throttled > 0);
    let there = gated.memory.durable();
    assert_eq!(there.len(), 278 * 4096);
    assert!(
        (100..278).all(|page| there[page * 4096..][..4096].iter().all(|&byte| byte == page as u8))
    );
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The page under writeback is pinned, so the write goes to a copy, which is dirty when the request
/// ends.
#[test]
fn a_write_during_writeback_goes_out_with_the_next() {
    let (gated, started) = gated(b"");
    let cache: Cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    let file = cache.open_backing(gated.clone()).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    thread::scope(|scope| {
        let gate = OpenOnDrop(&gated);
        let sync = scope.spawn(|| file.sync_data());
        started.recv().unwrap();
        assert_eq!(file.write_at(&[2; 100], 100).unwrap(), 100);
        drop(gate);
        sync.join().unwrap().unwrap();
    });
    assert!(gated.memory.durable() == [1; 4096]);
    file.sync_data().unwrap();
    assert!(gated.memory.durable() == [[1; 100].as_slice(), &[2; 100], &[1; 3896]].concat());
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The cache knows that the file reached as far as the write. A fill that finds less queries the
/// length again.
#[test]
fn an_external_truncation_after_writeback_ends_the_file() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    file.sync_data().unwrap();
    file.invalidate();
    memory.cut(100);
    let mut buf = [9; 200];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 100);
    assert_eq!((buf, file.len()), ([[1; 100], [9; 100]].concat().try_into().unwrap(), 100));
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A growth waits for a write request. Meanwhile the file grows further, so the growth becomes a
/// truncate. The last page is dirty and pinned then, and the truncate needs a frame for a copy,
/// which was not reserved before the wait. It must not retry forever.
#[test]
fn a_waiting_growth_truncates_a_file_grown_meanwhile() {
    let (gated, started) = gated(&pattern(200 * 4096 + 100));
    let cache = Cache::builder().capacity(2 << 20).max_capacity(4 << 20).build().unwrap();
    cache.set_io_threads(0);
    let file = cache.open_backing(gated.clone()).unwrap();
    let writer = thread::spawn({
        let file = file.clone();
        // One request, by the writer past the dirty limit of 128 pages.
        move || (0..130).for_each(|page| _ = file.write_at(&[1; 4096], page * PAGE).unwrap())
    });
    started.recv().unwrap();
    // Raises the dirty limit.
    cache.set_capacity(4 << 20).unwrap();
    let queries = gated.memory.calls(Call::Version);
    let (sender, receiver) = mpsc::channel();
    thread::spawn({
        let file = file.clone();
        move || sender.send(file.set_len(200 * PAGE + 150))
    });
    while gated.memory.calls(Call::Version) == queries {
        thread::yield_now();
    }
    gated.memory.cut(200 * PAGE + 200);
    assert_eq!(file.read_at(&mut [0; 4096], 200 * PAGE).unwrap(), 200);
    file.write_at(b"dirty", 200 * PAGE).unwrap();
    let handle = file.page(200 * PAGE).unwrap().unwrap();
    gated.open();
    receiver.recv_timeout(Duration::from_secs(20)).expect("set_len spins forever").unwrap();
    assert_eq!((handle.len(), file.len()), (200, 200 * PAGE + 150));
    assert_eq!(
        file.page(200 * PAGE).unwrap().unwrap()[..8],
        [b"dirty".as_slice(), &handle[5..8]].concat()
    );
    writer.join().unwrap();
    drop((handle, file));
    assert_nothing_leaked(&cache);
}

/// A closed file with unwritten pages is kept until they are written. It must be released also if
/// reclaim writes them and not the flusher. Otherwise it stays open, keeps a deleted file on disk,
/// and its index uses capacity.
#[test]
fn a_closed_file_flushed_by_reclaim_is_released() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    // No flusher.
    cache.set_io_threads(0);
    let closed = Arc::new(Memory::new(&[]));
    closed.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let file = cache.open_backing(closed.clone()).unwrap();
    file.write_at(&[7; 4096], 0).unwrap();
    drop(file);
    assert_eq!(
        (closed.contents(), Arc::strong_count(&closed) > 1),
        (vec![], true),
        "the file is not kept"
    );
    closed.heal();

    let file = cache.open_backing(Arc::new(Memory::new(&vec![1; 512 * 4096]))).unwrap();
    let handles: Vec<_> = (0..512).map(|page| file.page(page * 4096).unwrap().unwrap()).collect();
    assert_eq!(closed.contents(), [7; 4096]);
    assert_eq!(Arc::strong_count(&closed), 1, "the file is not released");
    drop((file, handles));
    assert_nothing_leaked(&cache);
}
