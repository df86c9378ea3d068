//! Ranges are snapshots of the file without a copy, also if the file changes meanwhile.

mod common;

use std::io::{ErrorKind, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use allocation_counter::measure;
use bytes::{Buf, Bytes};
use common::{StopOnDrop, assert_nothing_leaked, file_of, plain};
use folio_cache::testing::{Call, Distant, Fault, Memory};
use folio_cache::{Backing, Cache, LocalFile, OpenOptions, RangeHandle};
use pollster::block_on;

const PAGE: usize = 4096;

fn cache() -> Cache {
    Cache::new(2 << 20).unwrap()
}

#[test]
fn ranges_of_any_kind_equal_the_file() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (_dir, path, bytes) = file_of((3 << 20) + 777);
    let cache = cache();
    let files: [Arc<dyn Backing>; 2] =
        [Arc::new(LocalFile::open(&path).unwrap()), Arc::new(Memory::new(&bytes))];
    for backing in files {
        // One backing after the other: two opens of one file would share their pages.
        let file = cache.open_backing(backing).unwrap();
        for _ in 0..1000 {
            let longest = if random.u8(..) < 10 { 1_000_000 } else { 3 * PAGE };
            let (offset, len) = (random.usize(..bytes.len() + 3000), random.usize(..longest));
            let expected = plain(&bytes, offset, len);
            assert!(file.bytes(offset as u64, len).unwrap() == expected, "{len} bytes at {offset}");

            let range = file.range(offset as u64, len).unwrap();
            assert_eq!(range.len(), expected.len());
            assert!(range.chunks().all(|chunk| !chunk.is_empty()));
            assert!(
                range.chunks().collect::<Vec<_>>().concat() == expected,
                "{len} bytes at {offset}"
            );
            match range.clone().into_one_piece() {
                Ok(bytes) => {
                    let chunks: Vec<_> = range.chunks().map(<[u8]>::as_ptr_range).collect();
                    assert_eq!(chunks, [bytes.as_ptr_range()], "the same bytes");
                }
                Err(range) => assert_ne!(range.chunks().count(), 1, "it is one piece"),
            }
            let each: Vec<Bytes> = range.clone().into_each().collect();
            assert!(each.concat() == expected, "{len} bytes at {offset}");
            walk(range, expected, &mut random);

            let mut buffers: Vec<Vec<u8>> =
                (0..random.usize(..6)).map(|_| vec![0; random.usize(..=len / 2)]).collect();
            let room: usize = buffers.iter().map(Vec::len).sum();
            let mut slices: Vec<_> =
                buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let read = file.read_vectored_at(&mut slices, offset as u64).unwrap();
            let expected = plain(&bytes, offset, room);
            assert_eq!(read, expected.len());
            let all = buffers.concat();
            assert!(
                all[..read] == *expected && all[read..].iter().all(|&byte| byte == 0),
                "{room} bytes at {offset}"
            );
        }
    }
    assert_nothing_leaked(&cache);
}

/// Consumes a range as network code does, in steps of any size.
fn walk(mut range: RangeHandle, expected: &[u8], random: &mut fastrand::Rng) {
    let mut left = expected;
    while range.has_remaining() {
        let step = random.usize(1..=left.len().min(2 * PAGE));
        let (now, later) = left.split_at(step);
        if random.bool() {
            assert!(range.copy_to_bytes(step) == now);
        } else {
            let chunk = range.chunk();
            assert_eq!(chunk, &left[..chunk.len()]);
            range.advance(step);
        }
        left = later;
        assert_eq!(range.remaining(), left.len());
    }
    assert_eq!((range.chunk(), range.chunks().count()), (&[][..], 0));
}

#[test]
fn a_range_is_a_snapshot_that_nothing_changes() {
    let (_dir, path, bytes) = file_of(40 * PAGE + 5);
    let cache = cache();
    let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    let range = file.range(100, usize::MAX).unwrap();
    let (page, pages) =
        (file.bytes(7 * PAGE as u64 + 1, 50).unwrap(), file.bytes(10, 9 * PAGE).unwrap());
    file.write_at(&vec![0; 20 * PAGE], 0).unwrap();
    file.set_len(3).unwrap();
    file.set_len(1 << 20).unwrap();
    file.punch_hole(0, 1 << 20).unwrap();
    file.sync_all().unwrap();
    cache.reclaim(usize::MAX);
    assert_eq!(file.bytes(0, 10).unwrap(), vec![0; 10]);
    let slice: Bytes = page.slice(10..20);
    drop((file, cache, page));
    assert!(range.chunks().flatten().eq(&bytes[100..]));
    assert_eq!(slice, bytes[7 * PAGE + 11..][..10]);
    assert_eq!(pages, bytes[10..][..9 * PAGE]);
}

