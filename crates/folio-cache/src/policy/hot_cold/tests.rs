//! The hot clock: laps, lives, and how many are hot.

use std::cell::RefCell;
use std::collections::BTreeSet;

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
