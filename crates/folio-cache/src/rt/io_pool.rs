//! The I/O pool: threads that fill pages while the readers do other work.
//!
//! Two kinds of work wait for a thread: extents that are read ahead ([`Extent`]), and the misses of
//! futures ([`Fetch`]), which go first. Threads start when there is work, and end after some idle
//! time. Their number bounds the requests in flight. Each mapping has a share of them, and the
//! mappings take turns (`io_queue.rs`). The length of the queue bounds the waiting extents: an
//! extent that does not fit is not requested, and its pages are read when they are needed. A reader
//! that needs a page of a waiting extent takes the extent out of the queue and fills it itself, so
//! it never waits for slow requests of others. For a file that answers from memory no thread is
//! woken ([`FilledBy::Reader`]): an idle one looks a few milliseconds later if the extent still
//! waits. Truncation drops the waiting extents.
//!
//! A future that misses a page of a request in flight makes no request: it is woken when that
//! request ends, and looks the page up again. So many futures that wait for one slow page take one
//! thread.
//!
//! A backing that answers many requests by one call ([`Fetch::is_together`]) gets few threads. The
//! fetches that arrive while they are busy wait, and each thread takes a share of them: the more
//! fetches wait, the larger the calls. A fetch without an answer after its call, because of an
//! error or the end of the file, gets a thread of its own.
//!
//! Without threads, because the system gives none or the user wants none, nothing waits: the reader
//! fills the extent itself, and a future fetches when it is polled.
//!
//! The pool does not know the cache: it knows a mapping by its number.
//!
//! **Invariant:** while an extent waits, there is a thread that does not fetch. A fetch may wait
//! for the lock of a thread that truncates the file and waits for a page of that extent. Filling an
//! extent waits for no lock.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use folio_ref::broken;

use crate::rt::busy::{HUNG_AFTER, SLOW_AFTER};
use crate::rt::foreign::{catch_panic, wake};
use crate::rt::io_queue::{Queue, Work};
pub(crate) use crate::rt::io_request::{Extent, Fetch, Pages};
use crate::rt::lanes::{Kind, Waiting};
use crate::rt::pool_requests::RequestId;
use crate::rt::shim::{Condvar, Mutex, MutexGuard, back_off, spawn, wait_for};

/// Returns `true` while a future shares the fetch.
fn is_wanted(fetch: &Arc<dyn Fetch>) -> bool {
    Arc::strong_count(fetch) > 1
}

/// No system has as many threads.
const MOST_IO_THREADS: usize = 1 << 22;

/// The time after which an idle thread ends.
const IDLE: Duration = Duration::from_secs(2);

/// The time for which an extent waits for its reader alone, or about that.
const PATIENCE: Duration = Duration::from_millis(5);

/// The extents that wait for their readers, at most, until a thread is woken for them.
const MAX_PATIENT: usize = 16;

/// The thread that fills an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilledBy {
    /// A thread is woken to fill it.
    Thread,
    /// Its reader will fill it. If none comes for a while, a thread does.
    Reader,
}

/// The threads and requests of a cache.
pub(crate) struct IoPool {
    shared: Arc<Inner>,
}

struct Inner {
    thread_name: String,
    queue: Mutex<Queue>,
    /// There is work to do, or the cache is gone.
    work: Condvar,
    /// Work ended, or nothing waits and nothing is in flight.
    quiesced: Condvar,
}

impl IoPool {
    /// Returns a pool without threads. `prefix` begins their names.
    pub(crate) fn new(prefix: &str) -> Self {
        let (work, quiesced) = (Condvar::new(), Condvar::new());
        let (thread_name, queue) = (format!("{prefix}-fill"), Mutex::default());
        Self { shared: Arc::new(Inner { thread_name, queue, work, quiesced }) }
    }

    /// Sets the maximum number of threads.
    pub(crate) fn set_io_threads(&self, threads: usize) {
        self.shared.queue.lock().io_threads = threads.min(MOST_IO_THREADS);
        self.shared.work.notify_all();
    }

