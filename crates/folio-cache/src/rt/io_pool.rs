//! IoPool I/O: threads that fill pages while their readers do something else.
//!
//! Two kinds of work wait for a thread: extents that are read ahead ([`Extent`]), and what futures
//! miss ([`Fetch`]), which goes first. Threads start when there is work and end when there was none
//! for a while. Their number bounds the requests in flight. The length of the queue bounds the
//! extents that wait: one that does not fit is not requested, and its pages are read when they are
//! needed. A reader that needs a page of an extent that no thread has begun takes the extent out of
//! the queue and fills it itself, so it never waits for slow requests of others. Truncation drops
//! the extents that wait.
//!
//! A future that misses a page which is on its way makes no request: it is woken when that request
//! ends, and looks again. So many futures that wait for one slow page take one thread.
//!
//! A backing that answers many requests by one call ([`Fetch::is_together`]) gets few threads.
//! What comes while they are at work waits, and each thread takes a share of it: the more waits,
//! the larger the calls. A fetch without an answer after its call, because of an error or the end
//! of the file, gets a thread of its own.
//!
//! Where there is no thread, because the system gives none or the user wants none, nothing waits:
//! the reader fills the extent itself, and a future fetches when it is polled.
//!
//! The pool knows no cache: a mapping is a number here.
//!
//! **Invariant:** while an extent waits, there is a thread that does not fetch. A fetch may wait
//! for a lock whose owner truncates the file and waits for a page of that extent; filling an extent
//! waits for no lock.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::ops::{Range, RangeInclusive};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::rt::shim::{Condvar, Mutex, MutexGuard, spawn, wait_for};

/// Neighbouring pages of one mapping that wait to be filled. Dropping it gives them up.
pub(crate) trait Extent: Send {
    /// Returns the pages.
    fn pages(&self) -> Pages;

    /// Fills the pages and publishes them. WritebackErrors are dropped: a reader that needs the pages looks
    /// again.
    fn fill(self: Box<Self>);
}

/// What a future has missed. The future and the pool share it: once the pool holds the only
/// reference, no future waits for it.
pub(crate) trait Fetch: Send + Sync {
    /// Returns the pages that come with it: none if it is about the end of the file.
    fn pages(&self) -> &Pages;

    /// Returns `true` if others of the same mapping may be filled by the same call.
    fn is_together(&self) -> bool;

    /// Returns the maximum number of pages that one call may fill for its mapping.
    fn most_together(&self) -> u64;

    /// Ends the fetch with what is cached now. Returns `false`, and does nothing, if its page is
    /// not cached.
    fn end_at_once(&self) -> bool;

    /// Fetches and ends. Blocks.
    fn work(&self);

    /// Fills pages of its mapping, all requested at once. Returns what keeps them in the cache
    /// until it is dropped.
    fn fill_together(&self, wanted: &[Range<u64>]) -> Box<dyn Any>;
}

/// Returns `true` while a future shares the fetch.
fn is_wanted(fetch: &Arc<dyn Fetch>) -> bool {
    Arc::strong_count(fetch) > 1
}

/// Requests in flight at the most, unless the user wants another number. Under shuttle a test says
/// whether there are threads.
const MOST_IO_THREADS: usize = if cfg!(shuttle) { 0 } else { 16 };

/// Threads that fetch together for one mapping: while one hands over what it has, others' requests
/// are under way.
const TOGETHER_THREADS: usize = 8;

/// Of what waits, the part that one of them takes, so that they do not end all at once: one in so
/// many.
const TOGETHER_PART: usize = 4;

/// Fetches that it takes.
const TOGETHER: RangeInclusive<usize> = 4..=64;

/// Runs that wait for a thread at the most.
const MOST_WAITING: usize = 64;

/// How long a thread waits for more to do.
const IDLE: Duration = Duration::from_secs(2);

/// The requests of a cache.
pub(crate) struct IoPool {
    shared: Arc<Inner>,
}

struct Inner {
    thread_name: String,
    queue: Mutex<Queue>,
    /// There is something to do, or the cache is gone.
    work: Condvar,
    /// Nothing waits or is in flight.
    quiesced: Condvar,
}

