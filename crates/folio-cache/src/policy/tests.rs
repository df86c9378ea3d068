//! Policies without a cache: the pages that each keeps and evicts, on traces with an outcome that
//! follows from its description.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::*;

/// A cache of numbers instead of pages, which asks a policy and follows its answers.
pub(super) struct Numbers {
    policy: Box<dyn Policy>,
    /// The pages that are evicted when there is no empty frame.
    pub(super) batch: usize,
    frames: Table,
    empty: Vec<u32>,
    pub(super) found: HashMap<u64, u32>,
}

/// The frames, and the number of pages that came or were used first.
struct Table(RefCell<Vec<Frame>>, Cell<u32>);

/// The page, `true` if it is pinned, its uses, and the time of the last one that was counted.
type Frame = (Option<u64>, bool, u8, u32);

impl Table {
    /// Counts a use, as a hit does.
    fn use_frame(&self, frame: u32) {
        let mut frames = self.0.borrow_mut();
        let (.., uses, time) = &mut frames[frame as usize];
        self.1.set(self.1.get() + u32::from(*uses == 0));
        if *uses < 3 {
            (*uses, *time) = (*uses + 1, self.1.get());
        }
    }

    /// Returns the number of pages that come or are used first in one unit of time.
    fn unit(&self) -> u32 {
        (self.count() / 32).max(1)
    }
}

impl Frames for Table {
    fn count(&self) -> u32 {
        self.0.borrow().len() as u32
    }

    fn inspect(&self, frame: u32) -> FrameState {
        match self.0.borrow()[frame as usize] {
            (None, ..) => FrameState::NotCached,
            (Some(_), true, ..) => FrameState::Pinned,
            (Some(page), false, ..) => FrameState::Evictable(page),
        }
    }

    fn take_referenced(&self, frame: u32) -> bool {
        std::mem::take(&mut self.0.borrow_mut()[frame as usize].2) > 0
    }

    fn take_uses(&self, frame: u32) -> Option<Uses> {
        let unit = self.unit();
        let (.., uses, time) = &mut self.0.borrow_mut()[frame as usize];
        let age = self.1.get() / unit - *time / unit;
        Some(Uses { count: std::mem::take(uses), age: (age % 64) as u8 })
    }

    fn now(&self) -> u32 {
        self.1.get() / self.unit()
    }
}

impl Numbers {
    pub(super) fn new(frames: u32, policy: Box<dyn Policy>) -> Self {
        let table = Table(RefCell::new(vec![Frame::default(); frames as usize]), Cell::new(0));
        Self {
            policy,
            batch: 4,
            frames: table,
            empty: (0..frames).rev().collect(),
            found: HashMap::new(),
        }
    }

    /// Evicts up to `wanted` pages. Returns the number evicted.
    fn reclaim(&mut self, wanted: usize) -> usize {
        let mut victims = Vec::new();
        self.policy.pick_victims(&self.frames, wanted, &mut victims);
        for &frame in &victims {
            self.leave(frame);
        }
        victims.len()
    }

    /// Removes the page of a frame, evicted or not.
    fn leave(&mut self, frame: u32) {
        let (page, pinned, ..) = std::mem::take(&mut self.frames.0.borrow_mut()[frame as usize]);
        let page = page.expect("each page is removed once");
        assert!(!pinned, "a pinned page was evicted");
        self.found.remove(&page);
        self.empty.push(frame);
    }

    /// Uses a page. Returns `true` for a hit.
    pub(super) fn use_page(&mut self, page: u64) -> bool {
        if let Some(&frame) = self.found.get(&page) {
            self.frames.use_frame(frame);
            return true;
        }
        if self.empty.is_empty() {
            self.reclaim(self.batch);
        }
        let frame = self.empty.pop().expect("a page is evictable");
        self.frames.0.borrow_mut()[frame as usize] = (Some(page), false, 0, 0);
        self.frames.1.set(self.frames.1.get() + 1);
        self.found.insert(page, frame);
        self.policy.insert(&self.frames, frame, page);
        false
    }

