//! Hot and cold, the default policy: frames for pages that proved to be hot, a queue for the
//! others, a gate between the two, and trials that find out how long the queue should be, or that
//! another plan is better.
//!
//! ```text
//!                    used since
//!            ┌───────────────────────────────┐
//!            │                               ▼
//! new ──▶ young ──▶ old ──▶ evicted       hot, a clock
//!         bits do    │        ▲              │
//!         not count  │        └──────────────┘ not used for some laps: old
//!                    ▼
//!                  ghost ── returns, and a hot page was not used since: hot
//! ```
//!
//! - **Young, old.** A new page waits in a queue. In the first fifth of the queue referenced bits
//!   are ignored: a program that reads a page in small steps uses it many times and never again. A
//!   page that is used later becomes hot. So a scan, in steps of any size, passes through the queue
//!   and does not touch the hot pages.
//! - **Hot.** A clock. A page that is found used gains a life, up to 3. Each lap without use costs
//!   a life. A page without lives goes back to *old*.
//! - **The gate.** A page that returns soon after its eviction (a ghost) may become hot only if the
//!   hand finds a hot page that was not used since this one was. This is the rule of LIRS: compare
//!   the times of the last uses (Jiang and Zhang, SIGMETRICS 2002). In a loop larger than memory no
//!   page passes the gate: most of the hot pages stay and hit. LRU, CLOCK and S3-FIFO would replace
//!   each page shortly before it is used. Pages behind one that is refused are refused with it.
//! - **Runs.** Pages of a distant store that came together are judged alike (`runs.rs`).
//! - **The plan.** A loop wants a queue as short as possible. Pages that are popular for a while
//!   want a fifth of the memory. Windows that move on, and sweeps back and forth, want no queue but
//!   the order of last uses, as LRU has it (`last_use.rs`). [`Trials`] runs three small caches with
//!   these plans beside the real one, on a sample of its pages, and the cache takes the plan that
//!   misses least.
//!
//! The hot clock is a ring of frame numbers, not a hand over all frames: in a nearly empty cache it
//! visits cached pages only. A frame takes about 25 bytes: place and lives 2, times 3, flags 1,
//! ghosts 8, its share of the numbers in the queues, and 1 for the sample. The trials take at most
//! 15 more.

use std::collections::VecDeque;

use gate::Gate;
use queue_share::{COLD, QueueShare};
use runs::Runs;

use super::ghosts::Ghosts;
use super::plan::Plan;
use super::trials::{FIRST_PLAN, Trials};
use super::{Advice, FrameState, Frames, MAX_PINNED, Policy, Uses};

mod aside;
mod clock;
mod gate;
mod last_use;
mod queue_share;
mod runs;

/// The young half of the queue is one in this many of its frames.
const YOUNG: u32 = 5;

/// The maximum number of lives of a hot page.
const MAX_LIVES: u8 = 3;

/// The number of ticks in which as many pages come as there are frames.
const TICKS: u32 = 256;

/// The number of ticks that a ghost is remembered, from the last use of its page on.
const REMEMBERED: u16 = (TICKS * 3 / 2) as u16;

/// The room for ghosts, for each frame: more than as many pages are evicted while a ghost is
/// remembered.
const GHOSTS: u32 = 2;

/// The most pages that are judged like the one before them: one in so many frames.
const RUN_SHARE: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// No page that was inserted.
    Unknown,
    /// In one of the two queues, once.
    Cold,
    /// In the ring, with its number of lives.
    Hot(u8),
    /// Was pinned, and is set aside: it was cold (0), or hot with so many lives and 1.
    Aside(u8),
}

/// A frame is in the ring.
const IN_RING: u8 = 1;
/// A frame is in the queue of those set aside.
const IN_ASIDE: u8 = 2;
/// The page in a frame came from a distant store, perhaps with others.
const IN_RUN: u8 = 4;

/// The pages set aside that are visited for each victim, and in each choice of victims: so many
/// more come back, when they are not pinned any more, than leave.
const ASIDE_VISITS: usize = 4;
const MIN_ASIDE_VISITS: usize = 16;

