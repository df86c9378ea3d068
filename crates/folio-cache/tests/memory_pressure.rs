//! Memory pressure: the capacity follows limits and signals, and comes back.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_nothing_leaked, eventually};
use folio_cache::pressure::{Headroom, Pressure, PressureHandle, PressureSource, Reading};
use folio_cache::testing::Memory;
use folio_cache::{Cache, File};

const MIB: usize = 1 << 20;

/// Returns a cache of 32 MiB without threads, and a file that fills it.
fn full(pressure: Pressure, threads: usize) -> (Cache, File) {
    let builder = Cache::builder().capacity(32 * MIB).pressure(pressure).name("squeezed");
    let cache = builder.io_threads(threads).build().unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 30 * MIB]))).unwrap();
    read_all(&file);
    (cache, file)
}

fn read_all(file: &File) {
    let mut page = [0; 4096];
    for offset in (0..file.len()).step_by(4096) {
        file.read_exact_at(&mut page, offset).unwrap();
        assert_eq!(page, [7; 4096]);
    }
}

/// A folder in the place of the root, with the files of a control group.
struct Groups(tempfile::TempDir);

impl Groups {
    fn new(membership: &str) -> Self {
        let groups = Self(tempfile::tempdir().unwrap());
        groups.write("proc/self/cgroup", &membership);
        groups
    }

    fn write(&self, path: &str, text: &impl ToString) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As the kernel does: a reader sees the old text, or the new one.
        let new = path.with_extension("new");
        fs::write(&new, text.to_string()).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn pressure(&self) -> Pressure {
        Pressure::system().root(self.0.path()).hold(Duration::ZERO)
    }
}

