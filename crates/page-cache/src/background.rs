//! Requests in the background: what is filled while its reader does something else.
//!
//! Two kinds wait for a thread: runs that are read ahead, and what a future has missed (a [`Fetch`]), which goes first. Threads
//! are made as there is work and go when there was none for a while. Their number bounds the requests in flight. The
//! length of the queue bounds the runs that wait: one that does not fit is not made, and the page is read when it is
//! needed. A reader that needs a page of a run that nobody has begun takes the run out of the queue and fills it itself: so
//! it never waits for requests of others, however slow.
//!
//! A future that misses what is being fetched or read ahead already makes no request: it is woken when that has ended, and
//! looks again. So many that wait for one slow page take one thread.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use page_ref::Scheme;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::fetch::Fetch;
use crate::mapping::Mapping;
use crate::run::SuspendedRun;

/// Requests in flight at the most.
const MOST_THREADS: usize = 16;

/// Fetches among them at the most: one thread is left for runs. A fetch may wait for a lock whose holder, who cuts the file, waits for
/// a page of a run; filling a run waits for nobody.
const MOST_FETCHES: usize = MOST_THREADS - 1;

/// Runs that wait for a thread at the most.
const MOST_WAITING: usize = 64;

/// How long a thread waits for more to do.
const IDLE: Duration = Duration::from_secs(2);

/// The requests of a cache.
pub(crate) struct Background<S: Scheme> {
    shared: Arc<Shared<S>>,
}

struct Shared<S: Scheme> {
    queue: Mutex<Queue<S>>,
    /// There is something to do, or the cache is gone.
    work: Condvar,
    /// Nothing waits or is in flight.
    settled: Condvar,
}

struct Queue<S: Scheme> {
    fetches: VecDeque<(Arc<Fetch<S>>, Vec<Waker>)>,
    runs: VecDeque<SuspendedRun<S>>,
    /// What was begun, by any thread, with whom to wake at its end.
    begun: Vec<(Pages, Vec<Waker>)>,
    /// Fetches among what was begun.
    fetching: usize,
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
enum Work<S: Scheme> {
    Fetch(Arc<Fetch<S>>),
    Run(SuspendedRun<S>),
}

impl<S: Scheme> Queue<S> {
    fn is_settled(&self) -> bool {
        self.waiting() == 0 && self.idle == self.threads
    }

    fn waiting(&self) -> usize {
        self.fetches.len() + self.runs.len()
    }

    /// Takes what is next, and notes that it is begun. End it by [`Shared::work_on`].
    fn begin(&mut self) -> Option<Work<S>> {
        if self.fetching < MOST_FETCHES
            && let Some((fetch, joined)) = self.fetches.pop_front()
        {
            self.fetching += 1;
            self.begun.push((fetch.pages().clone(), joined));
            return Some(Work::Fetch(fetch));
        }
        let run = self.runs.pop_front()?;
        self.begun.push((run.pages(), Vec::new()));
        Some(Work::Run(run))
    }

    /// Has a waker woken when a page that is being read, or is to be fetched, has been. `false`: it is neither.
    fn join(&mut self, mapping: u32, page: u64, waker: &Waker) -> bool {
        let mut begun = self.begun.iter_mut().filter(|(pages, _)| pages.cover(mapping, page)).map(|(_, joined)| joined);
        let waiting = self.fetches.iter_mut().filter(|(fetch, _)| fetch.pages().cover(mapping, page));
        let Some(joined) = begun.next().or_else(|| waiting.map(|(_, joined)| joined).next()) else { return false };
        if !joined.iter().any(|other| other.will_wake(waker)) {
            joined.push(waker.clone());
        }
        true
    }
}

impl<S: Scheme> Default for Background<S> {
    fn default() -> Self {
        let queue = Queue {
            fetches: VecDeque::new(),
            runs: VecDeque::new(),
            begun: Vec::new(),
            fetching: 0,
            threads: 0,
            idle: 0,
            closed: false,
        };
        let (work, settled) = (Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { queue: Mutex::new(queue), work, settled }) }
    }
}

impl<S: Scheme> Background<S> {
    /// Has a run filled. `false`: there is too much to do, and it was dropped.
    pub(crate) fn push(&self, run: SuspendedRun<S>) -> bool {
        let mut queue = self.shared.queue.lock();
        if queue.runs.len() == MOST_WAITING {
            drop(queue);
            // After the lock: it may hold the last reference to its mapping.
            drop(run);
            return false;
        }
        queue.runs.push_back(run);
        // If the system gives no thread, readers take their runs out of the queue themselves.
        self.have_it_done(&mut queue);
        true
    }

