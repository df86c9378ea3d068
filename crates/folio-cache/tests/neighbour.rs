//! A control group of 512 MiB with a cache that wants most of it, and a neighbour that allocates.
//!
//! It needs the right to make a control group with a limit, so it is run by hand:
//!
//! ```text
//! ROUNDS=100 cargo test --release -p folio-cache --test neighbour -- --ignored --nocapture
//! ```
//!
//! In each round a new neighbour allocates at full speed, until the group has no more than what the
//! cache keeps by its floor. Then it ends, and the cache fills again. `COLD=1` runs the same cache
//! without pressure: the system kills.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSliceMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use folio_cache::pressure::{Pressure, PressureHandle};
use folio_cache::{Backing, Cache, File, FileId, Version};

const MIB: usize = 1 << 20;
const LIMIT: usize = 512 * MIB;
const CAPACITY: usize = 384 * MIB;
const FLOOR: usize = 24 * MIB;

/// The memory that a neighbour allocates: all but the cache's floor, and 64 MiB for the rest of the
/// group: two processes, page tables, the kernel's own.
const GREED: usize = LIMIT - FLOOR - 64 * MIB;

/// Says which part a process of this test plays.
const ROLE: &str = "FOLIO_NEIGHBOUR_ROLE";
const GROUP: &str = "FOLIO_NEIGHBOUR_GROUP";

/// A file that costs no memory.
#[derive(Debug)]
struct Sevens;

impl Backing for Sevens {
    fn file_id(&self) -> FileId {
        FileId { space: "sevens", volume: 0, object: 0 }
    }
    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: CAPACITY as u64, change_token: [0; 4] })
    }
    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        for buffer in buffers.iter_mut() {
            buffer.fill(7);
        }
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
}

/// A control group of version 1 or 2 with a limit, inside the one of this process. It is removed
/// when it is dropped.
struct Group {
    folder: PathBuf,
    is_v2: bool,
}

impl Group {
    fn new() -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let of = |controller: &str| {
            let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
            Some(line.split(':').nth(2)?.trim_start_matches('/').to_owned())
        };
        let name = format!("folio-neighbour-{}", std::process::id());
        let v1 = of("memory").map(|path| (Path::new("/sys/fs/cgroup/memory").join(path), false));
        let v2 = of("").map(|path| (Path::new("/sys/fs/cgroup").join(path), true));
        let mut reasons = Vec::new();
        for (around, is_v2) in v1.into_iter().chain(v2) {
            let group = Self { folder: around.join(&name), is_v2 };
            let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
            let made = fs::create_dir(&group.folder)
                .and_then(|()| fs::write(group.folder.join(limit), LIMIT.to_string()));
            match made {
                Ok(()) => return Ok(group),
                Err(error) => reasons.push(format!("{}: {error}", group.folder.display())),
            }
        }
        Err(reasons.join(", "))
    }

    /// Returns the number of processes that the system killed for lack of memory.
    fn kills(&self) -> u64 {
        let file = if self.is_v2 { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that end are still in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} cannot be removed: remove it by hand", self.folder.display());
    }
}

/// Starts this test again in another role.
fn start(role: &str, group: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "a_neighbour_in_the_group_is_not_killed"])
        .env(ROLE, role)
        .env(GROUP, group)
        .spawn()
        .unwrap()
}

/// The neighbour: allocates, waits for a moment, and ends.
fn allocate() {
    let mut all = Vec::new();
    while all.len() * 2 * MIB < GREED {
        all.push(vec![1_u8; 2 * MIB]);
    }
    thread::sleep(Duration::from_millis(20));
    assert!(all.iter().all(|part| part[MIB] == 1));
}

/// Reads pages of the file at random, until it is stopped. Counts the reads that took long.
fn read(file: &File, seed: u64, stop: &AtomicBool, slow: &AtomicU64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut page = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        file.read_exact_at(&mut page, random.u64(0..CAPACITY as u64 / 4096) * 4096).unwrap();
        slow.fetch_add(u64::from(begin.elapsed() > Duration::from_millis(10)), Ordering::Relaxed);
        assert_eq!(page, [7; 4096]);
    }
}