/// A hot clock and a cold queue, with ghosts between them.
#[derive(Debug)]
pub struct HotCold {
    places: Vec<Place>,
    /// The tick at which a page came, or was last found used.
    times: Vec<u16>,
    young: VecDeque<u32>,
    old: VecDeque<u32>,
    /// The hot clock, with the hand at its front. A frame that is no longer hot stays in it until
    /// the hand comes.
    ring: VecDeque<u32>,
    /// By frame: [`IN_RING`] and [`IN_ASIDE`], once in each, and [`IN_RUN`].
    flags: Vec<u8>,
    /// Pinned frames, so that they are not visited each time. A frame that is no longer set aside
    /// stays here until its turn.
    aside: VecDeque<u32>,
    ghosts: Ghosts,
    gate: Gate,
    runs: Runs,
    /// The number of hot frames.
    hot: u32,
    frames: u32,
    /// The time in ticks, and the number of pages that come until the next one.
    now: u16,
    until_tick: u32,
    /// By frame: the time of its last use, as [`Frames::now`] tells it.
    used: Vec<u8>,
    plan: Plan,
    /// The number of frames that the queue should have.
    queue_share: QueueShare,
    /// `None` in a trial itself, and in a cache too small for trials.
    trials: Option<Box<Trials>>,
}

impl HotCold {
    /// Returns a policy for at most `frames` frames.
    pub fn new(frames: u32) -> Self {
        let trials = Trials::new(frames, |frames, plan| Box::new(Self::with_plan(frames, plan)));
        let plan = if trials.is_some() { FIRST_PLAN } else { Plan::Share(COLD) };
        Self { trials: trials.map(Box::new), ..Self::with_plan(frames, plan) }
    }

    /// Returns a policy that always has this plan.
    pub(super) fn with_plan(frames: u32, plan: Plan) -> Self {
        // The other one has no use for ghosts.
        let (share, ghosts) = match plan {
            Plan::Share(share) => (share, GHOSTS.saturating_mul(frames)),
            Plan::LastUse => (COLD, 0),
        };
        Self {
            places: vec![Place::Unknown; frames as usize],
            times: vec![0; frames as usize],
            young: VecDeque::new(),
            old: VecDeque::with_capacity(frames as usize),
            ring: VecDeque::with_capacity(frames as usize),
            flags: vec![0; frames as usize],
            aside: VecDeque::new(),
            ghosts: Ghosts::new(ghosts),
            gate: Gate::default(),
            runs: Runs::default(),
            hot: 0,
            frames,
            now: 0,
            until_tick: per_tick(frames),
            used: vec![0; frames as usize],
            plan,
            queue_share: QueueShare::new(frames, share),
            trials: None,
        }
    }

    /// Records that a page came.
    fn count_new(&mut self) {
        self.until_tick -= 1;
        if self.until_tick == 0 {
            self.until_tick = per_tick(self.frames);
            self.now = self.now.wrapping_add(1);
            self.queue_share.tick();
        }
    }

    /// Sets the place of a frame, and keeps the number of hot frames.
    fn set(&mut self, frame: u32, place: Place) {
        let old = std::mem::replace(&mut self.places[frame as usize], place);
        self.hot -= u32::from(matches!(old, Place::Hot(_)));
        self.hot += u32::from(matches!(place, Place::Hot(_)));
    }

    /// Notes that a frame is in a queue. Returns `false` if it was there.
    fn enqueue(&mut self, frame: u32, queue: u8) -> bool {
        let flags = &mut self.flags[frame as usize];
        let is_new = *flags & queue == 0;
        *flags |= queue;
        is_new
    }

    /// Notes that a frame left a queue.
    fn dequeue(&mut self, frame: u32, queue: u8) {
        self.flags[frame as usize] &= !queue;
    }

    /// Makes a frame hot.
    fn heat(&mut self, frame: u32, lives: u8) {
        self.set(frame, Place::Hot(lives));
        self.runs.note_hot();
        if self.enqueue(frame, IN_RING) {
            self.ring.push_back(frame);
        }
    }

    /// Records that a page is used now.
    fn touch(&mut self, frame: u32) {
        self.times[frame as usize] = self.now;
    }

    /// Moves a frame to the end of the old half, unless it is in the queue.
    fn chill(&mut self, frame: u32) {
        if self.places[frame as usize] != Place::Cold {
            self.set(frame, Place::Cold);
            self.old.push_back(frame);
        }
    }

    /// Returns `true` if a page that returns, and was last used at `time`, may become hot.
    fn passes(&mut self, frames: &(impl Frames + ?Sized), page: u64, time: u16) -> bool {
        let run = self.gate.run_before(page, time);
        let passes = run.is_none() && self.open_gate(frames, time);
        self.gate.note(page, run.unwrap_or(time), passes);
        passes
    }

    /// Returns the most pages that are judged like the one before them.
    pub(super) fn most_of_run(&self) -> u32 {
        self.frames / RUN_SHARE
    }

    /// Returns `true` if the page in a frame may belong to a run.
    pub(super) fn is_in_run(&self, frame: u32) -> bool {
        self.flags[frame as usize] & IN_RUN != 0
    }

