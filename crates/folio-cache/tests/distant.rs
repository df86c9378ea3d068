//! Files of a distant store: what is requested, what is read, and what is left.

mod common;

use std::error::Error as _;
use std::future::poll_fn;
use std::io::{self, BufRead as _, ErrorKind, IoSliceMut, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::slice::from_ref;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use common::{assert_nothing_leaked, end_distant};
use folio_cache::testing::{Distant, DistantError, DistantFault};
use folio_cache::{
    AsyncBacking as _, Buf as _, Cache, File, Key, Preferences, ReadRequest, RemoteVersion,
    Validator,
};
use futures_core::Stream as _;
use pollster::block_on;

const PAGE: usize = 4096;

/// Returns pseudo-random bytes without zeroes.
fn bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(1..)).collect()
}

fn open(len: usize) -> (Cache, Arc<Distant>, File, Vec<u8>) {
    let bytes = bytes(len);
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let distant = Arc::new(Distant::new(&bytes));
    let file = cache.open_async(distant.clone()).unwrap();
    (cache, distant, file, bytes)
}

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_cold_read_is_one_request_and_open_none() {
    let (cache, distant, file, bytes) = open(8 << 20);
    assert_eq!((distant.requests().len(), file.known_len()), (0, None));
    let read = block_on(file.bytes_async(0, 8 << 20)).unwrap();
    assert!(read == bytes);
    assert_eq!(distant.requests(), from_ref(&(0..8 << 20)));
    assert_eq!((file.known_len(), distant.version_requests()), (Some(8 << 20), 0));
    // Warm.
    assert!(
        block_on(file.bytes_async(12_345, 1 << 20)).unwrap() == bytes[12_345..12_345 + (1 << 20)]
    );
    assert_eq!(distant.requests().len(), 1);
    assert_eq!(cache.stats().requests, 1);
    drop(read);
    end_distant(&cache, &distant, file);
}

#[test]
fn every_way_to_read_reads_the_same() {
    let len = 300 * PAGE + 77;
    let (cache, distant, file, bytes) = open(len);
    let check = |offset: usize, len: usize| {
        let expected = common::plain(&bytes, offset, len);
        for _ in 0..2 {
            let mut buf = vec![0; len];
            let n = file.read_at(&mut buf, offset as u64).unwrap();
            assert_eq!(&buf[..n], expected);
            assert_eq!(file.try_read(&mut buf, offset as u64), Some(expected.len()));
            assert_eq!(file.try_bytes(offset as u64, len).unwrap(), expected);
            file.invalidate();
            assert_eq!(file.try_read(&mut buf, offset as u64), None);
            let n = block_on(file.read_at_async(&mut buf, offset as u64)).unwrap();
            assert_eq!(&buf[..n], expected);
            file.invalidate();
            assert_eq!(file.bytes(offset as u64, len).unwrap(), expected);
            file.invalidate();
            assert_eq!(block_on(file.bytes_async(offset as u64, len)).unwrap(), expected);
            file.invalidate();
            let mut range = file.range(offset as u64, len).unwrap();
            assert_eq!(range.copy_to_bytes(range.remaining()), expected);
            let mut range = block_on(file.range_async(offset as u64, len)).unwrap();
            assert_eq!(range.copy_to_bytes(range.remaining()), expected);
            file.invalidate();
            let page = expected.len().min(PAGE - offset % PAGE);
            let found = file.page(offset as u64).unwrap();
            let rest = common::plain(&bytes, offset, PAGE - offset % PAGE);
            assert_eq!(found.as_deref().unwrap_or_default(), rest);
            assert!(rest.starts_with(&expected[..page]));
            let (mut first, mut second) = (vec![0; len / 3], vec![0; len - len / 3]);
            file.invalidate();
            let mut bufs = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
            let n = file.read_vectored_at(&mut bufs, offset as u64).unwrap();
            assert_eq!([first, second].concat()[..n], *expected);
        }
    };
    for (offset, len) in
        [(0, 10), (5, 3 * PAGE), (PAGE - 1, 2), (len - 10, 100), (len, 5), (7, len)]
    {
        check(offset, len);
    }
    assert!(file.page(len as u64).unwrap().is_none());
    end_distant(&cache, &distant, file);
}

