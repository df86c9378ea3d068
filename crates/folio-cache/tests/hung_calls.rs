//! Calls of a backing that hang, whichever they are: a flush of all files gives up after a while,
//! and healthy files are written meanwhile.

mod common;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::by_memory;
use common::hanging::{Hanging, HealOnDrop, ends, within};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, File};

const ENOSPC: i32 = 28;
const PAGE: u64 = 4096;

/// The time after which a flush of all files gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns a file that is closed and dirty: its writes fail.
fn closed_and_dirty(cache: &Cache) -> Arc<Hanging> {
    let sick = Hanging::new(b"old");
    let file = cache.open_backing(sick.clone()).unwrap();
    sick.memory.inject(Call::Write, 0, u64::MAX, Fault::Error(ENOSPC));
    file.write_at(b"new", 0).unwrap();
    drop(file);
    sick
}

/// Returns a dirty file, and its backing.
fn dirty(cache: &Cache, bytes: &[u8]) -> (Arc<Hanging>, File) {
    let sick = Hanging::new(bytes);
    let file = cache.open_backing(sick.clone()).unwrap();
    file.write_at(b"new", 0).unwrap();
    (sick, file)
}

/// Makes a dirty file hang. Returns its backing, and its open if it is open.
type Hang = fn(&Cache) -> (Arc<Hanging>, Option<File>);

const HANGS: &[(&str, Hang)] = &[
    ("a write", |cache| {
        let (sick, file) = dirty(cache, b"old");
        sick.hang(Call::Write);
        (sick, Some(file))
    }),
    ("a look at the name", |cache| {
        let sick = closed_and_dirty(cache);
        sick.hang_in_is_unlinked();
        (sick, None)
    }),
    ("a version, before a change of the metadata", |cache| {
        let (sick, file) = dirty(cache, b"old");
        sick.hang(Call::Version);
        let changed = file.clone();
        thread::spawn(move || changed.change_metadata(|| Ok(())));
        sick.wait_until_it_hangs();
        (sick, Some(file))
    }),
    ("a fill, for which a revalidation waits", |cache| {
        let (sick, file) = dirty(cache, &vec![1; 25 * 4096]);
        sick.hang(Call::Fill);
        let read = file.clone();
        thread::spawn(move || read.read_at(&mut [0; 8], 5 * PAGE));
        sick.wait_until_it_hangs();
        sick.memory.scribble(13 * PAGE, b"others");
        let (asked, revalidated) = (sick.memory.calls(Call::Version), file.clone());
        thread::spawn(move || revalidated.revalidate());
        // The second question is under the locks.
        within("no question", || sick.memory.calls(Call::Version) >= asked + 2);
        (sick, Some(file))
    }),
];

/// A flush of a cache beside one hung call.
struct Flushing {
    cache: Cache,
    begun: Instant,
    healthy: (Arc<Memory>, File),
    flush: thread::JoinHandle<(io::Result<()>, Duration)>,
    _sick: (HealOnDrop, Option<File>),
}

fn begin(hang: Hang) -> Flushing {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    // The flusher comes after the call hangs.
    cache.set_io_threads(0);
    let (sick, file) = hang(&cache);
    cache.set_io_threads(16);
    let memory = Arc::new(Memory::new(b"old"));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    healthy.write_at(b"new", 0).unwrap();
    let (begun, flushed) = (Instant::now(), cache.clone());
    let flush = thread::spawn(move || (flushed.flush(), begun.elapsed()));
    let sick = (HealOnDrop(vec![sick]), file);
    Flushing { cache, begun, healthy: (memory, healthy), flush, _sick: sick }
}

/// All at once, because each takes half a minute.
#[test]
fn a_flush_of_all_files_gives_up_any_call_that_hangs() {
    let all: Vec<_> = HANGS.iter().map(|&(what, hang)| (what, begin(hang))).collect();
    for (what, flushing) in &all {
        let memory = &flushing.healthy.0;
        within(&format!("{what} holds up a healthy file"), || memory.contents() == b"new");
        let listed = || flushing.cache.unwritten().len() == 1;
        within(&format!("{what} is not listed"), listed);
        let quiet = flushing.cache.clone();
        ends(&format!("quiesce beside {what}"), move || quiet.quiesce());
    }
    for (what, Flushing { begun, flush, .. }) in all {
        while !flush.is_finished() {
            assert!(begun.elapsed() < 8 * PATIENCE, "{what} hangs a flush");
            thread::sleep(Duration::from_millis(10));
        }
        let (flushed, time) = flush.join().unwrap();
        assert_eq!(flushed.unwrap_err().kind(), io::ErrorKind::TimedOut, "{what}");
        // The call began to hang before the flush did.
        assert!(time >= PATIENCE / 2, "{what}: {time:?}");
    }
}

