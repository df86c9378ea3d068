//! Each call of a healthy file ends beside any sick one: with a kind of call that hangs, fails for
//! ever, or is slow, while the sick file is in use by many threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::assert_nothing_leaked;
use common::hanging::{Hanging, HealOnDrop, ends, within};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, CACHED, Cache, File};
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

/// A call of a user of a healthy file. It must end, and give the right result.
type Healthy = fn(&Cache, &File, &Arc<Memory>);

const HEALTHY: &[(&str, Healthy)] = &[
    ("a miss", |_, file, _| {
        file.invalidate();
        assert_eq!(file.read_at(&mut [0; 8], 20 * PAGE).unwrap(), 8);
    }),
    ("a read at the end", |_, file, _| {
        assert_eq!(file.read_at(&mut [0; 8], file.len()).unwrap(), 0);
    }),
    ("a read ahead", |_, file, _| {
        file.invalidate();
        (0..64).for_each(|page| assert_eq!(file.read_at(&mut [0; 8], page * PAGE).unwrap(), 8));
    }),
    ("a future", |_, file, _| {
        file.invalidate();
        (0..64).for_each(|page| {
            assert_eq!(block_on(file.bytes_async(page * PAGE, 8)).unwrap().len(), 8);
        });
    }),
    ("a range", |_, file, _| assert_eq!(file.range(0, 200_000).unwrap().len(), 200_000)),
    ("a write", |_, file, _| {
        (0..300).for_each(|n| assert_eq!(file.write_at(&[3; 4096], n % 100 * PAGE).unwrap(), 4096));
    }),
    ("a sync", |_, file, memory| {
        file.write_at(b"sync me", 8).unwrap();
        file.sync_data().unwrap();
        assert_eq!(&memory.durable()[8..15], b"sync me");
    }),
    ("the flusher", |_, file, memory| {
        file.write_at(b"flush me", 0).unwrap();
        within("the flusher does not write", || memory.contents().starts_with(b"flush me"));
    }),
    ("an open and a close", |cache, _, memory| {
        let other = cache.open_backing(memory.clone()).unwrap();
        assert!(!other.revalidate().unwrap());
        other.write_at(b"close me", 0).unwrap();
        other.close().unwrap();
        let third = Arc::new(Memory::new(b"third"));
        let other = cache.open_backing(third.clone()).unwrap();
        other.write_at(b"T", 0).unwrap();
        other.close().unwrap();
        assert_eq!(third.contents(), b"Third");
    }),
    ("a resize and a hole", |_, file, _| {
        file.set_len(99 * PAGE).unwrap();
        file.punch_hole(PAGE, 3 * PAGE).unwrap();
        file.set_len(100 * PAGE).unwrap();
    }),
    ("a discard", |_, file, _| {
        file.write_at(&[9; 4096], 0).unwrap();
        // Another thread may have flushed it.
        assert!(file.discard().unwrap() <= 100 * PAGE);
    }),
    ("quiesce", |_, file, _| file.quiesce()),
    ("a migration", |cache, file, _| {
        let page = file.page(5 * PAGE).unwrap().unwrap();
        let zone = cache.frames().zone();
        let frames = zone.pfns().filter(|&pfn| zone.peek(pfn).kind == CACHED);
        // Some are pinned, or in flight.
        frames.take(200).for_each(|pfn| _ = cache.frames().migrate(pfn));
        cache.frames().compact(2);
        assert_eq!(page.len(), 4096);
    }),
    ("a block offline", |cache, _, _| {
        let blocks = (0..8).filter_map(|block| cache.frames().offline(block).ok());
        blocks.take(1).for_each(|block| cache.frames().online(block));
    }),
    ("a reclaim", |cache, _, _| _ = cache.reclaim(50)),
    ("the lists", |cache, _, _| drop((cache.unwritten(), cache.stats(), format!("{cache:?}")))),
];

#[track_caller]
fn assert_healthy(cache: &Cache, sickness: &str) {
    let memory = Arc::new(Memory::new(&vec![2; 100 * 4096]));
    let file = cache.open_backing(memory.clone()).unwrap();
    for &(what, act) in HEALTHY {
        let (cache, file, memory) = (cache.clone(), file.clone(), memory.clone());
        ends(&format!("{what} beside {sickness}"), move || act(&cache, &file, &memory));
    }
    file.close().unwrap();
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
