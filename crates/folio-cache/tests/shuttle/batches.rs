//! The batches of new pages under the schedules of shuttle: the policy is informed of each page
//! once, whatever threads miss, reclaim and end at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use folio_cache::policy::{FrameState, Frames, Policy};
use folio_cache::testing::Memory;
use folio_cache::{Cache, File};
use folio_frames::{FRAME_SIZE, Order};
use folio_ref::testing::explore::{Search, deeper, explore, race};
use folio_ref::testing::stepped::{step, yield_now};
use parking_lot::Mutex;

use crate::common::assert_nothing_leaked;
use crate::{RANDOM, read};

/// A policy that notes the pages that it is informed of, and names the frames of which it was
/// informed, oldest first. Other threads may run while it is informed.
#[derive(Debug, Default)]
struct Noting {
    informed: Arc<Mutex<Vec<u32>>>,
    frames: Vec<u32>,
    /// Called with the number of pages so far.
    pause: Option<fn(&Stage, usize)>,
    stage: Arc<Stage>,
}

/// How far a forced schedule is.
#[derive(Debug, Default)]
struct Stage(AtomicUsize);

impl Stage {
    fn reach(&self, stage: usize) {
        self.0.fetch_max(stage, Ordering::SeqCst);
    }

    /// Waits until a stage is reached, but not for ever: the thread that would reach it may wait
    /// for a lock that this thread holds.
    fn wait(&self, stage: usize) {
        for _ in 0..2000 {
            if self.0.load(Ordering::SeqCst) >= stage {
                return;
            }
            yield_now();
        }
    }
}

impl Policy for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn insert(&mut self, _: &dyn Frames, frame: u32, page: u64) {
        self.informed.lock().push(page as u32);
        self.frames.push(frame);
        match self.pause {
            Some(pause) => pause(&self.stage, self.informed.lock().len()),
            None => step(),
        }
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

    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}

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
        // One page more than there are: the policy has no victim then, and is informed of all. It
        // may have named a frame for the page before, and is informed of a page that has left.
        let cached = cache.stats().misses - cache.stats().reclaimed;
        assert_eq!(cache.reclaim(17) as u64, cached, "a page was not to be had");
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

