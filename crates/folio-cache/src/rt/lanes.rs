//! The work that waits for a thread: a lane for each mapping, and the lanes take turns.
//!
//! A mapping with many requests is passed over as often as any other. The caller decides if a lane
//! may have one more thread. No step depends on the number of requests that wait, and a search
//! passes over those lanes only that have threads at work.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use crate::rt::io_request::{Extent, Fetch, Pages};
use crate::rt::pool_requests::RequestId;

/// The maximum number of threads that fetch together for one mapping. While one thread publishes
/// its pages, the requests of the others are in flight.
const TOGETHER_THREADS: usize = 8;

/// A thread that fetches together takes one in this many of the waiting fetches, so that the
/// threads do not all end at once.
const TOGETHER_SHARE: usize = 4;

/// The number of fetches that it takes.
const TOGETHER: RangeInclusive<usize> = 4..=64;

/// A fetch that waits for a thread, or was begun by one.
pub(super) struct Waiting {
    /// Its request, which says when it came.
    pub(super) id: RequestId,
    pub(super) fetch: Arc<dyn Fetch>,
}

impl Waiting {
    fn mapping(&self) -> u32 {
        self.fetch.pages().mapping
    }

    fn len(&self) -> u64 {
        let pages = &self.fetch.pages().pages;
        pages.end - pages.start
    }
}

/// The kind of the work of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Alone,
    Together,
    Extent,
}

/// The next fetches of a thread.
pub(super) enum Next {
    Alone(Waiting),
    /// Of one mapping.
    Together(Vec<Waiting>),
}

/// The work and the threads of one mapping.
#[derive(Default)]
pub(super) struct Lane {
    /// Fetches that need a call of their own.
    alone: VecDeque<Waiting>,
    together: VecDeque<Waiting>,
    extents: VecDeque<Box<dyn Extent>>,
    /// The numbers of threads at work for it, by kind.
    threads: [usize; 3],
    /// Its turn among the lanes with a fetch.
    fetch_turn: Option<u64>,
    /// Its turn among the lanes with an extent.
    extent_turn: Option<u64>,
}

impl Lane {
    /// Returns the number of threads at work for it.
    pub(super) fn threads(&self) -> usize {
        self.threads.iter().sum()
    }

    /// Returns the number of threads that fetch for it.
    pub(super) fn fetching(&self) -> usize {
        self.threads() - self.extent_threads()
    }

    /// Returns the number of threads that fill its extents.
    pub(super) fn extent_threads(&self) -> usize {
        self.threads[Kind::Extent as usize]
    }

    /// Returns the number of requests that wait.
    fn waiting(&self) -> usize {
        self.alone.len() + self.together.len() + self.extents.len()
    }

    fn is_throttled(&self) -> bool {
        self.threads[Kind::Together as usize] >= TOGETHER_THREADS
    }

    fn has_fetch(&self) -> bool {
        !self.alone.is_empty() || !self.together.is_empty() && !self.is_throttled()
    }

    fn is_unused(&self) -> bool {
        self.waiting() == 0 && self.threads() == 0
    }

    /// Takes the first fetch, with those behind it that go with it: at most `most`.
    fn take_fetch(&mut self, most: usize) -> Option<Next> {
        let id = |waiting: Option<&Waiting>| waiting.map(|waiting| waiting.id);
        let together = id(self.together.front()).filter(|_| !self.is_throttled());
        match (id(self.alone.front()), together) {
            (None, None) => None,
            (Some(alone), together) if together.is_none_or(|together| alone < together) => {
                self.alone.pop_front().map(Next::Alone)
            }
            _ => Some(Next::Together(self.take_together(most))),
        }
    }

    /// Takes the first fetch, with those behind it that fit into one call: at most `most`.
    fn take_together(&mut self, most: usize) -> Vec<Waiting> {
        let Some(first) = self.together.pop_front() else { return Vec::new() };
        let mut left = first.fetch.max_together().saturating_sub(first.len());
        let mut these = vec![first];
        while these.len() < most
            && let Some(next) = self.together.pop_front_if(|next| next.len() <= left)
        {
            left -= next.len();
            these.push(next);
        }
        these
    }
}

/// The lanes of all mappings with requests that wait or are in flight.
#[derive(Default)]
pub(super) struct Lanes {
    by_mapping: HashMap<u32, Lane>,
    next_turn: u64,
    fetch_turns: BTreeMap<u64, u32>,
    extent_turns: BTreeMap<u64, u32>,
    /// The mappings with threads at work.
    at_work: BTreeSet<u32>,
    /// The number of fetches that wait.
    pub(super) fetches: usize,
    /// The number of extents that wait.
    pub(super) extents: usize,
}

impl Lanes {
    /// Queues a fetch that needs a call of its own.
    pub(super) fn push_alone(&mut self, waiting: Waiting) {
        self.fetches += 1;
        self.change(waiting.mapping(), false, |lane| lane.alone.push_back(waiting));
    }

    /// Queues a fetch: with others of its mapping, if they may go together.
    pub(super) fn push(&mut self, waiting: Waiting) {
        if !waiting.fetch.is_together() {
            return self.push_alone(waiting);
        }
        self.fetches += 1;
        self.change(waiting.mapping(), false, |lane| lane.together.push_back(waiting));
    }

    pub(super) fn push_extent(&mut self, extent: Box<dyn Extent>) {
        self.extents += 1;
        self.change(extent.pages().mapping, false, |lane| lane.extents.push_back(extent));
    }

    /// Returns the number of extents of a mapping that wait.
    pub(super) fn extents_of(&self, mapping: u32) -> usize {
        self.by_mapping.get(&mapping).map_or(0, |lane| lane.extents.len())
    }

