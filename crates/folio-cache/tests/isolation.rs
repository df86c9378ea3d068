//! Each call of a healthy file ends beside any sick one: with a kind of call that hangs, fails for
//! ever, or is slow, while the sick file is in use by many threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::assert_nothing_leaked;
use common::hanging::{Hanging, HealOnDrop, ends};
use common::healthy::assert_healthy;
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, File};
use pollster::block_on;

const PAGE: u64 = 4096;
const PAGES: u64 = 300;

/// The calls of a backing that may hang.
const HANGS: [Call; 5] = [Call::Fill, Call::Write, Call::Sync, Call::Version, Call::SetLen];

/// A call of a user of a sick file, with any result.
type Use = fn(&Cache, &File, &Arc<dyn Backing>, u64);

const USES: &[Use] = &[
    |_, file, _, n| _ = file.read_at(&mut [0; 8], n * 37 % PAGES * PAGE),
    |_, file, _, n| _ = file.read_at(&mut [0; 9000], n * 2 % PAGES * PAGE),
    |_, file, _, n| _ = block_on(file.bytes_async(n * 41 % PAGES * PAGE, 8)),
    |_, file, _, _| _ = file.read_at(&mut [0; 8], file.len()),
    |_, file, _, n| _ = file.write_at(&[1; 4096], n % 200 * PAGE),
    |_, file, _, n| _ = file.write_at(&[1; 10], n * 43 % PAGES * PAGE),
    |_, file, _, _| _ = file.append(&[1; 100]),
    |_, file, _, _| _ = file.sync_data(),
    |_, file, _, n| _ = file.set_len((PAGES + n % 3) * PAGE),
    |_, file, _, n| _ = file.punch_hole(n * 29 % PAGES * PAGE, 2 * PAGE),
    |cache, _, backing, _| _ = cache.open_backing(backing.clone()),
    |_, file, _, _| file.invalidate(),
    |cache, _, _, _| _ = cache.flush(),
];

/// Users of a sick file. They end when this is dropped, after the file is healed.
struct Users {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    heal: Box<dyn Fn()>,
}

impl Users {
    fn new(cache: &Cache, file: &File, heal: impl Fn() + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = USES.iter().map(|act| {
            let (cache, file, stop) = (cache.clone(), file.clone(), stop.clone());
            let backing = file.backing().clone();
            thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    act(&cache, &file, &backing, n);
                    thread::sleep(Duration::from_millis(1));
                }
            })
        });
        let threads = threads.collect();
        Self { stop, threads, heal: Box::new(heal) }
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        (self.heal)();
        self.threads.drain(..).for_each(|thread| thread.join().expect("a user of the sick file"));
    }
}

#[test]
fn each_call_ends_beside_calls_that_hang() {
    for hangs in HANGS {
        let cache: Cache = Cache::new(16 << 20).unwrap();
        let sick = Hanging::new(&vec![1; (PAGES * PAGE) as usize]);
        let file = cache.open_backing(sick.clone()).unwrap();
        file.write_at(&vec![7; 1 << 20], 0).unwrap();
        sick.hang(hangs);
        let healed = sick.clone();
        let users = Users::new(&cache, &file, move || healed.heal());
        sick.wait_until_it_hangs();
        assert_healthy(&cache, &format!("a {hangs:?} that hangs"));
        drop(users);
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn each_call_ends_beside_a_file_that_fails_or_is_slow() {
    let faults = [Fault::Error(5), Fault::Error(28), Fault::Panic];
    let slow = Fault::Delay(Duration::from_millis(50));
    for fault in faults.into_iter().chain([slow]) {
        let cache: Cache = Cache::new(16 << 20).unwrap();
        let sick = Arc::new(Memory::new(&vec![1; (PAGES * PAGE) as usize]));
        let file = cache.open_backing(sick.clone()).unwrap();
        file.write_at(&vec![7; 1 << 20], 0).unwrap();
        for call in Call::ALL {
            // An opener panics with its backing, and so does each other caller.
            if fault != Fault::Panic || call == Call::Fill {
                sick.inject(call, 0, u64::MAX, fault);
            }
        }
        let healed = sick.clone();
        let users = match fault {
            Fault::Panic => panicking_readers(&file, move || healed.heal()),
            _ => Users::new(&cache, &file, move || healed.heal()),
        };
        assert_healthy(&cache, &format!("{fault:?}"));
        drop(users);
        drop(file);
        assert_nothing_leaked(&cache);
    }
}

/// Futures and streams of which each read panics in a thread of the cache.
fn panicking_readers(file: &File, heal: impl Fn() + 'static) -> Users {
    let stop = Arc::new(AtomicBool::new(false));
    let threads = (0..4).map(|thread| {
        let (file, stop) = (file.clone(), stop.clone());
        thread::spawn(move || {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let _ = block_on(file.bytes_async((n * 41 + thread) % PAGES * PAGE, 8));
            }
        })
    });
    let threads = threads.collect();
    Users { stop, threads, heal: Box::new(heal) }
}

#[test]
fn others_open_and_close_while_an_open_hangs() {
    let cache: Cache = Cache::new(8 << 20).unwrap();
    let sick = Hanging::new(b"sick");
    sick.hang(Call::Version);
    let heal = HealOnDrop(vec![sick.clone()]);
    let opens: Vec<_> = (0..8)
        .map(|_| {
            let (cache, sick) = (cache.clone(), sick.clone());
            thread::spawn(move || cache.open_backing(sick).unwrap().len())
        })
        .collect();
    sick.wait_until_it_hangs();
    assert_healthy(&cache, "an open that hangs");
    drop(heal);
    assert!(opens.into_iter().all(|open| open.join().unwrap() == 4));
    assert_nothing_leaked(&cache);
}

/// Also with unwritten pages of the sick file, and with its fetches and its extents in flight.
#[test]
fn a_cache_is_dropped_beside_calls_that_hang() {
    for hangs in HANGS {
        let cache: Cache = Cache::new(8 << 20).unwrap();
        let sick = Hanging::new(&vec![1; (PAGES * PAGE) as usize]);
        let file = cache.open_backing(sick.clone()).unwrap();
        file.write_at(&vec![7; 1 << 20], 0).unwrap();
        sick.hang(hangs);
        let healed = sick.clone();
        let users = Users::new(&cache, &file, move || healed.heal());
        sick.wait_until_it_hangs();
        let memory = Arc::new(Memory::new(b"old"));
        let healthy = cache.open_backing(memory.clone()).unwrap();
        healthy.write_at(b"new", 0).unwrap();
        ends("a drop", move || drop((healthy, cache)));
        assert_eq!(memory.contents(), b"new");
        drop((users, file));
    }
}
