//! Writeback: syncs and flushes, its errors, the dirty limit and the flusher.

mod common;

use std::fs;
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::Cache;
use folio_cache::testing::{Call, Fault, Memory};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn cache() -> Cache {
    Cache::new(2 << 20).unwrap()
}

fn memory(contents: &[u8]) -> (Arc<Memory>, Cache) {
    (Arc::new(Memory::new(contents)), cache())
}

/// Without the flusher, which may split the writes of a slow writer into any number of requests.
#[test]
fn neighbours_are_written_in_one_request() {
    let (memory, cache) = memory(b"");
    cache.set_io_threads(0);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&vec![1; 100 * 4096], 0).unwrap();
    file.write_at(&[1; 10], 101 * 4096).unwrap();
    file.flush().unwrap();
    assert_eq!(memory.calls(Call::Write), 2);
    assert_eq!(cache.stats().written_bytes, 100 * 4096 + 10);
    file.flush().unwrap();
    file.sync_data().unwrap();
    assert_eq!((memory.calls(Call::Write), memory.calls(Call::Sync)), (2, 1));
}

/// Synced bytes are durable; flushed bytes need not be.
#[test]
fn a_sync_makes_earlier_writes_durable() {
    let (memory, cache) = memory(&[9; 4096]);
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(b"abc", 3).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"x", 4).unwrap();
    file.flush().unwrap();
    assert_eq!(&memory.durable()[2..7], b"\x09abc\x09");
    assert_eq!(&memory.contents()[2..7], b"\x09axc\x09");
}

#[test]
fn each_open_reports_a_writeback_error_once_and_keeps_data() {
    let (memory, cache) = memory(b"");
    let first = cache.open_backing(memory.clone()).unwrap();
    let second = cache.open_backing(memory.clone()).unwrap();
    first.write_at(b"precious", 0).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(ENOSPC));
    assert_eq!(first.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    // Reclaim, invalidation and an external change keep the dirty page.
    cache.reclaim(1000);
    first.invalidate();
    memory.scribble(100, b"x");
    assert!(first.revalidate().unwrap());
    let mut buf = [0; 8];
    assert_eq!(second.read_at(&mut buf, 0).unwrap(), 8);
    assert_eq!(&buf, b"precious");
    // The next try succeeds. The other open still reports the first failure; an open made later
    // does not.
    first.sync_data().unwrap();
    assert_eq!(&memory.durable()[..8], b"precious");
    let third = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(second.sync_data().unwrap_err().raw_os_error(), Some(ENOSPC));
    second.sync_data().unwrap();
    third.sync_data().unwrap();
    // A failed sync of the backing is reported in the same way.
    memory.inject(Call::Sync, 0, 1, Fault::Error(EIO));
    assert_eq!(third.sync_all().unwrap_err().raw_os_error(), Some(EIO));
    assert_eq!(first.clone().flush().unwrap_err().raw_os_error(), Some(EIO));
    first.flush().unwrap();
}

/// The last close cannot return an error, so it keeps the data for the next open, the flusher and
/// `flush`.
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
    file.read_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"precious");
    assert_eq!(file.close().unwrap_err().raw_os_error(), Some(ENOSPC));
    assert!(cache.flush().is_err());
    memory.heal();
    cache.flush().unwrap();
    assert_eq!(memory.contents(), b"precious");
    assert_nothing_leaked(&cache);
}

/// Dirty pages are never dropped to make room: the writer gets the error.
#[test]
fn a_full_backing_stops_only_its_own_writer() {
    let (memory, cache) = memory(b"");
    memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write_at(&[7; 4096], written) {
            Ok(n) => written += n as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    assert!((512 / 4 * 4096..=512 * 4096).contains(&written), "{written}");
    let healthy = Arc::new(Memory::new(b""));
    let other = cache.open_backing(healthy.clone()).unwrap();
    for n in 0..2000_u64 {
        other.write_at(&n.to_le_bytes(), n * 4096).unwrap();
    }
    other.close().unwrap();
    assert_eq!(healthy.contents().len(), 1999 * 4096 + 8);
    memory.heal();
    // The old error is reported once.
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

/// Pages that were written back or truncated no longer count against the dirty limit.
#[test]
fn pages_no_longer_dirty_throttle_no_writer() {
    let (memory, cache) = memory(b"");
    cache.set_io_threads(0);
    let file = cache.open_backing(memory.clone()).unwrap();
    for round in 0..8 {
        // 100 pages, of a dirty limit of 128.
        assert_eq!(file.write_at(&vec![round; 100 * 4096], 0).unwrap(), 100 * 4096);
        if round % 2 == 0 { file.sync_data() } else { file.set_len(0) }.unwrap();
    }
    assert_eq!((cache.stats().throttled, memory.calls(Call::Write)), (0, 4));
    assert_eq!(file.write_at(&vec![9; 200 * 4096], 0).unwrap(), 200 * 4096);
    assert!(cache.stats().throttled > 0);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The flusher must not wait for its interval: by then the writer would have to write.
#[test]
fn the_flusher_starts_at_half_of_the_dirty_limit() {
    let (memory, cache) = memory(b"");
    let file = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(file.write_at(&vec![1; 100 * 4096], 0).unwrap(), 100 * 4096);
    cache.quiesce();
    assert!(memory.contents().len() > 64 * 4096, "{} bytes were written", memory.contents().len());
    assert_eq!(cache.stats().throttled, 0);
    drop(file);
    assert_nothing_leaked(&cache);
}
