//! Policies without a cache: what each keeps and what it lets go, on traces whose outcome follows
//! from its description.

use std::cell::RefCell;
use std::collections::HashMap;

use super::*;

/// A cache of numbers: what a policy is asked about, and what becomes of its answers.
struct Numbers {
    policy: Box<dyn Policy>,
    frames: Table,
    empty: Vec<u32>,
    found: HashMap<u64, u32>,
}

/// By frame: the page, whether it is held, whether it is marked.
struct Table(RefCell<Vec<(Option<u64>, bool, bool)>>);

impl Frames for Table {
    fn count(&self) -> u32 {
        self.0.borrow().len() as u32
    }

    fn look(&self, frame: u32) -> FrameState {
        match self.0.borrow()[frame as usize] {
            (None, ..) => FrameState::NotCached,
            (Some(_), true, _) => FrameState::Pinned,
            (Some(page), false, _) => FrameState::Evictable(page),
        }
    }

    fn take_referenced(&self, frame: u32) -> bool {
        std::mem::take(&mut self.0.borrow_mut()[frame as usize].2)
    }
}

impl Numbers {
    fn new(frames: u32, policy: Box<dyn Policy>) -> Self {
        let table = Table(RefCell::new(vec![(None, false, false); frames as usize]));
        Self { policy, frames: table, empty: (0..frames).rev().collect(), found: HashMap::new() }
    }

    fn reclaim(&mut self, wanted: usize) -> usize {
        let mut victims = Vec::new();
        self.policy.pick_victims(&self.frames, wanted, &mut victims);
        for &frame in &victims {
            self.leave(frame);
        }
        victims.len()
    }

    /// Its page leaves, by choice or not.
    fn leave(&mut self, frame: u32) {
        let (page, held, _) = std::mem::take(&mut self.frames.0.borrow_mut()[frame as usize]);
        let page = page.expect("a page is there, and nobody took it twice");
        assert!(!held, "a held page was taken");
        self.found.remove(&page);
        self.empty.push(frame);
    }

    /// Whether it was there.
    fn use_page(&mut self, page: u64) -> bool {
        if let Some(&frame) = self.found.get(&page) {
            self.frames.0.borrow_mut()[frame as usize].2 = true;
            return true;
        }
        if self.empty.is_empty() {
            self.reclaim(4);
        }
        let frame = self.empty.pop().expect("something could go");
        self.frames.0.borrow_mut()[frame as usize] = (Some(page), false, false);
        self.found.insert(page, frame);
        self.policy.insert(&self.frames, frame, page);
        false
    }

    /// The share of hits.
    fn run(&mut self, trace: impl Iterator<Item = u64>) -> f64 {
        let (mut hits, mut all) = (0, 0);
        for page in trace {
            hits += u32::from(self.use_page(page));
            all += 1;
        }
        f64::from(hits) / f64::from(all)
    }
}

fn policies(frames: u32) -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Clock::new()),
        Box::new(Sieve::new(frames)),
        Box::new(S3Fifo::new(frames)),
        Box::new(HotCold::new(frames)),
    ]
}

#[test]
fn every_policy_takes_only_what_can_go_and_all_of_it() {
    for policy in policies(64) {
        let mut numbers = Numbers::new(64, policy);
        numbers.run(0..64);
        for frame in 0..64 {
            numbers.frames.0.borrow_mut()[frame].1 = frame % 4 == 0;
            numbers.frames.0.borrow_mut()[frame].2 = frame % 3 == 0;
        }
        let name = numbers.policy.name();
        assert_eq!(numbers.reclaim(40), 40, "{name}");
        assert_eq!(numbers.reclaim(40), 8, "{name}");
        assert_eq!(numbers.reclaim(40), 0, "{name}: all that is left is held");
        for frame in 0..64 {
            numbers.frames.0.borrow_mut()[frame].1 = false;
        }
        assert_eq!(numbers.reclaim(40), 16, "{name}: held no more");
    }
}

/// S3-FIFO took what it threw out of its small queue for a look at what is still in it, and ended
/// with pages unseen.
#[test]
fn what_left_unseen_hides_no_page() {
    for policy in policies(8) {
        let mut numbers = Numbers::new(8, policy);
        numbers.run(0..4);
        for page in [0, 2] {
            numbers.leave(numbers.found[&page]);
        }
        let name = numbers.policy.name();
        assert_eq!(numbers.reclaim(10), 2, "{name}: both that are left can go");
    }
}

