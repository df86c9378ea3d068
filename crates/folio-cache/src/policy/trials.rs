//! Trials: small caches of numbers beside the real cache, which show what other shares of the queue
//! would do.
//!
//! Each trial has a share of the queue, and as many frames for the sampled pages as the cache has
//! for all pages. It sees each use of a sampled page that the policy can know of: the page came, or
//! its referenced bit was set. The misses of each are counted, and forgotten by and by. So a choice
//! costs no miss: a share is tried on numbers before a page pays for it. (Sampling by hash:
//! Waldspurger et al., "Efficient MRC construction with SHARDS", FAST 2015.)
//!
//! Two counts decide. The **fast** one is halved each time that as many pages came as there are
//! frames. It decides if another share is better by a fifth: the program does something else. The
//! **slow** one has four times that, and decides small differences.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::sample::Sample;
use super::{FrameState, Frames, Policy};

/// The shares of the queue that are tried.
const SHARES: [f64; 3] = [0.01, 0.2, 0.95];

/// The share that a cache begins with.
const FIRST: usize = 0;

/// The least frames of a cache with trials.
const MIN_FRAMES: u32 = 256;

/// The least and the most frames of a trial: one in 8 of the cache's, fewer in a large cache.
const MIN_ONE_IN: u32 = 8;
const MAX_TRIAL: u32 = 256;

/// The times that each sampled page is looked at while as many pages come as there are frames.
const LOOKS: usize = 8;

/// The number of ticks in which as many pages come as there are frames.
const TICKS: u32 = 256;

/// The ticks in which the fast count and the slow count are halved.
const FAST: f64 = TICKS as f64;
const SLOW: f64 = 4.0 * TICKS as f64;

/// The share of misses by which another share must be better, in the fast and in the slow count.
const FAST_GAIN: f64 = 0.2;
const SLOW_GAIN: f64 = 0.03;

/// The misses that a shorter queue may have more, and be as good.
const TIE: f64 = 0.002;

/// The least misses in the fast count from which anything follows.
const MIN_MISSES: f64 = 16.0;

/// Makes the policy of a trial, for a number of frames and a share of the queue.
type Make = fn(u32, f64) -> Box<dyn Policy>;

/// The trials, and the choice that follows from them.
#[derive(Debug)]
pub(super) struct Trials {
    pub(super) sample: Sample,
    all: [Trial; SHARES.len()],
    make: Make,
    chosen: usize,
    frames: u32,
    /// One page in so many is in the sample.
    one_in: u32,
    /// The pages that came since the last tick, and what is left of the looks at sampled pages.
    arrived: u32,
    looks: usize,
    /// The shares of the fast and the slow counts that a tick leaves.
    fading: [f64; 2],
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
            all: SHARES.map(|share| Trial::new(frames / one_in, share, make)),
            make,
            chosen: FIRST,
            frames,
            one_in,
            arrived: 0,
            looks: 0,
            fading: [FAST, SLOW].map(|ticks| 0.5_f64.powf(1.0 / ticks)),
        })
    }

    /// Records a new page of the cache. Returns the share of the queue that is best now.
    pub(super) fn inserted(&mut self, frames: &dyn Frames, frame: u32, page: u64) -> f64 {
        self.sample.insert(frame, page);
        self.looks += self.sample.len() * LOOKS;
        let turn = self.frames.max(1) as usize;
        while self.looks >= turn {
            self.looks -= turn;
            self.sample.look(frames);
        }
        self.use_found();
        self.arrived += 1;
        if self.arrived >= self.frames / TICKS {
            self.arrived = 0;
            self.choose();
        }
        SHARES[self.chosen]
    }

    /// Gives the uses that were found to each trial.
    pub(super) fn use_found(&mut self) {
        if !self.sample.has_uses() {
            return;
        }
        let all = &mut self.all;
        self.sample.drain_uses(|key| all.iter_mut().for_each(|trial| trial.use_key(key)));
    }

    /// Chooses the best share, and lets the counts fade.
    fn choose(&mut self) {
        let best = |count: fn(&Trial) -> f64, gain: f64| {
            let all = &self.all;
            let best = (0..all.len()).min_by(|&a, &b| count(&all[a]).total_cmp(&count(&all[b])));
            let chosen = count(&all[self.chosen]);
            // Of few misses, a difference says little.
            let most = chosen - (chosen * gain).max(chosen.sqrt());
            best.filter(|&best| count(&all[best]) < most)
        };
        if self.all[self.chosen].fast > MIN_MISSES {
            if let Some(best) = best(|trial| trial.fast, FAST_GAIN) {
                self.chosen = best;
                // What was before says nothing about what is now.
                self.all.iter_mut().for_each(|trial| trial.slow = trial.fast);
            } else if let Some(best) = best(|trial| trial.slow, SLOW_GAIN) {
                self.chosen = best;
            }
        }
        // A shorter queue that is as good is better: its frames are in the processor's cache.
        let enough = self.all[self.chosen].slow * (1.0 + TIE);
        if let Some(shortest) = self.all.iter().position(|trial| trial.slow <= enough) {
            self.chosen = shortest;
        }
        for trial in &mut self.all {
            trial.fast *= self.fading[0];
            trial.slow *= self.fading[1];
        }
    }

    /// Sets the number of frames of the cache. The trials begin again, with their counts.
    pub(super) fn resize(&mut self, frames: u32) {
        if frames == self.frames {
            return;
        }
        self.frames = frames;
        self.one_in = one_in(frames);
        self.sample.resize(self.one_in);
        for (trial, share) in self.all.iter_mut().zip(SHARES) {
            let (fast, slow) = (trial.fast, trial.slow);
            *trial = Trial { fast, slow, ..Trial::new(frames / self.one_in, share, self.make) };
        }
    }
}

