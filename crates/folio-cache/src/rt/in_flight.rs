//! Pages in flight, which hold memory for a moment, and the wait for their end.
//!
//! A fill holds the pages that it fills, and a write those that it will add: their frames are
//! taken, and come back soon, as pages or free. An allocation that finds no memory waits for an end
//! of these before it looks again, instead of failing. An end costs a fence and a load while no
//! thread waits.
//!
//! **Invariant:** a thread that holds pages in flight never waits for memory. Two kinds count
//! apart ([`HeldBy`]). A request to a distant store belongs to no thread: it comes to an end only
//! if a thread can drive it while others wait. And pages that are written to their file are cached:
//! they take no memory beside the cached pages, but can be evicted only after the write.

use std::mem;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::rt::counter::Counters;
use crate::rt::shim::{Condvar, Mutex, fence, wait_for};

/// The kinds of holders of pages in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// A fill, or a write to the cache.
    Fill,
    /// A request to a distant store.
    Request,
    /// A write to their file.
    Write,
}

/// Pages that hold memory for a moment, and the threads that wait for memory.
#[derive(Default)]
pub(crate) struct MemoryWait {
    /// By [`HeldBy`].
    in_flight: Counters<3>,
    /// Pages that the results of futures pin, which were not polled yet.
    unpolled: AtomicUsize,
    waiting: AtomicUsize,
    /// The number of ends that threads waited for.
    ends: AtomicU64,
    lock: Mutex<()>,
    ended: Condvar,
}

impl MemoryWait {
    /// Returns the number of pages in flight that are not cached. Racy.
    pub(crate) fn in_flight(&self) -> u64 {
        self.held(HeldBy::Fill) + self.held(HeldBy::Request)
    }

    /// Returns the number of pages in flight of one kind. Racy.
    pub(crate) fn held(&self, by: HeldBy) -> u64 {
        // A sum of racy counts may be below 0 for a moment.
        u64::try_from(self.in_flight.get(by as usize).cast_signed()).unwrap_or(0)
    }

    /// Counts pages as in flight until the result is dropped. Drop it after the pages were
    /// published, freed, or written.
    pub(crate) fn hold(&self, by: HeldBy, pages: usize) -> Hold<'_> {
        self.begin(by, pages);
        Hold { on: self, by, pages }
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
    fn begin(&self, by: HeldBy, pages: usize) {
        self.in_flight.add(by as usize, pages as u64);
    }

    /// Counts pages that are no longer in flight, and wakes the threads that wait for memory. Call
    /// after the pages were published or freed.
    fn end(&self, by: HeldBy, pages: usize) {
        self.in_flight.add(by as usize, (pages as u64).wrapping_neg());
        self.notify();
    }

    /// Wakes the threads that wait for memory: pages became evictable or free.
    fn notify(&self) {
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

/// Pages that count as in flight until this is dropped.
pub(crate) struct Hold<'w> {
    on: &'w MemoryWait,
    by: HeldBy,
    pages: usize,
}

impl Hold<'_> {
    /// Ends it without a word to those that wait for memory: none became free.
    pub(crate) fn end_quietly(self) {
        self.on.in_flight.add(self.by as usize, (self.pages as u64).wrapping_neg());
        mem::forget(self);
    }

    /// Returns the number of pages.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.on.end(self.by, self.pages);
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
        self.has_ended()
    }

    /// Returns `true` if an end came since the last look. The thread must look again then.
    pub(crate) fn has_ended(&mut self) -> bool {
        let before = mem::replace(&mut self.seen, self.on.ends.load(Ordering::Relaxed));
        before != self.seen
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.on.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file, which holds pages in flight.
pub(crate) trait Holder {
    /// Returns the wait for memory of its cache.
    fn memory_wait(&self) -> &MemoryWait;

    /// Returns the number of its pages in fills of several pages.
    fn filling(&self) -> &AtomicU32;

    /// Adds to the number of pages in flight of its group. Wraps around.
    fn count_in_flight(&self, pages: u64);
}

/// Counts pages as in flight until it is dropped.
pub(crate) struct InFlight<'m, H: Holder> {
    holder: &'m H,
    pages: usize,
    /// The count of the file, for a fill of several pages.
    filling: Option<&'m AtomicU32>,
}

impl<'m, H: Holder> InFlight<'m, H> {
    /// Counts no pages yet. Touches nothing that is shared.
    #[inline]
    pub(crate) fn none(holder: &'m H) -> Self {
        Self { holder, pages: 0, filling: None }
    }

    /// Returns the number of pages.
    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Counts pages of a file that are about to be filled.
    pub(crate) fn begin_fill(holder: &'m H, pages: usize) -> Self {
        let filling = (pages > 1).then(|| holder.filling());
        // Relaxed, here and below: a count.
        filling.map(|filling| filling.fetch_add(pages as u32, Ordering::Relaxed));
        begin(holder, pages);
        Self { holder, pages, filling }
    }

    /// Changes the number of pages.
    pub(crate) fn set(&mut self, pages: usize) {
        let before = mem::replace(&mut self.pages, pages);
        let more = pages.wrapping_sub(before) as u32;
        self.filling.map(|filling| filling.fetch_add(more, Ordering::Relaxed));
        if pages > before {
            begin(self.holder, pages - before);
        } else if pages < before {
            end(self.holder, before - pages);
        }
    }

    /// Keeps the pages counted. Returns `true` if their file counts them, for
    /// [`resume`](Self::resume).
    pub(crate) fn suspend(mut self) -> bool {
        self.pages = 0;
        self.filling.is_some()
    }

    /// Continues with pages of a fill that are counted already, `in_file` says if by the file too.
    pub(crate) fn resume(holder: &'m H, pages: usize, in_file: bool) -> Self {
        let filling = in_file.then(|| holder.filling());
        Self { holder, pages, filling }
    }
}

fn begin(holder: &impl Holder, pages: usize) {
    holder.memory_wait().begin(HeldBy::Fill, pages);
    holder.count_in_flight(pages as u64);
}

fn end(holder: &impl Holder, pages: usize) {
    holder.count_in_flight((pages as u64).wrapping_neg());
    holder.memory_wait().end(HeldBy::Fill, pages);
}

impl<H: Holder> Drop for InFlight<'_, H> {
    #[inline]
    fn drop(&mut self) {
        if self.pages > 0 {
            self.filling.map(|filling| filling.fetch_sub(self.pages as u32, Ordering::Relaxed));
            end(self.holder, self.pages);
        }
    }
}
