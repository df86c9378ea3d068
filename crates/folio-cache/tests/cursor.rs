//! `FileCursor`: the traits of `std::io` on an open file.

mod common;

use std::io::{BufRead, ErrorKind, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use common::assert_nothing_leaked;
use folio_cache::testing::Memory;
use folio_cache::{Cache, OpenOptions, raw_os_error};

const PAGE: usize = 4096;

fn contents(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[test]
fn all_ways_to_read_give_the_bytes_in_order() {
    let bytes = contents(3 * PAGE + 77);
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&bytes))).unwrap();
    let mut all = Vec::new();
    assert_eq!(file.cursor().read_to_end(&mut all).unwrap(), bytes.len());
    assert_eq!(all, bytes);

    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let (mut cursor, mut seen) = (file.cursor(), Vec::new());
        while seen.len() < bytes.len() {
            match random.u8(..3) {
                0 => {
                    let mut buf = vec![0; random.usize(1..6000)];
                    let read = cursor.read(&mut buf).unwrap();
                    seen.extend_from_slice(&buf[..read]);
                }
                1 => {
                    let (mut first, mut second) = (vec![0; random.usize(..90)], vec![0; 300]);
                    let mut bufs = [&mut first, &mut second].map(|buf| IoSliceMut::new(buf));
                    let read = cursor.read_vectored(&mut bufs).unwrap();
                    seen.extend_from_slice(&[first, second].concat()[..read]);
                }
                _ => {
                    let buffered = cursor.fill_buf().unwrap();
                    let used = random.usize(..=buffered.len());
                    seen.extend_from_slice(&buffered[..used]);
                    cursor.consume(used);
                }
            }
            assert_eq!(cursor.stream_position().unwrap(), seen.len() as u64);
            assert!(bytes.starts_with(&seen), "up to {}", seen.len());
        }
        assert_eq!(cursor.fill_buf().unwrap(), b"");
        assert_eq!(cursor.read(&mut [0; 9]).unwrap(), 0);
    }
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn fill_buf_returns_the_page_itself_and_unpins_it_after_use() {
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&contents(2 * PAGE)))).unwrap();
    let page = file.page(0).unwrap().unwrap();
    let mut cursor = file.cursor();
    assert_eq!(cursor.fill_buf().unwrap().as_ptr(), page.as_ptr());
    cursor.consume(10);
    assert_eq!(cursor.fill_buf().unwrap().as_ptr(), page[10..].as_ptr());
    // A snapshot: it does not change with the page.
    file.write_at(&[0; 100], 0).unwrap();
    assert_eq!(cursor.fill_buf().unwrap()[..5], page[10..15]);
    drop(page);
    cursor.seek(SeekFrom::Start(10)).unwrap();
    assert_eq!(cursor.fill_buf().unwrap()[..5], [0; 5]);
    cursor.consume(PAGE - 10);
    // Nothing is pinned any more.
    file.sync_data().unwrap();
    assert_eq!(cache.reclaim(8), 1);
}

#[test]
fn consuming_more_than_is_buffered_panics() {
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(b"four"))).unwrap();
    let consume = std::panic::AssertUnwindSafe(|| {
        let mut cursor = file.cursor();
        assert_eq!(cursor.fill_buf().unwrap().len(), 4);
        cursor.consume(5);
    });
    assert!(std::panic::catch_unwind(consume).is_err());
}

#[test]
fn seeks_past_the_start_or_the_largest_offset_are_refused() {
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&contents(100)))).unwrap();
    let mut cursor = file.cursor();
    assert_eq!(cursor.seek(SeekFrom::End(-30)).unwrap(), 70);
    assert_eq!(cursor.seek(SeekFrom::Current(-20)).unwrap(), 50);
    for to in [SeekFrom::Current(-51), SeekFrom::End(-101)] {
        let error = cursor.seek(to).unwrap_err();
        assert_eq!((error.kind(), raw_os_error(&error)), (ErrorKind::InvalidInput, Some(22)));
    }
    assert_eq!(cursor.position(), 50);
    assert_eq!(cursor.seek(SeekFrom::Start(u64::MAX)).unwrap(), u64::MAX);
    assert!(cursor.seek(SeekFrom::Current(1)).is_err());
    assert_eq!(cursor.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::InvalidInput);
    cursor.set_position(1000);
    assert_eq!(cursor.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn writes_go_to_the_position_and_flush_reaches_the_backing() {
    let memory = Arc::new(Memory::new(b"0123456789"));
    let cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(memory.clone()).unwrap();
    let mut cursor = file.cursor();
    cursor.write_all(b"ab").unwrap();
    cursor.seek(SeekFrom::End(2)).unwrap();
    cursor.write_all(b"cd").unwrap();
    assert_eq!(cursor.position(), 14);
    let other = cursor.clone();
    assert_eq!(other.position(), 14);
    cursor.flush().unwrap();
    assert_eq!(memory.contents(), b"ab23456789\0\0cd");
    assert_eq!(other.into_inner().len(), 14);
}

#[test]
fn writes_of_a_file_opened_to_append_go_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "old ").unwrap();
    let cache = Cache::new(2 << 20).unwrap();
    let file = OpenOptions::new().append(true).open(&cache, &path).unwrap();
    let (mut first, mut second) = (file.cursor(), file.cursor());
    first.write_all(b"one ").unwrap();
    second.write_all(b"two ").unwrap();
    first.seek(SeekFrom::Start(0)).unwrap();
    first.write_all(b"three").unwrap();
    assert_eq!(first.position(), 17);
    file.write_at(b"OLD", 0).unwrap();
    drop((first, second));
    file.close().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"OLD one two three");
}

#[test]
fn an_empty_write_succeeds_anywhere() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(b"1"))).unwrap();
    assert_eq!(file.write_at(&[], (1 << 44) + 1).unwrap(), 0);
    assert_eq!(file.len(), 1);
}
