//! The queue of the I/O pool: the work that waits for a thread, the work in flight, and the share
//! of each mapping in the threads.
//!
//! | threads at work | at most |
//! | --- | --- |
//! | for one mapping | `io_threads`, and as many of the threads that others leave |
//! | for all | twice `io_threads`, and one more for extents |
//!
//! A mapping leaves half of what is free to the next: with 16 threads, one that hangs takes 16 of
//! 32, the next 8, and so on. So a mapping that is alone has all 16, and a sick one never holds the
//! last. Work that is slow does not count against other mappings, and work that hangs does not
//! count at all, up to [`MAX_HUNG`] threads.

use folio_ref::broken;
use std::sync::Arc;

use crate::rt::busy::{Busy, MAX_HUNG, Slow};
use crate::rt::io_request::{Extent, Fetch};
use crate::rt::lanes::{Kind, Lane, Lanes, Next, Waiting};
use crate::rt::pool_requests::{PoolRequests, RequestId};

/// The default maximum number of threads, and of requests in flight. Under shuttle each test
/// decides if there are threads.
const MAX_IO_THREADS: usize = if cfg!(shuttle) { 0 } else { 16 };

/// The maximum number of extents of all mappings that wait. One mapping may have half of them.
const MAX_WAITING: usize = 128;

/// The threads of a mapping while too much is slow: many mappings are sick.
const MAX_CROWDED: usize = 2;

/// Waiting work, work in flight, and the threads.
pub(super) struct Queue {
    lanes: Lanes,
    /// The fetches that wait, and all begun work, with the wakers to wake at its end.
    pub(super) in_flight: PoolRequests,
    /// The number of threads that fetch.
    pub(super) fetching: usize,
    /// The number of threads with work.
    working: usize,
    pub(super) io_threads: usize,
    /// The work of the threads.
    pub(super) busy: Busy,
    /// A thread watches for work that hangs.
    pub(super) is_watched: bool,
    pub(super) threads: usize,
    /// The number of threads that wait for work.
    pub(super) idle: usize,
    /// All extents that wait came lately, for their readers. An idle thread will look soon.
    pub(super) is_patient: bool,
    pub(super) closed: bool,
}

/// The next work of a thread.
pub(super) enum Work {
    Fetch(Waiting),
    /// Fetches of one mapping.
    Together(Vec<Waiting>),
    Extent(RequestId, Box<dyn Extent>),
}

impl Work {
    /// Returns its mapping and its kind.
    pub(super) fn of(&self) -> (u32, Kind) {
        match self {
            Self::Fetch(waiting) => (waiting.fetch.pages().mapping, Kind::Alone),
            Self::Together(fetches) => (fetches[0].fetch.pages().mapping, Kind::Together),
            Self::Extent(_, extent) => (extent.pages().mapping, Kind::Extent),
        }
    }
}

/// The load of the threads, which decides if a mapping may have one more.
struct Load {
    io_threads: usize,
    working: usize,
    /// Empty if the answer does not depend on it.
    slow: Slow,
}

impl Load {
    /// Returns `true` if a mapping without threads may have one.
    fn is_any_free(&self) -> bool {
        self.working - self.slow.len().min(self.working) < 2 * self.io_threads
    }

    /// Returns `true` if the mapping may have one more thread. If not, it has one, or none is free.
    fn may_have(&self, mapping: u32, lane: &Lane) -> bool {
        if broken!("threads-unshared") {
            return self.is_any_free();
        }
        let threads = lane.threads();
        let hung = self.slow.hung_of(mapping).min(self.io_threads).min(threads);
        let others = self.working.saturating_sub(threads);
        let slow = self.slow.len() - self.slow.of(mapping);
        let young = others.saturating_sub(slow);
        let free = (2 * self.io_threads).saturating_sub(threads - hung + young);
        let is_crowded = self.slow.len() > MAX_HUNG / 2;
        threads - hung < free && !(is_crowded && threads >= MAX_CROWDED)
    }

    fn may_fetch(&self, mapping: u32, lane: &Lane) -> bool {
        let hung = self.slow.hung_of(mapping).min(self.io_threads);
        lane.fetching().saturating_sub(hung) + 1 < self.io_threads.max(2)
            && self.may_have(mapping, lane)
    }