#[test]
fn what_could_not_be_taken_is_named_again() {
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

/// What tells the two from a clock, which lets what was used go in a few laps.
#[test]
fn a_scan_of_ten_times_the_memory_leaves_what_was_used_before() {
    let policies: [Box<dyn Policy>; 2] = [Box::new(S3Fifo::new(100)), Box::new(HotCold::new(100))];
    for policy in policies {
        let mut numbers = Numbers::new(100, policy);
        for _ in 0..3 {
            numbers.run(0..50);
        }
        numbers.run(1000..2000);
        let name = numbers.policy.name();
        let hits = numbers.run(0..50);
        assert!(hits > 0.9, "{name}: {hits} of what was used three times is there");
    }
}

/// Hot and cold put a held page back at the end that it looks at first: with nothing else there it
/// met that one page for as long as it looked, and found nothing in a cache full of pages that
/// could go. Torture saw its readers stand still, then run out of memory.
#[test]
fn one_held_page_hides_no_other() {
    for held in 0..100 {
        for policy in policies(100) {
            let mut cache = Numbers::new(100, policy);
            cache.run(0..300);
            cache.frames.0.borrow_mut()[held].1 = true;
            while cache.empty.len() < 99 {
                assert!(
                    cache.reclaim(1) == 1,
                    "{} pages left, one of them held: {:?}",
                    100 - cache.empty.len(),
                    cache.policy
                );
            }
            assert_eq!(cache.reclaim(1), 0, "the held page was taken: {:?}", cache.policy);
        }
    }
}

#[test]
fn pages_that_leave_unseen_and_move_do_not_confuse_a_policy() {
    for policy in policies(64) {
        let mut numbers = Numbers::new(64, policy);
        let name = numbers.policy.name();
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        // It is told of moves, but late.
        let mut moved = Vec::new();
        for _ in 0..20_000 {
            if random.u32(..3) == 0
                && let Some((from, to)) = moved.pop()
            {
                numbers.policy.moved(from, to);
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
            numbers.policy.moved(from, to);
        }
        let left = numbers.found.len();
        assert_eq!(numbers.reclaim(1000), left, "{name}, seed {seed}: something was forgotten");
    }
}

/// A folio went whole when one of its pages was chosen, and the others' places in the queue of old
/// pages, at its very front, were inherited by what was read into their frames: it was judged
/// before it was used, and, as what is read ahead counts as marked until then, became hot. A
/// scan that only passed changed one page in 300 of what is hot, until its frames lay scattered and
/// large folios were not to be had.
#[test]
fn who_comes_to_the_frame_of_a_page_that_went_along_is_new() {
    // A clock's place is the frame's.
    for policy in policies(800).into_iter().filter(|policy| policy.name() != "clock") {
        let mut numbers = Numbers::new(800, policy);
        let name = numbers.policy.name();
        numbers.run(0..800);
        let mut victims = Vec::new();
        numbers.policy.pick_victims(&numbers.frames, 1, &mut victims);
        let victim = victims[0];
        numbers.leave(victim);
        // Frames are given out in their order, so these are the next.
        let along = victim + 1..victim + 16;
        for frame in along.clone() {
            let page = numbers.frames.0.borrow()[frame as usize].0.unwrap();
            numbers.policy.evicted_with(frame, page);
            numbers.leave(frame);
        }
        // Into the same frames, each marked.
        numbers.run(1000..1016);
        assert!(numbers.empty.is_empty());
        for frame in along.clone() {
            numbers.frames.0.borrow_mut()[frame as usize].2 = true;
        }
        victims.clear();
        numbers.policy.pick_victims(&numbers.frames, 4, &mut victims);
        assert_eq!(
            victims,
            (along.end..along.end + 4).collect::<Vec<_>>(),
            "{name}: the oldest that are left"
        );
        let table = numbers.frames.0.borrow();
        assert!(
            along.clone().all(|frame| table[frame as usize].2),
            "{name}: something new was looked at"
        );
    }
}

#[test]
fn a_scan_in_small_steps_takes_nothing_that_is_used_again() {
    let mut numbers = Numbers::new(1000, Box::new(HotCold::new(1000)));
    let popular = || (0..5000).map(|n| n * 7 % 900);
    numbers.run(popular());
    // Each page of the scan is used 8 times, one after the other.
    numbers.run((0..8 * 5000).map(|n| 10_000 + n / 8));
    let hits = numbers.run(popular().take(900));
    assert!(hits > 0.97, "{hits}");
    let mut numbers = Numbers::new(1000, Box::new(Clock::new()));
    numbers.run(popular());
    numbers.run((0..8 * 5000).map(|n| 10_000 + n / 8));
    let hits = numbers.run(popular().take(900));
    assert!(hits < 0.1, "{hits}: the clock is not scan-resistant, says its description");
}

#[test]
fn of_a_loop_larger_than_memory_most_that_could_stay_stays() {
    let mut numbers = Numbers::new(1000, Box::new(HotCold::new(1000)));
    numbers.run((0..20_000).map(|n| n % 1500));
    let hits = numbers.run((0..15_000).map(|n| (n + 500) % 1500));
    assert!(hits > 0.6, "{hits} of the 0.667 that is possible");
}

#[test]
fn what_is_new_and_used_again_replaces_what_is_not_used_any_more() {
    for policy in policies(1000) {
        let mut numbers = Numbers::new(1000, policy);
        let popular = |from: u64| (0..20_000).map(move |n| from + n * 7 % 800);
        numbers.run(popular(0));
        numbers.run(popular(100_000));
        let hits = numbers.run(popular(100_000).take(800));
        // SIEVE's hand runs behind what is new at the speed at which it comes, and never gets to
        // what is old.
        let is_stuck = numbers.policy.name() == "sieve";
        assert!(
            if is_stuck { hits < 0.5 } else { hits > 0.9 },
            "{}: {hits}",
            numbers.policy.name()
        );
    }
}

/// Between two choices pages leave, and others come to their frames, at the back of the queue.
#[test]
fn the_hand_of_sieve_stays_where_it_is() {
    let mut numbers = Numbers::new(8, Box::new(Sieve::new(8)));
    numbers.run((0..8).chain(0..3));
    let went = |numbers: &mut Numbers, page| {
        assert_eq!(numbers.reclaim(1), 1);
        assert!(!numbers.found.contains_key(&page), "page {page} stayed: {:?}", numbers.found);
    };
    // Past the three that were used.
    went(&mut numbers, 3);
    // One leaves that the hand has not come to.
    numbers.leave(6);
    numbers.use_page(100);
    went(&mut numbers, 4);
    // The one where the hand stands: it goes on from there, and not from where the frame is next.
    numbers.leave(5);
    numbers.use_page(101);
    went(&mut numbers, 7);
}