    /// Has done what a future misses, which is woken then. `false`: somebody reads its page already; the future is woken
    /// when that has ended, and is to look again.
    pub(crate) fn fetch(&self, fetch: &Arc<Fetch<S>>, waker: &Waker) -> bool {
        let mut queue = self.shared.queue.lock();
        let Pages { mapping, pages } = fetch.pages();
        if !pages.is_empty() && queue.join(*mapping, pages.start, waker) {
            return false;
        }
        queue.fetches.push_back((Arc::clone(fetch), Vec::new()));
        self.have_it_done(&mut queue);
        if queue.threads == 0
            && let Some(work) = queue.begin()
        {
            // The system gives no thread: then this one waits.
            drop(queue);
            self.shared.work_on(work);
        }
        true
    }

    /// Wakes a thread, or makes one.
    fn have_it_done(&self, queue: &mut Queue<S>) {
        // What waits may be fetches alone, which an idle thread leaves: it is woken for what is new in any case.
        self.shared.work.notify_one();
        // shuttle plays none of ours: then readers fill their runs themselves.
        if queue.idle < queue.waiting() && queue.threads < MOST_THREADS && !cfg!(shuttle) {
            let shared = Arc::clone(&self.shared);
            let spawned = thread::Builder::new().name("folio-fill".to_owned()).spawn(move || shared.serve());
            queue.threads += usize::from(spawned.is_ok());
        }
    }

    /// Takes the run with this page out of the queue, if nobody has begun it.
    pub(crate) fn take(&self, mapping: &Mapping<S>, page: u32) -> Option<SuspendedRun<S>> {
        let mut queue = self.shared.queue.lock();
        let place = queue.runs.iter().position(|run| run.pages().cover(mapping.id, u64::from(page)))?;
        queue.runs.remove(place)
    }

    /// Waits until nothing is in flight, doing what waits.
    pub(crate) fn settle(&self) {
        let mut queue = self.shared.queue.lock();
        while let Some(work) = queue.begin() {
            MutexGuard::unlocked(&mut queue, || self.shared.work_on(work));
        }
        while !queue.is_settled() {
            self.shared.settled.wait(&mut queue);
        }
    }
}

impl<S: Scheme> Drop for Background<S> {
    fn drop(&mut self) {
        // Nothing waits: each run holds the cache. This may be one of the threads, so none is waited for.
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl<S: Scheme> Shared<S> {
    /// One thread.
    fn serve(&self) {
        /// A thread that panics, in somebody's backing, is none any more.
        struct Leave<'s, S: Scheme>(&'s Shared<S>);
        impl<S: Scheme> Drop for Leave<'_, S> {
            fn drop(&mut self) {
                self.0.queue.lock().threads -= 1;
                self.0.settled.notify_all();
            }
        }
        let _leave = Leave(self);
        while let Some(work) = self.next() {
            self.work_on(work);
        }
    }

    /// What is next. `None`: there was nothing for a while, or the cache is gone.
    fn next(&self) -> Option<Work<S>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(work) = queue.begin() {
                return Some(work);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            if queue.is_settled() {
                self.settled.notify_all();
            }
            let timed_out = self.work.wait_for(&mut queue, IDLE).timed_out();
            queue.idle -= 1;
            if timed_out && queue.waiting() == 0 {
                return None;
            }
        }
    }

    /// Does what was begun, and wakes who joined it, even if a backing panics.
    fn work_on(&self, work: Work<S>) {
        struct End<'s, S: Scheme> {
            shared: &'s Shared<S>,
            pages: Pages,
            fetches: usize,
        }
        impl<S: Scheme> Drop for End<'_, S> {
            fn drop(&mut self) {
                let mut queue = self.shared.queue.lock();
                queue.fetching -= self.fetches;
                let place = queue.begun.iter().position(|(pages, _)| *pages == self.pages);
                let joined = place.map(|place| queue.begun.swap_remove(place).1);
                drop(queue);
                // Somebody else's code: under no lock.
                joined.into_iter().flatten().for_each(Waker::wake);
            }
        }
        match work {
            Work::Fetch(fetch) => {
                let _end = End { shared: self, pages: fetch.pages().clone(), fetches: 1 };
                fetch.work();
            }
            Work::Run(run) => {
                let _end = End { shared: self, pages: run.pages(), fetches: 0 };
                run.fill();
            }
        }
    }
}
