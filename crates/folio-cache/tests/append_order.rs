//! Appends reach the file in order: whatever else is written, and whenever the process is killed,
//! there is no hole before newer bytes of the file.

mod common;

use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use common::{StopOnDrop, assert_nothing_leaked, by_memory};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, DefaultScheme, File, OpenOptions};

const PAGE: u64 = 4096;
const HEADER: usize = 64;

/// Memory that looks for a hole after each write: a zero where the test writes none.
#[derive(Debug)]
struct Watched {
    memory: Memory,
    holes: AtomicU64,
}

impl Watched {
    fn new(bytes: &[u8]) -> Arc<Self> {
        Arc::new(Self { memory: Memory::new(bytes), holes: AtomicU64::new(0) })
    }
}

impl Backing for Watched {
    by_memory!(file_id, version, fill, is_writable, set_len, sync);

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.memory.write(offset, buffers)?;
        let contents = self.memory.contents();
        self.holes.fetch_add(u64::from(contents.contains(&0)), Ordering::SeqCst);
        // Others come between.
        thread::sleep(Duration::from_micros(200));
        Ok(())
    }
}

/// Appends and rewrites of the header, beside flushes, syncs, memory pressure and the flusher.
#[test]
fn no_write_leaves_a_hole_before_appended_bytes() {
    for threads in [0, 2] {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(threads);
        let watched = Watched::new(&[1; HEADER]);
        let file = cache.open_backing(watched.clone()).unwrap();
        let other = cache.open_backing(Arc::new(Memory::new(&vec![1; 4 << 20]))).unwrap();
        let is_over = AtomicBool::new(false);
        let over = || is_over.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let stop = StopOnDrop(&is_over);

            scope.spawn(|| {
                while !over() {
                    file.flush().unwrap();
                }
            });
            scope.spawn(|| {
                while !over() {
                    file.sync_data().unwrap();
                }
            });
            scope.spawn(|| {
                let mut buf = vec![0; 1 << 20];
                for n in 0.. {
                    if over() {
                        break;
                    }
                    _ = other.read_at(&mut buf, (n % 4) << 20).unwrap();
                }
            });
            for n in 0..3000_usize {
                file.append(&vec![n as u8 | 1; 1 + n * 7 % 3000]).unwrap();
                if n % 3 == 0 {
                    file.write_at(&[n as u8 | 1; HEADER], 0).unwrap();
                }
                if n % 50 == 0 {
                    thread::yield_now();
                }
            }
            drop(stop);
        });
        file.sync_data().unwrap();
        assert_eq!(watched.holes.load(Ordering::SeqCst), 0, "holes, with {threads} threads");
        assert_eq!(watched.memory.contents().len() as u64, file.len());
        drop((file, other));
        assert_nothing_leaked(&cache);
    }
}

/// A writer past the dirty limit writes some pages, each time from where it stopped: the last one
/// of them was not full then, and has newer bytes since.
#[test]
fn a_throttled_appender_leaves_no_hole() {
    for header in [false, true] {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(0);
        let watched = Watched::new(&[1; HEADER]);
        let file = cache.open_backing(watched.clone()).unwrap();
        for n in 0..5000 {
            file.append(&[n as u8 | 1; 1000]).unwrap();
            if header && n % 7 == 0 {
                file.write_at(&[n as u8 | 1; HEADER], 0).unwrap();
            }
        }
        assert!(cache.stats().throttled > 0);
        assert_eq!(watched.holes.load(Ordering::SeqCst), 0, "holes");
        file.sync_data().unwrap();
        assert_eq!(watched.memory.contents().len() as u64, file.len());
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// The pages behind appended bytes without room wait, and those before them do not.
#[test]
fn appended_bytes_without_room_stop_those_behind_them() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    cache.set_io_threads(0);
    let memory = Arc::new(Memory::new(&[1; 100]));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.write_at(&[2], 0).unwrap();
    file.append(&vec![3; 30_000]).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(28));
    file.flush().unwrap_err();
    assert!(memory.contents() == [1; 100]);
    file.flush().unwrap();
    assert!(!memory.contents().contains(&0));
    // Also after the length was set past the appended bytes.
    file.append(&[4; 10]).unwrap();
    let end = file.len();
    file.set_len(end + 5 * PAGE).unwrap();
    file.write_at(&[5; 10], end + 4 * PAGE).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(28));
    file.flush().unwrap_err();
    assert!(!memory.contents().contains(&5), "newer bytes came first");
    file.flush().unwrap();
    assert!(memory.contents().contains(&4) && memory.contents().contains(&5));
    drop(file);
    assert_nothing_leaked(&cache);
}

/// Bytes appended beside a writeback are in the backing after the next one.
#[test]
fn an_append_beside_a_flush_loses_no_byte() {
    let cache: Cache = Cache::new(4 << 20).unwrap();
    cache.set_io_threads(0);
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    let barrier = Barrier::new(2);
    let rounds = if cfg!(debug_assertions) { 20_000_u64 } else { 100_000 };
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..rounds {
                barrier.wait();
                (0..n % 199).for_each(|_| std::hint::spin_loop());
                file.append(&[n as u8 | 1; 7]).unwrap();
                barrier.wait();
            }
        });
        for n in 0..rounds {
            if n % 200 == 0 {
                file.set_len(0).unwrap();
            }
            file.append(&[9]).unwrap();
            barrier.wait();
            (0..6).for_each(|_| file.flush().unwrap());
            barrier.wait();
            file.flush().unwrap();
            let (len, there) = (file.len() as usize, memory.contents());
            assert!(there.len() == len && !there.contains(&0), "bytes were lost in round {n}");
        }
    });
}