/// Returns the memory of a group in bytes.
fn usage(group: &Path) -> u64 {
    let files = ["memory.current", "memory.usage_in_bytes"];
    let text = files.iter().find_map(|file| fs::read_to_string(group.join(file)).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The program with the cache: joins the group, and has neighbours one after the other.
fn run_rounds(group: &Path, rounds: u64) {
    fs::write(group.join("cgroup.procs"), "0").unwrap();
    let mut builder = Cache::builder().capacity(CAPACITY);
    if std::env::var_os("COLD").is_none() {
        let fast = Pressure::system().grow_rate(1 << 30).hold(Duration::from_millis(200));
        builder = builder.pressure(fast.floor(FLOOR));
    }
    let cache = builder.build().unwrap();
    let file = cache.open_backing(Arc::new(Sevens)).unwrap();
    let (stop, slow, mut least, mut survived) =
        (AtomicBool::new(false), AtomicU64::new(0), CAPACITY, 0);
    thread::scope(|scope| {
        scope.spawn(|| read(&file, 1, &stop, &slow));
        for _ in 0..rounds {
            // The cache has most of the group before the neighbour starts.
            let begin = Instant::now();
            let used = || {
                let stats = cache.frames().zone().stats();
                (stats.online_frames - stats.free_frames) as usize * 4096
            };
            while used() < 350 * MIB && begin.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(5));
            }
            let mut neighbour = start("neighbour", group);
            let (mut trace, begin) = (VecDeque::new(), Instant::now());
            let status: ExitStatus = loop {
                least = least.min(cache.capacity());
                trace.push_back((begin.elapsed(), usage(group), cache.capacity(), used()));
                trace.drain(..trace.len().saturating_sub(60));
                match neighbour.try_wait().unwrap() {
                    Some(status) => break status,
                    None => thread::sleep(Duration::from_millis(1)),
                }
            };
            survived += u64::from(status.success());
            if !status.success() {
                println!("time, MiB of the group, capacity, used by pages:");
                for (time, usage, capacity, used) in trace {
                    println!("{time:.1?} {} {} {}", usage >> 20, capacity >> 20, used >> 20);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let stats = cache.stats();
    println!(
        "rounds {rounds}, survived {survived}, least capacity {} MiB, given back {} MiB, taken \
         again {} MiB, signals {}, reads above 10 ms {}",
        least / MIB,
        stats.given_back_bytes >> 20,
        stats.taken_again_bytes >> 20,
        stats.pressure_signals,
        slow.into_inner()
    );
    assert_eq!(survived, rounds, "the system killed neighbours");
}

#[test]
#[ignore = "needs the right to make control groups: run by hand"]
fn a_neighbour_in_the_group_is_not_killed() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    let group = std::env::var_os(GROUP).map(PathBuf::from);
    match (std::env::var(ROLE).as_deref(), group) {
        (Ok("neighbour"), _) => allocate(),
        (Ok("cache"), Some(group)) => run_rounds(&group, rounds),
        _ => {
            let group = Group::new().unwrap_or_else(|error| panic!("no control group: {error}"));
            let begin = Instant::now();
            let status = start("cache", &group.folder).wait().unwrap();
            let kills = group.kills();
            println!("kills {kills}, {:.1} s for all rounds", begin.elapsed().as_secs_f64());
            assert!(status.success() && kills == 0, "{kills} kills in {rounds} rounds: {status}");
        }
    }
}

/// Prints the time from a signal to half of the memory, and what it costs a processor.
#[test]
#[ignore = "a measurement: run by hand"]
fn a_signal_halves_the_memory_soon() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(20);
    let (mut times, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let handle = PressureHandle::new().unwrap();
        let pressure = Pressure::new().source(handle.clone()).hold(Duration::from_mins(10));
        let cache = Cache::builder().capacity(CAPACITY).pressure(pressure).build().unwrap();
        let file = cache.open_backing(Arc::new(Sevens)).unwrap();
        let mut page = [0; 4096];
        for offset in (0..file.len()).step_by(4096) {
            file.read_exact_at(&mut page, offset).unwrap();
        }
        cache.quiesce();
        let online = || cache.frames().zone().stats().online_frames as usize * 4096;
        let cpu = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        let (begin, before) = (Instant::now(), cpu());
        handle.signal();
        while online() > CAPACITY / 2 {
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not happen");
            thread::sleep(Duration::from_micros(200));
        }
        times.push(begin.elapsed());
        costs.push(cpu().saturating_sub(before));
    }
    times.sort();
    costs.sort();
    let (last, half) = (times.len() - 1, times.len() / 2);
    println!(
        "signal to half of {} MiB: median {:.1?}, most {:.1?}; processor: median {:.1?}, \
         most {:.1?}",
        CAPACITY / MIB,
        times[half],
        times[last],
        costs[half],
        costs[last]
    );
}
