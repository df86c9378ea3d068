//! Trials: small caches of numbers beside the real cache, which show what other plans would do.
//!
//! Each trial has a [`Plan`], and as many frames for the sampled pages as the cache has for all
//! pages. It sees each use of a sampled page that the policy can know of, in about their order: the
//! page came, or its uses were taken. The misses of each are counted, and forgotten by and by. So a
//! choice costs no miss: a plan is tried on numbers before a page pays for it. (Sampling by hash:
//! Waldspurger et al., "Efficient MRC construction with SHARDS", FAST 2015.)
//!
//! A plan that promises more than it gives is left: once the real cache misses sampled pages of
//! which the trial of the chosen plan hits many more, beyond doubt, the plan is judged by the real
//! cache.
//!
//! Plans are compared by the uses that **one** missed and the other did not. All other uses say
//! nothing, and their number hides small differences. If chance alone decides about `n` uses, the
//! two numbers differ by about the square root of `n`. (A sign test.)
//!
//! Two counts decide. The **fast** one is halved each time that as many pages came as there are
//! frames. It decides if another plan is better beyond doubt: the program does something else. The
//! **slow** one has eight times that, and decides small differences.

use super::keys::Keys;
use super::plan::Plan;
use super::sample::Sample;
use super::{Frames, Policy};

/// The plans that are tried. Of plans that are as good, the first is taken.
const PLANS: [Plan; 3] = [Plan::Share(0.01), Plan::Share(0.2), Plan::LastUse];

/// The plan that a cache begins with.
const FIRST: usize = 0;
pub(super) const FIRST_PLAN: Plan = PLANS[FIRST];

/// The least frames of a cache with trials.
const MIN_FRAMES: u32 = 256;

/// The least and the most frames of a trial: one in 8 of the cache's, fewer in a large cache.
const MIN_ONE_IN: u32 = 8;
pub(super) const MAX_TRIAL: u32 = 256;

/// The units of [`Frames::now`] after which all sampled pages are looked at.
const LOOKS_APART: u32 = 4;

/// The number of ticks in which as many pages come as there are frames.
const TICKS: u32 = 256;

/// The fast count and the slow one.
const COUNTS: [Rule; 2] = [
    Rule { ticks: TICKS as f64, doubt: 4.0, gain: 0.05 },
    Rule { ticks: 8.0 * TICKS as f64, doubt: 2.0, gain: 0.01 },
];

/// The least difference between a plan and its trial that counts: in units of what chance makes,
/// and as a share of the misses.
const BROKEN_PROMISE: (f64, f64) = (3.0, 0.1);

/// The share of misses that an earlier plan may have more, and be as good.
const TIE: f64 = 0.005;

/// Makes the policy of a trial, for a number of frames and a plan.
type Make = fn(u32, Plan) -> Box<dyn Policy>;

/// When a count decides for another plan.
#[derive(Debug)]
struct Rule {
    /// The ticks in which the count is halved.
    ticks: f64,
    /// The least difference in units of what chance makes.
    doubt: f64,
    /// The least difference as a share of the misses.
    gain: f64,
}

/// The trials, and the choice that follows from them.
#[derive(Debug)]
pub(super) struct Trials {
    pub(super) sample: Sample,
    all: [Trial; PLANS.len()],
    make: Make,
    chosen: usize,
    frames: u32,
    /// One page in so many is in the sample.
    one_in: u32,
    /// The pages that came since the last tick.
    arrived: u32,
    /// The time of the last look at all sampled pages.
    looked: u32,
    /// The fast count and the slow one.
    counts: [Count; COUNTS.len()],
    /// By plan, while it was chosen: the uses that missed in the real cache only, and in the trial
    /// only. They fade as the slow count.
    promises: [[f64; 2]; PLANS.len()],
}

impl Trials {
    /// Returns trials for a cache of `frames` frames, or `None` if it is too small.
    pub(super) fn new(frames: u32, make: Make) -> Option<Self> {
        if frames < MIN_FRAMES {
            return None;
        }
        let one_in = one_in(frames);
        Some(Self {
            sample: Sample::new(frames, one_in),
            all: PLANS.map(|plan| Trial::new(frames / one_in, plan, make)),
            make,
            chosen: FIRST,
            frames,
            one_in,
            arrived: 0,
            looked: 0,
            counts: COUNTS.map(Count::new),
            promises: Default::default(),
        })
    }

