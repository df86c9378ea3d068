//! Requests that many threads need are shared, or made side by side: looks at the length, writes
//! before a sync, and the writes of the flusher.

mod common;

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use common::assert_nothing_leaked;
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Cache, File};

const DELAY: Duration = Duration::from_millis(100);

/// Runs `act` in `threads` threads at once. Returns the time that all of them took.
fn at_once(threads: usize, act: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads);
    let begin = Instant::now();
    thread::scope(|scope| {
        for n in 0..threads {
            let (barrier, act) = (&barrier, &act);
            scope.spawn(move || {
                barrier.wait();
                act(n);
            });
        }
    });
    begin.elapsed()
}

fn slow(call: Call, bytes: &[u8]) -> (Arc<Memory>, Cache, File) {
    let cache = Cache::new(8 << 20).unwrap();
    let memory = Arc::new(Memory::new(bytes));
    let file = cache.open_backing(memory.clone()).unwrap();
    memory.inject(call, 0, u64::MAX, Fault::Delay(DELAY));
    (memory, cache, file)
}

#[test]
fn readers_at_the_end_share_looks_at_the_length() {
    let (memory, cache, file) = slow(Call::Version, b"short");
    let before = memory.calls(Call::Version);
    at_once(64, |_| assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 5));
    // One for those that came before it began, one for the rest. A thread may come late.
    let looks = memory.calls(Call::Version) - before;
    assert!(looks <= 12, "{looks} looks");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Each reader must find what was appended before it came, so it shares no look that began before.
#[test]
fn a_shared_look_is_not_older_than_its_reader() {
    let (memory, _cache, file) = slow(Call::Version, b"");
    thread::scope(|scope| {
        for n in 0..20_u64 {
            memory.scribble(n, &[7]);
            let file = &file;
            scope.spawn(move || {
                assert_eq!(file.read_at(&mut [0], n).unwrap(), 1, "byte {n} is not seen");
            });
            thread::sleep(Duration::from_millis(7));
        }
    });
}

#[test]
fn a_failed_look_fails_for_all_that_share_it_and_no_later_one() {
    let (memory, _cache, file) = slow(Call::Version, b"short");
    let read = || file.read_at(&mut [0; 10], 5).map_err(|error| error.raw_os_error());
    memory.inject(Call::Version, 0, u64::MAX, Fault::Error(5));
    at_once(16, |_| assert_eq!(read(), Err(Some(5))));
    memory.heal();
    assert_eq!(read(), Ok(0));
}

#[test]
fn opens_of_an_open_file_share_their_revalidation() {
    let (memory, cache, file) = slow(Call::Version, b"short");
    let before = memory.calls(Call::Version);
    at_once(32, |_| assert_eq!(cache.open_backing(memory.clone()).unwrap().len(), 5));
    // One for each open, before the file is found, and a few of two calls each.
    let looks = memory.calls(Call::Version) - before;
    assert!(looks <= 32 + 24, "{looks} looks");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn writes_before_a_shared_sync_are_shared() {
    for call in [Call::Write, Call::Sync] {
        let (memory, cache, file) = slow(call, b"");
        at_once(50, |n| {
            file.append(&[n as u8 + 1; 100]).unwrap();
            file.sync_data().unwrap();
            assert!(memory.durable().contains(&(n as u8 + 1)), "{n} is not durable");
        });
        assert!(memory.calls(call) <= 12, "{} calls of {call:?}", memory.calls(call));
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn flushes_of_one_file_share_their_writes() {
    let (memory, cache, file) = slow(Call::Write, b"");
    at_once(50, |n| {
        file.append(&[n as u8 + 1; 100]).unwrap();
        file.flush().unwrap();
        assert!(memory.contents().contains(&(n as u8 + 1)), "{n} is not written");
    });
    assert!(memory.calls(Call::Write) <= 12, "{} writes", memory.calls(Call::Write));
    drop(file);
    assert_nothing_leaked(&cache);
}

fn many_slow(cache: &Cache, files: usize) -> Vec<(Arc<Memory>, File)> {
    let slow = |_| {
        let memory = Arc::new(Memory::new(b""));
        memory.inject(Call::Write, 0, u64::MAX, Fault::Delay(DELAY));
        let file = cache.open_backing(memory.clone()).unwrap();
        file.write_at(b"new", 0).unwrap();
        (memory, file)
    };
    (0..files).map(slow).collect()
}

/// One after the other they take 20 s.
#[test]
fn the_flusher_writes_many_slow_files_side_by_side() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let files = many_slow(&cache, 200);
    let begin = Instant::now();
    while files.iter().any(|(memory, _)| memory.contents() != b"new") {
        assert!(begin.elapsed() < Duration::from_secs(8), "the flusher takes too long");
        thread::sleep(Duration::from_millis(10));
    }
    drop(files);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_flush_of_all_writes_slow_files_side_by_side() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let files = many_slow(&cache, 200);
    let begin = Instant::now();
    cache.flush().unwrap();
    assert!(files.iter().all(|(memory, _)| memory.contents() == b"new"));
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    drop(files);
    assert_nothing_leaked(&cache);
}