    /// Uses the pages of a trace. Returns the hit ratio.
    fn run(&mut self, trace: impl Iterator<Item = u64>) -> f64 {
        let (mut hits, mut all) = (0, 0);
        for page in trace {
            hits += u32::from(self.use_page(page));
            all += 1;
        }
        f64::from(hits) / f64::from(all)
    }
}

/// Returns each policy.
fn policies(frames: u32) -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Clock::new()),
        Box::new(Sieve::new(frames)),
        Box::new(S3Fifo::new(frames)),
        Box::new(HotCold::new(frames)),
    ]
}

#[test]
fn each_policy_evicts_the_evictable_pages_and_no_others() {
    for policy in policies(64) {
        let mut numbers = Numbers::new(64, policy);
        numbers.run(0..64);
        for frame in 0..64 {
            numbers.frames.0.borrow_mut()[frame].1 = frame % 4 == 0;
            numbers.frames.0.borrow_mut()[frame].2 = u8::from(frame % 3 == 0);
        }
        let name = numbers.policy.name();
        assert_eq!(numbers.reclaim(40), 40, "{name}");
        assert_eq!(numbers.reclaim(40), 8, "{name}");
        assert_eq!(numbers.reclaim(40), 0, "{name}: all pages left are pinned");
        for frame in 0..64 {
            numbers.frames.0.borrow_mut()[frame].1 = false;
        }
        assert_eq!(numbers.reclaim(40), 16, "{name}: no page is pinned any more");
    }
}

/// S3-FIFO must not count frames that it drops from its small queue as visits of frames in it:
/// otherwise it ends with pages unvisited.
#[test]
fn what_left_unseen_hides_no_page() {
    for policy in policies(8) {
        let mut numbers = Numbers::new(8, policy);
        numbers.run(0..4);
        for page in [0, 2] {
            numbers.leave(numbers.found[&page]);
        }
        let name = numbers.policy.name();
        assert_eq!(numbers.reclaim(10), 2, "{name}: both pages left are evictable");
    }
}

#[test]
fn restored_victims_are_named_again() {
    for policy in policies(64) {
        let mut numbers = Numbers::new(64, policy);
        numbers.run(0..64);
        let mut victims = Vec::new();
        numbers.policy.pick_victims(&numbers.frames, 30, &mut victims);
        for frame in victims {
            numbers.policy.restore(frame);
        }
        let name = numbers.policy.name();
        assert_eq!(numbers.reclaim(64), 64, "{name}");
    }
}

/// A clock, in contrast, evicts the used pages in a few laps.
#[test]
fn a_scan_of_ten_times_the_memory_keeps_used_pages() {
    let policies: [Box<dyn Policy>; 2] = [Box::new(S3Fifo::new(100)), Box::new(HotCold::new(100))];
    for policy in policies {
        let mut numbers = Numbers::new(100, policy);
        for _ in 0..3 {
            numbers.run(0..50);
        }
        numbers.run(1000..2000);
        let name = numbers.policy.name();
        let hits = numbers.run(0..50);
        assert!(hits > 0.9, "{name}: {hits} of the pages that were used three times hit");
    }
}

/// A policy must not return a pinned page to the end of a queue that it visits next. Otherwise it
/// visits that page for all of its visits, and finds no victim in a cache full of evictable pages.
#[test]
fn one_held_page_hides_no_other() {
    for pinned in 0..100 {
        for policy in policies(100) {
            let mut cache = Numbers::new(100, policy);
            cache.run(0..300);
            cache.frames.0.borrow_mut()[pinned].1 = true;
            while cache.empty.len() < 99 {
                assert!(
                    cache.reclaim(1) == 1,
                    "{} pages are left, one of them pinned: {:?}",
                    100 - cache.empty.len(),
                    cache.policy
                );
            }
            assert_eq!(cache.reclaim(1), 0, "the pinned page was evicted: {:?}", cache.policy);
        }
    }
}