#[test]
#[ignore = "runs as the child of a_kill_leaves_no_hole_before_newer_records"]
fn child() {
    let Ok(path) = std::env::var("FOLIO_ORDER_FILE") else { return };
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let is_direct = path.ends_with("direct");
    let options = OpenOptions::new().read(true).write(true).create(true).direct(is_direct).clone();
    let file = options.open(&cache, &path).unwrap();
    file.write_at(&[1; HEADER], 0).unwrap();
    println!("begun");
    for n in 0_u64.. {
        let record = n.to_le_bytes().map(|byte| byte | 1);
        file.append(&record.repeat(1 + n as usize % 40)).unwrap();
        if n % 8 == 0 {
            file.write_at(&[n as u8 | 1; HEADER], 0).unwrap();
        }
        if n % 3000 == 0 {
            file.flush().unwrap();
        }
    }
}

fn kill_a_writer(path: &Path, after: Duration) -> Vec<u8> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env("FOLIO_ORDER_FILE", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with("begun"))));
    thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_kill_leaves_no_hole_before_newer_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut longest = 0;
    for n in 0..12 {
        let name = format!("{n}{}", if n % 2 == 0 { "" } else { "direct" });
        let after = Duration::from_millis(random.u64(20..300));
        let bytes = kill_a_writer(&dir.path().join(name), after);
        // No byte of a record or of the header is zero.
        let hole = bytes.iter().position(|&byte| byte == 0);
        assert_eq!(hole, None, "a hole in a file of {} bytes, kill {n}", bytes.len());
        longest = longest.max(bytes.len());
    }
    assert!(longest > 1 << 20, "no child has written much: {longest} bytes");
}

/// Appends through two opens, and through a cursor, with syncs and closes between them.
#[test]
fn appends_through_several_opens_leave_no_hole() {
    for threads in [0, 2] {
        let cache: Cache = Cache::new(2 << 20).unwrap();
        cache.set_io_threads(threads);
        let watched = Watched::new(&[1; HEADER]);
        thread::scope(|scope| {
            for opener in 1..=3_u8 {
                let (cache, watched) = (&cache, &watched);
                scope.spawn(move || {
                    for n in 0..100_usize {
                        let file = cache.open_backing(watched.clone()).unwrap();
                        for part in 0..10 {
                            file.append(&vec![opener; 1 + (n + part) * 7 % 3000]).unwrap();
                        }
                        match n % 4 {
                            0 => file.sync_data().unwrap(),
                            1 => file.close().unwrap(),
                            2 => file.write_at(&[opener; HEADER], 0).map(drop).unwrap(),
                            _ => {}
                        }
                    }
                });
            }
        });
        let file = cache.open_backing(watched.clone()).unwrap();
        file.sync_data().unwrap();
        assert_eq!(watched.holes.load(Ordering::SeqCst), 0, "holes, with {threads} threads");
        assert_eq!(watched.memory.contents().len() as u64, file.len());
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// A hole that a growth made is the user's; appends behind it are in order all the same.
#[test]
fn appends_behind_a_growth_are_in_order() {
    let cache: Cache = Cache::new(2 << 20).unwrap();
    cache.set_io_threads(0);
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.append(&vec![1; 20 * 4096]).unwrap();
    file.set_len(40 * PAGE).unwrap();
    file.append(&vec![2; 20 * 4096]).unwrap();
    // The first request has no room: those behind it wait.
    memory.inject(Call::Write, 0, 1, Fault::Error(28));
    file.flush().unwrap_err();
    let behind = memory.contents().iter().skip(40 * 4096).any(|&byte| byte == 2);
    let first = memory.contents().iter().take(20 * 4096).all(|&byte| byte == 1);
    assert!(!behind || first, "newer bytes came first");
    file.flush().unwrap();
    assert_eq!(memory.contents().len(), 60 * 4096);
    drop(file);
    assert_nothing_leaked(&cache);
}

/// The backing is lengthened at once. What was appended goes first, also if a hole is refused.
#[test]
fn appends_come_before_a_longer_file_or_a_hole() {
    let changes: [fn(&File, &Memory); 3] = [
        |file, _| file.set_len(20 * PAGE).unwrap(),
        |file, _| file.punch_hole(2 * PAGE, PAGE).unwrap(),
        |file, memory| {
            memory.inject(Call::Punch, 0, 1, Fault::Error(5));
            assert_eq!(file.punch_hole(2 * PAGE, PAGE).unwrap_err().raw_os_error(), Some(5));
        },
    ];
    for change in changes {
        let (cache, memory) = (Cache::<DefaultScheme>::new(2 << 20).unwrap(), Memory::new(b""));
        let memory = Arc::new(memory);
        let file = cache.open_backing(memory.clone()).unwrap();
        file.append(&vec![7; 9 * 4096 + 100]).unwrap();
        change(&file, &memory);
        let contents = memory.contents();
        let (before, after) = (&contents[..2 * 4096], &contents[3 * 4096..9 * 4096 + 100]);
        assert!(before.iter().chain(after).all(|&byte| byte == 7), "{} bytes", contents.len());
    }
}

/// The file can be made longer although its pages cannot be written.
#[test]
fn a_file_that_cannot_be_written_can_be_made_longer() {
    let cache: Cache = Cache::builder().capacity(2 << 20).io_threads(0).build().unwrap();
    let memory = Arc::new(Memory::new(b""));
    let file = cache.open_backing(memory.clone()).unwrap();
    file.append(&[7; 4096]).unwrap();
    memory.inject(Call::Write, 0, 1, Fault::Error(28));
    file.set_len(2 * PAGE).unwrap();
    assert_eq!(memory.contents().len(), 2 * 4096);
    // The error is told once.
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(28));
    file.sync_data().unwrap();
    assert_eq!(memory.contents()[..4096], [7; 4096]);
}