#[test]
fn cursors_and_streams_read_to_the_end() {
    let (cache, distant, file, bytes) = open(3 << 20);
    let mut cursor = file.cursor();
    assert_eq!(cursor.seek(SeekFrom::End(-5)).unwrap(), (3 << 20) - 5);
    assert_eq!(distant.version_requests(), 1);
    assert_eq!(cursor.fill_buf().unwrap(), &bytes[(3 << 20) - 5..]);
    cursor.set_position(100);
    let mut all = Vec::new();
    cursor.read_to_end(&mut all).unwrap();
    assert!(all == bytes[100..]);
    drop(cursor);
    file.invalidate();
    let mut stream = pin!(file.stream(1000, u64::MAX));
    let mut all = Vec::new();
    while let Some(piece) =
        block_on(std::future::poll_fn(|context| stream.as_mut().poll_next(context)))
    {
        all.extend_from_slice(&piece.unwrap());
    }
    assert!(all == bytes[1000..]);
    end_distant(&cache, &distant, file.clone());
}

#[test]
fn many_ranges_are_requested_at_once() {
    let bytes = bytes(1 << 20);
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let preferences = Preferences::default().gap_bytes(8192).request_bytes(64 << 10);
    let distant = Arc::new(
        Distant::new(&bytes).with_preferences(preferences).with_latency(Duration::from_millis(20)),
    );
    let file = cache.open_async(distant.clone()).unwrap();
    let ranges = [
        900_000..1_200_000,
        0..10,
        10..10,
        5..5000,
        20_000..20_010, // a gap of less than 8 KiB after the one before, in pages
        400_000..400_001,
        5..5000,
        1 << 40..1 << 41,
        u64::MAX - 1..u64::MAX,
        Range { start: 7, end: 3 },
    ];
    let error = file.read_ranges(&ranges).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "past 2^63");
    let before = distant.requests().len();
    file.invalidate();
    let read = file.read_ranges(&ranges[..8]).unwrap();
    for (range, read) in ranges.iter().zip(&read) {
        let len = range.end.saturating_sub(range.start) as usize;
        let start = usize::try_from(range.start).unwrap();
        assert_eq!(read, common::plain(&bytes, start, len), "{range:?}");
    }
    let mut requests = distant.requests().split_off(before);
    requests.sort_by_key(|range| range.start);
    assert_eq!(requests[0], 0..20_480, "the gap of two pages is read through");
    assert_eq!(requests[1], 397_312..401_408);
    let fetched: u64 = requests.iter().map(|range| range.end - range.start).sum();
    assert!(fetched < 450_000 && distant.most_in_flight() > 3, "{requests:?}");
    drop(read);
    end_distant(&cache, &distant, file);
}

/// Reads the first page of each 128 KiB of a file, twice.
fn read_apart(file: &File, len: u64) {
    for _ in 0..2 {
        for first in (0..len).step_by(1 << 20) {
            let pages = (first..first + (1 << 20)).step_by(128 << 10);
            let ranges: Vec<_> = pages.map(|at| at..at + PAGE as u64).collect();
            drop(file.read_ranges(&ranges).unwrap());
        }
    }
}

#[test]
fn pages_of_gaps_are_evicted_before_those_that_were_wanted() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let preferences = Preferences::default().gap_bytes(512 << 10).request_bytes(2 << 20);
    let open = |len| {
        let distant = Arc::new(Distant::new(&bytes(len)).with_preferences(preferences));
        (cache.open_async(distant.clone()).unwrap(), distant)
    };
    let ((hot, hot_store), (file, store)) = (open(5 << 20), open(16 << 20));
    let read_hot = || block_on(hot.bytes_async(0, 5 << 20)).unwrap();
    drop((read_hot(), read_hot()));
    read_apart(&file, 16 << 20);
    let fetched: u64 = store.requests().iter().map(|range| range.end - range.start).sum();
    assert!(fetched > 14_000_000, "the gaps are read through: {fetched} bytes");
    let before = hot_store.requests().len();
    drop(read_hot());
    assert_eq!(hot_store.requests().split_off(before), [], "parts of the hot file were displaced");
}

