//! Hot and cold: most frames for what proved itself, a short queue for the rest, and a gate between
//! them. The default.
//!
//! ```text
//!                    used meanwhile
//!            ┌───────────────────────────────┐
//!            │                               ▼
//! new ──▶ young ──▶ old ──▶ goes          hot, a clock
//!         marks do   │        ▲              │
//!         not count  │        └──────────────┘ not used for some laps: old
//!                    ▼
//!                  ghost ── comes back, and something hot was not used since: hot
//! ```
//!
//! - **Young, old.** A new page waits in a queue of 1/20 of the frames. In its first half marks are
//!   ignored: a program that reads a page in small steps uses it many times and never again. What
//!   is used in the second half becomes hot. So a scan, in steps of any size, goes through the
//!   queue and leaves the rest alone.
//! - **Hot.** A clock. A page that was found used gains a life, up to 3, each lap without use costs
//!   one; the last lap leads back to *old*.
//! - **The gate.** A page that comes back soon after it went (a ghost) may become hot only if the
//!   hand finds a hot page that was not used since this one was. (LIRS's rule: compare how long ago
//!   each was used last. Jiang and Zhang, SIGMETRICS 2002.) In a loop larger than memory nothing
//!   passes: most of the hot pages stay and hit, where LRU, CLOCK and S3-FIFO replace each page
//!   shortly before it is used.
//!
//! The hot clock is a ring of frame numbers, not a hand over all frames: in a cache that is nearly
//! empty, what there is to look at is what is cached. About 14 bytes for each frame: place and
//! lives 1, time 2, ghost 4, its part of the queues' numbers.

use std::collections::VecDeque;

use super::ghosts::Ghosts;
use super::{FrameState, Frames, Policy};

/// Of all frames, the part that is for cold pages: one in so many.
const COLD: u32 = 20;

/// Lives of a hot page at the most.
const LIVES: u8 = 3;

/// Ticks of the clock in which as many pages come as there are frames.
const TICKS: u32 = 64;

/// A ghost is remembered for so many ticks since its page came.
const REMEMBERED: u16 = (TICKS + TICKS / COLD) as u16;

/// Hot pages that the hand looks at, at the most, to let one in by the gate.
const GATE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No page that it was told of.
    Unknown,
    /// In one of the two queues, once.
    Cold,
    /// In the ring, with so many lives.
    Hot(u8),
}

/// A hot clock and a cold queue, with ghosts between them.
#[derive(Debug)]
pub struct HotCold {
    places: Vec<Place>,
    /// When a page came, or was last found used, in ticks.
    times: Vec<u16>,
    young: VecDeque<u32>,
    old: VecDeque<u32>,
    /// The hand is at its front. A frame that is not hot any more stays until the hand comes.
    ring: VecDeque<u32>,
    /// Whether a frame is in the ring: once.
    in_ring: Vec<bool>,
    ghosts: Ghosts,
    /// Frames that are hot.
    hot: u32,
    frames: u32,
    admitted: u64,
}

impl HotCold {
    /// For so many frames at the most.
    pub fn new(frames: u32) -> Self {
        Self {
            places: vec![Place::Unknown; frames as usize],
            times: vec![0; frames as usize],
            young: VecDeque::new(),
            old: VecDeque::new(),
            ring: VecDeque::new(),
            in_ring: vec![false; frames as usize],
            ghosts: Ghosts::new(frames),
            hot: 0,
            frames,
            admitted: 0,
        }
    }

    fn now(&self) -> u16 {
        (self.admitted / u64::from((self.frames / TICKS).max(1))) as u16
    }

    /// The frames that hot pages may have.
    fn most_hot(&self) -> u32 {
        self.frames - (self.frames / COLD).max(1)
    }

    fn set(&mut self, frame: u32, place: Place) {
        let old = std::mem::replace(&mut self.places[frame as usize], place);
        self.hot -= u32::from(matches!(old, Place::Hot(_)));
        self.hot += u32::from(matches!(place, Place::Hot(_)));
    }

