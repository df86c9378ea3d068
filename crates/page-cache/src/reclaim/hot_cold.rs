//! Hot and cold: most frames for what proved itself, a short queue for the rest, and a gate between them. The default.
//!
//! ```text
//!                    used meanwhile
//!            ┌───────────────────────────────┐
//!            │                               ▼
//! new ──▶ young ──▶ old ──▶ goes          hot, a clock by frame number
//!         marks do   │        ▲              │
//!         not count  │        └──────────────┘ not used for some laps: old
//!                    ▼
//!                  ghost ── comes back, and something hot was not used since: hot
//! ```
//!
//! - **Young, old.** A new page waits in a queue of 1/20 of the frames. In its first half marks are ignored: a program that reads a page
//!   in small steps uses it many times and never again. What is used in the second half becomes hot. So a scan, in
//!   steps of any size, goes through the queue and leaves the rest alone.
//! - **Hot.** A clock. A page that was found used gains a life, up to 3, each lap without use costs one; the last lap leads back to *old*.
//! - **The gate.** A page that comes back soon after it went (a ghost) may become hot only if the hand finds a hot page
//!   that was not used since this one was. (LIRS's rule: compare how long ago each was used last. Jiang and Zhang, SIGMETRICS
//!   2002.) In a loop larger than memory nothing passes: most of the hot pages stay and hit, where LRU, CLOCK and
//!   S3-FIFO replace each page shortly before it is used.
//!
//! About 9 bytes for each frame: place and lives 1, time 2, ghost 4, its part of the queue's numbers.

use std::collections::VecDeque;

use super::ghosts::Ghosts;
use super::{Frames, Look, Policy};

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
    /// No page, or one that moved here unseen.
    Unknown,
    /// In one of the two queues, once.
    Cold,
    /// With so many lives.
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
    ghosts: Ghosts,
    hand: u32,
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
            ghosts: Ghosts::new(frames),
            hand: 0,
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
            let frame = self.next(frames);
            let Place::Hot(lives) = self.places[frame as usize] else { continue };
            if self.is_used(frames, frame, lives) {
                continue;
            }
            // How long ago, so that the end of the clock does no harm.
            let now = self.now();
            let is_older = now.wrapping_sub(self.times[frame as usize]) > now.wrapping_sub(time);
            if is_older {
                self.chill(frame);
            }
            return is_older;
        }
        false
    }

    /// Makes a hot page cold. `false`: there is none that could go.
    fn cool_one(&mut self, frames: &dyn Frames, victims: &[u32]) -> bool {
        for _ in 0..=usize::from(LIVES + 1) * frames.count() as usize {
            let frame = self.next(frames);
            match (self.places[frame as usize], frames.look(frame)) {
                (Place::Hot(lives), Look::Free(_)) if !self.is_used(frames, frame, lives) => {
                    self.chill(frame);
                    return true;
                }
                (Place::Hot(_), Look::Gone) => self.set(frame, Place::Unknown),
                // It moved here, or was held when it was new.
                (Place::Unknown, Look::Free(_)) if !victims.contains(&frame) => {
                    self.touch(frame);
                    self.chill(frame);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    fn next(&mut self, frames: &dyn Frames) -> u32 {
        let frame = self.hand % frames.count();
        self.hand = (frame + 1) % frames.count();
        frame
    }

    /// One look at a hot page: it gains a life or loses one. Whether it stays hot.
    fn is_used(&mut self, frames: &dyn Frames, frame: u32, lives: u8) -> bool {
        if frames.take_mark(frame) {
            self.places[frame as usize] = Place::Hot((lives + 1).min(LIVES));
            self.touch(frame);
            return true;
        }
        self.places[frame as usize] = Place::Hot(lives.saturating_sub(1));
        lives > 0
    }

    /// What is in the young half beyond its share moves on, and is judged by its marks from then on.
    fn age(&mut self, frames: &dyn Frames) {
        while self.young.len() > ((self.frames / COLD / 2).max(1)) as usize {
            let Some(frame) = self.young.pop_front() else { break };
            frames.take_mark(frame);
            self.old.push_back(frame);
        }
    }
}

impl Policy for HotCold {
    fn name(&self) -> &'static str {
        "hot-cold"
    }

    fn admit(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
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
            self.set(frame, Place::Hot(0));
        } else {
            self.set(frame, Place::Cold);
            self.young.push_back(frame);
            self.age(frames);
        }
    }

    fn choose(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        // Put aside until the end: back in the queue, one held page would be met again and again, and hide all others.
        let mut kept = Vec::new();
        // Enough for each page to be found used, cooled down, and met again.
        let mut looks = 3 * (frames.count() as usize + wanted);
        while victims.len() < wanted && looks > 0 {
            looks -= 1;
            let Some(frame) = self.old.pop_front().or_else(|| self.young.pop_front()) else {
                if self.cool_one(frames, victims) {
                    continue;
                }
                break;
            };
            self.set(frame, Place::Unknown);
            match frames.look(frame) {
                Look::Gone => {}
                Look::Kept => kept.push(frame),
                Look::Free(_) if frames.take_mark(frame) => {
                    self.touch(frame);
                    self.set(frame, Place::Hot(0));
                    if self.hot > self.most_hot() {
                        self.cool_one(frames, victims);
                    }
                }
                Look::Free(page) => {
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

    fn give_back(&mut self, frame: u32) {
        self.chill(frame);
    }

    fn resize(&mut self, frames: u32) {
        self.frames = frames;
    }
}
