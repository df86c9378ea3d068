//! The executable specification of `HotCold`: a naive model, and the comparison, decision by
//! decision, at each share of the queue.
//!
//! The model moves pages between lists and looks them up by searching. Its ghosts are a parameter:
//! all of them, or our table, which loses some. The trials only choose the share; the tests of
//! `trials.rs` have a model of that.

use std::collections::VecDeque;

use super::*;
use crate::policy::models::{Model, compare, hits, trace};
use crate::policy::tests::Numbers;

/// A page in a list, with what the model knows of it.
#[derive(Clone, Copy, Debug)]
struct Page {
    number: u64,
    used: bool,
    /// The laps that a hot page stays without use.
    lives: u8,
    /// The tick at which the page came, or was last found used.
    time: u16,
}

enum Remembered {
    All(Vec<(u64, u16)>),
    Ours(Ghosts),
}

/// The ticks that a ghost is remembered: a tick is the 256th of a turn.
const REMEMBERED: u16 = 384;

impl Remembered {
    fn insert(&mut self, page: &Page) {
        match self {
            Self::All(ghosts) => ghosts.insert(0, (page.number, page.time)),
            Self::Ours(ghosts) => ghosts.insert(page.number, page.time),
        }
    }

    fn take(&mut self, number: u64, now: u16) -> Option<u16> {
        match self {
            Self::All(ghosts) => {
                ghosts.retain(|&(_, time)| now - time <= REMEMBERED);
                let at = ghosts.iter().position(|ghost| ghost.0 == number)?;
                Some(ghosts.remove(at).1)
            }
            Self::Ours(ghosts) => ghosts.take(number, now, REMEMBERED),
        }
    }
}

/// A queue of cold pages, young and old, and a clock of hot ones.
struct HotColdModel {
    young: VecDeque<Page>,
    old: VecDeque<Page>,
    /// The hand is at the front.
    hot: VecDeque<Page>,
    ghosts: Remembered,
    /// The page behind the run that the gate refused last, and when its first page was used.
    refused: Option<(u64, u16)>,
    frames: usize,
    /// The frames that the queue should have.
    room: usize,
    arrived: usize,
}

impl HotColdModel {
    fn now(&self) -> u16 {
        (self.arrived / (self.frames / 256).max(1)) as u16
    }

    /// Turns the clock by one page. Returns the page if it may not stay: it was not used, and has
    /// no lives.
    fn turn(&mut self) -> Option<Page> {
        let mut page = self.hot.pop_front().unwrap();
        if page.used {
            page = Page { used: false, lives: (page.lives + 1).min(3), time: self.now(), ..page };
        } else if page.lives > 0 {
            page.lives -= 1;
        } else {
            return Some(page);
        }
        self.hot.push_back(page);
        None
    }

    /// Makes a hot page cold.
    fn cool(&mut self) {
        let cooled = std::iter::from_fn(|| Some(self.turn())).flatten().next();
        self.old.extend(cooled);
    }

    /// Makes a page hot. Another one makes room for it.
    fn heat(&mut self, page: Page) {
        self.hot.push_back(Page { used: false, lives: 0, time: self.now(), ..page });
    }

    fn has_too_many_hot(&self) -> bool {
        self.hot.len() > self.frames - self.room
    }

    fn evict(&mut self) -> u64 {
        loop {
            if self.has_too_many_hot() {
                self.cool();
            }
            match self.old.pop_front().or_else(|| self.young.pop_front()) {
                None => self.cool(),
                Some(page) if page.used => {
                    self.heat(page);
                    if self.has_too_many_hot() {
                        self.cool();
                    }
                }
                Some(page) => {
                    self.ghosts.insert(&page);
                    return page.number;
                }
            }
        }
    }

    /// Opens the gate for a page, unless it follows a run that was refused, and was used with it.
    fn open_gate_for(&mut self, number: u64, time: u16) -> bool {
        if let Some((page, first)) = self.refused
            && page == number
            && time.abs_diff(first) <= 1
        {
            self.refused = Some((number + 1, first));
            return false;
        }
        let opens = self.open_gate(time);
        self.refused = if opens { None } else { Some((number + 1, time)) };
        opens
    }

