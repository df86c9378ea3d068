//! The batches of new pages under the schedules of shuttle: the policy is informed of each page
//! once, whatever threads miss, reclaim and end at the same time.

use std::ops::Range;
use std::sync::Arc;

use folio_cache::policy::{FrameState, Frames, Policy};
use folio_cache::testing::Memory;
use folio_cache::{Cache, File};
use folio_frames::FRAME_SIZE;
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::step;
use parking_lot::Mutex;

use crate::common::assert_nothing_leaked;
use crate::{RANDOM, read};

/// A policy that notes the pages that it is informed of, and names the frames of which it was
/// informed, oldest first. Other threads may run while it is informed.
#[derive(Debug, Default)]
struct Noting {
    informed: Arc<Mutex<Vec<u32>>>,
    frames: Vec<u32>,
}

impl Policy for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn insert(&mut self, _: &dyn Frames, frame: u32, page: u64) {
        self.informed.lock().push(page as u32);
        self.frames.push(frame);
        step();
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        while victims.len() < wanted && !self.frames.is_empty() {
            let frame = self.frames.remove(0);
            if matches!(frames.inspect(frame), FrameState::Evictable(_)) {
                victims.push(frame);
            }
        }
    }

    fn restore(&mut self, frame: u32) {
        self.frames.push(frame);
    }

    fn moved(&mut self, _: u32, _: u32) {}

    fn resize(&mut self, _: u32) {}
}

/// A miss of each page, in order.
fn miss(file: &File, pages: Range<u8>) {
    for page in pages {
        let (n, bytes) = read::<2048>(file, u64::from(page) * FRAME_SIZE as u64 + 5);
        assert!(n == 2048 && bytes == [page + 1; 2048], "page {page}");
    }
}

/// Threads that miss, and a thread that reclaims. They end with entries in their batches. The
/// policy is informed of each miss once.
fn misses_against_reclaim(search: Search, pages: &'static [Range<u8>]) {
    explore("misses against reclaim", search, move || {
        let policy = Noting::default();
        let informed = Arc::clone(&policy.informed);
        let cache = Cache::builder().capacity(2 << 20).policy(move |_| Box::new(policy));
        let cache = cache.build().expect("memory for a test");
        let contents: Vec<u8> = (1..=16).flat_map(|page| [page; FRAME_SIZE]).collect();
        let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
        let mut threads: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for pages in pages {
            let file = file.clone();
            threads.push(Box::new(move || miss(&file, pages.clone())));
        }
        let reclaiming = cache.clone();
        threads.push(Box::new(move || assert!(reclaiming.reclaim(1) <= 1)));
        race(threads);
        // No victim is left when all pages are asked for: the policy was informed of all.
        let cached = cache.stats().misses - cache.stats().reclaimed;
        assert_eq!(cache.reclaim(16) as u64, cached, "a page was not to be had");
        // Some pages may be read ahead.
        let informed = informed.lock();
        assert_eq!(informed.len() as u64, cache.stats().misses, "{informed:?}");
        for page in pages.iter().cloned().flatten().map(u32::from) {
            assert!(informed.contains(&page), "no page {page} in {informed:?}");
        }
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

const TWO: &[Range<u8>] = &[0..2, 8..10];

/// More than each batch has room for.
const MANY: &[Range<u8>] = &[0..7, 8..15];

#[test]
fn a_policy_is_informed_of_each_miss_once() {
    misses_against_reclaim(deeper(1), &[0..2]);
    misses_against_reclaim(deeper(1), TWO);
    misses_against_reclaim(RANDOM, MANY);
}
