//! Executable specifications: a naive model of each known policy, as libCacheSim has it, and the
//! comparison with ours, decision by decision.
//!
//! A model knows pages only, moves them between lists, and looks them up by searching. The models
//! have the hits of libCacheSim 0.3.5 on a trace that both can make, and our policies choose the
//! same victims. The ghosts of S3-FIFO are a parameter: all of them, or our table, which loses one
//! in a hundred.

use std::collections::VecDeque;

use super::ghosts::GhostQueue;
use super::tests::Numbers;
use super::*;

/// A page in a list of a model, with what the model knows of it.
#[derive(Clone, Copy, Debug)]
struct Page {
    number: u64,
    /// The uses since the last visit.
    uses: u32,
    /// The rest of the uses before.
    lives: u32,
}

type List = VecDeque<Page>;

pub(super) trait Model {
    /// Uses a page. Returns `true` for a hit, and the page that was evicted.
    fn use_page(&mut self, number: u64) -> (bool, Option<u64>);
}

fn page(number: u64) -> Page {
    Page { number, uses: 0, lives: 0 }
}

/// Counts a use. Returns `true` if a list has the page.
fn use_in(list: &mut List, number: u64) -> bool {
    let found = list.iter_mut().find(|page| page.number == number);
    found.map(|page| page.uses += 1).is_some()
}

/// CLOCK: a queue. A used page goes to its end, once.
struct ClockModel {
    queue: List,
    most: usize,
}

impl Model for ClockModel {
    fn use_page(&mut self, number: u64) -> (bool, Option<u64>) {
        if use_in(&mut self.queue, number) {
            return (true, None);
        }
        let mut evicted = None;
        while self.queue.len() == self.most {
            let oldest = self.queue.pop_front().unwrap();
            if oldest.uses > 0 {
                self.queue.push_back(page(oldest.number));
            } else {
                evicted = Some(oldest.number);
            }
        }
        self.queue.push_back(page(number));
        (false, evicted)
    }
}

/// SIEVE: a queue of pages that stay in their places, and a hand that moves to the newest.
struct SieveModel {
    queue: List,
    hand: usize,
    most: usize,
}

impl Model for SieveModel {
    fn use_page(&mut self, number: u64) -> (bool, Option<u64>) {
        if use_in(&mut self.queue, number) {
            return (true, None);
        }
        let mut evicted = None;
        while self.queue.len() == self.most {
            self.hand %= self.queue.len();
            if std::mem::take(&mut self.queue[self.hand].uses) > 0 {
                self.hand += 1;
            } else {
                evicted = self.queue.remove(self.hand).map(|page| page.number);
                // The hand of libCacheSim begins at the oldest after the newest.
                self.hand = if self.hand == self.queue.len() { 0 } else { self.hand };
            }
        }
        self.queue.push_back(page(number));
        (false, evicted)
    }
}

/// The ghosts of S3-FIFO.
enum Ghosts {
    All(VecDeque<u64>, usize),
    Ours(GhostQueue),
}

impl Ghosts {
    fn insert(&mut self, number: u64) {
        match self {
            Self::All(ghosts, most) => {
                ghosts.push_back(number);
                if ghosts.len() > *most {
                    ghosts.pop_front();
                }
            }
            Self::Ours(ghosts) => ghosts.insert(number),
        }
    }

    /// Forgets a page. Returns `true` if it was there.
    fn take(&mut self, number: u64) -> bool {
        match self {
            Self::All(ghosts, _) => {
                let at = ghosts.iter().position(|&ghost| ghost == number);
                at.and_then(|at| ghosts.remove(at)).is_some()
            }
            Self::Ours(ghosts) => ghosts.take(number),
        }
    }
}

/// S3-FIFO: a small queue of a tenth, a main queue, and ghosts of nine tenths.
struct S3FifoModel {
    small: List,
    main: List,
    ghosts: Ghosts,
    most: usize,
    is_full: bool,
}

impl S3FifoModel {
    fn small_most(&self) -> usize {
        self.most / 10
    }

    fn evict(&mut self) -> u64 {
        self.is_full = true;
        let evicted = if self.small.len() < self.small_most() { None } else { self.evict_small() };
        evicted.or_else(|| self.evict_main()).or_else(|| self.evict_small()).unwrap()
    }

    fn evict_small(&mut self) -> Option<u64> {
        while let Some(oldest) = self.small.pop_front() {
            if oldest.uses >= 2 {
                self.main.push_back(page(oldest.number));
                continue;
            }
            self.ghosts.insert(oldest.number);
            return Some(oldest.number);
        }
        None
    }

    fn evict_main(&mut self) -> Option<u64> {
        while let Some(oldest) = self.main.pop_front() {
            let lives = (oldest.lives + oldest.uses).min(3);
            if lives == 0 {
                return Some(oldest.number);
            }
            self.main.push_back(Page { uses: 0, lives: lives - 1, ..oldest });
        }
        None
    }
}

