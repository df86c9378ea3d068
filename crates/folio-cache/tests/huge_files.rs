//! The end of the index, at 16 TiB: all calls give one answer there.

mod common;

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::testing::{Call, Memory};
use folio_cache::{Cache, File, ReadRequest};
use futures_core::Stream;
use pollster::block_on;

const END: u64 = 1 << 44;
const PAGE: u64 = 4096;

/// A file of `len` bytes of zeroes, but for the last byte before the end of the index, and the
/// first after it.
fn file_of(len: u64) -> (Arc<Memory>, Cache, File) {
    let memory = Arc::new(Memory::new(b""));
    memory.cut(len);
    for at in [END - 1, END] {
        if at < len {
            memory.scribble(at, &[9]);
        }
    }
    let cache = Cache::new(4 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    (memory, cache, file)
}

/// Asserts that a call that reaches past the index was refused.
#[track_caller]
fn assert_too_large<T>(result: io::Result<T>, what: &str) {
    let error = result.err().unwrap_or_else(|| panic!("{what} reaches past the index"));
    assert_eq!(error.kind(), ErrorKind::FileTooLarge, "{what}: {error}");
    assert!(error.to_string().contains("16 TiB"), "{what}: {error}");
}

/// Returns the result of each kind of read for `len` bytes at `offset`.
fn reads(file: &File, offset: u64, len: usize) -> Vec<(&'static str, io::Result<usize>)> {
    let mut buf = vec![0; len];
    let mut many = [ReadRequest::new(&mut buf, offset)];
    file.read_many(&mut many);
    let [ReadRequest { result: many, .. }] = many;
    let mut parts = [vec![0; len / 2], vec![0; len - len / 2]];
    let mut slices = parts.each_mut().map(|part| io::IoSliceMut::new(part));
    let mut other = vec![0; len];
    vec![
        ("read_many", many),
        ("read_at", file.read_at(&mut buf, offset)),
        ("read_vectored_at", file.read_vectored_at(&mut slices, offset)),
        ("read_at_async", block_on(file.read_at_async(&mut other, offset))),
    ]
}

/// Returns the length of each kind of handle.
fn handles(file: &File, offset: u64, len: usize) -> Vec<(&'static str, io::Result<usize>)> {
    let page = |page: io::Result<Option<folio_cache::PageHandle>>| {
        page.map(|page| page.map_or(0, |page| page.len().min(len)))
    };
    vec![
        ("page", page(file.page(offset))),
        ("page_async", page(block_on(file.page_async(offset)))),
        ("range", file.range(offset, len).map(|range| range.len())),
        ("range_async", block_on(file.range_async(offset, len)).map(|range| range.len())),
        ("bytes", file.bytes(offset, len).map(|bytes| bytes.len())),
        ("bytes_async", block_on(file.bytes_async(offset, len)).map(|bytes| bytes.len())),
    ]
}

/// Streams the rest of a file. Returns the bytes before the end or the error.
fn stream(file: &File, offset: u64) -> (usize, io::Result<()>) {
    let mut stream = file.stream(offset, u64::MAX);
    let mut read = 0;
    loop {
        match block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context))) {
            Some(Ok(piece)) => read += piece.len(),
            Some(Err(error)) => return (read, Err(error)),
            None => return (read, Ok(())),
        }
    }
}