#[test]
fn without_pressure_the_capacity_stays() {
    let (cache, file) = full(Pressure::new(), 0);
    assert_eq!((cache.relieve(), cache.capacity()), (0, 32 * MIB));
    let plain = Cache::new(4 * MIB).unwrap();
    assert_eq!((plain.relieve(), plain.capacity()), (0, 4 * MIB));
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_signal_halves_the_memory_by_the_thread_of_the_cache() {
    let handle = PressureHandle::new().unwrap();
    let pressure = Pressure::new().source(handle.clone()).hold(Duration::from_mins(10));
    let (cache, file) = full(pressure, 4);
    let used = cache.frames().zone().stats();
    let used = (used.online_frames - used.free_frames) as usize * 4096;
    handle.signal();
    let online = || cache.frames().zone().stats().online_frames as usize * 4096;
    eventually("a signal", || online() <= used / 2);
    eventually("its count", || cache.stats().given_back_bytes > 0);
    assert!(cache.capacity() > used / 2 - 2 * MIB, "one signal halves once");
    assert!(online() <= cache.capacity());
    read_all(&file);
    let stats = cache.stats();
    assert_eq!(stats.pressure_signals, 1);
    assert_eq!(stats.given_back_bytes as usize, 32 * MIB - cache.capacity());
    assert_eq!(stats.taken_again_bytes, 0);
    drop(file);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

#[test]
fn without_threads_only_a_call_relieves() {
    let handle = PressureHandle::new().unwrap();
    let (cache, file) = full(Pressure::new().source(handle.clone()).floor(4 * MIB), 0);
    handle.set_room(100 << 20, 100 << 20);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(cache.capacity(), 32 * MIB);
    let given = cache.relieve();
    assert!(given > 12 * MIB, "the reserve is an eighth: {given}");
    assert_eq!(cache.capacity(), 32 * MIB - given);
    handle.set_room(0, 100 << 20);
    cache.relieve();
    assert_eq!(cache.capacity(), 4 * MIB, "the floor");
    cache.set_capacity(2 * MIB).unwrap();
    assert_eq!((cache.relieve(), cache.capacity()), (0, 2 * MIB), "what the user set is less");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_cache_takes_memory_again_up_to_what_the_user_set() {
    let handle = PressureHandle::new().unwrap();
    let pressure = Pressure::new().source(handle.clone()).hold(Duration::ZERO);
    let (cache, file) = full(pressure.grow_rate(u64::MAX), 0);
    handle.signal();
    assert!(cache.relieve() > 0);
    let low = cache.capacity();
    thread::sleep(Duration::from_millis(2));
    cache.relieve();
    assert_eq!(cache.capacity(), 32 * MIB);
    assert_eq!(cache.stats().taken_again_bytes as usize, 32 * MIB - low);
    read_all(&file);
    cache.set_capacity(8 * MIB).unwrap();
    cache.relieve();
    assert_eq!(cache.capacity(), 8 * MIB);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_limit_is_followed_as_it_changes_and_vanishes() {
    let groups = Groups::new("0::/app\n");
    let at = |file: &str| format!("sys/fs/cgroup/app/{file}");
    groups.write(&at("memory.max"), &"max");
    groups.write(&at("memory.current"), &(60 << 20));
    let pressure = groups.pressure().grow_rate(u64::MAX);
    let (cache, file) = full(pressure, 0);
    assert_eq!((cache.relieve(), cache.capacity()), (0, 32 * MIB), "no limit");
    groups.write(&at("memory.max"), &(64 << 20));
    assert!(cache.relieve() >= 8 * MIB);
    let by_max = cache.capacity();
    groups.write(&at("memory.high"), &(32 << 20));
    groups.write(&at("memory.current"), &(48 << 20));
    cache.relieve();
    assert!(cache.capacity() < by_max && cache.capacity() >= 2 * MIB);
    groups.write(&at("memory.high"), &"max");
    groups.write(&at("memory.current"), &(10 << 20));
    thread::sleep(Duration::from_millis(2));
    cache.relieve();
    assert_eq!(cache.capacity(), 32 * MIB);
    groups.write(&at("memory.max"), &0);
    cache.relieve();
    assert_eq!(cache.capacity(), 2 * MIB, "a limit of 0 leaves the floor");
    fs::remove_dir_all(groups.0.path().join("sys")).unwrap();
    thread::sleep(Duration::from_millis(2));
    cache.relieve();
    assert_eq!(cache.capacity(), 32 * MIB, "a group that vanished limits nothing");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_thread_follows_the_limits_of_version_1() {
    let groups = Groups::new("4:memory:/box/app\n1:cpu:/\n0::/\n");
    let at = |file: &str| format!("sys/fs/cgroup/memory/box/{file}");
    groups.write(&at("memory.limit_in_bytes"), &9_223_372_036_854_771_712_u64);
    groups.write(&at("memory.usage_in_bytes"), &(100 << 20));
    let (cache, file) = full(groups.pressure().grow_rate(1 << 40), 2);
    groups.write(&at("memory.limit_in_bytes"), &(104 << 20));
    eventually("a limit", || cache.capacity() < 32 * MIB);
    groups.write(&at("memory.limit_in_bytes"), &(400 << 20));
    eventually("room", || cache.capacity() == 32 * MIB);
    drop(file);
    cache.set_io_threads(0);
    groups.write(&at("memory.limit_in_bytes"), &0);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(cache.capacity(), 32 * MIB, "no thread");
    cache.set_io_threads(2);
    drop(cache.open_backing(Arc::new(Memory::new(&[1]))).unwrap());
    eventually("an open starts it again", || cache.capacity() == 2 * MIB);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

#[test]
fn pinned_pages_stay_and_the_rest_is_given() {
    let handle = PressureHandle::new().unwrap();
    let (cache, file) = full(Pressure::new().source(handle.clone()), 0);
    let pinned: Vec<_> = (0..file.len())
        .step_by(4096 * 32)
        .map(|offset| file.page(offset).unwrap().unwrap())
        .collect();
    handle.set_room(0, 100 << 20);
    cache.relieve();
    let reached = cache.capacity();
    assert!(reached > 2 * MIB, "the pins hold blocks");
    assert!(pinned.iter().all(|page| page[..] == [7; 4096]));
    read_all(&file);
    drop(pinned);
    thread::sleep(Duration::from_millis(1));
    assert!(cache.relieve() > 0);
    assert_eq!(cache.capacity(), 2 * MIB);
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn a_rate_slows_the_shrinking_down() {
    let handle = PressureHandle::new().unwrap();
    let slow = Pressure::new().source(handle.clone()).shrink_rate(4 << 20);
    let (cache, file) = full(slow, 0);
    handle.set_room(0, 100 << 20);
    assert_eq!(cache.relieve(), 4 * MIB, "one second's worth at first");
    assert_eq!(cache.relieve(), 0, "half a second has not passed");
    drop(file);
    assert_nothing_leaked(&cache);
}

#[test]
fn impossible_rules_are_refused_and_say_why() {
    let build = |pressure| Cache::builder().capacity(4 * MIB).pressure(pressure).build();
    let error = build(Pressure::new().floor(8 * MIB)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("8388608") && error.to_string().contains("4194304"));
    let error = build(Pressure::new().shrink_rate(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("cannot give memory back"), "{error}");
}

/// A source of a program. Panics at its first reading.
#[derive(Debug)]
struct Panics(Arc<AtomicUsize>);

impl PressureSource for Panics {
    fn read(&mut self, has_event: bool) -> Reading {
        assert!(!has_event, "it has no descriptor");
        assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "as the test wants");
        Reading { signal: false, headrooms: vec![Headroom { limit: 0, used: 100 << 20 }] }
    }
}

#[test]
fn a_source_that_panics_is_read_again() {
    let reads = Arc::new(AtomicUsize::new(0));
    let (cache, file) = full(Pressure::new().source(Panics(Arc::clone(&reads))), 2);
    eventually("a reading after the panic", || cache.capacity() == 2 * MIB);
    drop(file);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

#[test]
fn signals_in_a_storm_while_files_are_read_and_written() {
    let handle = PressureHandle::new().unwrap();
    let pressure = Pressure::new().source(handle.clone()).hold(Duration::ZERO);
    let (cache, file) = full(pressure.grow_rate(1 << 30), 4);
    let end = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0_u64.. {
                handle.signal();
                handle.set_room(64 << 20, (n % 64) << 20);
                if Instant::now() > end {
                    break;
                }
            }
            handle.clear_room();
        });
        scope.spawn(|| {
            while Instant::now() < end {
                file.write_all_at(&[7; 4096], 4096 * 11).unwrap();
                file.sync_data().unwrap();
                _ = cache.set_capacity(24 * MIB);
                cache.relieve();
            }
        });
        while Instant::now() < end {
            read_all(&file);
            assert!(cache.capacity() <= 32 * MIB && cache.capacity() >= 2 * MIB);
        }
    });
    assert!(cache.stats().pressure_signals > 0 && cache.stats().given_back_bytes > 0);
    assert!(cache.capacity() <= 24 * MIB, "what the user set holds");
    drop(file);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}

#[test]
fn the_system_is_a_source_here_too() {
    let (cache, file) = full(Pressure::system(), 2);
    assert!(Path::new("/proc/meminfo").exists());
    // A trigger that is ready all the time would signal in each reading.
    let ((), before) = (thread::sleep(Duration::from_millis(200)), cache.stats());
    cache.relieve();
    thread::sleep(Duration::from_millis(200));
    assert!((cache.stats() - before).pressure_signals <= 2, "{:?}", cache.stats());
    read_all(&file);
    drop(file);
    cache.quiesce();
    assert_nothing_leaked(&cache);
}