#[test]
fn longer_gaps_are_read_through_while_memory_is_free() {
    let preferences = Preferences::default().gap_bytes(256 << 10);
    for (others, requests) in [(0, 1), (8 << 20, 7)] {
        let cache: Cache = Cache::new(8 << 20).unwrap();
        let other = cache.open_async(Arc::new(Distant::new(&bytes(8 << 20)))).unwrap();
        drop(block_on(other.bytes_async(0, others)).unwrap());
        let distant = Distant::new(&bytes(1 << 20)).with_preferences(preferences);
        let distant = Arc::new(distant);
        let file = cache.open_async(distant.clone()).unwrap();
        // The first request tells the length.
        drop(block_on(file.bytes_async((1 << 20) - 1, 1)).unwrap());
        let ranges: Vec<_> = (0..7).map(|n| n << 17..(n << 17) + PAGE as u64).collect();
        drop(file.read_ranges(&ranges).unwrap());
        assert_eq!(distant.requests().len() - 1, requests, "beside {others} bytes");
    }
}

#[test]
fn many_reads_have_a_result_each() {
    let (cache, distant, file, bytes) = open(1 << 20);
    distant.inject(1, 1, DistantFault::Error(ErrorKind::TimedOut));
    let mut bufs = [[0; 100]; 4];
    let offsets = [0, 500_000, 800_000, 1 << 20];
    let mut reads: Vec<_> =
        bufs.iter_mut().zip(offsets).map(|(buf, offset)| ReadRequest::new(buf, offset)).collect();
    file.read_many(&mut reads);
    let results: Vec<_> =
        reads.iter().map(|read| read.result.as_ref().copied().map_err(io::Error::kind)).collect();
    assert_eq!(results, [Ok(100), Err(ErrorKind::TimedOut), Ok(100), Ok(0)]);
    drop(reads);
    assert_eq!(bufs[2], bytes[800_000..800_100]);
    end_distant(&cache, &distant, file);
}

#[test]
fn readers_of_one_page_share_a_request() {
    let (cache, distant, file, bytes) = open(10 * PAGE);
    distant.inject(0, 1, DistantFault::Late(Duration::from_millis(50)));
    thread::scope(|scope| {
        for n in 0..8 {
            let (file, bytes) = (&file, &bytes);
            scope.spawn(move || {
                let mut buf = [0; 10];
                let read = if n % 2 == 0 {
                    file.read_at(&mut buf, 100 + n)
                } else {
                    block_on(file.read_at_async(&mut buf, 100 + n))
                };
                assert_eq!(read.unwrap(), 10);
                assert_eq!(buf, bytes[100 + n as usize..110 + n as usize]);
            });
        }
    });
    assert_eq!(distant.requests(), from_ref(&(0..4096)));
    end_distant(&cache, &distant, file);
}

#[test]
fn the_last_waiter_cancels_and_no_other() {
    let (cache, distant, file, _) = open(10 * PAGE);
    distant.inject(0, 1, DistantFault::Never);
    let mut first = Box::pin(file.bytes_async(0, 10));
    let mut second = Box::pin(file.bytes_async(5, 2 * PAGE));
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    // The second asked for the second page alone, which came.
    assert_eq!(distant.requests(), [0..4096, 4096..12_288]);
    assert_eq!(distant.in_flight(), 1);
    drop(first);
    assert_eq!(distant.in_flight(), 1, "the second waits for the page");
    drop(second);
    assert_eq!(distant.in_flight(), 0);
    assert_eq!(cache.stats().cancelled, 1);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 10);
    end_distant(&cache, &distant, file);
}