/// An extent is filled into contiguous memory if there is any: then a range of it is one piece, and
/// `bytes` does not copy.
#[test]
fn one_request_fills_one_contiguous_piece() {
    let (_dir, path, bytes) = file_of(300 * PAGE);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    let range = file.range(0, 256 * PAGE).unwrap();
    assert_eq!((cache.stats().requests, range.chunks().count()), (1, 1));
    assert!(range.chunks().eq([&bytes[..256 * PAGE]]));
    let (slice, page) =
        (file.bytes(PAGE as u64 + 5, 99 * PAGE).unwrap(), file.page(PAGE as u64).unwrap().unwrap());
    let whole = range.chunks().next().unwrap();
    assert!(
        slice == bytes[PAGE + 5..][..99 * PAGE] && slice.as_ptr() == whole[PAGE + 5..].as_ptr(),
        "the bytes were copied"
    );
    assert!(page[..] == bytes[PAGE..][..PAGE] && page.as_ptr() != whole[PAGE..].as_ptr());
    drop((file, range, slice, page));
    assert_nothing_leaked(&cache);
}

#[test]
fn a_range_releases_the_pages_it_has_passed() {
    let (_dir, path, bytes) = file_of(200 * PAGE);
    let cache = cache();
    let file = cache.open(&path).unwrap();
    // Every other page is cached already, so that the pages read now need not be contiguous.
    let others: Vec<_> =
        (0..100).map(|n| file.page(n * 2 * PAGE as u64).unwrap().unwrap()).collect();
    let mut range = file.range(0, bytes.len()).unwrap();
    drop(others);
    let pieces = range.chunks().count();
    file.invalidate();
    cache.quiesce();
    let free = || {
        cache.frames().zone().drain();
        cache.frames().zone().stats().free_frames
    };
    let (before, half) = (free(), bytes.len() / 2);
    range.advance(half);
    let passed = pieces - range.chunks().count();
    assert!(pieces < 3 || passed > 0, "none of {pieces} pieces was passed");
    assert!(free() - before >= passed as u32 && free() - before <= 100);
    assert!(range.chunks().flatten().eq(&bytes[half..]));
    range.advance(half);
    assert_eq!(free() - before, 200);
    drop((file, range));
    assert_nothing_leaked(&cache);
}

#[test]
fn a_range_is_one_allocation_however_long() {
    let (_dir, path, bytes) = file_of(300 * PAGE);
    let file = cache().open(&path).unwrap();
    let mut buffer = vec![0; bytes.len()];
    file.read_at(&mut buffer, 0).unwrap();
    for pages in [1, 2, 30, 256] {
        let len = pages * PAGE;
        let range = measure(|| assert_eq!(file.range(5, len).unwrap().remaining(), len));
        let bytes = measure(|| assert_eq!(file.bytes(5, len).unwrap().len(), len));
        assert_eq!((range.count_total, bytes.count_total), (1, 1), "{pages} pages");
        // With a handle for each page.
        let each = measure(|| {
            let pages = (0..pages as u64).map(|n| file.page(n * PAGE as u64).unwrap().unwrap());
            assert_eq!(pages.map(|page| Bytes::from(page).len()).sum::<usize>(), len);
        });
        assert_eq!(each.count_total, pages as u64);
    }
    // Contiguous memory is not copied, and a single page is always contiguous.
    let of_page = measure(|| drop(file.bytes(PAGE as u64 + 5, 4000).unwrap()));
    assert!(of_page.bytes_total < 100, "{of_page:?}");
}