    /// Makes the next hot page cold that was not used, if its last use is longer ago than `time`.
    fn open_gate(&mut self, time: u16) -> bool {
        for _ in 0..16 {
            if self.hot.is_empty() {
                return false;
            }
            let Some(page) = self.turn() else { continue };
            if page.time < time {
                self.old.push_back(page);
                return true;
            }
            self.hot.push_back(page);
            return false;
        }
        false
    }
}

impl Model for HotColdModel {
    fn use_page(&mut self, number: u64) -> (bool, Option<u64>) {
        let mut all = self.young.iter_mut().chain(&mut self.old).chain(&mut self.hot);
        if let Some(page) = all.find(|page| page.number == number) {
            page.used = true;
            return (true, None);
        }
        let len = self.young.len() + self.old.len() + self.hot.len();
        let evicted = (len == self.frames).then(|| self.evict());
        self.arrived += 1;
        let ghost = self.ghosts.take(number, self.now());
        let page = Page { number, used: false, lives: 0, time: self.now() };
        let has_room = self.hot.len() < self.frames - self.room;
        if has_room || ghost.is_some_and(|time| self.open_gate_for(number, time)) {
            self.heat(page);
        } else {
            self.young.push_back(page);
        }
        while self.young.len() > (self.room / 5).max(1) {
            let aged = self.young.pop_front().map(|page| Page { used: false, ..page });
            self.old.extend(aged);
        }
        (false, evicted)
    }
}

fn model(frames: usize, share: f64, has_our_ghosts: bool) -> Box<dyn Model> {
    let room = ((frames as f64 * share) as usize).max(2);
    let ghosts = if has_our_ghosts {
        Remembered::Ours(Ghosts::new(2 * frames as u32))
    } else {
        Remembered::All(Vec::new())
    };
    let (young, old, hot) = Default::default();
    Box::new(HotColdModel { young, old, hot, ghosts, refused: None, frames, room, arrived: 0 })
}

#[test]
fn hot_cold_decides_as_the_specification() {
    for frames in [10, 64, 100, 250] {
        for share in [0.01, 0.05, 0.2, 0.95] {
            let ours = HotCold::with_plan(frames as u32, Plan::Share(share));
            let name = format!("hot-cold with a queue of {share}");
            compare(&name, model(frames, share, true), Box::new(ours), frames as u32);
        }
    }
}

#[test]
fn ghosts_that_are_lost_cost_few_hits() {
    for frames in [64, 100, 250] {
        let [all, ours] = [false, true].map(|ours| hits(model(frames, 0.05, ours)));
        assert!(all.saturating_sub(ours) < 60_000 / 300, "{frames} frames: {all} and {ours} hits");
    }
}

/// LRU: a list in the order of the last uses.
struct LruModel {
    pages: VecDeque<u64>,
    frames: usize,
}

impl Model for LruModel {
    fn use_page(&mut self, number: u64) -> (bool, Option<u64>) {
        let place = self.pages.iter().position(|&page| page == number);
        let is_full = self.pages.len() == self.frames;
        let evicted = if place.is_none() && is_full { self.pages.pop_front() } else { None };
        place.map(|place| self.pages.remove(place));
        self.pages.push_back(number);
        (place.is_some(), evicted)
    }
}

/// The times of uses are rough, and of many uses without a visit the first three are known.
#[test]
fn the_plan_of_last_uses_hits_about_as_often_as_lru() {
    for frames in [64, 100, 250] {
        let lru = hits(Box::new(LruModel { pages: VecDeque::new(), frames }));
        let plan = HotCold::with_plan(frames as u32, Plan::LastUse);
        let mut ours = Numbers::new(frames as u32, Box::new(plan));
        ours.batch = 1;
        let ours = trace(60_000).filter(|&number| ours.use_page(number)).count();
        assert!(ours.abs_diff(lru) < 60_000 / 200, "{frames} frames: {ours} and {lru} hits");
    }
}