    /// Returns the page in a frame if it may belong to a run and can be evicted.
    pub(super) fn page_of_run(&self, frames: &(impl Frames + ?Sized), frame: u32) -> Option<u64> {
        if !self.is_in_run(frame) {
            return None;
        }
        match frames.inspect(frame) {
            FrameState::Evictable(page) => Some(page),
            FrameState::Pinned | FrameState::NotCached => None,
        }
    }

    /// Returns `true` if the next cold page has this number and belongs to a run.
    fn is_next_cold(&self, frames: &(impl Frames + ?Sized), page: u64) -> bool {
        self.old.front().is_some_and(|&frame| self.page_of_run(frames, frame) == Some(page))
    }

    /// Names victims among the pages that are not set aside.
    fn pick(&mut self, frames: &(impl Frames + ?Sized), wanted: usize, victims: &mut Vec<u32>) {
        // Enough for each page to lose all lives, become cold, be found used, and be visited again.
        let known = self.ring.len() + self.young.len() + self.old.len();
        let mut visits = Visits { left: (usize::from(MAX_LIVES) + 3) * known, pinned: 0 };
        let most = wanted + self.most_of_run() as usize;
        // The page behind the last victim, if that belongs to a run.
        let mut next = None;
        while visits.are_left()
            && (victims.len() < wanted
                || victims.len() < most && next.is_some_and(|page| self.is_next_cold(frames, page)))
        {
            visits.left -= 1;
            if self.hot > self.max_hot() {
                self.cool_one(frames, &mut visits);
            }
            let Some(frame) = self.old.pop_front().or_else(|| self.young.pop_front()) else {
                if self.refill(frames, &mut visits) {
                    continue;
                }
                break;
            };
            self.set(frame, Place::Unknown);
            match frames.inspect(frame) {
                FrameState::NotCached => {}
                FrameState::Pinned => {
                    visits.pinned += 1;
                    self.set_aside(frame, 0);
                }
                FrameState::Evictable(page) => match frames.take_uses(frame) {
                    // Its reader is late: one time more.
                    None => {
                        frames.take_referenced(frame);
                        self.chill(frame);
                    }
                    Some(uses @ Uses { count: 1.., .. }) => {
                        self.touch(frame);
                        self.note_time(frames, frame, uses);
                        self.heat(frame, 0);
                        if self.hot > self.max_hot() {
                            self.cool_one(frames, &mut visits);
                        }
                    }
                    Some(_) => {
                        self.ghosts.insert(page, self.times[frame as usize]);
                        victims.push(frame);
                        next = self.is_in_run(frame).then(|| page.wrapping_add(1));
                    }
                },
            }
        }
    }

    /// Inserts a page, which came at the time `now`, into the queue or among the hot ones.
    fn put(&mut self, frames: &(impl Frames + ?Sized), frame: u32, page: u64, now: u32) {
        self.count_new();
        self.queue_share.adapt(frames.is_ahead(frame));
        let ghost = self.ghosts.take(page, self.now, REMEMBERED);
        self.touch(frame);
        // The page that was in the frame left unseen: the new one inherits its place in the queue.
        if self.places[frame as usize] == Place::Cold {
            return;
        }
        self.set(frame, Place::Unknown);
        self.used[frame as usize] = now as u8;
        if self.plan == Plan::LastUse {
            return self.heat(frame, 0);
        }
        let is_run = self.is_in_run(frame);
        let like_last = self.runs.answer(page).filter(|_| is_run);
        let is_hot = like_last.unwrap_or_else(|| {
            self.hot + self.runs.beyond() < self.max_hot()
                || ghost.is_some_and(|time| self.passes(frames, page, time))
        });
        if is_run {
            self.runs.note(page, is_hot, like_last.is_some(), self.most_of_run());
        }
        if is_hot {
            self.heat(frame, 0);
        } else {
            self.set(frame, Place::Cold);
            self.young.push_back(frame);
            self.age(frames);
        }
    }

    /// Puts a page in, and follows the plan that the trials choose.
    fn come(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        let Some(mut trials) = self.trials.take() else {
            return self.put(frames, frame, page, frames.now());
        };
        let watched = trials.sample.watch(frames);
        let now = watched.now();
        self.put(&watched, frame, page, now);
        if let Some(plan) = trials.inserted(frames, frame, page, now) {
            self.set_plan(plan);
        }
        self.trials = Some(trials);
    }