/// A fetch that waits for a thread.
struct Waiting {
    fetch: Arc<dyn Fetch>,
    /// Whom to wake with it.
    joined: Vec<Waker>,
    /// Others may go with it.
    together: bool,
}

struct Queue {
    fetches: VecDeque<Waiting>,
    extents: VecDeque<Box<dyn Extent>>,
    /// What was begun, by any thread, with whom to wake at its end.
    begun: Vec<(Pages, Vec<Waker>)>,
    /// Threads that fetch.
    fetching: usize,
    /// Those that fetch together, by the mapping they do it for.
    together: Vec<u32>,
    io_threads: usize,
    threads: usize,
    /// Those that wait for something to do.
    idle: usize,
    closed: bool,
}

/// Pages of a mapping, by its number.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) mapping: u32,
    pub(crate) pages: Range<u64>,
}

impl Pages {
    fn cover(&self, mapping: u32, page: u64) -> bool {
        self.mapping == mapping && self.pages.contains(&page)
    }
}

/// What a thread does next.
enum Work {
    Fetch(Arc<dyn Fetch>),
    /// Of one mapping.
    Together(Vec<Arc<dyn Fetch>>),
    Extent(Box<dyn Extent>),
}

impl Queue {
    fn is_quiesced(&self) -> bool {
        self.waiting() == 0 && self.idle == self.threads
    }

    fn waiting(&self) -> usize {
        self.fetches.len() + self.extents.len()
    }