/// A batch with two entries is taken by another thread, which pauses after the first. Meanwhile the
/// batch's own thread adds as many as find a place. The second entry is still there.
fn a_batch_fills_while_it_is_taken() {
    // In no equal steps, so that nothing is read ahead.
    const FIRST: [u64; 2] = [0, 5];
    const THEN: [u64; 4] = [17, 38, 70, 120];
    const OTHERS: [u64; 2] = [200, 260];
    let search = Search::Pct { depth: 2, executions: 30, seed: 1 };
    explore("a batch fills while it is taken", search, || {
        let policy = Noting {
            pause: Some(|stage, pages| match pages {
                // The lock is held until the other batch is due.
                1 => {
                    stage.reach(1);
                    stage.wait(2);
                }
                3 => {
                    stage.reach(4);
                    stage.wait(5);
                }
                _ => {}
            }),
            ..Noting::default()
        };
        let (informed, stage) = (Arc::clone(&policy.informed), Arc::clone(&policy.stage));
        let cache = Cache::builder().capacity(2 << 20).policy(move |_| Box::new(policy));
        let cache = cache.build().expect("memory for a test");
        let contents = vec![7; 300 * FRAME_SIZE];
        let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
        let miss = |file: &File, pages: &[u64]| {
            for page in pages {
                assert_eq!(read::<16>(file, page * FRAME_SIZE as u64), (16, [7; 16]));
            }
        };
        let (adding, other) = ((file.clone(), Arc::clone(&stage)), Arc::clone(&stage));
        let (file_of_other, taking) = (file.clone(), (cache.clone(), stage));
        race(vec![
            Box::new(move || {
                let (file, stage) = adding;
                stage.wait(1);
                miss(&file, &FIRST);
                stage.reach(2);
                stage.wait(4);
                miss(&file, &THEN);
                stage.reach(5);
            }),
            Box::new(move || {
                miss(&file_of_other, &OTHERS);
                other.reach(3);
            }),
            Box::new(move || {
                let (cache, stage) = taking;
                stage.wait(3);
                // The first choice sees the entries, the second takes them.
                (0..2).for_each(|_| assert_eq!(cache.reclaim(1), 1));
            }),
        ]);
        while cache.reclaim(16) > 0 {}
        let mut informed = std::mem::take(&mut *informed.lock());
        informed.sort_unstable();
        let missed = [&FIRST[..], &THEN, &OTHERS].concat();
        assert!(informed.iter().map(|&page| u64::from(page)).eq(missed), "{informed:?}");
        drop(file);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn an_entry_keeps_its_place_until_it_is_read() {
    a_batch_fills_while_it_is_taken();
}

/// A policy that notes the pages of which it was informed for each frame, and those that it was
/// informed of too late: they went with a victim, and their frame had another page by then.
#[derive(Debug, Default)]
struct Checking {
    pages: BTreeMap<u32, Vec<u64>>,
    named: BTreeSet<u32>,
    late: Arc<Mutex<Vec<u64>>>,
}

impl Policy for Checking {
    fn name(&self) -> &'static str {
        "checking"
    }

    fn insert(&mut self, _: &dyn Frames, frame: u32, page: u64) {
        self.named.remove(&frame);
        self.pages.entry(frame).or_default().push(page);
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        for &frame in self.pages.keys() {
            frames.take_referenced(frame);
            if victims.len() < wanted
                && matches!(frames.inspect(frame), FrameState::Evictable(_))
                && self.named.insert(frame)
            {
                victims.push(frame);
            }
        }
    }

    fn evicted_with(&mut self, frame: u32, page: u64) {
        let pages = self.pages.get(&frame).map_or(&[][..], Vec::as_slice);
        if pages.contains(&page) && pages.last() != Some(&page) {
            self.late.lock().push(page);
        }
    }

    fn restore(&mut self, frame: u32) {
        self.named.remove(&frame);
    }

    fn moved(&mut self, _: &dyn Frames, _: u32, _: u32) {}

    fn resize(&mut self, _: u32) {}
}

/// A thread evicts a large folio, and another one misses pages, of which one needs a frame of that
/// folio. The policy is informed of the pages of the folio before it is informed of that page.
fn a_folio_is_evicted_while_its_frames_are_wanted(search: Search) {
    explore("a folio is evicted while its frames are wanted", search, || {
        let policy = Checking::default();
        let late = Arc::clone(&policy.late);
        let cache = Cache::builder().capacity(2 << 20).policy(move |_| Box::new(policy));
        let cache = cache.build().expect("memory for a test");
        let contents: Vec<u8> = (1..=32).flat_map(|page| [page; FRAME_SIZE]).collect();
        let file = cache.open_backing(Arc::new(Memory::new(&contents))).unwrap();
        // Four frames are left for the folio, and one more.
        let taken = cache.frames().alloc_contig(507, Order::ZERO).expect("no frame is pinned");
        assert_eq!(read::<{ 4 * FRAME_SIZE }>(&file, 0).0, 4 * FRAME_SIZE);
        let (evicting, missing) = (cache.clone(), (cache.clone(), file.clone()));
        race(vec![
            Box::new(move || assert!(evicting.reclaim(4) <= 6)),
            Box::new(move || {
                let (cache, file) = missing;
                // In no equal steps, so that nothing is read ahead.
                for page in [9, 14, 30] {
                    let mut buf = [0; 16];
                    // There is no memory while the other thread has the folio in its hands.
                    if file.read_at(&mut buf, page * FRAME_SIZE as u64).is_ok() {
                        assert_eq!(buf, [page as u8 + 1; 16], "page {page}");
                    }
                }
                assert!(cache.reclaim(1) <= 1);
            }),
        ]);
        let late = late.lock();
        assert!(late.is_empty(), "the policy was informed too late of {late:?}");
        drop(file);
        taken.free();
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn the_policy_is_informed_before_a_frame_is_used_again() {
    a_folio_is_evicted_while_its_frames_are_wanted(deeper(1));
    a_folio_is_evicted_while_its_frames_are_wanted(RANDOM);
}