#[test]
fn a_failed_range_reports_its_error_and_pins_nothing() {
    let memory = Arc::new(Memory::new(&vec![7; 100 * PAGE]));
    let cache = cache();
    let file = cache.open_backing(memory.clone()).unwrap();
    file.read_at(&mut vec![0; 10 * PAGE], 0).unwrap();
    cache.quiesce();
    file.invalidate();
    file.read_at(&mut vec![0; 3 * PAGE], 0).unwrap();
    cache.quiesce();
    file.read_at(&mut [0], 0).unwrap();
    // The pages near the start may have been read ahead, the last page was not.
    let last = 99 * PAGE as u64;
    memory.inject(Call::Fill, 0, u64::MAX, Fault::Error(5));
    assert_eq!(file.range(last - 1, 2).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(file.bytes(last - 1, 2).unwrap_err().raw_os_error(), Some(5));
    let (mut first, mut second) = ([0; 10], vec![0; 100 * PAGE]);
    let mut slices = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    assert_eq!(file.read_vectored_at(&mut slices, last).unwrap_err().raw_os_error(), Some(5));
    // The bytes before the error are counted.
    let read = file.read_vectored_at(&mut slices, 0).unwrap();
    assert!((3 * PAGE..100 * PAGE).contains(&read), "{read}");
    memory.heal();
    assert_eq!(file.read_vectored_at(&mut slices, 0).unwrap(), 100 * PAGE);
    assert_eq!(file.range(u64::MAX, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file.bytes(i64::MAX as u64, 0).unwrap(), Bytes::new());
    assert!(file.range(1 << 40, usize::MAX).unwrap().is_empty());
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_range_longer_than_the_cache_is_refused_and_pins_nothing() {
    let cache = cache();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 3 << 20]))).unwrap();
    let error = file.range(0, usize::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert_eq!(file.range(0, 1 << 20).unwrap().remaining(), 1 << 20);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn empty_ranges_may_begin_anywhere_and_others_not() {
    let cache = cache();
    let near = cache.open_backing(Arc::new(Memory::new(b"bytes"))).unwrap();
    let distant = cache.open_async(Arc::new(Distant::new(b"bytes"))).unwrap();
    for file in [near, distant] {
        #[allow(clippy::reversed_empty_ranges, reason = "it is empty as well")]
        let empty = [u64::MAX..u64::MAX, u64::MAX..0, 1 << 63..1 << 63, 5..5, 9..7];
        for ranges in [file.read_ranges(&empty), block_on(file.read_ranges_async(&empty))] {
            assert_eq!(ranges.unwrap(), vec![Bytes::new(); empty.len()]);
        }
        assert_eq!(file.read_at(&mut [0; 9], 0).unwrap(), 5);
        // Its length is known.
        for offset in [1 << 63, u64::MAX - 1] {
            let ranges = file.read_ranges(&[0..2, offset..u64::MAX]);
            assert_eq!(ranges.unwrap_err().kind(), ErrorKind::InvalidInput, "{offset}");
            let read = file.read_at(&mut [0; 9], offset);
            assert_eq!(read.unwrap_err().kind(), ErrorKind::InvalidInput, "{offset}");
            assert_eq!(file.try_read(&mut [0; 9], offset), None);
            assert_eq!(file.try_bytes(offset, 9), None);
        }
    }
}

/// Each page is filled with its number modulo 100; writers rewrite it with the number plus 0 or
/// 100.
#[test]
fn ranges_under_writes_and_reclaim_have_whole_pages() {
    const PAGES: usize = 600;
    let contents: Vec<u8> = (0..PAGES * PAGE).map(|at| (at / PAGE % 100) as u8).collect();
    let cache = cache();
    let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            let mut random = fastrand::Rng::with_seed(1);
            while !stop.load(Ordering::Relaxed) {
                let page = random.usize(..PAGES);
                let byte = (page % 100) as u8 + 100 * random.u8(..2);
                file.write_at(&[byte; PAGE], (page * PAGE) as u64).unwrap();
            }
        });
        scope.spawn(|| {
            let _stop = StopOnDrop(&stop);
            while !stop.load(Ordering::Relaxed) {
                cache.reclaim(50);
                thread::yield_now();
            }
        });
        let readers = [2, 3].map(|seed| {
            let (file, stop) = (&file, &stop);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut random = fastrand::Rng::with_seed(seed);
                let mut pinned: Vec<(usize, RangeHandle)> = Vec::new();
                for _ in 0..1500 {
                    let (page, pages) = (random.usize(..PAGES - 20), random.usize(1..20));
                    pinned.push((page, file.range((page * PAGE) as u64, pages * PAGE).unwrap()));
                    // Each range stays pinned for a while, under writes and reclaim.
                    if pinned.len() > 5 {
                        let (page, range) = pinned.swap_remove(random.usize(..5));
                        let bytes: Vec<u8> = range.chunks().flatten().copied().collect();
                        for (n, bytes) in bytes.chunks(PAGE).enumerate() {
                            let same = bytes.iter().all(|&byte| byte == bytes[0]);
                            assert!(
                                same && usize::from(bytes[0]) % 100 == (page + n) % 100,
                                "page {}",
                                page + n
                            );
                        }
                    }
                }
            })
        });
        let _ended = readers.map(|reader| reader.join().expect("a reader"));
    });
    file.sync_all().unwrap();
    drop(file);
    assert_nothing_leaked(&cache);
}