    /// Records a new page of the cache, which came at the time `now`. Returns the plan that is best
    /// now, at the end of each tick.
    #[inline]
    pub(super) fn inserted(
        &mut self,
        frames: &dyn Frames,
        frame: u32,
        page: u64,
        now: u32,
    ) -> Option<Plan> {
        if now.wrapping_sub(self.looked) >= LOOKS_APART {
            self.looked = now;
            self.sample.look_at_all(frames);
        }
        self.sample.insert(frames, frame, page, now);
        if self.sample.has_uses() {
            self.use_found();
        }
        self.arrived += 1;
        if self.arrived < self.frames / TICKS {
            return None;
        }
        self.arrived = 0;
        self.choose();
        Some(PLANS[self.chosen])
    }

    /// Gives the uses that were found to each trial. If the chosen plan does not keep what its
    /// trial promises, counts what the real cache did instead.
    pub(super) fn use_found(&mut self) {
        let Self { sample, all, counts, chosen, promises, .. } = self;
        let (chosen, promise) = (*chosen, &mut promises[*chosen]);
        let (doubt, part) = BROKEN_PROMISE;
        sample.drain_uses(|key, is_miss| {
            let mut missed = all.each_mut().map(|trial| trial.use_key(key));
            let [real, trial] = promise;
            *real += f64::from(u8::from(is_miss && !missed[chosen]));
            *trial += f64::from(u8::from(!is_miss && missed[chosen]));
            let chance = (*real + *trial).sqrt();
            if *real - *trial > (doubt * chance).max(part * counts[1].misses[chosen]) {
                missed[chosen] = is_miss;
            }
            for count in counts.iter_mut() {
                count.add(missed);
            }
        });
    }

    /// Chooses the best plan, and lets the counts fade.
    fn choose(&mut self) {
        let [fast, slow] = &mut self.counts;
        if let Some(better) = fast.better_than(self.chosen) {
            self.chosen = better;
            // What was before says nothing about what is now.
            slow.begin_with(fast);
        } else if let Some(better) = slow.better_than(self.chosen) {
            self.chosen = better;
        }
        // Of two queues the shorter is better: its frames are in the processor's cache.
        self.chosen = slow.first_as_good_as(self.chosen);
        let fading = self.counts[1].fading;
        self.promises.as_flattened_mut().iter_mut().for_each(|number| *number *= fading);
        self.counts.iter_mut().for_each(Count::fade);
    }

    /// Sets the number of frames of the cache. The trials begin again, with their counts.
    pub(super) fn resize(&mut self, frames: u32) {
        if frames == self.frames {
            return;
        }
        self.frames = frames;
        self.one_in = one_in(frames);
        self.sample.resize(self.one_in);
        self.all = PLANS.map(|plan| Trial::new(frames / self.one_in, plan, self.make));
    }
}

/// Returns the share of the pages in the sample of a cache: one in so many, a power of two.
fn one_in(frames: u32) -> u32 {
    frames.div_ceil(MAX_TRIAL).next_power_of_two().max(MIN_ONE_IN)
}

/// The misses of the trials, which fade.
#[derive(Debug)]
struct Count {
    rule: Rule,
    /// The part that a tick leaves.
    fading: f64,
    misses: [f64; PLANS.len()],
    /// By two trials: the uses that the first one missed and the second one did not.
    alone: [[f64; PLANS.len()]; PLANS.len()],
}

impl Count {
    fn new(rule: Rule) -> Self {
        let fading = 0.5_f64.powf(1.0 / rule.ticks);
        Self { rule, fading, misses: Default::default(), alone: Default::default() }
    }

    /// Adds a use, and the trials that missed.
    fn add(&mut self, missed: [bool; PLANS.len()]) {
        for (trial, alone) in self.alone.iter_mut().enumerate().filter(|&(trial, _)| missed[trial])
        {
            self.misses[trial] += 1.0;
            for (other, alone) in alone.iter_mut().enumerate() {
                *alone += f64::from(u8::from(!missed[other]));
            }
        }
    }