    /// Queues an extent and returns `true`. Returns `false` if the caller should push no more: too
    /// much waits, and the extent is dropped; or there is no thread, and it is filled here.
    pub(crate) fn push(&self, extent: Box<dyn Extent>, by: FilledBy) -> bool {
        let mut queue = self.shared.queue.lock();
        self.shared.make_room(&mut queue);
        let extent = match queue.push_extent(extent) {
            Ok(()) => {
                let is_patient = by == FilledBy::Reader && queue.extents_waiting() <= MAX_PATIENT;
                if !(is_patient && queue.is_patient) {
                    queue.is_patient = is_patient;
                    self.shared.work.notify_one();
                }
                return true;
            }
            Err(extent) => extent,
        };
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

    /// Fetches what a future misses, and wakes it then. Returns `false` if its page is already
    /// being read: the future is woken when that ends, and must look the page up again.
    pub(crate) fn fetch(&self, fetch: Arc<dyn Fetch>, waker: &Waker) -> bool {
        // Foreign code: cloned before the lock, and dropped after it.
        let mut waker = Some(waker.clone());
        let mut queue = self.shared.queue.lock();
        let Pages { mapping, pages } = fetch.pages();
        if !pages.is_empty() && queue.in_flight.join(*mapping, pages.start, &mut waker) {
            return false;
        }
        if queue.joins_others(&*fetch) {
            queue.push_fetch(fetch);
            return true;
        }
        if queue.may_fetch(*mapping) {
            self.shared.make_room(&mut queue);
        } else {
            self.shared.start_to_watch(&mut queue);
        }
        if queue.threads > 0 {
            queue.push_fetch(fetch);
            // An idle thread may have left throttled fetches: notify one for each new fetch in any
            // case.
            self.shared.work.notify_one();
        } else {
            let work = queue.begin_fetch(fetch);
            drop(queue);
            self.shared.work_on(work);
        }
        true
    }

    /// Takes the waiting extent with this page out of the queue. Returns `None` if there is none.
    pub(crate) fn take(&self, mapping: u32, page: u32) -> Option<Box<dyn Extent>> {
        let page = u64::from(page);
        self.shared.queue.lock().take_extents(mapping, &(page..page + 1)).next()
    }

    /// Drops the waiting extents that have some of these pages.
    pub(crate) fn forget(&self, mapping: u32, pages: &Range<u64>) {
        let dropped = self.shared.queue.lock().take_extents(mapping, pages);
        // After the lock, as above.
        drop(dropped);
    }

    /// Waits until nothing is in flight, except work that hangs.
    pub(crate) fn quiesce(&self) {
        self.wait_until(Queue::is_quiesced);
    }

    /// Waits until nothing of a mapping is in flight, unless it hangs.
    pub(crate) fn quiesce_mapping(&self, mapping: u32) {
        self.wait_until(|queue| queue.is_mapping_quiesced(mapping));
    }

    fn wait_until(&self, is_quiesced: impl Fn(&Queue) -> bool) {
        let mut queue = self.shared.queue.lock();
        while queue.threads == 0
            && let Some(work) = queue.begin()
        {
            MutexGuard::unlocked(&mut queue, || self.shared.work_on(work));
        }
        queue.is_patient = false;
        self.shared.work.notify_all();
        while !is_quiesced(&queue) {
            if cfg!(shuttle) {
                self.shared.quiesced.wait(&mut queue);
            } else {
                // Work may begin to hang meanwhile.
                wait_for(&self.shared.quiesced, &mut queue, HUNG_AFTER / 10);
            }
        }
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        // Nothing waits, because each extent holds the cache. This may run on a thread of the pool,
        // so it waits for none of them.
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Inner {
    /// Starts a thread for one more piece of work, unless enough are idle or no more are allowed.
    fn make_room(self: &Arc<Self>, queue: &mut Queue) {
        if queue.io_threads == 0 || queue.idle > 0 && queue.idle > queue.waiting_ready() {
            return;
        }
        if queue.may_have_threads(queue.threads + 1) {
            let shared = Arc::clone(self);
            queue.threads += usize::from(spawn(&self.thread_name, move || shared.serve()));
        } else {
            self.start_to_watch(queue);
        }
    }

    /// Starts the thread that watches work which waits because the work of others takes long.
    fn start_to_watch(self: &Arc<Self>, queue: &mut Queue) {
        if !queue.is_watched && queue.threads > 0 && !cfg!(shuttle) {
            let shared = Arc::clone(self);
            queue.is_watched = spawn(&self.thread_name, move || shared.watch());
        }
    }

    /// Runs the thread that starts others for waiting work when the work of some takes long. It
    /// ends when no work waits.
    fn watch(self: &Arc<Self>) {
        loop {
            back_off(SLOW_AFTER / 2);
            let mut queue = self.queue.lock();
            if queue.waiting() == 0 || queue.closed || queue.io_threads == 0 {
                queue.is_watched = false;
                return;
            }
            if queue.is_ready() {
                self.make_room(&mut queue);
                self.work.notify_one();
            }
        }
    }

    /// Runs one thread until it must end.
    fn serve(self: &Arc<Self>) {
        let mut done = None;
        while let Some((work, number)) = self.next(done) {
            self.work_on(work);
            done = Some(number);
        }
    }

    /// Ends the work with the number `done`, and waits for the next. Returns it with its number, or
    /// `None` if the thread must end: there was no work for a while, the cache is gone, or there
    /// are too many threads.
    fn next(self: &Arc<Self>, done: Option<u64>) -> Option<(Work, u64)> {
        let mut queue = self.queue.lock();
        if let Some(number) = done {
            queue.busy.end(number);
        }
        let mut had_nothing = false;
        loop {
            let is_over = had_nothing || queue.closed || !queue.may_have_threads(queue.threads);
            if is_over && !broken!("extent-left-by-the-last-thread") {
                // A thread that may end leaves no extent to its reader: see the invariant.
                queue.is_patient = false;
            }
            let work = if queue.is_patient { queue.begin_fetch_alone() } else { queue.begin() };
            if let Some(work) = work {
                let number = queue.busy.begin(work.of().0);
                // This thread may not come back soon: the next extent for a reader needs another.
                queue.is_patient = false;
                // No thread was notified of the fetches of its mapping that it leaves, and of work
                // that may begin because other work ended.
                if queue.is_ready() {
                    self.make_room(&mut queue);
                    self.work.notify_one();
                }
                return Some((work, number));
            }
            if is_over && (queue.waiting() == 0 || queue.threads > queue.idle + 1) {
                // Under the lock that showed no work to begin: none relies on this thread any more,
                // as what waits is begun by a thread with work, or by the one that watches.
                queue.threads -= 1;
                if queue.waiting() > 0 {
                    self.start_to_watch(&mut queue);
                }
                self.notify_if_quiesced(&queue);
                return None;
            }
            queue.idle += 1;
            self.notify_if_quiesced(&queue);
            had_nothing = if queue.is_patient {
                if wait_for(&self.work, &mut queue, PATIENCE)
                    && !broken!("extent-left-to-its-reader")
                {
                    queue.is_patient = false;
                }
                false
            } else {
                wait_for(&self.work, &mut queue, IDLE)
            };
            queue.idle -= 1;
        }
    }

    fn notify_if_quiesced(&self, queue: &Queue) {
        if queue.is_quiesced() {
            self.quiesced.notify_all();
        }
    }

    /// Does begun work, and wakes the joined wakers, even if a backing panics. The panic ends here:
    /// other work relies on the thread, and the caller of a cache without threads did not ask for
    /// these pages, or gets the error from its fetch.
    fn work_on(self: &Arc<Self>, work: Work) {
        let _ = catch_panic(|| self.do_work(work));
    }

    fn do_work(self: &Arc<Self>, work: Work) {
        let (mapping, kind) = work.of();
        let mut end = End { shared: self, requests: Vec::new(), mapping, kind, again: Vec::new() };
        match work {
            Work::Fetch(Waiting { id, fetch }) => {
                end.requests = vec![id];
                if is_wanted(&fetch) {
                    fetch.work();
                }
            }
            Work::Together(fetches) => {
                let fetches = fetches.into_iter().map(|Waiting { id, fetch }| {
                    end.requests.push(id);
                    fetch
                });
                let fetches: Vec<_> = fetches.collect();
                // Fetches without an answer are repeated one by one, whatever went wrong.
                let pages = catch_panic(|| fill_together(&fetches));
                end.again = fetches;
                end.again.retain(|fetch| !fetch.end_at_once() && is_wanted(fetch));
                drop(pages);
            }
            Work::Extent(id, extent) => {
                end.requests = vec![id];
                extent.fill();
            }
        }
    }
}

/// Fills the pages of fetches of one mapping by one call. Returns a value that keeps them cached,
/// or `None` if no future waits for any.
fn fill_together(fetches: &[Arc<dyn Fetch>]) -> Option<Box<dyn Any>> {
    let wanted: Vec<_> = fetches
        .iter()
        .filter(|fetch| is_wanted(fetch))
        .map(|fetch| fetch.pages().pages.clone())
        .collect();
    (!wanted.is_empty()).then(|| fetches[0].fill_together(&wanted))
}

/// The end of begun work, on drop.
struct End<'s> {
    shared: &'s Arc<Inner>,
    requests: Vec<RequestId>,
    mapping: u32,
    kind: Kind,
    again: Vec<Arc<dyn Fetch>>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.end(self.mapping, self.kind);
        let mut joined = Vec::new();
        for &request in &self.requests {
            joined.append(&mut queue.in_flight.remove(request));
        }
        for fetch in self.again.drain(..) {
            self.shared.make_room(&mut queue);
            queue.push_alone(fetch);
            self.shared.work.notify_one();
        }
        drop(queue);
        self.shared.quiesced.notify_all();
        // The wakers are foreign code: call them under no lock.
        if broken!("joined-waker-panics") {
            return joined.into_iter().for_each(Waker::wake);
        }
        wake(joined);
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
