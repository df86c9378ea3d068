//! The queue of the I/O pool: the work that waits for a thread, and the work in flight.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::rt::busy::{Busy, MAX_HUNG};
use crate::rt::fetch_queue::{FetchQueue, Next, Waiting};
use crate::rt::in_flight::{InFlight, RequestId};
use crate::rt::io_request::{Extent, Fetch};

/// The default maximum number of threads, and of requests in flight. Under shuttle each test
/// decides if there are threads.
const MAX_IO_THREADS: usize = if cfg!(shuttle) { 0 } else { 16 };

/// Waiting work, work in flight, and the threads.
pub(super) struct Queue {
    fetches: FetchQueue,
    pub(super) extents: VecDeque<Box<dyn Extent>>,
    /// The fetches that wait, and all begun work, with the wakers to wake at its end.
    pub(super) in_flight: InFlight,
    /// The number of threads that fetch.
    pub(super) fetching: usize,
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

/// The next work of a thread.
pub(super) enum Work {
    Fetch(Waiting),
    /// Fetches of one mapping.
    Together(Vec<Waiting>),
    Extent(RequestId, Box<dyn Extent>),
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            fetches: FetchQueue::default(),
            extents: VecDeque::new(),
            in_flight: InFlight::default(),
            fetching: 0,
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

    /// Returns `true` if so many threads are allowed: the maximum, and those that hang. Reads the
    /// clock only above the maximum.
    pub(super) fn may_have_threads(&self, threads: usize) -> bool {
        threads <= self.io_threads || threads <= self.io_threads + self.busy.hung()
    }

    /// Takes the next work and records it as begun, or returns `None`. The caller passes it to
    /// `Inner::work_on`.
    pub(super) fn begin(&mut self) -> Option<Work> {
        // One thread is left for waiting extents. While none waits, that thread need not have
        // started; and if only one thread is allowed, it may fetch.
        // Threads that hang are not among those allowed.
        let wanted = self.fetching + 1;
        let may_fetch = if self.extents.is_empty() {
            let most = self.io_threads.max(2);
            wanted < most || wanted < most + self.busy.hung()
        } else {
            wanted < self.threads
        };
        if may_fetch && let Some(next) = self.fetches.pop() {
            self.fetching += 1;
            return Some(match next {
                Next::Alone(fetch) => Work::Fetch(fetch),
                Next::Together(fetches) => Work::Together(fetches),
            });
        }
        let extent = self.extents.pop_front()?;
        Some(self.begin_extent(extent))
    }

    /// Returns `true` if a fetch waits that a thread may begin.
    pub(super) fn has_ready_fetch(&self) -> bool {
        self.fetches.is_ready()
    }

    /// Returns `true` if a thread that works for the mapping of a fetch, or was woken to, will take
    /// the fetch as well.
    pub(super) fn joins_others(&self, fetch: &dyn Fetch) -> bool {
        self.fetches.joins_others(fetch)
    }

    /// Queues a fetch.
    pub(super) fn push_fetch(&mut self, fetch: Arc<dyn Fetch>) {
        let waiting = self.register(fetch);
        self.fetches.push(waiting);
    }

    /// Queues a fetch for a call of its own.
    pub(super) fn push_alone(&mut self, fetch: Arc<dyn Fetch>) {
        let waiting = self.register(fetch);
        self.fetches.push_alone(waiting);
    }

    /// Records a fetch as begun.
    pub(super) fn begin_fetch(&mut self, fetch: Arc<dyn Fetch>) -> Work {
        self.fetching += 1;
        Work::Fetch(self.register(fetch))
    }

    fn register(&mut self, fetch: Arc<dyn Fetch>) -> Waiting {
        Waiting { id: self.in_flight.insert(fetch.pages().clone()), fetch }
    }

    /// Records the end of a thread's fetch, or of its fetches together for a mapping.
    pub(super) fn end_fetch(&mut self, together: Option<u32>) {
        self.fetching -= 1;
        if let Some(mapping) = together {
            self.fetches.end_together(mapping);
        }
    }

    /// Records an extent as begun.
    pub(super) fn begin_extent(&mut self, extent: Box<dyn Extent>) -> Work {
        Work::Extent(self.in_flight.insert(extent.pages()), extent)
    }
}
