//! Page tables under load: processes that write, fork, exit, and have devices write to their pages,
//! while other threads pin, migrate and take blocks of memory offline. Every byte is compared, and
//! nothing leaks.
//!
//! In CI it runs for a second. For a minute: `cargo test --release -p folio-frames --test
//! page_tables -- --ignored --nocapture`.

mod common;
mod page_table;

use std::mem;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{arena, assert_all_free};
use fastrand::Rng;
use folio_frames::{Arena, FRAME_SIZE, MigrateError, Pfn, UserSpace, migrate};
use folio_ref::DefaultScheme;
use page_table::{PAGE, Pin, World};

const SPACES: usize = 20;
/// The pages of each address space.
const PLACES: usize = 12;
/// The first byte of the half of a page that devices write.
const DEVICE: usize = FRAME_SIZE / 2;
/// The number of device writes that may wait: each pins a page, also after it was unmapped.
const MOST_JOBS: usize = 32;
/// Bytes at the start of a page that name its place.
const STAMP: usize = 8;

fn stamp(place: usize) -> [u8; STAMP] {
    (0x5eed_0000_0000_0000 | place as u64).to_le_bytes()
}

/// Fills bytes with a pattern: no two of its words are equal, nor are those of two values.
fn fill(bytes: &mut [u8], value: u64) {
    for (n, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(value << 16 | n as u64).to_le_bytes());
    }
}

/// A page as its process knows it.
#[derive(Clone, Copy)]
struct Known {
    /// The value of its pattern.
    written: u64,
    /// The value that a device wrote. `None`: a device may be writing, or was when the parent
    /// forked.
    by_device: Option<u64>,
}

/// An address space, what it must hold, and the devices that write to it.
struct Process {
    space: usize,
    pages: [Option<Known>; PLACES],
    /// The writes under way: place, value, and whether the device has finished.
    writes: Vec<(usize, u64, Arc<AtomicBool>)>,
}

/// A write by a device.
struct Job {
    pin: Pin,
    value: u64,
    done: Arc<AtomicBool>,
}

struct Machine {
    arena: Arena<UserSpace>,
    world: World,
    processes: Mutex<Vec<Process>>,
    free_spaces: Mutex<Vec<usize>>,
    jobs: Mutex<Vec<Job>>,
    stop: AtomicBool,
    compared: AtomicUsize,
    migrated: AtomicUsize,
    busy: AtomicUsize,
    offline: AtomicUsize,
    written_by_device: AtomicUsize,
}

impl Machine {
    fn new() -> Self {
        let arena = arena::<DefaultScheme>(3);
        let world = World::new(arena.zone(), SPACES);
        let first = Process { space: 0, pages: [None; PLACES], writes: Vec::new() };
        Self {
            arena,
            world,
            processes: Mutex::new(vec![first]),
            free_spaces: Mutex::new((1..SPACES).collect()),
            jobs: Mutex::default(),
            stop: AtomicBool::new(false),
            compared: AtomicUsize::new(0),
            migrated: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            offline: AtomicUsize::new(0),
            written_by_device: AtomicUsize::new(0),
        }
    }

    /// Runs `act` with new random numbers until the end.
    fn repeat(&self, seed: u64, thread: u64, mut act: impl FnMut(&mut Rng)) {
        let mut rng = Rng::with_seed(seed.wrapping_add(thread));
        // Relaxed: it only ends the loop.
        while !self.stop.load(Relaxed) {
            act(&mut rng);
        }
    }

    /// A processor: takes a process, and runs it for a while.
    fn run_processes(&self, rng: &mut Rng) {
        let mut processes = self.processes.lock().unwrap();
        if processes.is_empty() {
            drop(processes);
            thread::yield_now();
            return;
        }
        let chosen = rng.usize(..processes.len());
        let mut process = processes.swap_remove(chosen);
        drop(processes);
        for _ in 0..rng.usize(1..20) {
            self.step(&mut process, rng);
        }
        // One process always stays.
        let mut processes = self.processes.lock().unwrap();
        if !processes.is_empty() && rng.usize(..12) == 0 {
            drop(processes);
            self.exit(&process);
        } else {
            processes.push(process);
        }
    }

    fn step(&self, process: &mut Process, rng: &mut Rng) {
        let place = rng.usize(..PLACES);
        self.finish_writes(process);
        match rng.usize(..10) {
            0..=3 => self.write(process, place, rng),
            4..=6 => self.compare(process, place),
            7 => self.start_device(process, place, rng),
            8 => {
                let was_mapped = process.pages[place].take().is_some();
                process.writes.retain(|(at, ..)| *at != place);
                assert_eq!(self.world.unmap(process.space, place), was_mapped);
            }
            _ => self.fork(process),
        }
    }