    /// Takes what is next, and notes that it is begun. End it by [`Inner::work_on`].
    fn begin(&mut self) -> Option<Work> {
        // One thread is left for the extents that wait, and one may still come for others, unless
        // there may be only one.
        let most = if self.extents.is_empty() { self.io_threads.max(2) } else { self.threads };
        if self.fetching + 1 < most
            && let Some(place) = self.fetches.iter().position(|waiting| !self.is_held(waiting))
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

    /// Whether a thread that is at work for its mapping, or was woken for it, will take it along.
    fn is_taken_along(&self, waiting: &Waiting) -> bool {
        let mapping = waiting.fetch.pages().mapping;
        let is_before = |other: &Waiting| other.together && other.fetch.pages().mapping == mapping;
        waiting.together && (self.is_held(waiting) || self.fetches.iter().any(is_before))
    }

    /// Whether it waits until less is fetched for its mapping.
    fn is_held(&self, waiting: &Waiting) -> bool {
        let mapping = waiting.fetch.pages().mapping;
        waiting.together
            && self.together.iter().filter(|&&of| of == mapping).count() >= TOGETHER_THREADS
    }

    fn begin_fetch(&mut self, Waiting { fetch, joined, .. }: Waiting) -> Work {
        self.fetching += 1;
        self.begun.push((fetch.pages().clone(), joined));
        Work::Fetch(fetch)
    }

    fn begin_together(&mut self, first: Waiting) -> Work {
        let Pages { mapping, pages } = first.fetch.pages().clone();
        let count = |pages: &Range<u64>| pages.end - pages.start;
        let mut left = first.fetch.most_together().saturating_sub(count(&pages));
        let most =
            self.fetches.len().div_ceil(TOGETHER_PART).clamp(*TOGETHER.start(), *TOGETHER.end());
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

    fn begin_extent(&mut self, extent: Box<dyn Extent>) -> Work {
        self.begun.push((extent.pages(), Vec::new()));
        Work::Extent(extent)
    }

    /// Has a waker woken when a page that is being read, or is to be fetched, has been. `false`: it
    /// is neither.
    fn join(&mut self, mapping: u32, page: u64, waker: &Waker) -> bool {
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

impl IoPool {
    /// Makes a pool without threads. Their names will begin with `prefix`.
    pub(crate) fn new(prefix: &str) -> Self {
        let queue = Queue {
            fetches: VecDeque::new(),
            extents: VecDeque::new(),
            begun: Vec::new(),
            fetching: 0,
            together: Vec::new(),
            io_threads: MOST_IO_THREADS,
            threads: 0,
            idle: 0,
            closed: false,
        };
        let (work, quiesced) = (Condvar::new(), Condvar::new());
        let thread_name = format!("{prefix}-fill");
        Self { shared: Arc::new(Inner { thread_name, queue: Mutex::new(queue), work, quiesced }) }
    }

    /// Has as many threads as this at the most.
    pub(crate) fn set_io_threads(&self, threads: usize) {
        self.shared.queue.lock().io_threads = threads;
        self.shared.work.notify_all();
    }

    /// Has a extent filled. `false`: there is no thread for it, or too much to do, and no more should
    /// come.
    pub(crate) fn push(&self, extent: Box<dyn Extent>) -> bool {
        let mut queue = self.shared.queue.lock();
        self.shared.make_room(&mut queue);
        if queue.threads > queue.fetching && queue.extents.len() < MOST_WAITING {
            queue.extents.push_back(extent);
            self.shared.work.notify_one();
            return true;
        }
        if queue.threads > 0 {
            drop(queue);
            // After the lock: it may hold the last reference to its mapping.
            drop(extent);
        } else {
            let work = queue.begin_extent(extent);
            drop(queue);
            self.shared.work_on(work);
        }
        false
    }

    /// Has done what a future misses, which is woken then. `false`: somebody reads its page
    /// already; the future is woken when that has ended, and is to look again.
    pub(crate) fn fetch(&self, fetch: Arc<dyn Fetch>, waker: &Waker) -> bool {
        let mut queue = self.shared.queue.lock();
        let Pages { mapping, pages } = fetch.pages();
        if !pages.is_empty() && queue.join(*mapping, pages.start, waker) {
            return false;
        }
        let waiting = Waiting { together: fetch.is_together(), joined: Vec::new(), fetch };
        if queue.is_taken_along(&waiting) {
            queue.fetches.push_back(waiting);
            return true;
        }
        self.shared.make_room(&mut queue);
        if queue.threads > 0 {
            queue.fetches.push_back(waiting);
            // An idle thread may leave fetches where they are: it is woken for what is new in any
            // case.
            self.shared.work.notify_one();
        } else {
            let work = queue.begin_fetch(waiting);
            drop(queue);
            self.shared.work_on(work);
        }
        true
    }

    /// Takes the extent with this page out of the queue, if nobody has begun it.
    pub(crate) fn take(&self, mapping: u32, page: u32) -> Option<Box<dyn Extent>> {
        let mut queue = self.shared.queue.lock();
        let place = queue
            .extents
            .iter()
            .position(|extent| extent.pages().cover(mapping, u64::from(page)))?;
        queue.extents.remove(place)
    }

    /// Drops the extents with some of these pages that nobody has begun.
    pub(crate) fn forget(&self, mapping: u32, pages: &Range<u64>) {
        let mut queue = self.shared.queue.lock();
        let (dropped, kept): (VecDeque<_>, _) =
            mem::take(&mut queue.extents).into_iter().partition(|extent| {
                let Pages { mapping: of, pages: its } = extent.pages();
                of == mapping && its.start < pages.end && pages.start < its.end
            });
        queue.extents = kept;
        drop(queue);
        // After the lock, as above.
        drop(dropped);
    }

    /// Waits until nothing is in flight, doing what waits.
    pub(crate) fn quiesce(&self) {
        let mut queue = self.shared.queue.lock();
        while let Some(work) = queue.begin() {
            MutexGuard::unlocked(&mut queue, || self.shared.work_on(work));
        }
        while !queue.is_quiesced() {
            self.shared.quiesced.wait(&mut queue);
        }
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        // Nothing waits: each extent holds the cache. This may be one of the threads, so none is
        // waited for.
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Inner {
    /// Makes a thread for one more, if none is idle.
    fn make_room(self: &Arc<Self>, queue: &mut Queue) {
        if queue.idle <= queue.waiting() && queue.threads < queue.io_threads {
            let shared = Arc::clone(self);
            queue.threads += usize::from(spawn(&self.thread_name, move || shared.serve()));
        }
    }

    /// One thread.
    fn serve(self: &Arc<Self>) {
        while let Some(work) = self.next() {
            // Others count on this thread, whatever somebody's backing does. Who waited was told.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| self.work_on(work)));
        }
    }

    /// What is next. `None`: there was nothing for a while, the cache is gone, or there are too
    /// many threads.
    fn next(self: &Arc<Self>) -> Option<Work> {
        let mut queue = self.queue.lock();
        let mut had_nothing = false;
        loop {
            if let Some(work) = queue.begin() {
                // Nobody was woken for what it leaves of its mapping.
                if matches!(work, Work::Together(_))
                    && queue.fetches.iter().any(|waiting| !queue.is_held(waiting))
                {
                    self.make_room(&mut queue);
                    self.work.notify_one();
                }
                return Some(work);
            }
            let is_over = had_nothing || queue.closed || queue.threads > queue.io_threads;
            if is_over && queue.waiting() == 0 {
                // With the look at what waits: from now on nobody counts on it.
                queue.threads -= 1;
                self.notify_if_quiesced(&queue);
                return None;
            }
            queue.idle += 1;
            self.notify_if_quiesced(&queue);
            had_nothing = wait_for(&self.work, &mut queue, IDLE);
            queue.idle -= 1;
        }
    }

    fn notify_if_quiesced(&self, queue: &Queue) {
        if queue.is_quiesced() {
            self.quiesced.notify_all();
        }
    }

    /// Does what was begun, and wakes who joined it, even if a backing panics.
    fn work_on(self: &Arc<Self>, work: Work) {
        let mut end = End {
            shared: self,
            pages: Vec::new(),
            fetches: false,
            together: None,
            again: Vec::new(),
        };
        match work {
            Work::Fetch(fetch) => {
                (end.pages, end.fetches) = (vec![fetch.pages().clone()], true);
                if is_wanted(&fetch) {
                    fetch.work();
                }
            }
            Work::Together(fetches) => {
                (end.pages, end.fetches) =
                    (fetches.iter().map(|fetch| fetch.pages().clone()).collect(), true);
                end.together = end.pages.first().map(|pages| pages.mapping);
                // Those that are told nothing are made again, one by one, whatever went wrong.
                let pages = panic::catch_unwind(AssertUnwindSafe(|| fill_together(&fetches)));
                end.again = fetches;
                end.again.retain(|fetch| !fetch.end_at_once() && is_wanted(fetch));
                drop(pages);
            }
            Work::Extent(extent) => {
                end.pages = vec![extent.pages()];
                extent.fill();
            }
        }
    }
}

/// Fills the pages of some fetches of one mapping by one call. Returns what keeps them.
fn fill_together(fetches: &[Arc<dyn Fetch>]) -> Option<Box<dyn Any>> {
    let wanted: Vec<_> = fetches
        .iter()
        .filter(|fetch| is_wanted(fetch))
        .map(|fetch| fetch.pages().pages.clone())
        .collect();
    (!wanted.is_empty()).then(|| fetches[0].fill_together(&wanted))
}

/// The end of some work.
struct End<'s> {
    shared: &'s Arc<Inner>,
    pages: Vec<Pages>,
    fetches: bool,
    together: Option<u32>,
    again: Vec<Arc<dyn Fetch>>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.fetching -= usize::from(self.fetches);
        if let Some(place) =
            queue.together.iter().position(|&mapping| Some(mapping) == self.together)
        {
            queue.together.swap_remove(place);
        }
        let mut joined = Vec::new();
        for pages in &self.pages {
            if let Some(place) = queue.begun.iter().position(|(begun, _)| begun == pages) {
                joined.extend(queue.begun.swap_remove(place).1);
            }
        }
        for fetch in self.again.drain(..) {
            self.shared.make_room(&mut queue);
            queue.fetches.push_back(Waiting { fetch, joined: Vec::new(), together: false });
            self.shared.work.notify_one();
        }
        drop(queue);
        // Somebody else's code: under no lock.
        joined.into_iter().for_each(Waker::wake);
    }
}