/// Requests of an old version have left the table, and its memory is not freed before they end.
#[test]
fn a_request_of_an_old_version_removes_no_newer_one() {
    let (cache, distant, file, _) = open(10 * PAGE);
    assert_eq!(file.read_at(&mut [0; 10], 5 * PAGE as u64).unwrap(), 10);
    distant.inject(0, 2, DistantFault::Never);
    let mut old = Box::pin(file.bytes_async(0, 10));
    assert!(poll(old.as_mut()).is_pending());
    file.invalidate();
    let mut new = Box::pin(file.bytes_async(0, 10));
    assert!(poll(new.as_mut()).is_pending());
    drop(old);
    let mut joined = Box::pin(file.bytes_async(5, 10));
    assert!(poll(joined.as_mut()).is_pending());
    assert_eq!((distant.requests().len(), distant.in_flight()), (3, 1));
    drop((new, joined));
    end_distant(&cache, &distant, file);
}

#[test]
fn each_waiter_gets_the_error_of_the_store() {
    let (cache, distant, file, _) = open(10 * PAGE);
    distant.inject(0, 1, DistantFault::Error(ErrorKind::ConnectionReset));
    distant.inject(0, 1, DistantFault::Never);
    let mut reads: Vec<_> = (0..3).map(|_| Box::pin(file.bytes_async(0, 10))).collect();
    let results: Vec<_> = reads.iter_mut().map(|read| poll(read.as_mut())).collect();
    // The first poll ended the request: those behind it make a new one.
    let Poll::Ready(Err(error)) = &results[0] else { panic!("{results:?}") };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let source = error.source().expect("a source");
    assert_eq!(source.downcast_ref(), Some(&DistantError { request: 0 }));
    assert!(results[1].is_pending() && results[2].is_pending());
    drop(reads);
    distant.heal();
    let before = distant.requests().len();
    distant.inject(0, 1, DistantFault::Late(Duration::from_millis(30)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(file.bytes(0, 10).unwrap().len(), 10));
        }
    });
    assert_eq!(distant.requests().len(), before + 1);
    end_distant(&cache, &distant, file);
}

#[test]
fn pages_outlive_the_last_close() {
    let (cache, distant, file, bytes) = open(10 * PAGE);
    let key = file.key();
    assert_eq!(file.bytes(0, 10 * PAGE).unwrap(), bytes);
    drop(file);
    let file = cache.get(&key).expect("it is in memory");
    assert_eq!(file.try_bytes(5, 100).unwrap(), bytes[5..105]);
    drop(file);
    let file = cache.open_async(distant.clone()).unwrap();
    assert_eq!((file.known_len(), file.bytes(0, 10).unwrap().len()), (Some(10 * PAGE as u64), 10));
    assert_eq!(distant.requests().len(), 1);
    drop(file);
    assert!(cache.reclaim(10) >= 10);
    assert!(cache.get(&key).is_none(), "without pages it is not kept");
    assert!(!cache.invalidate(&key));
    let file = cache.open_async(distant.clone()).unwrap();
    assert_eq!(file.bytes(0, 10).unwrap().len(), 10);
    drop(file);
    assert!(cache.invalidate(&key) && cache.get(&key).is_none());
    assert_nothing_leaked(&cache);
}

#[test]
fn the_last_handle_of_the_cache_frees_what_is_kept() {
    let (cache, distant, file, _) = open(10 * PAGE);
    let bytes = file.bytes(0, PAGE).unwrap();
    let backing = Arc::downgrade(&distant);
    drop((distant, file));
    assert!(backing.upgrade().is_some());
    drop(cache.clone());
    assert!(backing.upgrade().is_some());
    drop(cache);
    assert!(backing.upgrade().is_none(), "the mapping leaked");
    assert_eq!(bytes.len(), PAGE);
}