#[test]
fn pages_that_leave_unseen_or_move_are_not_forgotten() {
    for policy in policies(64) {
        let mut numbers = Numbers::new(64, policy);
        let name = numbers.policy.name();
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        // The policy is informed of moves, but late.
        let mut moved = Vec::new();
        for _ in 0..20_000 {
            if random.u32(..3) == 0
                && let Some((from, to)) = moved.pop()
            {
                numbers.policy.moved(&numbers.frames, from, to);
            }
            match random.u32(..10) {
                0 => {
                    let frame = random.u32(..64);
                    if numbers.frames.0.borrow()[frame as usize].0.is_some() {
                        numbers.leave(frame);
                    }
                }
                1 => {
                    let from = random.u32(..64);
                    let taken = numbers.frames.0.borrow()[from as usize];
                    if let Some(page) = taken.0
                        && let Some(to) = numbers.empty.pop()
                    {
                        numbers.leave(from);
                        numbers.frames.0.borrow_mut()[to as usize] = taken;
                        numbers.found.insert(page, to);
                        moved.push((from, to));
                    }
                }
                2 => {
                    numbers.reclaim(1);
                    let frame = random.u32(..64);
                    let there = numbers.frames.0.borrow()[frame as usize].0;
                    if let Some(page) = there {
                        numbers.policy.evicted_with(frame, page);
                        numbers.leave(frame);
                    }
                }
                _ => {
                    numbers.use_page(random.u64(..100));
                }
            }
            assert_eq!(numbers.found.len() + numbers.empty.len(), 64, "{name}, seed {seed}");
        }
        for (from, to) in moved {
            numbers.policy.moved(&numbers.frames, from, to);
        }
        let left = numbers.found.len();
        assert_eq!(numbers.reclaim(1000), left, "{name}, seed {seed}: a page was forgotten");
    }
}

/// When a folio is evicted whole, its other pages stand at the front of the queue of old pages. If
/// the next pages in their frames inherited these places, they would be judged before they are
/// used. Pages that are read ahead have their referenced bit set until then, so they would become
/// hot. A scan would replace one page in 300 of the hot pages, and scatter its frames until no
/// large folio can be allocated.
#[test]
fn a_page_in_the_frame_of_a_page_evicted_with_another_is_new() {
    for policy in policies(1600) {
        let mut numbers = Numbers::new(1600, policy);
        let name = numbers.policy.name();
        numbers.run(0..1600);
        let mut victims = Vec::new();
        numbers.policy.pick_victims(&numbers.frames, 1, &mut victims);
        let victim = victims[0];
        numbers.leave(victim);
        // Frames are allocated in order, so these are the next.
        let along = victim + 1..victim + 8;
        for frame in along.clone() {
            let page = numbers.frames.0.borrow()[frame as usize].0.unwrap();
            numbers.policy.evicted_with(frame, page);
            numbers.leave(frame);
        }
        // Into the same frames, each referenced.
        numbers.run(2000..2008);
        assert!(numbers.empty.is_empty());
        for frame in along.clone() {
            numbers.frames.0.borrow_mut()[frame as usize].2 = 1;
        }
        victims.clear();
        // The small queue of S3-FIFO has one page too many.
        let wanted = if name == "s3-fifo" { 1 } else { 4 };
        numbers.policy.pick_victims(&numbers.frames, wanted, &mut victims);
        assert_eq!(
            victims,
            (along.end..along.end + wanted as u32).collect::<Vec<_>>(),
            "{name}: the oldest pages that are left"
        );
        let table = numbers.frames.0.borrow();
        assert!(
            along.clone().all(|frame| table[frame as usize].2 == 1),
            "{name}: a new page was visited"
        );
    }
}

#[test]
fn a_scan_in_small_steps_keeps_popular_pages() {
    let mut numbers = Numbers::new(1000, Box::new(HotCold::new(1000)));
    let popular = || (0..5000).map(|n| n * 7 % 900);
    numbers.run(popular());
    // Each page of the scan is used 8 times in a row.
    numbers.run((0..8 * 5000).map(|n| 10_000 + n / 8));
    let hits = numbers.run(popular().take(900));
    assert!(hits > 0.97, "{hits}");
    let mut numbers = Numbers::new(1000, Box::new(Clock::new()));
    numbers.run(popular());
    numbers.run((0..8 * 5000).map(|n| 10_000 + n / 8));
    let hits = numbers.run(popular().take(900));
    assert!(hits < 0.1, "{hits}: by its description the clock is not scan-resistant");
}