/// Returns the share of the pages in the sample of a cache: one in so many, a power of two.
fn one_in(frames: u32) -> u32 {
    (frames / MAX_TRIAL).next_power_of_two().max(MIN_ONE_IN)
}

/// A cache of keys instead of pages.
#[derive(Debug)]
struct Trial {
    policy: Box<dyn Policy>,
    keys: Keys,
    /// The frame of each key.
    index: HashMap<u32, u32, BuildHasherDefault<KeyHasher>>,
    /// Empty: the memory for the next victim.
    victims: Vec<u32>,
    /// The misses, in the fast count and in the slow one.
    fast: f64,
    slow: f64,
}

/// Hashes a key, which is a hash already: spreads its bits.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    fn write_u32(&mut self, key: u32) {
        self.0 = (self.0 ^ u64::from(key)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The frames of a trial.
#[derive(Debug)]
struct Keys {
    /// By frame, as far as frames are in use.
    keys: Vec<u32>,
    /// By frame: the key was used.
    used: Vec<Cell<bool>>,
}

impl Trial {
    fn new(frames: u32, share: f64, make: Make) -> Self {
        let keys = Vec::with_capacity(frames as usize);
        let used = vec![Cell::new(false); frames as usize];
        Self {
            policy: make(frames, share),
            keys: Keys { keys, used },
            index: HashMap::with_capacity_and_hasher(
                frames as usize,
                BuildHasherDefault::default(),
            ),
            victims: Vec::with_capacity(1),
            fast: 0.0,
            slow: 0.0,
        }
    }

    /// Uses a key, and counts a miss if no frame has it.
    fn use_key(&mut self, key: u32) {
        if let Some(&frame) = self.index.get(&key) {
            self.keys.used[frame as usize].set(true);
            return;
        }
        self.fast += 1.0;
        self.slow += 1.0;
        let Some(frame) = self.take_frame() else { return };
        match self.keys.keys.get_mut(frame as usize) {
            Some(place) => *place = key,
            None => self.keys.keys.push(key),
        }
        self.index.insert(key, frame);
        self.policy.insert(&self.keys, frame, u64::from(key));
    }

    /// Returns a frame that was not used yet, or that of a victim.
    fn take_frame(&mut self) -> Option<u32> {
        if self.keys.keys.len() < self.keys.used.len() {
            return Some(self.keys.keys.len() as u32);
        }
        self.victims.clear();
        self.policy.pick_victims(&self.keys, 1, &mut self.victims);
        let victim = self.victims.pop()?;
        self.index.remove(&self.keys.keys[victim as usize]);
        Some(victim)
    }
}

impl Frames for Keys {
    fn count(&self) -> u32 {
        self.used.len() as u32
    }

    fn inspect(&self, frame: u32) -> FrameState {
        let key = self.keys.get(frame as usize);
        key.map_or(FrameState::NotCached, |&key| FrameState::Evictable(u64::from(key)))
    }

    fn take_referenced(&self, frame: u32) -> bool {
        self.used[frame as usize].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::HotCold;

    const MAKE: Make = |frames, share| Box::new(HotCold::with_share(frames, share));

    /// Plays keys to a trial. Returns the misses.
    fn misses(share: f64, keys: impl Iterator<Item = u32>) -> f64 {
        let mut trial = Trial::new(100, share, MAKE);
        keys.for_each(|key| trial.use_key(key));
        assert_eq!(trial.fast.to_bits(), trial.slow.to_bits());
        trial.fast
    }

    #[test]
    fn a_trial_counts_the_misses_of_its_share() {
        let fits = || (0..1000).map(|n| n % 90);
        for share in SHARES {
            let missed = misses(share, fits());
            assert!((missed - 90.0).abs() < 1e-9, "each key misses once: {missed}");
        }
        let cycle = || (0..15_000).map(|n| n % 150);
        let [short, _, long] = SHARES.map(|share| misses(share, cycle()));
        assert!(short < 6000.0 && long > 12_000.0, "{short} {long} of 15000");
    }

    #[test]
    fn a_small_cache_has_no_trials_and_a_large_one_a_small_sample() {
        assert!(Trials::new(MIN_FRAMES - 1, MAKE).is_none());
        for frames in [256, 1000, 8192, 1 << 20] {
            let trials = Trials::new(frames, MAKE).unwrap();
            let most = trials.all.iter().map(|trial| trial.keys.count()).max().unwrap();
            assert!((frames / 16..=frames / MIN_ONE_IN).contains(&most) || most >= MAX_TRIAL / 2);
            assert!(most <= MAX_TRIAL, "{most} frames");
        }
    }
}
