//! The queue of the I/O pool: the work that waits for a thread, and the work in flight.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::task::Waker;

use crate::rt::busy::{Busy, MAX_HUNG};

/// Neighbouring pages of one mapping that wait to be filled. Dropping it releases them unfilled.
pub(crate) trait Extent: Send {
    /// Returns the pages.
    fn pages(&self) -> Pages;

    /// Fills the pages and publishes them. Errors are dropped: a reader that needs the pages looks
    /// them up again.
    fn fill(self: Box<Self>);
}

/// The miss of a future. The future and the pool share it: once the pool holds the only reference,
/// no future waits for it.
pub(crate) trait Fetch: Send + Sync {
    /// Returns the pages that it reads: none if the fetch starts at or past the end of the file.
    fn pages(&self) -> &Pages;

    /// Returns `true` if one call may fill it with other fetches of the mapping.
    fn is_together(&self) -> bool;

    /// Returns the maximum number of pages that one call may fill for its mapping.
    fn max_together(&self) -> u64;

    /// Ends the fetch with the bytes that are cached now. Returns `false`, and does nothing, if its
    /// page is not cached.
    fn end_at_once(&self) -> bool;

    /// Fetches and ends. Blocks.
    fn work(&self);

    /// Fills pages of its mapping, all requested at once. Returns a value that keeps them in the
    /// cache until it is dropped.
    fn fill_together(&self, wanted: &[Range<u64>]) -> Box<dyn Any>;
}

/// The default maximum number of threads, and of requests in flight. Under shuttle each test
/// decides if there are threads.
const MAX_IO_THREADS: usize = if cfg!(shuttle) { 0 } else { 16 };

/// The maximum number of threads that fetch together for one mapping. While one thread publishes
/// its pages, the requests of the others are in flight.
const TOGETHER_THREADS: usize = 8;

/// A thread that fetches together takes one in this many of the waiting fetches, so that the
/// threads do not all end at once.
const TOGETHER_SHARE: usize = 4;

/// The number of fetches that it takes.
const TOGETHER: RangeInclusive<usize> = 4..=64;

/// A fetch that waits for a thread.
pub(super) struct Waiting {
    pub(super) fetch: Arc<dyn Fetch>,
    /// The wakers to wake when it ends.
    pub(super) joined: Vec<Waker>,
    /// One call may fill it with other fetches.
    pub(super) together: bool,
}

/// Waiting work, work in flight, and the threads.
pub(super) struct Queue {
    pub(super) fetches: VecDeque<Waiting>,
    pub(super) extents: VecDeque<Box<dyn Extent>>,
    /// The pages of begun work, by any thread, with the wakers to wake at its end.
    pub(super) begun: Vec<(Pages, Vec<Waker>)>,
    /// The number of threads that fetch.
    pub(super) fetching: usize,
    /// The mapping of each thread that fetches together.
    pub(super) together: Vec<u32>,
    pub(super) io_threads: usize,
    /// The work of the threads.
    pub(super) busy: Busy,
    /// A thread watches for work that hangs.
    pub(super) is_watched: bool,
    pub(super) threads: usize,
    /// The number of threads that wait for work.
    pub(super) idle: usize,
    pub(super) closed: bool,
}

/// Pages of a mapping, which is given by its number.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) mapping: u32,
    pub(crate) pages: Range<u64>,
}

impl Pages {
    /// Returns `true` if a page of a mapping is among them.
    pub(super) fn cover(&self, mapping: u32, page: u64) -> bool {
        self.mapping == mapping && self.pages.contains(&page)
    }
}

/// The next work of a thread.
pub(super) enum Work {
    Fetch(Arc<dyn Fetch>),
    /// Fetches of one mapping.
    Together(Vec<Arc<dyn Fetch>>),
    Extent(Box<dyn Extent>),
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            fetches: VecDeque::new(),
            extents: VecDeque::new(),
            begun: Vec::new(),
            fetching: 0,
            together: Vec::new(),
            io_threads: MAX_IO_THREADS,
            busy: Busy::default(),
            is_watched: false,
            threads: 0,
            idle: 0,
            closed: false,
        }
    }
}

impl Queue {
    pub(super) fn is_quiesced(&self) -> bool {
        let hung = self.busy.hung();
        self.waiting() == 0 && self.idle + hung >= self.threads || hung == MAX_HUNG
    }