    /// Returns the number of misses that one trial has more than another one.
    fn more(&self, trial: usize, other: usize) -> f64 {
        self.alone[trial][other] - self.alone[other][trial]
    }

    /// Returns the trial with the fewest misses, if there is no doubt that it is better than the
    /// chosen one.
    fn better_than(&self, chosen: usize) -> Option<usize> {
        let more = |other: usize| self.more(chosen, other);
        let best = (0..PLANS.len()).max_by(|&a, &b| more(a).total_cmp(&more(b)))?;
        let chance = (self.alone[chosen][best] + self.alone[best][chosen]).sqrt().max(1.0);
        let least = (self.rule.doubt * chance).max(self.rule.gain * self.misses[chosen]);
        (more(best) > least).then_some(best)
    }

    /// Returns the first trial that misses about as seldom as the chosen one.
    fn first_as_good_as(&self, chosen: usize) -> usize {
        let most = TIE * self.misses[chosen];
        (0..chosen).find(|&trial| self.more(trial, chosen) <= most).unwrap_or(chosen)
    }

    /// Takes the numbers of another count.
    fn begin_with(&mut self, other: &Self) {
        (self.misses, self.alone) = (other.misses, other.alone);
    }

    fn fade(&mut self) {
        let alone = self.alone.as_flattened_mut();
        alone.iter_mut().chain(&mut self.misses).for_each(|number| *number *= self.fading);
    }
}

/// A cache of keys instead of pages.
#[derive(Debug)]
struct Trial {
    policy: Box<dyn Policy>,
    keys: Keys,
    /// Empty: the memory for the next victim.
    victims: Vec<u32>,
}

impl Trial {
    fn new(frames: u32, plan: Plan, make: Make) -> Self {
        Self { policy: make(frames, plan), keys: Keys::new(frames), victims: Vec::with_capacity(1) }
    }

    /// Uses a key. Returns `true` for a miss: no frame had it.
    fn use_key(&mut self, key: u32) -> bool {
        if self.keys.use_key(key) {
            return false;
        }
        let Some(frame) = self.take_frame() else { return true };
        self.keys.put(frame, key);
        self.policy.insert(&self.keys, frame, u64::from(key));
        true
    }