    fn write(&self, process: &mut Process, place: usize, rng: &mut Rng) {
        let written = rng.u64(1 << 20..1 << 40);
        let mut bytes = [0; FRAME_SIZE];
        fill(&mut bytes[..DEVICE], written);
        bytes[..STAMP].copy_from_slice(&stamp(place));
        if let Some(known) = &mut process.pages[place] {
            known.written = written;
            let half = &bytes[STAMP..DEVICE];
            assert!(self.world.write(process.space, place, STAMP, half));
            // What a device of the parent wrote before the fork is not known.
            if known.by_device.is_none() && process.writes.iter().all(|(at, ..)| *at != place) {
                fill(&mut bytes[DEVICE..], written);
                assert!(self.world.write(process.space, place, DEVICE, &bytes[DEVICE..]));
                known.by_device = Some(written);
            }
        } else {
            fill(&mut bytes[DEVICE..], 1);
            assert!(self.world.map(process.space, place, &bytes));
            process.pages[place] = Some(Known { written, by_device: Some(1) });
        }
    }

    /// Compares every byte of a page, but those that a device may be writing.
    fn compare(&self, process: &Process, place: usize) {
        let mut seen = [0; FRAME_SIZE];
        let is_mapped = self.world.read(process.space, place, 0, &mut seen);
        let Some(known) = process.pages[place] else {
            assert!(!is_mapped, "a page that was never mapped");
            return;
        };
        assert!(is_mapped, "a page is gone");
        let mut expected = [0; FRAME_SIZE];
        fill(&mut expected[..DEVICE], known.written);
        expected[..STAMP].copy_from_slice(&stamp(place));
        match known.by_device {
            Some(value) => fill(&mut expected[DEVICE..], value),
            None => expected[DEVICE..].copy_from_slice(&seen[DEVICE..]),
        }
        assert!(seen == expected, "place {place} of space {} has other bytes", process.space);
        self.compared.fetch_add(1, Relaxed);
    }

    fn start_device(&self, process: &mut Process, place: usize, rng: &mut Rng) {
        // One device at a time for each page.
        let is_written = process.writes.iter().any(|(at, ..)| *at == place);
        let Some(known) = process.pages[place].as_mut().filter(|_| !is_written) else { return };
        if self.jobs.lock().unwrap().len() >= MOST_JOBS {
            return;
        }
        let pin = self.world.pin_for_write(process.space, place).expect("it is mapped");
        let (value, done) = (rng.u64(1 << 20..1 << 40), Arc::new(AtomicBool::new(false)));
        known.by_device = None;
        process.writes.push((place, value, Arc::clone(&done)));
        self.jobs.lock().unwrap().push(Job { pin, value, done });
    }

    /// Compares the pages to which devices have finished writing.
    fn finish_writes(&self, process: &mut Process) {
        for (place, value, done) in mem::take(&mut process.writes) {
            // Acquire: pairs with Release in run_devices, after the bytes were written.
            if done.load(Acquire) {
                let known = process.pages[place].as_mut().expect("its page was not unmapped");
                known.by_device = Some(value);
                self.compare(process, place);
            } else {
                process.writes.push((place, value, done));
            }
        }
    }

    fn run_devices(&self, rng: &mut Rng) {
        let mut jobs = self.jobs.lock().unwrap();
        if jobs.is_empty() || rng.usize(..3) == 0 {
            drop(jobs);
            thread::yield_now();
            return;
        }
        let chosen = rng.usize(..jobs.len());
        let job = jobs.swap_remove(chosen);
        drop(jobs);
        self.run_job(job);
    }

    fn run_job(&self, Job { pin, value, done }: Job) {
        let mut bytes = [0; FRAME_SIZE - DEVICE];
        fill(&mut bytes, value);
        for (n, part) in bytes.chunks(512).enumerate() {
            pin.page.write(DEVICE + n * 512, part);
        }
        self.written_by_device.fetch_add(1, Relaxed);
        // Release: pairs with Acquire in finish_writes.
        done.store(true, Release);
        drop(pin);
    }

    fn fork(&self, parent: &Process) {
        let Some(space) = self.free_spaces.lock().unwrap().pop() else { return };
        self.world.fork(parent.space, space, PLACES);
        // What devices write to the parent's pages meanwhile, the child may have in part.
        let pages = parent.pages;
        let child = Process { space, pages, writes: Vec::new() };
        self.processes.lock().unwrap().push(child);
    }

