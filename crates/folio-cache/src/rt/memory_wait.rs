//! The wait for memory: what holds memory for a moment, and a wait for its end.
//!
//! A fill holds the pages that it fills, and a write those that it will add. An allocation that
//! finds no memory waits for an end of these before it looks again. An end costs a fence and a load
//! while no thread waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::rt::counter::Counters;
use crate::rt::shim::{Condvar, Mutex, fence, wait_for};

/// Pages that hold memory for a moment, and the threads that wait for memory.
#[derive(Default)]
pub(crate) struct MemoryWait {
    in_flight: Counters<1>,
    /// Pages that the results of futures pin, which were not polled yet.
    unpolled: AtomicUsize,
    waiting: AtomicUsize,
    /// The number of ends that threads waited for.
    ends: AtomicU64,
    lock: Mutex<()>,
    ended: Condvar,
}

impl MemoryWait {
    /// Returns the number of pages in flight. Racy.
    pub(crate) fn in_flight(&self) -> u64 {
        // A sum of racy counts may be below 0 for a moment.
        u64::try_from(self.in_flight.get(0).cast_signed()).unwrap_or(0)
    }

    /// Counts pages of a result that is not polled yet, and returns `true`. Returns `false` if they
    /// would be more than `most`.
    pub(crate) fn keep_unpolled(&self, pages: usize, most: usize) -> bool {
        // Relaxed, here and below: a count.
        let is_kept = self.unpolled.fetch_add(pages, Ordering::Relaxed) + pages <= most;
        if !is_kept {
            self.polled(pages);
        }
        is_kept
    }

    /// Counts pages of a result that was polled or dropped.
    pub(crate) fn polled(&self, pages: usize) {
        self.unpolled.fetch_sub(pages, Ordering::Relaxed);
    }

    /// Counts pages that are in flight from now on.
    pub(crate) fn begin(&self, pages: usize) {
        self.in_flight.add(0, pages as u64);
    }

    /// Counts pages that are no longer in flight, and wakes the threads that wait for memory. Call
    /// after the pages were published or freed.
    pub(crate) fn end(&self, pages: usize) {
        self.in_flight.add(0, (pages as u64).wrapping_neg());
        self.notify();
    }

    /// Wakes the threads that wait for memory: pages became evictable or free.
    pub(crate) fn notify(&self) {
        // SeqCst, Dekker with the fence in `look`: either this sees the waiting thread, or that
        // thread sees the memory.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            let _lock = self.lock.lock();
            // Relaxed: read under the lock, or as a hint.
            self.ends.fetch_add(1, Ordering::Relaxed);
            self.ended.notify_all();
        }
    }

    /// Registers a thread that looks for memory and may wait for it.
    pub(crate) fn look(&self) -> Look<'_> {
        // Relaxed: ordered by the fence. SeqCst, Dekker with the fence in `notify`.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Look { on: self, seen: self.ends.load(Ordering::Relaxed) }
    }
}

/// A thread that looks for memory.
pub(crate) struct Look<'r> {
    on: &'r MemoryWait,
    /// The ends that came before its last look.
    seen: u64,
}

impl Look<'_> {
    /// Waits for an end since the last look, at most for a while. Returns `true` if one came. The
    /// thread must look again then.
    pub(crate) fn wait(&mut self, most: Duration) -> bool {
        let mut lock = self.on.lock.lock();
        if self.on.ends.load(Ordering::Relaxed) == self.seen {
            wait_for(&self.on.ended, &mut lock, most);
        }
        let before = std::mem::replace(&mut self.seen, self.on.ends.load(Ordering::Relaxed));
        before != self.seen
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.on.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