    fn heat(&mut self, frame: u32, lives: u8) {
        self.set(frame, Place::Hot(lives));
        if !std::mem::replace(&mut self.in_ring[frame as usize], true) {
            self.ring.push_back(frame);
        }
    }

    fn touch(&mut self, frame: u32) {
        self.times[frame as usize] = self.now();
    }

    /// To the end of the old half, unless it is in the queue.
    fn chill(&mut self, frame: u32) {
        if self.places[frame as usize] != Place::Cold {
            self.set(frame, Place::Cold);
            self.old.push_back(frame);
        }
    }

    /// Whether a hot page makes room: one that was not used since `time`.
    fn open_gate(&mut self, frames: &dyn Frames, time: u16) -> bool {
        for _ in 0..GATE {
            let Some((frame, lives)) = self.next() else { break };
            if self.is_used(frames, frame, lives) {
                self.ring.push_back(frame);
                continue;
            }
            // How long ago, so that the end of the clock does no harm.
            let now = self.now();
            let is_older = now.wrapping_sub(self.times[frame as usize]) > now.wrapping_sub(time);
            if is_older {
                self.in_ring[frame as usize] = false;
                self.chill(frame);
            } else {
                self.ring.push_back(frame);
            }
            return is_older;
        }
        false
    }

    /// Makes a hot page cold. `false`: there is none that could go, or as many were looked at as
    /// was allowed.
    fn cool_one(&mut self, frames: &dyn Frames, looks: &mut usize) -> bool {
        while *looks > 0
            && let Some((frame, lives)) = self.next()
        {
            *looks -= 1;
            match frames.look(frame) {
                FrameState::NotCached => self.set(frame, Place::Unknown),
                FrameState::Evictable(_) if !self.is_used(frames, frame, lives) => {
                    self.chill(frame)
                }
                FrameState::Evictable(_) | FrameState::Pinned => {
                    self.ring.push_back(frame);
                    continue;
                }
            }
            self.in_ring[frame as usize] = false;
            if self.places[frame as usize] == Place::Cold {
                return true;
            }
        }
        false
    }

    /// Takes the next hot frame out of the ring, with its lives. Frames that are not hot any more
    /// go by the way.
    fn next(&mut self) -> Option<(u32, u8)> {
        loop {
            let frame = self.ring.pop_front()?;
            if let Place::Hot(lives) = self.places[frame as usize] {
                return Some((frame, lives));
            }
            self.in_ring[frame as usize] = false;
        }
    }

    /// One look at a hot page: it gains a life or loses one. Whether it stays hot.
    fn is_used(&mut self, frames: &dyn Frames, frame: u32, lives: u8) -> bool {
        if frames.take_referenced(frame) {
            self.places[frame as usize] = Place::Hot((lives + 1).min(LIVES));
            self.touch(frame);
            return true;
        }
        self.places[frame as usize] = Place::Hot(lives.saturating_sub(1));
        lives > 0
    }

    /// What is in the young half beyond its share moves on, and is judged by its marks from then
    /// on.
    fn age(&mut self, frames: &dyn Frames) {
        while self.young.len() > ((self.frames / COLD / 2).max(1)) as usize {
            let Some(frame) = self.young.pop_front() else { break };
            frames.take_referenced(frame);
            self.old.push_back(frame);
        }
    }
}

