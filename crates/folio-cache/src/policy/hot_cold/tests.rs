//! The hot clock: laps, lives, and how many are hot.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::ops::Range;

use super::*;

/// Frames that all have a page, and the set of those with their referenced bit set.
struct Referenced(RefCell<BTreeSet<u32>>);

impl Frames for Referenced {
    fn count(&self) -> u32 {
        40
    }

    fn inspect(&self, frame: u32) -> FrameState {
        FrameState::Evictable(u64::from(frame))
    }

    fn take_referenced(&self, frame: u32) -> bool {
        self.0.borrow_mut().remove(&frame)
    }
}

#[test]
fn a_used_page_stays_for_one_more_lap() {
    let (mut policy, frames) = (HotCold::new(40), Referenced(RefCell::default()));
    (0..2).for_each(|frame| policy.insert(&frames, frame, u64::from(frame)));
    frames.0.borrow_mut().insert(0);
    for page in 50..52 {
        let mut victims = Vec::new();
        policy.pick_victims(&frames, 1, &mut victims);
        assert_eq!(victims, [1], "frame 0 was found used: it has a life for the second lap");
        policy.insert(&frames, 1, page);
    }
}

#[test]
fn it_knows_how_many_are_hot() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut policy, frames) = (HotCold::new(40), Referenced(RefCell::default()));
    (0..40).for_each(|frame| policy.insert(&frames, frame, u64::from(frame)));
    let mut most = 0;
    for _ in 0..10_000 {
        frames.0.borrow_mut().insert(random.u32(..40));
        let mut victims = Vec::new();
        policy.pick_victims(&frames, random.usize(..3), &mut victims);
        for frame in victims {
            policy.insert(&frames, frame, random.u64(..100));
        }
        let hot = policy.places.iter().filter(|place| matches!(place, Place::Hot(_))).count();
        assert_eq!(policy.hot as usize, hot, "seed {seed}");
        most = most.max(hot);
    }
    assert!(most > 10, "the most hot frames were {most} of 40: seed {seed}");
}

/// Frames of which those from 40 on have the pages that moved away from those below 10.
struct Moved;

impl Frames for Moved {
    fn count(&self) -> u32 {
        50
    }

    fn inspect(&self, frame: u32) -> FrameState {
        if frame < 10 { FrameState::NotCached } else { FrameState::Evictable(u64::from(frame)) }
    }

    fn take_referenced(&self, _: u32) -> bool {
        false
    }
}

#[test]
fn a_frame_that_a_page_moved_away_from_is_not_counted_as_hot() {
    let mut policy = HotCold::new(50);
    policy.resize(40);
    let frames = Referenced(RefCell::default());
    (0..40).for_each(|frame| policy.insert(&frames, frame, u64::from(frame)));
    let hot = policy.hot;
    assert_eq!(hot, policy.max_hot());
    (0..10).for_each(|frame| policy.moved(&Moved, frame, frame + 40));
    assert_eq!(policy.hot, hot, "ten frames have pages, and ten others have none");
}

/// A distant object that is read in chunks, through frames that a policy manages.
struct Chunks {
    policy: HotCold,
    /// By frame: its page, and the uses of that.
    pages: RefCell<Vec<(Option<u64>, u8)>>,
    frames: HashMap<u64, u32>,
    free: Vec<u32>,
}

impl Frames for RefCell<Vec<(Option<u64>, u8)>> {
    fn count(&self) -> u32 {
        self.borrow().len() as u32
    }

    fn inspect(&self, frame: u32) -> FrameState {
        self.borrow()[frame as usize].0.map_or(FrameState::NotCached, FrameState::Evictable)
    }

    fn take_referenced(&self, frame: u32) -> bool {
        mem::take(&mut self.borrow_mut()[frame as usize].1) > 0
    }
}

impl Chunks {
    fn new(frames: u32) -> Self {
        let pages = RefCell::new(vec![(None, 0); frames as usize]);
        let (policy, free) = (HotCold::new(frames), (0..frames).collect());
        Self { policy, pages, frames: HashMap::new(), free }
    }

    /// Reads pages. Returns the number of requests, one for each gap, and that of missing pages.
    fn read(&mut self, pages: Range<u64>) -> (usize, usize) {
        let is_missing = |page: &u64| !self.frames.contains_key(page);
        let mut missing: Vec<u64> = pages.clone().filter(is_missing).collect();
        while self.free.len() < missing.len() {
            let mut victims = Vec::new();
            let wanted = (missing.len() - self.free.len()).min(32);
            self.policy.pick_victims(&self.pages, wanted, &mut victims);
            assert!(!victims.is_empty(), "all pages can be evicted");
            for frame in victims {
                let page = self.pages.borrow_mut()[frame as usize].0.take();
                self.frames.remove(&page.expect("a victim has a page, and is named once"));
                self.free.push(frame);
            }
            missing = pages.clone().filter(|page| !self.frames.contains_key(page)).collect();
        }
        for page in pages {
            if let Some(&frame) = self.frames.get(&page) {
                self.pages.borrow_mut()[frame as usize].1 = 1;
            }
        }
        for &page in &missing {
            let frame = self.free.pop().unwrap();
            self.frames.insert(page, frame);
            self.pages.borrow_mut()[frame as usize] = (Some(page), 0);
            self.policy.insert_advised(&self.pages, frame, page, Advice::Normal);
        }
        (missing.chunk_by(|one, next| one + 1 == *next).count(), missing.len())
    }
}

/// A quarter of the reads must miss. If each page is judged alone, the requests become ever more:
/// after so many reads there are 0.41, 0.71 and 0.72 for each.
#[test]
fn chunks_of_a_distant_object_stay_or_leave_whole() {
    let mut random = fastrand::Rng::with_seed(7);
    for (chunk, most) in [(16, 0.34), (64, 0.45), (256, 0.55)] {
        let mut chunks = Chunks::new(6144);
        let (all, mut requests, mut missing, mut reads) = (8192 / chunk, 0, 0, 0);
        for round in 0..100 * all {
            let at = random.u64(..all) * chunk;
            let (sent, missed) = chunks.read(at..at + chunk);
            if round > 80 * all {
                (requests, missing, reads) = (requests + sent, missing + missed, reads + 1);
            }
        }
        let each = requests as f64 / f64::from(reads);
        assert!(each < most, "{each} requests for each read of {chunk} pages");
        let missed = missing as f64 / f64::from(reads) / chunk as f64;
        assert!(missed < 0.28, "{missed} of the pages missed: a quarter must");
    }
}