#[test]
fn the_flusher_writes_beside_many_hung_looks_at_names() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let sick: Vec<_> = (0..100).map(|_| closed_and_dirty(&cache)).collect();
    for sick in &sick {
        sick.hang_in_is_unlinked();
    }
    let _heal = HealOnDrop(sick.clone());
    within("not 60 hang", || {
        sick.iter().filter(|sick| sick.hung.load(Ordering::SeqCst) > 0).count() > 60
    });
    let memory = Arc::new(Memory::new(b"old"));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    healthy.write_at(b"new", 0).unwrap();
    within("the flusher hangs", || memory.contents() == b"new");
}

/// More files than there were threads before.
#[test]
fn a_healthy_file_is_written_beside_hundreds_that_hang() {
    let cache: Cache = Cache::new(16 << 20).unwrap();
    let (sick, files): (Vec<_>, Vec<_>) = (0..300).map(|_| dirty(&cache, b"old")).unzip();
    for sick in &sick {
        sick.hang(Call::Write);
    }
    let heal = HealOnDrop(sick.clone());
    let memory = Arc::new(Memory::new(b"old"));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    healthy.write_at(b"new", 0).unwrap();
    let flushed = cache.clone();
    let flush = thread::spawn(move || flushed.flush());
    let begun = Instant::now();
    while memory.contents() != b"new" || !flush.is_finished() {
        assert!(begun.elapsed() < 8 * PATIENCE, "the flush hangs");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(flush.join().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    drop(heal);
    drop((files, healthy));
    assert!(sick.iter().all(|sick| sick.memory.contents() == b"new"));
}

/// Memory in which each write takes a while, but does not hang.
#[derive(Debug)]
struct Slow {
    memory: Memory,
    delays: Arc<AtomicBool>,
    writes: Arc<AtomicU64>,
}

impl Backing for Slow {
    by_memory!(file_id, version, fill, is_writable, set_len, sync);

    fn write(&self, offset: u64, buffers: &[io::IoSlice<'_>]) -> io::Result<()> {
        if self.delays.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(150));
            self.writes.fetch_add(1, Ordering::SeqCst);
        }
        self.memory.write(offset, buffers)
    }
}

/// Each slow file has requests for half a minute.
#[test]
fn a_healthy_file_is_written_beside_many_slow_ones() {
    const PAGES: u64 = 200;
    let cache: Cache = Cache::new(512 << 20).unwrap();
    // All pages are dirty before the first is written.
    cache.set_io_threads(0);
    let (delays, writes) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let files: Vec<_> = (0..80)
        .map(|_| {
            let memory = Memory::new(&vec![0; 2 * PAGES as usize * 4096]);
            let (delays, writes) = (Arc::clone(&delays), Arc::clone(&writes));
            let file = cache.open_backing(Arc::new(Slow { memory, delays, writes })).unwrap();
            // No neighbours, which one request would write.
            (0..PAGES).for_each(|page| _ = file.write_at(b"new", 2 * page * PAGE).unwrap());
            file
        })
        .collect();
    cache.set_io_threads(16);
    within("the flusher does not begin", || writes.load(Ordering::SeqCst) > 64);
    let memory = Arc::new(Memory::new(b"old"));
    let healthy = cache.open_backing(memory.clone()).unwrap();
    healthy.write_at(b"new", 0).unwrap();
    within("the slow files delay a healthy one", || memory.contents() == b"new");
    delays.store(false, Ordering::SeqCst);
    drop(files);
}

/// The fill reads a page between the end of the backing and a dirty page.
#[test]
fn a_discard_does_not_wait_for_a_fill_that_hangs() {
    let cache: Cache = Cache::builder().capacity(8 << 20).io_threads(0).build().unwrap();
    let sick = Hanging::new(&[1; 4096]);
    let file = cache.open_backing(sick.clone()).unwrap();
    file.write_at(b"new", 10 * PAGE).unwrap();
    sick.hang(Call::Fill);
    let heal = HealOnDrop(vec![sick.clone()]);
    let reading = file.clone();
    let read = thread::spawn(move || reading.read_at(&mut [0; 8], 5 * PAGE));
    sick.wait_until_it_hangs();
    let discarded = file.clone();
    ends("the discard", move || assert_eq!(discarded.discard().unwrap(), PAGE));
    assert!(!read.is_finished());
    assert_eq!(file.len(), PAGE);
    drop(heal);
    // The page that it read lies past the end now.
    assert_eq!(read.join().unwrap().unwrap(), 0);
    assert_eq!(file.read_at(&mut [0; 8], 5 * PAGE).unwrap(), 0);
    file.sync_data().unwrap();
    assert_eq!(sick.memory.contents(), [1; 4096]);
    drop(file);
    common::assert_nothing_leaked(&cache);
}