    /// Returns a frame that was not used yet, or that of a victim.
    fn take_frame(&mut self) -> Option<u32> {
        if let Some(unused) = self.keys.unused() {
            return Some(unused);
        }
        self.victims.clear();
        self.policy.pick_victims(&self.keys, 1, &mut self.victims);
        self.victims.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::HotCold;
    use crate::policy::tests::Numbers;

    const MAKE: Make = |frames, plan| Box::new(HotCold::with_plan(frames, plan));

    /// Plays keys to a trial. Returns the misses.
    fn misses(plan: Plan, keys: impl Iterator<Item = u32>) -> usize {
        let mut trial = Trial::new(100, plan, MAKE);
        keys.filter(|&key| trial.use_key(key)).count()
    }

    #[test]
    fn a_trial_counts_the_misses_of_its_plan() {
        let fits = || (0..1000).map(|n| n % 90);
        for plan in PLANS {
            let missed = misses(plan, fits());
            assert_eq!(missed, 90, "each key misses once");
        }
        let cycle = || (0..15_000).map(|n| n % 150);
        let [short, _, last_use] = PLANS.map(|plan| misses(plan, cycle()));
        assert!(short < 6000 && last_use == 15_000, "{short} and {last_use} of 15000");
        // Back and forth: the optimum misses the 51 that are left, each way.
        let sweep = || (0..14_900).map(|n| n % 298).map(|n: u32| n.min(298 - n));
        let [short, _, last_use] = PLANS.map(|plan| misses(plan, sweep()));
        assert!(last_use < 100 * 55 && short > 100 * 65, "{last_use} and {short} of 14900");
    }

    /// A naive count: all uses with their tick.
    #[derive(Default)]
    struct Naive(Vec<(u32, [bool; PLANS.len()])>);

    impl Naive {
        /// Returns the number of uses for which `is_it`, each halved as often as its age says.
        fn sum(&self, now: u32, half: f64, is_it: impl Fn([bool; PLANS.len()]) -> bool) -> f64 {
            let uses = self.0.iter().filter(|(_, missed)| is_it(*missed));
            uses.map(|&(tick, _)| 0.5_f64.powf(f64::from(now - tick) / half)).sum()
        }

        /// Returns the trial that is better than the chosen one.
        fn better(&self, now: u32, rule: &Rule, chosen: usize) -> Option<usize> {
            let sum = |a: usize, b: usize| self.sum(now, rule.ticks, |m| m[a] && !m[b]);
            let all = self.sum(now, rule.ticks, |missed| missed[chosen]);
            let mut better: Vec<_> = (0..PLANS.len())
                .map(|other| (sum(chosen, other) - sum(other, chosen), other))
                .filter(|&(fewer, other)| {
                    let chance = (sum(chosen, other) + sum(other, chosen)).sqrt();
                    fewer > rule.doubt * chance.max(1.0) && fewer > rule.gain * all
                })
                .collect();
            better.sort_by(|a, b| a.0.total_cmp(&b.0));
            better.pop().map(|(_, other)| other)
        }
    }

    #[test]
    fn a_count_decides_as_the_specification() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut decided, mut undecided) = (0, 0);
        for rule in COUNTS {
            let (mut naive, mut count) = (Naive::default(), Count::new(rule));
            for now in 0..600 {
                // Which trial is good changes.
                let bias = [50, 50 - now / 20, 20 + now / 15];
                for _ in 0..random.u32(..6) {
                    let all = random.u32(..100);
                    let missed = bias.map(|bias| all < 30 || random.u32(..100) < bias);
                    naive.0.push((now, missed));
                    count.add(missed);
                }
                if now % 16 == 0 {
                    let chosen = random.usize(..PLANS.len());
                    let better = count.better_than(chosen);
                    // Another trial may be nearly as good.
                    let naive = naive.better(now, &count.rule, chosen);
                    let is_as_good = better.zip(naive).is_some_and(|(ours, naive)| {
                        (count.more(chosen, ours) - count.more(chosen, naive)).abs() < 1e-6
                    });
                    assert!(better == naive || is_as_good, "{better:?} {naive:?}: seed {seed}");
                    *if better.is_some() { &mut decided } else { &mut undecided } += 1;
                }
                count.fade();
            }
        }
        assert!(decided > 9 && undecided > 9, "{decided} and {undecided} decisions: seed {seed}");
    }

    #[test]
    fn pages_that_come_back_late_get_a_longer_queue() {
        // Other numbers make other samples.
        for first in [0, 1 << 20, 2 << 20, 3 << 20] {
            let mut numbers = Numbers::new(1536, Box::new(HotCold::new(1536)));
            let mut hits = 0;
            for page in first..first + 20_000 {
                numbers.use_page(page);
                hits += u32::from(page >= first + 20 && numbers.use_page(page - 20));
            }
            assert!(hits > 19_500, "{hits} of 20000 pages hit when they came back");
        }
    }

    #[test]
    fn a_plan_that_breaks_its_promise_is_left() {
        let mut trials = Trials::new(512, MAKE).unwrap();
        // The real cache misses a hundred pages again and again, which each trial hits.
        let no_page = Keys::new(512);
        let mut plan_at = |n: u32| trials.inserted(&no_page, n % 300, u64::from(n % 100), 0);
        assert_eq!((0..9).find_map(&mut plan_at), Some(PLANS[FIRST]));
        assert!((9..5000).filter_map(plan_at).any(|plan| plan != PLANS[FIRST]));
    }

    #[test]
    fn a_small_cache_has_no_trials_and_a_large_one_a_small_sample() {
        assert!(Trials::new(MIN_FRAMES - 1, MAKE).is_none());
        for frames in [256, 1000, 2056, 8192, 1 << 20] {
            let trials = Trials::new(frames, MAKE).unwrap();
            let most = trials.all.iter().map(|trial| trial.keys.count()).max().unwrap();
            assert!((frames / 16..=frames / MIN_ONE_IN).contains(&most) || most >= MAX_TRIAL / 2);
            assert!(most <= MAX_TRIAL, "{most} frames");
        }
    }
}
