//! A recording of the uses of pages: each way to use one is recorded once.

mod common;

use std::collections::HashSet;
use std::future::poll_fn;
use std::io::{self, BufRead, IoSliceMut, Read, Write};
use std::pin::Pin;
use std::slice::from_ref;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::file_of;
use folio_cache::testing::{Distant, Memory};
use folio_cache::{Cache, File, OpenOptions, ReadRequest};
use futures_core::Stream;
use parking_lot::Mutex;

/// A writer that keeps its bytes.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Waits until the cache is gone: a thread of it may have it for a moment longer than the user.
    /// Returns the uses, in the order of the recording.
    fn uses(&self) -> Vec<u64> {
        while Arc::strong_count(&self.0) > 1 {
            thread::sleep(Duration::from_millis(1));
        }
        let bytes = self.0.lock();
        bytes[20..].as_chunks().0.iter().map(|&use_| u64::from_le_bytes(use_)).collect()
    }
}

fn cache() -> (Cache, Shared) {
    let uses = Shared::default();
    let builder = Cache::builder().capacity(4 << 20).record_uses(uses.clone(), 1);
    (builder.build().unwrap(), uses)
}

/// A way to use two pages, from the middle of the first one on.
type Way = (&'static str, fn(&File));

const OFFSET: u64 = 3 * 4096 + 100;
const LEN: usize = 4096;

const READS: [Way; 12] = [
    ("read_at", |file| assert_eq!(file.read_at(&mut [0; LEN], OFFSET).unwrap(), LEN)),
    ("page", |file| {
        file.page(OFFSET).unwrap().unwrap();
        file.page(OFFSET + 4096).unwrap().unwrap();
    }),
    ("range", |file| drop(file.range(OFFSET, LEN).unwrap())),
    ("bytes", |file| drop(file.bytes(OFFSET, LEN).unwrap())),
    ("vectored", |file| {
        // From page to page: two buffers in one page may be two uses of it.
        let (mut one, mut two) = ([0; 4096 - 100], [0; LEN - (4096 - 100)]);
        let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(file.read_vectored_at(&mut bufs, OFFSET).unwrap(), LEN);
    }),
    ("ranges", |file| drop(file.read_ranges(from_ref(&(OFFSET..OFFSET + LEN as u64))).unwrap())),
    ("read_many", |file| {
        let mut buf = [0; LEN];
        let mut reads = [ReadRequest::new(&mut buf, OFFSET)];
        file.read_many(&mut reads);
        assert_eq!(reads.into_iter().next().unwrap().result.unwrap(), LEN);
    }),
    ("stream", |file| {
        let mut stream = file.stream(OFFSET, LEN as u64);
        let mut read = 0;
        while let Some(piece) =
            pollster::block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context)))
        {
            read += piece.unwrap().len();
        }
        assert_eq!(read, LEN);
    }),
    ("cursor", |file| {
        let mut cursor = file.cursor();
        cursor.set_position(OFFSET);
        cursor.read_exact(&mut [0; LEN]).unwrap();
    }),
    ("buffered", |file| {
        let mut cursor = file.cursor();
        cursor.set_position(OFFSET);
        let mut left = LEN;
        while left > 0 {
            let here = cursor.fill_buf().unwrap().len().min(left);
            cursor.consume(here);
            left -= here;
        }
    }),
    ("read_at_async", |file| {
        let read = pollster::block_on(file.read_at_async(&mut [0; LEN], OFFSET));
        assert_eq!(read.unwrap(), LEN);
    }),
    ("bytes_async", |file| drop(pollster::block_on(file.bytes_async(OFFSET, LEN)).unwrap())),
];

/// Cached or not, near or distant.
#[test]
fn each_way_to_read_is_recorded_once() {
    let contents = vec![7; 8 * 4096];
    for (name, way) in READS {
        for (is_distant, is_cached) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let (cache, uses) = cache();
            let file = if is_distant {
                cache.open_async(Arc::new(Distant::new(&contents))).unwrap()
            } else {
                cache.open_backing(Arc::new(Memory::new(&contents))).unwrap()
            };
            let before = if is_cached {
                file.read_exact_at(&mut vec![0; 8 * 4096], 0).unwrap();
                8
            } else {
                0
            };
            way(&file);
            drop((file, cache));
            let mut pages: Vec<_> = uses.uses()[before..].iter().map(|&page| page as u32).collect();
            // A miss on another thread is in the recording before or after the uses of this one.
            pages.sort_unstable();
            assert_eq!(pages, [3, 4], "{name}, distant: {is_distant}, cached: {is_cached}");
        }
    }
}

#[test]
fn each_way_to_write_is_recorded_once() {
    let (_dir, path, _) = file_of(3 * 4096 + 100);
    let ways: [Way; 3] = [
        ("write_at", |file| file.write_all_at(&[1; LEN], OFFSET).unwrap()),
        ("append", |file| _ = file.append(&[1; LEN]).unwrap()),
        ("cursor", |file| {
            let mut cursor = file.cursor();
            cursor.set_position(OFFSET);
            cursor.write_all(&[1; LEN]).unwrap();
        }),
    ];
    for (name, way) in ways {
        let (cache, uses) = cache();
        let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
        file.set_len(3 * 4096 + 100).unwrap();
        way(&file);
        file.close().unwrap();
        drop(cache);
        let pages: Vec<_> = uses.uses().iter().map(|&page| page as u32).collect();
        assert_eq!(pages, [3, 4], "{name}");
    }
}

/// More uses than a buffer has room for.
#[test]
fn the_uses_of_one_thread_are_in_their_order() {
    let (cache, uses) = cache();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 64 * 4096]))).unwrap();
    let order: Vec<u32> = (0..2000).map(|n| n * 37 % 64).collect();
    for &page in &order {
        file.read_exact_at(&mut [0; 5], u64::from(page) * 4096).unwrap();
    }
    drop((file, cache));
    let pages: Vec<_> = uses.uses().iter().map(|&page| page as u32).collect();
    assert_eq!(pages, order);
}

/// The pages of a file that was closed are not those of the next one.
#[test]
fn each_file_has_pages_of_its_own() {
    let (cache, uses) = cache();
    for _ in 0..100 {
        let file = cache.open_backing(Arc::new(Memory::new(b"bytes"))).unwrap();
        file.read_exact_at(&mut [0; 5], 0).unwrap();
    }
    drop(cache);
    let uses = uses.uses();
    assert_eq!(uses.len(), 100);
    assert_eq!(uses.into_iter().collect::<HashSet<_>>().len(), 100);
}