#[test]
fn no_call_makes_a_file_longer_than_the_index() {
    let (memory, cache, file) = file_of(100);
    for len in [END + 1, END + PAGE, 1 << 46, i64::MAX as u64] {
        assert_too_large(file.set_len(len), "set_len");
        assert_eq!((file.len(), memory.calls(Call::SetLen)), (100, 0));
    }
    assert_eq!(file.set_len(1 << 63).unwrap_err().kind(), ErrorKind::InvalidInput);
    for (offset, len) in [(END, 1), (END - 1, 2), (1 << 46, 5000)] {
        assert_too_large(file.write_at(&vec![1; len], offset), "write_at");
        assert_eq!(file.len(), 100);
    }
    file.set_len(END).unwrap();
    assert_eq!(memory.version_len(), END);
    assert_too_large(file.append(b"x"), "append");
    assert_eq!(file.append(b"").unwrap(), END);
    // The last bytes of all: each call takes them.
    assert_eq!(file.write_at(b"after", END - 5).unwrap(), 5);
    file.sync_all().unwrap();
    for (call, result) in reads(&file, END - 5, 10).into_iter().chain(handles(&file, END - 5, 10)) {
        assert_eq!(result.unwrap(), 5, "{call}");
    }
    for (call, result) in reads(&file, END, 10).into_iter().chain(handles(&file, END, 10)) {
        assert_eq!(result.unwrap(), 0, "{call}");
    }
    assert!(matches!(stream(&file, END - 10_000), (10_000, Ok(()))));
    file.punch_hole(END - 3, u64::MAX).unwrap();
    file.punch_hole(END, 100).unwrap();
    file.sync_all().unwrap();
    let mut last = [1; 8];
    assert_eq!(file.read_at(&mut last, END - 5).unwrap(), 5);
    assert_eq!(last, *b"af\0\0\0\x01\x01\x01");
    assert_eq!(memory.version_len(), END);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Another program made the file longer, before it was opened or after.
#[test]
fn a_longer_file_is_used_up_to_the_end_of_the_index() {
    for opened_before in [false, true] {
        let (memory, cache, file) = if opened_before {
            let (memory, cache, file) = file_of(100);
            memory.cut(END + 10 * PAGE);
            memory.scribble(END - 1, &[9, 9]);
            file.revalidate().unwrap();
            (memory, cache, file)
        } else {
            file_of(END + 10 * PAGE)
        };
        assert_eq!(file.len(), END + 10 * PAGE);
        for offset in [END, END + 1, END + PAGE, END + 10 * PAGE - 1] {
            for (call, result) in
                reads(&file, offset, 1).into_iter().chain(handles(&file, offset, 1))
            {
                assert_too_large(result, call);
            }
            assert_too_large(stream(&file, offset).1, "stream");
            assert_too_large(file.write_at(b"x", offset), "write_at");
            assert_too_large(file.punch_hole(offset, 1), "punch_hole");
            assert_too_large(file.set_len(offset + 1), "set_len");
        }
        assert_too_large(file.append(b"x"), "append");
        assert_too_large(file.punch_hole(END - 2 * PAGE, 4 * PAGE), "punch_hole");
        assert_eq!(memory.calls(Call::Punch) + memory.calls(Call::SetLen), 0);
        // What begins before ends there.
        for (call, result) in reads(&file, END - 5, 10) {
            assert_eq!(result.unwrap(), 5, "{call}");
        }
        for (call, result) in handles(&file, END - 5, 10).into_iter().skip(2) {
            assert_too_large(result, call);
        }
        let (read, result) = stream(&file, END - 10_000);
        assert_eq!(read, 10_000);
        assert_too_large(result, "stream");
        // Before the end of the index it is a file as any other.
        file.write_at(b"the last", END - 8).unwrap();
        file.punch_hole(END - 2 * PAGE, PAGE).unwrap();
        file.sync_all().unwrap();
        assert_eq!(memory.version_len(), END + 10 * PAGE);
        let mut buf = [0; 8];
        assert_eq!(file.read_at(&mut buf, END - 8).unwrap(), 8);
        assert_eq!(buf, *b"the last");
        // And it can be cut.
        file.set_len(END - 4).unwrap();
        assert_eq!(file.read_at(&mut buf, END - 8).unwrap(), 4);
        assert_eq!((memory.version_len(), file.append(b"more").unwrap()), (END - 4, END - 4));
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

trait VersionLen {
    fn version_len(&self) -> u64;
}

impl VersionLen for Memory {
    fn version_len(&self) -> u64 {
        folio_cache::Backing::version(self).unwrap().len
    }
}

/// Its pages do not lie together, so its bytes would have to be copied.
#[test]
fn a_copy_that_no_memory_can_hold_is_refused() {
    let (_memory, cache, file) = file_of(END);
    let rss = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE as usize
    };
    let before = rss();
    let all = 0..u64::MAX;
    for (result, what) in [
        (file.bytes(0, usize::MAX).map(drop), "bytes"),
        (file.read_ranges(&[0..10, all.clone()]).map(drop), "read_ranges"),
        (block_on(file.bytes_async(0, usize::MAX)).map(drop), "bytes_async"),
        (block_on(file.read_ranges_async(&[all])).map(drop), "read_ranges_async"),
        (file.range(0, usize::MAX).map(drop), "range"),
    ] {
        let error = result.err().unwrap_or_else(|| panic!("{what} has 16 TiB"));
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{what}: {error}");
    }
    let error = file.bytes(0, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("17592186044416 bytes") && error.contains("File::stream"), "{error}");
    assert!(rss() < before + (64 << 20), "{} MiB more are resident", (rss() - before) >> 20);
    drop(file);
    assert_nothing_leaked(&cache);
}