#[test]
fn a_loop_larger_than_memory_hits_near_the_optimum() {
    let mut numbers = Numbers::new(1000, Box::new(HotCold::new(1000)));
    numbers.run((0..20_000).map(|n| n % 1500));
    let hits = numbers.run((0..15_000).map(|n| (n + 500) % 1500));
    assert!(hits > 0.6, "{hits} of the possible 0.667");
}

/// The pages behind a turn are used without a miss between them. Only their times tell which of
/// them come last on the way back.
#[test]
fn a_sweep_back_and_forth_hits_near_the_optimum() {
    for pages in [1300, 1500, 2500] {
        let sweep = |n| (0..n).map(move |n| n % (2 * pages)).map(move |n| n.min(2 * pages - 1 - n));
        let run = |policy| {
            let mut numbers = Numbers::new(1000, policy);
            numbers.run(sweep(20 * pages));
            numbers.run(sweep(20 * pages))
        };
        let hits = run(Box::new(HotCold::new(1000)));
        let optimum = 1000.0 / pages as f64;
        assert!(hits > 0.9 * optimum, "{hits} of the possible {optimum}");
        let clock = run(Box::new(Clock::new()));
        assert!(pages > 2000 || clock < 0.8 * optimum, "{clock} of {optimum}");
    }
}

#[test]
fn new_popular_pages_replace_old_ones_except_in_sieve() {
    for policy in policies(1000) {
        let mut numbers = Numbers::new(1000, policy);
        let popular = |from: u64| (0..20_000).map(move |n| from + n * 7 % 800);
        numbers.run(popular(0));
        numbers.run(popular(100_000));
        let hits = numbers.run(popular(100_000).take(800));
        // The hand of SIEVE follows the new pages at the speed at which they come, and never
        // reaches the old ones.
        let is_stuck = numbers.policy.name() == "sieve";
        assert!(
            if is_stuck { hits < 0.5 } else { hits > 0.9 },
            "{}: {hits}",
            numbers.policy.name()
        );
    }
}

/// Between two calls pages leave, and others come to their frames, at the back of the queue.
#[test]
fn the_hand_of_sieve_keeps_its_place() {
    let mut numbers = Numbers::new(8, Box::new(Sieve::new(8)));
    numbers.run((0..8).chain(0..3));
    let evicts = |numbers: &mut Numbers, page| {
        assert_eq!(numbers.reclaim(1), 1);
        assert!(
            !numbers.found.contains_key(&page),
            "page {page} was not evicted: {:?}",
            numbers.found
        );
    };
    // The hand passes the three used pages.
    evicts(&mut numbers, 3);
    // A page leaves that the hand has not reached.
    numbers.leave(6);
    numbers.use_page(100);
    evicts(&mut numbers, 4);
    // The page at the hand leaves: the hand goes on from its old place, not from the frame's new
    // one.
    numbers.leave(5);
    numbers.use_page(101);
    evicts(&mut numbers, 7);
}

/// Policies get at most a hundredth of the capacity for what they know.
#[test]
fn the_policy_takes_less_than_a_hundredth() {
    for frames in [512, 3000, 16_384] {
        for policy in policies(frames) {
            let mut filled = Numbers::new(frames, policy);
            let window = (0..6 * u64::from(frames)).map(|n| n / 3 + n % 2 * 17);
            filled.run((0..3 * u64::from(frames)).chain(window));
            let name = filled.policy.name();
            let freed = allocation_counter::measure(|| drop(filled.policy));
            let each = -freed.bytes_current as f64 / f64::from(frames);
            println!("{name}: {each:.1} bytes of {frames} frames");
            assert!(each > 4.0, "{name}: {each:.1} bytes: it knows something of each frame");
            assert!(each <= 40.96, "{name}: {each:.1} bytes for each of {frames} frames");
        }
    }
}