impl Policy for HotCold {
    fn name(&self) -> &'static str {
        "hot-cold"
    }

    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        self.admitted += 1;
        let ghost = self.ghosts.take(page, self.now(), REMEMBERED);
        self.touch(frame);
        // A page that left without our doing was here: the new one has its place in the queue.
        if self.places[frame as usize] == Place::Cold {
            return;
        }
        self.set(frame, Place::Unknown);
        let is_hot = match ghost {
            None => self.hot < self.most_hot(),
            Some(time) => self.hot < self.most_hot() || self.open_gate(frames, time),
        };
        if is_hot {
            self.heat(frame, 0);
        } else {
            self.set(frame, Place::Cold);
            self.young.push_back(frame);
            self.age(frames);
        }
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        // Put aside until the end: back in the queue, one held page would be met again and again,
        // and hide all others.
        let mut kept = Vec::new();
        // Enough for each page to lose all lives, cool down, be found used, and be met again.
        let known = self.ring.len() + self.young.len() + self.old.len();
        let mut looks = (usize::from(LIVES) + 3) * known;
        while victims.len() < wanted && looks > 0 {
            looks -= 1;
            let Some(frame) = self.old.pop_front().or_else(|| self.young.pop_front()) else {
                if self.cool_one(frames, &mut looks) {
                    continue;
                }
                break;
            };
            self.set(frame, Place::Unknown);
            match frames.look(frame) {
                FrameState::NotCached => {}
                FrameState::Pinned => kept.push(frame),
                FrameState::Evictable(_) if frames.take_referenced(frame) => {
                    self.touch(frame);
                    self.heat(frame, 0);
                    if self.hot > self.most_hot() {
                        self.cool_one(frames, &mut looks);
                    }
                }
                FrameState::Evictable(page) => {
                    let (time, now) = (self.times[frame as usize], self.now());
                    self.ghosts.insert(page, time, now);
                    victims.push(frame);
                }
            }
        }
        for frame in kept {
            self.chill(frame);
        }
    }

    fn is_cold(&self, frame: u32) -> bool {
        !matches!(self.places[frame as usize], Place::Hot(1..))
    }

    /// Its neighbours in the folio stand behind it in the queue. One that stayed there would give
    /// its place to the next page in its frame, which is new, and would be judged at once.
    fn evicted_with(&mut self, frame: u32, page: u64) {
        match self.places[frame as usize] {
            Place::Cold if self.old.front() == Some(&frame) => drop(self.old.pop_front()),
            // Named, or somewhere in a queue where it is in nobody's way.
            Place::Unknown | Place::Cold => return,
            Place::Hot(_) => {}
        }
        self.set(frame, Place::Unknown);
        let (time, now) = (self.times[frame as usize], self.now());
        self.ghosts.insert(page, time, now);
    }

    fn restore(&mut self, frame: u32) {
        self.chill(frame);
    }

    fn moved(&mut self, from: u32, to: u32) {
        self.times[to as usize] = self.times[from as usize];
        // What was there may be another page by now: its place is left alone.
        match (self.places[from as usize], self.places[to as usize]) {
            (Place::Hot(lives), Place::Unknown | Place::Hot(_)) => self.heat(to, lives),
            _ => self.chill(to),
        }
    }

    fn resize(&mut self, frames: u32) {
        self.frames = frames;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    /// Frames that all have a page, and which of them are marked.
    struct Marked(RefCell<BTreeSet<u32>>);

    impl Frames for Marked {
        fn count(&self) -> u32 {
            40
        }

        fn look(&self, frame: u32) -> FrameState {
            FrameState::Evictable(u64::from(frame))
        }

        fn take_referenced(&self, frame: u32) -> bool {
            self.0.borrow_mut().remove(&frame)
        }
    }

    #[test]
    fn a_page_that_was_used_stays_a_lap_longer() {
        let (mut policy, frames) = (HotCold::new(40), Marked(RefCell::default()));
        (0..2).for_each(|frame| policy.insert(&frames, frame, u64::from(frame)));
        frames.0.borrow_mut().insert(0);
        for page in 50..52 {
            let mut victims = Vec::new();
            policy.pick_victims(&frames, 1, &mut victims);
            assert_eq!(victims, [1], "frame 0 was found used, and lives on that in the second lap");
            policy.insert(&frames, 1, page);
        }
    }

    #[test]
    fn it_knows_how_many_are_hot() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut policy, frames) = (HotCold::new(40), Marked(RefCell::default()));
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
        assert!(most > 10, "{most} of 40 were hot at most: seed {seed}");
    }
}
