//! Distant stores that do not answer: what they hold leaves room for the others.

mod common;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use common::assert_nothing_leaked;
use folio_cache::testing::{Distant, DistantFault};
use folio_cache::{Advice, BoxFuture, Bytes, Cache, File, Key};
use pollster::block_on;

const PAGE: usize = 4096;
const MIB: usize = 1 << 20;

/// A future of some bytes that its task holds.
type Read<'f> = Pin<Box<dyn Future<Output = std::io::Result<Bytes>> + 'f>>;

/// Returns an object of a store. It never answers if `is_sick`.
fn object(store: &'static str, name: u64, len: usize, is_sick: bool) -> Arc<Distant> {
    let distant = Distant::new(&vec![7; len]).with_key(Key::new(store, name.to_le_bytes()));
    if is_sick {
        distant.inject(0, usize::MAX, DistantFault::Never);
    }
    Arc::new(distant)
}

/// Begins reads, which stay in flight or wait.
fn begin<'f>(files: &'f [File], offsets: &[usize], len: usize) -> Vec<Read<'f>> {
    let all = files.iter().flat_map(|file| offsets.iter().map(move |&offset| (file, offset)));
    let mut reads: Vec<Read<'f>> = all
        .map(|(file, offset)| Box::pin(file.bytes_async(offset as u64, len)) as Read<'f>)
        .collect();
    for read in &mut reads {
        assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    reads
}

fn assert_reads(cache: &Cache, store: &'static str) {
    let healthy = object(store, 0, 4 * MIB, false);
    let file = cache.open_async(healthy).unwrap();
    let reader = file.clone();
    let read: BoxFuture<'static, _> = Box::pin(async move {
        assert_eq!(reader.bytes_async(0, 100).await.unwrap(), [7; 100][..]);
        assert_eq!(reader.bytes_async(0, 4 * MIB).await.unwrap(), vec![7; 4 * MIB]);
        assert_eq!(reader.len_async().await.unwrap(), 4 * MIB as u64);
    });
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        block_on(read);
        sender.send(())
    });
    ended.recv_timeout(Duration::from_mins(1)).expect("a healthy store waits for the sick one");
    assert!(cache.invalidate(&file.key()));
}

/// Ends what was requested ahead, too.
fn end(cache: &Cache, files: Vec<File>) {
    for file in files {
        cache.invalidate(&file.key());
    }
    cache.quiesce();
    assert_nothing_leaked(cache);
}

#[test]
fn a_store_that_hangs_leaves_memory_for_the_requests_of_others() {
    let cache: Cache = Cache::new(16 * MIB).unwrap();
    let sick = cache.open_async(object("sick", 0, 64 * MIB, true)).unwrap();
    let offsets: Vec<usize> = (0..64).map(|n| n * MIB).collect();
    // More than the quarter of the memory that may be in flight.
    let files = vec![sick];
    let reads = begin(&files, &offsets, MIB);
    assert_reads(&cache, "healthy");
    assert_reads(&cache, "also healthy");
    drop(reads);
    end(&cache, files);
}

#[test]
fn a_store_that_hangs_leaves_requests_for_others() {
    let cache: Cache = Cache::builder().capacity(64 * MIB).requests(64).build().unwrap();
    let files: Vec<File> = (0..50)
        .map(|name| cache.open_async(object("sick", name, 8 * PAGE, true)).unwrap())
        .collect();
    let reads = begin(&files, &[0, 4 * PAGE], 10);
    assert_reads(&cache, "healthy");
    drop(reads);
    end(&cache, files);
}

#[test]
fn several_stores_that_hang_leave_some_of_both() {
    let cache: Cache = Cache::builder().capacity(64 * MIB).requests(256).build().unwrap();
    let stores = ["one", "two", "three"];
    let files: Vec<File> = stores
        .iter()
        .flat_map(|store| (0..100).map(move |name| (*store, name)))
        .map(|(store, name)| cache.open_async(object(store, name, MIB, true)).unwrap())
        .collect();
    let reads = begin(&files, &[0, MIB / 2], MIB / 4);
    assert_reads(&cache, "healthy");
    drop(reads);
    end(&cache, files);
}

/// Where all answer, a read that waits for others is one request all the same.
#[test]
fn reads_that_wait_for_one_another_are_not_split() {
    let cache: Cache = Cache::new(8 * MIB).unwrap();
    let objects: Vec<Arc<Distant>> = (0..16)
        .map(|name| {
            let key = Key::new("store", u64::to_le_bytes(name));
            let distant = Distant::new(&vec![7; MIB]).with_key(key);
            Arc::new(distant.with_latency(Duration::from_millis(30)))
        })
        .collect();
    std::thread::scope(|scope| {
        for object in &objects {
            let file = cache.open_async(object.clone()).unwrap().with_advice(Advice::Random);
            scope.spawn(move || {
                assert_eq!(file.bytes(0, MIB / 2).unwrap(), vec![7; MIB / 2]);
            });
        }
    });
    for object in &objects {
        assert_eq!(object.requests(), vec![0..MIB as u64 / 2]);
    }
}