    /// Filling an extent waits for no lock, so one of a mapping may always begin: a fetch of the
    /// mapping may wait for it.
    fn may_fill(&self, mapping: u32, lane: &Lane) -> bool {
        lane.extent_threads() == 0 || self.may_have(mapping, lane)
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            lanes: Lanes::default(),
            in_flight: PoolRequests::default(),
            fetching: 0,
            working: 0,
            io_threads: MAX_IO_THREADS,
            busy: Busy::default(),
            is_watched: false,
            threads: 0,
            idle: 0,
            is_patient: false,
            closed: false,
        }
    }
}

impl Queue {
    /// Returns `true` if no work is under way or waits, except for mappings of which work hangs.
    pub(super) fn is_quiesced(&self) -> bool {
        let hung = self.busy.hung();
        if hung == MAX_HUNG {
            return true;
        }
        if self.idle + hung < self.threads {
            return false;
        }
        if self.waiting() == 0 {
            return true;
        }
        hung > 0 && {
            let slow = self.busy.slow();
            self.lanes.waiting().all(|mapping| slow.hung_of(mapping) > 0)
        }
    }

    /// Returns `true` if no work for a mapping is under way or waits, or if some of it hangs.
    pub(super) fn is_mapping_quiesced(&self, mapping: u32) -> bool {
        self.lanes.get(mapping).is_none() || self.busy.slow().hung_of(mapping) > 0
    }

    pub(super) fn waiting(&self) -> usize {
        self.lanes.fetches + self.lanes.extents
    }

    /// Returns the number of extents that wait.
    pub(super) fn extents_waiting(&self) -> usize {
        self.lanes.extents
    }

    /// Returns `true` if so many threads are allowed: the maximum, and those with slow work. One of
    /// them is left for waiting extents. Reads the clock only above the maximum.
    pub(super) fn may_have_threads(&self, threads: usize) -> bool {
        let most = if self.io_threads == 0 { 0 } else { 2 * self.io_threads + 1 };
        threads <= most || threads <= most + self.busy.slow_len()
    }

    /// Returns the number of requests that wait and may begin, or more.
    pub(super) fn waiting_ready(&self) -> usize {
        let load = self.load();
        let may_have = |mapping, lane: &Lane| load.may_fetch(mapping, lane);
        self.waiting() - self.lanes.held_back(may_have)
    }

    fn load(&self) -> Load {
        let io_threads = self.io_threads.max(1);
        let slow = if self.working < io_threads { Slow::default() } else { self.busy.slow() };
        Load { io_threads, working: self.working, slow }
    }

    /// Returns the mapping of a fetch that a thread may begin, if there is one.
    fn ready_fetch(&self, load: &Load) -> Option<u32> {
        if self.lanes.fetches == 0 || !load.is_any_free() {
            return None;
        }
        // One thread is left for waiting extents. While none waits, that thread need not have
        // started; and if no threads are allowed, one fetch at a time may begin.
        let wanted = self.fetching + 1;
        let may_fetch = if self.lanes.extents == 0 {
            wanted < 2 || self.may_have_threads(wanted + 1)
        } else {
            wanted < self.threads
        };
        may_fetch
            .then(|| self.lanes.first_fetch(|mapping, lane| load.may_fetch(mapping, lane)))
            .flatten()
    }

    fn ready_extent(&self, load: &Load) -> Option<u32> {
        self.lanes.first_extent(|mapping, lane| load.may_fill(mapping, lane))
    }

    /// Returns `true` if work waits that a thread may begin.
    pub(super) fn is_ready(&self) -> bool {
        let load = self.load();
        self.ready_fetch(&load).is_some() || self.ready_extent(&load).is_some()
    }

    /// Takes the next work and records it as begun, or returns `None`. The caller passes it to
    /// `Inner::work_on`.
    pub(super) fn begin(&mut self) -> Option<Work> {
        let load = self.load();
        if let Some(fetch) = self.begin_ready_fetch(&load) {
            return Some(fetch);
        }
        let extent = self.lanes.begin_extent(self.ready_extent(&load)?)?;
        self.working += 1;
        Some(Work::Extent(self.in_flight.insert(extent.pages()), extent))
    }

    /// Takes the next fetch like [`begin`](Self::begin). Leaves the extents to their readers.
    pub(super) fn begin_fetch_alone(&mut self) -> Option<Work> {
        let load = self.load();
        self.begin_ready_fetch(&load)
    }

