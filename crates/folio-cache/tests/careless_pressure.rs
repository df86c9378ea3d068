//! Memory pressure from careless sources, and by rules at their extremes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{assert_nothing_leaked, eventually};
use folio_cache::pressure::{Headroom, Pressure, PressureHandle, PressureSource, Reading, Wait};
use folio_cache::testing::Memory;
use folio_cache::{Cache, File};

const MIB: usize = 1 << 20;

/// Returns a cache of 32 MiB, and a file that fills it.
fn full(pressure: Pressure, threads: usize) -> (Cache, File) {
    let builder = Cache::builder().capacity(32 * MIB).pressure(pressure);
    let cache = builder.io_threads(threads).build().unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 30 * MIB]))).unwrap();
    for offset in (0..file.len()).step_by(4096) {
        file.read_exact_at(&mut [0; 64], offset).unwrap();
    }
    (cache, file)
}

/// A source that panics at each call but the first of `wait`.
#[derive(Debug)]
struct Panics(PressureHandle, AtomicU64);

impl PressureSource for Panics {
    fn wait(&self) -> Option<Wait<'_>> {
        assert_eq!(self.1.fetch_add(1, Ordering::Relaxed), 0, "as the test wants");
        self.0.wait()
    }

    fn read(&mut self, _: bool) -> Reading {
        panic!("as the test wants");
    }
}

#[test]
fn a_source_that_always_panics_keeps_no_other_from_being_read() {
    for threads in [0, 2] {
        let handle = PressureHandle::new().unwrap();
        let bad = || Panics(PressureHandle::new().unwrap(), AtomicU64::new(0));
        let pressure = Pressure::new().source(bad()).source(handle.clone()).source(bad());
        let (cache, file) = full(pressure, threads);
        handle.set_room(0, 100 << 20);
        if threads == 0 {
            cache.relieve();
        }
        eventually("memory is given back", || cache.capacity() == 2 * MIB);
        drop(file);
        cache.quiesce();
        assert_nothing_leaked(&cache);
    }
}

#[test]
fn a_rate_below_a_block_a_second_shrinks_too() {
    let handle = PressureHandle::new().unwrap();
    let slow = Pressure::new().source(handle.clone()).shrink_rate(1 << 20);
    let (cache, file) = full(slow, 0);
    handle.set_room(0, 100 << 20);
    assert_eq!(cache.relieve(), 2 * MIB, "at least a block at first");
    assert_eq!(cache.relieve(), 0);
    thread::sleep(Duration::from_millis(2100));
    assert_eq!(cache.relieve(), 2 * MIB, "1 MiB a second, for two seconds");
    drop(file);
    assert_nothing_leaked(&cache);
}

/// A source of any nonsense.
#[derive(Debug)]
struct Nonsense(fastrand::Rng, PressureHandle);

impl PressureSource for Nonsense {
    fn wait(&self) -> Option<Wait<'_>> {
        // Has an event for ever: the first signal is never read.
        self.1.wait()
    }

    fn read(&mut self, _: bool) -> Reading {
        let Self(random, handle) = self;
        handle.signal();
        let bytes = |random: &mut fastrand::Rng| match random.u8(..4) {
            0 => 0,
            1 => u64::MAX - random.u64(..3),
            2 => random.u64(..64 << 20),
            _ => random.u64(..) >> random.u8(..64),
        };
        let headrooms = (0..random.usize(..4))
            .map(|_| Headroom { limit: bytes(random), used: bytes(random) })
            .collect();
        Reading { signal: random.bool(), headrooms }
    }
}

#[test]
fn nonsense_of_a_source_keeps_the_capacity_within_its_bounds() {
    for seed in 0..6 {
        let random = fastrand::Rng::with_seed(seed);
        let source = Nonsense(random, PressureHandle::new().unwrap());
        let mut pressure = Pressure::new().source(source).hold(Duration::ZERO);
        pressure = match seed {
            0 => pressure.reserve(usize::MAX).grow_rate(u64::MAX),
            1 => pressure.reserve(0).grow_rate(u64::MAX).shrink_rate(u64::MAX),
            2 => pressure.floor(32 * MIB).grow_rate(u64::MAX),
            3 => pressure.floor(0).shrink_rate(1).grow_rate(1),
            4 => pressure.hold(Duration::MAX).floor(3 * MIB + 1),
            _ => pressure.grow_rate(1 << 30),
        };
        let (cache, file) = full(pressure, seed as usize % 2 * 2);
        for n in 0..300 {
            cache.relieve();
            file.read_exact_at(&mut [0; 64], n * 4096).unwrap();
            let most = if n < 150 { 32 * MIB } else { 16 * MIB };
            assert!((2 * MIB..=most).contains(&cache.capacity()), "{seed}: {}", cache.capacity());
            if n == 149 {
                cache.set_capacity(16 * MIB).unwrap();
            }
        }
        drop(file);
        cache.quiesce();
        assert_nothing_leaked(&cache);
    }
}