#[test]
fn no_read_mixes_two_versions() {
    let (cache, distant, file, old) = open(20 * PAGE);
    assert_eq!(file.bytes(0, 10 * PAGE).unwrap(), old[..10 * PAGE]);
    let new = bytes(15 * PAGE + 5);
    distant.replace(&new);
    let read = file.bytes(0, 20 * PAGE).unwrap();
    assert!(read == new, "the cached pages are of the old version");
    assert_eq!(file.len(), new.len() as u64);
    drop(read);
    end_distant(&cache, &distant, file);
}

#[test]
fn a_known_version_costs_no_request_and_drops_another() {
    let (cache, distant, file, old) = open(20 * PAGE);
    drop(file);
    let file = cache.open_async_with(distant.clone(), &distant.now()).unwrap();
    assert_eq!((file.len(), distant.version_requests()), (20 * PAGE as u64, 0));
    assert_eq!(file.read_at(&mut [0; 10], 20 * PAGE as u64).unwrap(), 0);
    assert_eq!(distant.requests().len(), 0);
    assert_eq!(file.bytes(0, PAGE).unwrap(), old[..PAGE]);
    let new = bytes(3 * PAGE);
    distant.replace(&new);
    let again = cache.open_async_with(distant.clone(), &distant.now()).unwrap();
    assert_eq!((again.len(), file.len()), (3 * PAGE as u64, 3 * PAGE as u64));
    assert_eq!(file.bytes(0, PAGE).unwrap(), new[..PAGE]);
    assert!(!file.revalidate().unwrap());
    distant.replace(&old);
    assert!(file.revalidate().unwrap());
    assert_eq!(file.len(), 20 * PAGE as u64);
    drop(again);
    end_distant(&cache, &distant, file);
}

#[test]
fn keys_of_the_two_kinds_of_backings_do_not_mix() {
    let cache: Cache = Cache::new(4 << 20).unwrap();
    let memory = Arc::new(folio_cache::testing::Memory::new(b"hello"));
    let id = folio_cache::Backing::file_id(&*memory);
    let distant = Arc::new(Distant::new(b"other").with_key(Key::from(id)));
    let file = cache.open_backing(memory.clone()).unwrap();
    assert_eq!(cache.open_async(distant.clone()).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(cache.get(&Key::from(id)).is_some());
    drop(file);
    let file = cache.open_async(distant.clone()).unwrap();
    assert_eq!(cache.open_backing(memory).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(file.bytes(0, 10).unwrap(), "other");
    assert_eq!(distant.key(), file.key());
}

#[test]
fn a_version_that_was_told_is_compared_whole() {
    let (cache, distant, file, _) = open(PAGE);
    assert_eq!(file.bytes(0, 5).unwrap().len(), 5);
    let version = file.known_version().unwrap();
    assert_eq!(version, distant.now());
    let other = RemoteVersion { len: version.len, validator: Validator::new(*b"other") };
    cache.open_async_with(distant.clone(), &other).unwrap();
    assert_eq!(file.try_read(&mut [0; 5], 0), None, "the pages left");
    end_distant(&cache, &distant, file);
}

#[test]
fn a_stream_survives_an_invalidation_and_no_change() {
    let preferences = Preferences::default().request_bytes(16 << 10);
    let all = bytes(64 * PAGE);
    let distant = Arc::new(Distant::new(&all).with_preferences(preferences));
    let file = Cache::new(4 << 20).unwrap().open_async(distant.clone()).unwrap();
    let mut stream = file.stream(10, u64::MAX);
    let mut next = || block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context)));
    let mut read = Vec::new();
    while read.len() < 40 * PAGE {
        read.extend(next().unwrap().unwrap());
        file.invalidate();
    }
    assert!(read == all[10..10 + read.len()]);
    // The new version ends before the next piece.
    distant.replace(&all[..PAGE]);
    file.invalidate();
    let error = next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StaleNetworkFileHandle, "{error}");
    assert!(next().is_none());
}