    fn begin_ready_fetch(&mut self, load: &Load) -> Option<Work> {
        let next = self.lanes.begin_fetch(self.ready_fetch(load)?)?;
        (self.fetching, self.working) = (self.fetching + 1, self.working + 1);
        Some(match next {
            Next::Alone(fetch) => Work::Fetch(fetch),
            Next::Together(fetches) => Work::Together(fetches),
        })
    }

    /// Returns `true` if one more fetch of a mapping might begin at once.
    pub(super) fn may_fetch(&self, mapping: u32) -> bool {
        let load = self.load();
        load.is_any_free()
            && self.lanes.get(mapping).is_none_or(|lane| load.may_fetch(mapping, lane))
    }

    /// Returns `true` if a thread that works for the mapping of a fetch, or was woken to, will take
    /// the fetch as well.
    pub(super) fn joins_others(&self, fetch: &dyn Fetch) -> bool {
        self.lanes.joins_others(fetch)
    }

    /// Queues a fetch.
    pub(super) fn push_fetch(&mut self, fetch: Arc<dyn Fetch>) {
        let waiting = self.register(fetch);
        self.lanes.push(waiting);
    }

    /// Queues a fetch for a call of its own.
    pub(super) fn push_alone(&mut self, fetch: Arc<dyn Fetch>) {
        let waiting = self.register(fetch);
        self.lanes.push_alone(waiting);
    }

    /// Queues an extent. Gives it back if there is no thread for it, or too many wait.
    pub(super) fn push_extent(&mut self, extent: Box<dyn Extent>) -> Result<(), Box<dyn Extent>> {
        let free = MAX_WAITING.saturating_sub(self.lanes.extents);
        if self.threads <= self.fetching || self.lanes.extents_of(extent.pages().mapping) >= free {
            return Err(extent);
        }
        self.lanes.push_extent(extent);
        Ok(())
    }

    /// Takes the waiting extents of a mapping with some of these pages.
    pub(super) fn take_extents(
        &mut self,
        mapping: u32,
        pages: &std::ops::Range<u64>,
    ) -> impl Iterator<Item = Box<dyn Extent>> + use<> {
        let taken =
            self.lanes.take_extents(mapping, |its| its.start < pages.end && pages.start < its.end);
        taken.into_iter()
    }

    /// Records a fetch as begun.
    pub(super) fn begin_fetch(&mut self, fetch: Arc<dyn Fetch>) -> Work {
        self.lanes.begin(fetch.pages().mapping, Kind::Alone);
        (self.fetching, self.working) = (self.fetching + 1, self.working + 1);
        Work::Fetch(self.register(fetch))
    }

    /// Records an extent as begun.
    pub(super) fn begin_extent(&mut self, extent: Box<dyn Extent>) -> Work {
        self.lanes.begin(extent.pages().mapping, Kind::Extent);
        self.working += 1;
        Work::Extent(self.in_flight.insert(extent.pages()), extent)
    }

    fn register(&mut self, fetch: Arc<dyn Fetch>) -> Waiting {
        Waiting { id: self.in_flight.insert(fetch.pages().clone()), fetch }
    }

    /// Records the end of work.
    pub(super) fn end(&mut self, mapping: u32, kind: Kind) {
        self.working -= 1;
        self.fetching -= usize::from(kind != Kind::Extent);
        self.lanes.end(mapping, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::io_request::{Alone, Pages};

    /// Begins what may begin of 100 fetches of each mapping, one mapping after the other. Returns
    /// the number of threads of each.
    fn threads_of<const N: usize>(queue: &mut Queue, mappings: [u32; N]) -> [usize; N] {
        mappings.map(|mapping| {
            for page in 0..100 {
                let pages = Pages { mapping, pages: page..page + 1 };
                queue.push_alone(Arc::new(Alone(pages, || ())));
            }
            let begun = std::iter::from_fn(|| queue.begin());
            begun.filter(|work| work.of().0 == mapping).count()
        })
    }

    #[test]
    fn a_file_leaves_half_of_the_free_threads_to_the_next() {
        let mut queue = Queue { io_threads: 16, threads: 32, ..Queue::default() };
        assert_eq!(threads_of(&mut queue, [1, 2, 3, 4, 5, 6]), [15, 9, 4, 2, 1, 1]);
    }
}