impl Model for S3FifoModel {
    fn use_page(&mut self, number: u64) -> (bool, Option<u64>) {
        if use_in(&mut self.small, number) || use_in(&mut self.main, number) {
            return (true, None);
        }
        let is_ghost = self.ghosts.take(number);
        let evicted = (self.small.len() + self.main.len() == self.most).then(|| self.evict());
        if is_ghost || !self.is_full && self.small.len() >= self.small_most() {
            self.main.push_back(page(number));
        } else {
            self.small.push_back(page(number));
        }
        (false, evicted)
    }
}

fn clock_model(most: usize) -> Box<dyn Model> {
    Box::new(ClockModel { queue: List::new(), most })
}

fn sieve_model(most: usize) -> Box<dyn Model> {
    Box::new(SieveModel { queue: List::new(), hand: 0, most })
}

fn s3_fifo_model(most: usize, has_our_ghosts: bool) -> Box<dyn Model> {
    let ghosts = if has_our_ghosts {
        Ghosts::Ours(GhostQueue::new(most as u32 * 9 / 10))
    } else {
        Ghosts::All(VecDeque::new(), most * 9 / 10)
    };
    let (small, main) = Default::default();
    Box::new(S3FifoModel { small, main, ghosts, most, is_full: false })
}

/// Makes a trace of popular pages, loops and scans, without chance: the same in any language.
pub(super) fn trace(len: u64) -> impl Iterator<Item = u64> {
    let mut state = 1_u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    (0..len).map(move |n| match n / 3000 % 4 {
        0 => 10_000 + n % 130,
        1 if n % 2 == 0 => 1_000_000 + n,
        _ => {
            let (one, other) = (random() % 600, random() % 600);
            one * other / 600
        }
    })
}

/// Plays a trace to a model and to a policy of ours, and compares each step.
pub(super) fn compare(name: &str, mut model: Box<dyn Model>, policy: Box<dyn Policy>, frames: u32) {
    let mut ours = Numbers::new(frames, policy);
    ours.batch = 1;
    let mut hits = 0;
    for (n, number) in trace(60_000).enumerate() {
        let (is_hit, evicted) = model.use_page(number);
        assert_eq!(ours.use_page(number), is_hit, "{name}: use {n} of page {number}");
        if let Some(evicted) = evicted {
            let is_there = ours.found.contains_key(&evicted);
            assert!(!is_there, "{name}: use {n}: the model evicts page {evicted}");
        }
        hits += u32::from(is_hit);
    }
    assert!((1000..50_000).contains(&hits), "{name}: the trace shows little: {hits} hits");
}

#[test]
fn clock_decides_as_the_specification() {
    for frames in [10, 64, 100, 250] {
        compare("clock", clock_model(frames), Box::new(Clock::new()), frames as u32);
    }
}

#[test]
fn sieve_decides_as_the_specification() {
    for frames in [10, 64, 100, 250] {
        compare("sieve", sieve_model(frames), Box::new(Sieve::new(frames as u32)), frames as u32);
    }
}

#[test]
fn s3_fifo_decides_as_the_specification() {
    for frames in [10, 64, 100, 250] {
        let model = s3_fifo_model(frames, true);
        compare("s3-fifo", model, Box::new(S3Fifo::new(frames as u32)), frames as u32);
    }
}

pub(super) fn hits(mut model: Box<dyn Model>) -> usize {
    trace(60_000).filter(|&number| model.use_page(number).0).count()
}

#[test]
fn lost_ghosts_change_few_hits() {
    for frames in [64, 100, 250] {
        let [all, ours] = [false, true].map(|ours| s3_fifo_model(frames, ours));
        let (all, ours) = (hits(all), hits(ours));
        assert!(all.abs_diff(ours) < 60_000 / 300, "{frames} frames: {all} and {ours} hits");
    }
}

/// By number of frames: the hits of CLOCK, SIEVE and S3-FIFO in libCacheSim.
const LIBCACHESIM: [(usize, usize, usize, usize); 3] =
    [(64, 7073, 10_669, 11_592), (100, 10_739, 14_750, 15_594), (250, 37_065, 29_478, 38_461)];

/// The numbers are those of the package `libcachesim` 0.3.5, for the same trace.
#[test]
fn the_specifications_hit_as_often_as_libcachesim() {
    for (frames, clock, sieve, s3_fifo) in LIBCACHESIM {
        let number = s3_fifo_model(frames, false);
        assert_eq!(
            (hits(clock_model(frames)), hits(sieve_model(frames)), hits(number)),
            (clock, sieve, s3_fifo),
            "{frames} frames"
        );
    }
}