    /// Takes the waiting extents of a mapping for which `is_wanted` returns `true`.
    pub(super) fn take_extents(
        &mut self,
        mapping: u32,
        is_wanted: impl Fn(&Range<u64>) -> bool,
    ) -> VecDeque<Box<dyn Extent>> {
        if self.extents_of(mapping) == 0 {
            return VecDeque::new();
        }
        let taken = self.change(mapping, false, |lane| {
            let all = std::mem::take(&mut lane.extents);
            let (taken, kept) = all.into_iter().partition::<VecDeque<_>, _>(|extent| {
                let Pages { pages, .. } = extent.pages();
                is_wanted(&pages)
            });
            lane.extents = kept;
            taken
        });
        self.extents -= taken.len();
        taken
    }

    /// Returns `true` if a thread that works for the mapping of a fetch, or was woken to, will take
    /// the fetch as well.
    pub(super) fn joins_others(&self, fetch: &dyn Fetch) -> bool {
        fetch.is_together()
            && self
                .by_mapping
                .get(&fetch.pages().mapping)
                .is_some_and(|lane| lane.is_throttled() || !lane.together.is_empty())
    }

    /// Returns the mapping of the next fetch. Passes over lanes that may have no more threads.
    pub(super) fn first_fetch(&self, may_have: impl Fn(u32, &Lane) -> bool) -> Option<u32> {
        self.first(&self.fetch_turns, may_have)
    }

    /// Returns the mapping of the next extent. Passes over lanes that may have no more threads.
    pub(super) fn first_extent(&self, may_have: impl Fn(u32, &Lane) -> bool) -> Option<u32> {
        self.first(&self.extent_turns, may_have)
    }

    fn first(
        &self,
        turns: &BTreeMap<u64, u32>,
        may_have: impl Fn(u32, &Lane) -> bool,
    ) -> Option<u32> {
        turns.values().copied().find(|&mapping| may_have(mapping, &self.by_mapping[&mapping]))
    }

    /// Takes the first fetch of a mapping, with the others that go with it, for a thread. The
    /// caller calls [`end`](Self::end) after their end.
    pub(super) fn begin_fetch(&mut self, mapping: u32) -> Option<Next> {
        let most = self.fetches.saturating_sub(1).div_ceil(TOGETHER_SHARE);
        let most = most.clamp(*TOGETHER.start(), *TOGETHER.end());
        let next = self.change(mapping, true, |lane| {
            let next = lane.take_fetch(most)?;
            let kind = if matches!(next, Next::Alone(_)) { Kind::Alone } else { Kind::Together };
            lane.threads[kind as usize] += 1;
            Some(next)
        })?;
        self.fetches -= match &next {
            Next::Together(fetches) => fetches.len(),
            Next::Alone(_) => 1,
        };
        Some(next)
    }

    /// Takes the first extent of a mapping for a thread. The caller calls [`end`](Self::end) after
    /// its end.
    pub(super) fn begin_extent(&mut self, mapping: u32) -> Option<Box<dyn Extent>> {
        let extent = self.change(mapping, true, |lane| lane.extents.pop_front())?;
        self.extents -= 1;
        self.begin(mapping, Kind::Extent);
        Some(extent)
    }

    /// Counts a thread for work that did not wait.
    pub(super) fn begin(&mut self, mapping: u32, kind: Kind) {
        self.change(mapping, false, |lane| lane.threads[kind as usize] += 1);
    }

    /// Ends the work of a thread for a mapping.
    pub(super) fn end(&mut self, mapping: u32, kind: Kind) {
        self.change(mapping, false, |lane| lane.threads[kind as usize] -= 1);
    }

    /// Returns the lane of a mapping, if it has requests.
    pub(super) fn get(&self, mapping: u32) -> Option<&Lane> {
        self.by_mapping.get(&mapping)
    }

    /// Returns the number of fetches that wait in lanes with threads at work that may have no more.
    pub(super) fn held_back(&self, may_have: impl Fn(u32, &Lane) -> bool) -> usize {
        let lanes = self.at_work.iter().map(|&mapping| (mapping, &self.by_mapping[&mapping]));
        let full = lanes.filter(|&(mapping, lane)| !may_have(mapping, lane));
        full.map(|(_, lane)| lane.alone.len() + lane.together.len()).sum()
    }

    /// Returns the mappings with requests that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u32> {
        self.by_mapping.iter().filter(|(_, lane)| lane.waiting() > 0).map(|(&mapping, _)| mapping)
    }

    /// Changes a lane, and keeps the turns right: it moves to the end if it `moves`, and when work
    /// comes that it did not have.
    fn change<T>(&mut self, mapping: u32, moves: bool, change: impl FnOnce(&mut Lane) -> T) -> T {
        let lane = self.by_mapping.entry(mapping).or_default();
        let result = change(lane);
        let (fetch, extent) = (lane.has_fetch(), !lane.extents.is_empty());
        for (turns, turn, has) in [
            (&mut self.fetch_turns, &mut lane.fetch_turn, fetch),
            (&mut self.extent_turns, &mut lane.extent_turn, extent),
        ] {
            if turn.is_some() == has && !moves {
                continue;
            }
            turn.take().map(|turn| turns.remove(&turn));
            if has {
                *turn = Some(self.next_turn);
                turns.insert(self.next_turn, mapping);
                self.next_turn += 1;
            }
        }
        if lane.threads() == 0 {
            self.at_work.remove(&mapping);
        } else {
            self.at_work.insert(mapping);
        }
        if lane.is_unused() {
            self.by_mapping.remove(&mapping);
        }
        result
    }
}
