//! Writeback under the schedules of shuttle: appends beside it, failed syncs, shared looks, and the
//! flush threads.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use folio_cache::testing::Memory;
use folio_cache::{Backing, Cache, Durable, File};
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, delays, explore, race};
use folio_ref::testing::stepped::step;
use parking_lot::Mutex;

use crate::common::{assert_nothing_leaked, by_memory};
use crate::{RANDOM, WEAK, World, read};

/// Memory that lets others come between the parts of a call. It panics if a write leaves a hole,
/// and it syncs as Linux does: after a failed sync, only what is written again becomes durable.
#[derive(Debug)]
struct Linux {
    memory: Memory,
    unsynced: Mutex<BTreeMap<u64, Vec<u8>>>,
    durable: Mutex<BTreeMap<u64, Vec<u8>>>,
    fails: AtomicBool,
}

impl Linux {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let (unsynced, durable) = (Mutex::default(), Mutex::default());
        let fails = AtomicBool::new(false);
        Arc::new(Self { memory: Memory::new(bytes), unsynced, durable, fails })
    }
}

impl Backing for Linux {
    by_memory!(file_id, version, fill, is_writable);

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.memory.write(offset, buffers)?;
        assert!(!self.memory.contents().contains(&0), "a hole before newer bytes");
        for (page, bytes) in (offset / FRAME_SIZE as u64..).zip(bytes.chunks(FRAME_SIZE)) {
            self.unsynced.lock().insert(page, bytes.to_vec());
        }
        step();
        Ok(())
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        step();
        if self.fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.durable.lock().extend(unsynced);
        Ok(())
    }
}

fn open(bytes: &[u8]) -> (Cache, Arc<Linux>, File) {
    let cache = Cache::new(2 << 20).expect("memory for a test");
    let backing = Linux::new(bytes);
    let file = cache.open_backing(backing.clone()).unwrap();
    (cache, backing, file)
}

fn thread(file: &File, act: impl FnOnce(&File) + Send + 'static) -> Box<dyn FnOnce() + Send> {
    let file = file.clone();
    Box::new(move || act(&file))
}

/// An append beside a flush is in the backing after the next one.
fn append_against_flush(search: Search) {
    explore("an append against a flush", search, || {
        let (cache, backing, file) = open(b"x");
        file.append(&[9]).unwrap();
        race(vec![
            thread(&file, |file| _ = file.append(&[7; 7]).unwrap()),
            thread(&file, |file| file.flush().unwrap()),
        ]);
        file.flush().unwrap();
        assert!(
            backing.memory.contents() == b"x\x09\x07\x07\x07\x07\x07\x07\x07",
            "bytes were lost"
        );
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn an_append_beside_a_flush_is_in_the_next() {
    append_against_flush(deeper(2));
    append_against_flush(RANDOM);
    append_against_flush(WEAK);
}

/// Appends that cross a page while two threads flush: no write leaves a hole.
fn appends_against_flushes(search: Search) {
    explore("two appends against two flushes", search, || {
        let (cache, backing, file) = open(&[1; FRAME_SIZE - 100]);
        file.append(&[2; 10]).unwrap();
        race(vec![
            thread(&file, |file| {
                file.append(&[3; 200]).unwrap();
                file.append(&[4; 10]).unwrap();
            }),
            thread(&file, |file| file.flush().unwrap()),
            thread(&file, |file| file.sync_data().unwrap()),
        ]);
        file.flush().unwrap();
        assert_eq!(backing.memory.contents().len() as u64, file.len());
        assert!(!backing.memory.contents().contains(&0));
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn appends_reach_the_backing_in_order() {
    appends_against_flushes(deeper(1));
    appends_against_flushes(RANDOM);
    appends_against_flushes(WEAK);
}

/// A write to the backing that ends after a failed sync began is written again.
fn failed_sync_against_flush(search: Search) {
    explore("a failed sync against a flush", search, || {
        let (cache, backing, file) = open(&[1; 2 * FRAME_SIZE]);
        file.write_at(&[2; 64], 0).unwrap();
        backing.fails.store(true, Ordering::SeqCst);
        race(vec![
            thread(&file, |file| _ = file.sync_data()),
            thread(&file, |file| {
                file.write_at(&[3; 64], FRAME_SIZE as u64).unwrap();
                let _ = file.flush();
            }),
        ]);
        while file.sync_data().is_err() {}
        let durable = backing.durable.lock();
        for (page, byte) in [(0, 2), (1, 3)] {
            let is_durable = durable.get(&page).is_some_and(|bytes| bytes[..64] == [byte; 64]);
            assert!(is_durable, "a sync succeeded, and page {page} is not durable");
        }
        drop(durable);
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn no_sync_succeeds_before_all_is_durable() {
    failed_sync_against_flush(deeper(2));
    failed_sync_against_flush(RANDOM);
    failed_sync_against_flush(WEAK);
}

/// A reader finds what another program appended before the reader came, though it may share a look.
fn shared_looks(search: Search) {
    explore("two readers at the end of a growing file", search, || {
        let world = World::of(&[1; 10]);
        let backing = world.backing.clone();
        race(vec![
            world.thread(move |file| {
                backing.scribble(10, &[2; 10]);
                assert_eq!(read::<10>(file, 10), (10, [2; 10]), "the look is too old");
            }),
            world.thread(|file| assert!(matches!(read::<10>(file, 10).0, 0 | 10))),
            world.thread(|file| _ = file.revalidate().unwrap()),
        ]);
        world.end();
    });
}

#[test]
fn a_shared_look_is_as_new_as_its_reader() {
    shared_looks(deeper(1));
    shared_looks(RANDOM);
    shared_looks(WEAK);
}

/// A flush of all files by the flush threads writes what was dirty when it was called.
fn flush_of_all(search: Search) {
    explore("two flushes of all files against a writer and a close", search, || {
        let World { cache, backing, file } = World::new(1);
        cache.set_io_threads(1);
        let flusher = |byte: u8| {
            let (cache, backing, file) = (cache.clone(), backing.clone(), file.clone());
            let at = u64::from(byte) * 100;
            Box::new(move || {
                file.write_at(&[byte; 64], at).unwrap();
                cache.flush().unwrap();
                assert!(backing.contents()[at as usize..][..64] == [byte; 64], "not flushed");
            }) as Box<dyn FnOnce() + Send>
        };
        let threads = vec![flusher(8), flusher(9)];
        drop(file);
        race(threads);
        cache.quiesce();
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn flushes_of_all_files_write_what_was_dirty_before() {
    flush_of_all(delays(1));
    flush_of_all(Search::Pct { depth: 4, executions: 2_000, seed: 1 });
}
