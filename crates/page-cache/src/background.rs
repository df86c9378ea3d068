//! Requests in the background: runs that are filled while their reader does something else.
//!
//! Threads are made as there is work and go when there was none for a while. Their number bounds the requests in
//! flight, and the length of the queue those that wait: one that does not fit is not made, and the page is read when
//! it is needed. A reader that needs a page of a run that nobody has begun takes the run out of the queue and fills it
//! itself: so it never waits for requests of others, however slow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use page_ref::Scheme;
use parking_lot::{Condvar, Mutex};

use crate::mapping::Mapping;
use crate::run::SuspendedRun;

/// Requests in flight at the most.
const MOST_THREADS: usize = 16;

/// Requests that wait for a thread at the most.
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
    waiting: VecDeque<SuspendedRun<S>>,
    threads: usize,
    /// Those that wait for something to do.
    idle: usize,
    closed: bool,
}

impl<S: Scheme> Queue<S> {
    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.idle == self.threads
    }
}

impl<S: Scheme> Default for Background<S> {
    fn default() -> Self {
        let queue = Queue { waiting: VecDeque::new(), threads: 0, idle: 0, closed: false };
        let (work, settled) = (Condvar::new(), Condvar::new());
        Self { shared: Arc::new(Shared { queue: Mutex::new(queue), work, settled }) }
    }
}

impl<S: Scheme> Background<S> {
    /// Has a run filled. `false`: there is too much to do, and it was dropped.
    pub(crate) fn push(&self, run: SuspendedRun<S>) -> bool {
        let mut queue = self.shared.queue.lock();
        if queue.waiting.len() == MOST_WAITING {
            drop(queue);
            // After the lock: it may hold the last reference to its mapping.
            drop(run);
            return false;
        }
        queue.waiting.push_back(run);
        if queue.idle >= queue.waiting.len() {
            self.shared.work.notify_one();
        // shuttle plays none of ours: then readers fill their runs themselves.
        } else if queue.threads < MOST_THREADS && !cfg!(shuttle) {
            let shared = Arc::clone(&self.shared);
            let spawned = thread::Builder::new().name("folio-fill".to_owned()).spawn(move || shared.serve());
            // If the system gives no thread, readers take their runs out of the queue themselves.
            queue.threads += usize::from(spawned.is_ok());
        }
        true
    }

    /// Takes the run with this page out of the queue, if nobody has begun it.
    pub(crate) fn take(&self, mapping: &Mapping<S>, page: u32) -> Option<SuspendedRun<S>> {
        let mut queue = self.shared.queue.lock();
        let place = queue.waiting.iter().position(|run| run.covers(mapping, page))?;
        queue.waiting.remove(place)
    }

    /// Waits until nothing is in flight, filling what waits.
    pub(crate) fn settle(&self) {
        let mut queue = self.shared.queue.lock();
        while let Some(run) = queue.waiting.pop_front() {
            drop(queue);
            run.fill();
            queue = self.shared.queue.lock();
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
        while let Some(run) = self.next() {
            run.fill();
        }
    }

    /// The next run. `None`: there was none for a while, or the cache is gone.
    fn next(&self) -> Option<SuspendedRun<S>> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(run) = queue.waiting.pop_front() {
                return Some(run);
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
            if timed_out && queue.waiting.is_empty() {
                return None;
            }
        }
    }
}