    pub(super) fn waiting(&self) -> usize {
        self.fetches.len() + self.extents.len()
    }

    /// Takes the next work and records it as begun, or returns `None`. The caller passes it to
    /// `Inner::work_on`.
    pub(super) fn begin(&mut self) -> Option<Work> {
        // One thread is left for waiting extents. While none waits, that thread need not have
        // started; and if only one thread is allowed, it may fetch.
        // Threads that hang are not among those allowed.
        let most = if self.extents.is_empty() {
            self.io_threads.max(2) + self.busy.hung()
        } else {
            self.threads
        };
        if self.fetching + 1 < most
            && let Some(place) = self.fetches.iter().position(|waiting| !self.is_throttled(waiting))
            && let Some(waiting) = self.fetches.remove(place)
        {
            return Some(if waiting.together {
                self.begin_together(waiting)
            } else {
                self.begin_fetch(waiting)
            });
        }
        let extent = self.extents.pop_front()?;
        Some(self.begin_extent(extent))
    }

    /// Returns `true` if a thread that works for its mapping, or was woken to, will take it as
    /// well.
    pub(super) fn joins_others(&self, waiting: &Waiting) -> bool {
        let mapping = waiting.fetch.pages().mapping;
        let is_before = |other: &Waiting| other.together && other.fetch.pages().mapping == mapping;
        waiting.together && (self.is_throttled(waiting) || self.fetches.iter().any(is_before))
    }

    /// Returns `true` while it must wait until fewer threads fetch for its mapping.
    pub(super) fn is_throttled(&self, waiting: &Waiting) -> bool {
        let mapping = waiting.fetch.pages().mapping;
        waiting.together
            && self.together.iter().filter(|&&of| of == mapping).count() >= TOGETHER_THREADS
    }

    /// Records a fetch as begun.
    pub(super) fn begin_fetch(&mut self, Waiting { fetch, joined, .. }: Waiting) -> Work {
        self.fetching += 1;
        self.begun.push((fetch.pages().clone(), joined));
        Work::Fetch(fetch)
    }

    /// Records a fetch as begun, with as many others of its mapping as one call may fill.
    fn begin_together(&mut self, first: Waiting) -> Work {
        let Pages { mapping, pages } = first.fetch.pages().clone();
        let count = |pages: &Range<u64>| pages.end - pages.start;
        let mut left = first.fetch.max_together().saturating_sub(count(&pages));
        let most =
            self.fetches.len().div_ceil(TOGETHER_SHARE).clamp(*TOGETHER.start(), *TOGETHER.end());
        let mut these = vec![first];
        self.fetches = mem::take(&mut self.fetches)
            .into_iter()
            .filter_map(|waiting| {
                let its = waiting.fetch.pages();
                let fits = its.mapping == mapping && waiting.together && count(&its.pages) <= left;
                if !fits || these.len() == most {
                    return Some(waiting);
                }
                left -= count(&its.pages);
                these.push(waiting);
                None
            })
            .collect();
        self.fetching += 1;
        self.together.push(mapping);
        let begin = |waiting: Waiting| {
            self.begun.push((waiting.fetch.pages().clone(), waiting.joined));
            waiting.fetch
        };
        Work::Together(these.into_iter().map(begin).collect())
    }

    /// Records an extent as begun.
    pub(super) fn begin_extent(&mut self, extent: Box<dyn Extent>) -> Work {
        self.begun.push((extent.pages(), Vec::new()));
        Work::Extent(extent)
    }

    /// Registers a waker to be woken when a page was read that is in flight or waits to be fetched.
    /// Returns `false` if the page is neither.
    pub(super) fn join(&mut self, mapping: u32, page: u64, waker: &Waker) -> bool {
        let mut begun = self
            .begun
            .iter_mut()
            .filter(|(pages, _)| pages.cover(mapping, page))
            .map(|(_, joined)| joined);
        let mut waiting =
            self.fetches.iter_mut().filter(|waiting| waiting.fetch.pages().cover(mapping, page));
        let Some(joined) = begun.next().or_else(|| Some(&mut waiting.next()?.joined)) else {
            return false;
        };
        if !joined.iter().any(|other| other.will_wake(waker)) {
            joined.push(waker.clone());
        }
        true
    }
}