    fn exit(&self, process: &Process) {
        for (place, page) in process.pages.iter().enumerate() {
            self.compare(process, place);
            assert_eq!(self.world.unmap(process.space, place), page.is_some());
        }
        self.free_spaces.lock().unwrap().push(process.space);
    }

    /// Pins any page of any process, without a lock, and checks that it is of its place.
    fn pin_any(&self, rng: &mut Rng) {
        let (space, place) = (rng.usize(..SPACES), rng.usize(..PLACES));
        let Some(pin) = self.world.pin(space, place) else { return };
        let mut seen = [0; STAMP];
        pin.page.read(0, &mut seen);
        assert_eq!(seen, stamp(place), "the page of another place was pinned");
        if rng.usize(..8) == 0 {
            thread::yield_now();
        }
    }

    /// Migrates any page, or takes a block offline for a moment.
    fn move_any(&self, rng: &mut Rng) {
        let zone = self.arena.zone();
        if rng.usize(..400) == 0 {
            if let Ok(offline) = self.arena.offline(rng.usize(..zone.blocks()), &self.world) {
                self.offline.fetch_add(1, Relaxed);
                self.arena.online(offline);
            }
            return;
        }
        let frames = zone.pfns();
        let pfn = Pfn::new(frames.start.as_u64() + rng.u64(..frames.frames()));
        if zone.peek(pfn).kind != PAGE {
            return;
        }
        match migrate(zone, pfn, &self.world) {
            Ok(_) => self.migrated.fetch_add(1, Relaxed),
            Err(MigrateError::Busy) => self.busy.fetch_add(1, Relaxed),
            Err(_) => 0,
        };
    }

    /// Returns the number of each event that must have happened.
    fn events(&self) -> [(&'static str, usize); 11] {
        let counts = &self.world.counts;
        [
            ("pages compared", &self.compared),
            ("write faults", &counts.faults),
            ("copied on write", &counts.copied_on_write),
            ("reused", &counts.reused),
            ("shared by forks", &counts.shared),
            ("copied for a child", &counts.copied_for_child),
            ("pinned", &counts.pinned),
            ("written by devices", &self.written_by_device),
            ("entries lent", &counts.lent),
            ("migrated", &self.migrated),
            ("busy", &self.busy),
        ]
        .map(|(name, count)| (name, count.load(Relaxed)))
    }
}

fn torture(at_least: Duration) {
    let machine = Machine::new();
    let zone = machine.arena.zone();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let started = Instant::now();
    // A panic of one thread must end the others too.
    let until_panic = |act: &dyn Fn()| {
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let _stop = Stop(&machine.stop);
        act();
    };
    thread::scope(|threads| {
        let machine = &machine;
        for n in 0..3 {
            threads.spawn(move || {
                until_panic(&|| machine.repeat(seed, n, |rng| machine.run_processes(rng)));
            });
        }
        threads.spawn(move || {
            until_panic(&|| machine.repeat(seed, 10, |rng| machine.run_devices(rng)));
        });
        threads.spawn(move || {
            until_panic(&|| machine.repeat(seed, 11, |rng| machine.pin_any(rng)));
        });
        for n in 12..14 {
            threads.spawn(move || {
                until_panic(&|| machine.repeat(seed, n, |rng| machine.move_any(rng)));
            });
        }
        let is_done = || machine.events().iter().all(|&(_, count)| count >= 100);
        while !machine.stop.load(Relaxed)
            && (started.elapsed() < at_least || !is_done())
            && started.elapsed() < at_least + Duration::from_mins(1)
        {
            thread::sleep(Duration::from_millis(10));
        }
        machine.stop.store(true, Relaxed);
    });
    println!("{} blocks were offline; {:?}", machine.offline.load(Relaxed), machine.events());
    for (name, count) in machine.events() {
        assert!(count >= 100, "{count} {name}: too few for a test");
    }
    for job in mem::take(&mut *machine.jobs.lock().unwrap()) {
        machine.run_job(job);
    }
    for mut process in mem::take(&mut *machine.processes.lock().unwrap()) {
        machine.finish_writes(&mut process);
        machine.exit(&process);
    }
    let Machine { arena, world, .. } = machine;
    drop(world);
    assert_all_free(zone);
    drop(arena);
}

#[test]
fn pages_keep_their_bytes_and_none_leaks() {
    torture(Duration::from_secs(1));
}

#[test]
#[ignore = "takes a minute"]
fn pages_keep_their_bytes_for_a_minute() {
    torture(Duration::from_mins(1));
}