    /// Names up to `wanted` victims, and takes back pages that were set aside.
    fn name_victims(
        &mut self,
        frames: &(impl Frames + ?Sized),
        wanted: usize,
        victims: &mut Vec<u32>,
    ) {
        let wanted = wanted.min(victims.len() + self.places.len());
        self.take_back(frames, MIN_ASIDE_VISITS + ASIDE_VISITS * wanted);
        self.pick(frames, wanted, victims);
        if victims.is_empty() && !self.aside.is_empty() {
            self.take_back(frames, MAX_PINNED);
            self.pick(frames, wanted, victims);
        }
    }

    /// Moves pages beyond the share of the young half to the old half. From then on their
    /// referenced bits count.
    fn age(&mut self, frames: &(impl Frames + ?Sized)) {
        while self.young.len() > (self.queue_share.frames() / YOUNG).max(1) as usize {
            let Some(frame) = self.young.pop_front() else { break };
            frames.take_uses(frame);
            self.old.push_back(frame);
        }
    }
}

/// Returns the number of pages that come in one tick.
fn per_tick(frames: u32) -> u32 {
    (frames / TICKS).max(1)
}

/// The visits of one choice of victims.
struct Visits {
    left: usize,
    /// The number of pinned pages that were visited.
    pinned: usize,
}

impl Visits {
    fn are_left(&self) -> bool {
        self.left > 0 && self.pinned < MAX_PINNED
    }
}

impl Policy for HotCold {
    fn name(&self) -> &'static str {
        "hot-cold"
    }

    fn insert_advised(&mut self, frames: &dyn Frames, frame: u32, page: u64, advice: Advice) {
        // The page that was in the frame left unseen, and its place in the queue stays.
        if advice != Advice::Once || self.places[frame as usize] == Place::Cold {
            self.flags[frame as usize] |= IN_RUN;
            return self.come(frames, frame, page);
        }
        // The next victim: it displaces no other page.
        self.flags[frame as usize] &= !IN_RUN;
        self.count_new();
        // Unless it is used, its ghost is too old to count as one.
        self.times[frame as usize] = self.now.wrapping_sub(REMEMBERED + 1);
        self.set(frame, Place::Cold);
        self.old.push_front(frame);
    }

    fn insert(&mut self, frames: &dyn Frames, frame: u32, page: u64) {
        self.flags[frame as usize] &= !IN_RUN;
        self.come(frames, frame, page);
    }

    fn pick_victims(&mut self, frames: &dyn Frames, wanted: usize, victims: &mut Vec<u32>) {
        let Some(mut trials) = self.trials.take() else {
            return self.name_victims(frames, wanted, victims);
        };
        self.name_victims(&trials.sample.watch(frames), wanted, victims);
        trials.use_found();
        self.trials = Some(trials);
    }

    fn is_cold(&self, frame: u32) -> bool {
        let is_found = self.trials.as_ref().is_some_and(|trials| trials.sample.is_found(frame));
        !is_found && !self.is_hot(frame)
    }

    fn is_hot(&self, frame: u32) -> bool {
        matches!(self.places[frame as usize], Place::Hot(1..) | Place::Aside(2..))
    }

    /// The other pages of a folio follow the victim in the queue. A frame that stayed there would
    /// give its place to its next page, which is new, and would be judged at once.
    fn evicted_with(&mut self, frame: u32, page: u64) {
        match self.places[frame as usize] {
            Place::Cold if self.old.front() == Some(&frame) => drop(self.old.pop_front()),
            // Named already, or not at the front of the queue, where it does no harm.
            Place::Unknown | Place::Cold => return,
            Place::Hot(_) | Place::Aside(_) => {}
        }
        self.set(frame, Place::Unknown);
        self.ghosts.insert(page, self.times[frame as usize]);
    }

    fn restore(&mut self, frame: u32) {
        self.chill(frame);
    }

    fn moved(&mut self, frames: &dyn Frames, from: u32, to: u32) {
        self.times[to as usize] = self.times[from as usize];
        self.used[to as usize] = self.used[from as usize];
        let in_run = self.flags[from as usize] & IN_RUN;
        self.flags[to as usize] = self.flags[to as usize] & !IN_RUN | in_run;
        // The frame may hold another page by now: keep its place in the queue.
        match (self.places[from as usize], self.places[to as usize]) {
            (Place::Hot(lives), Place::Unknown | Place::Hot(_)) => self.heat(to, lives),
            _ => self.chill(to),
        }
        // The hand may not come to the frame for long, and what is hot is counted.
        if self.places[from as usize] != Place::Cold
            && frames.inspect(from) == FrameState::NotCached
        {
            self.set(from, Place::Unknown);
        }
    }

    fn resize(&mut self, frames: u32) {
        self.frames = frames;
        self.queue_share.resize(frames);
        if let Some(trials) = &mut self.trials {
            trials.resize(frames);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
