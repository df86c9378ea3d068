//! Batches: what each thread collects for a structure behind a lock that all threads share.
//!
//! A thread with a number of its own adds to its batch by stores to its own cache lines: no locked
//! instruction, and no wait. A thread that holds the lock takes out of any batch, in the order of
//! arrival. So the lock is taken once for each batch. (Linux: `folio_batch` of `lru_add`.)
//!
//! What waits in the batch of a thread that ends stays there: the next thread with its number
//! continues with it, and each holder of the lock sees it. The threads that have no number of their
//! own have no batch: they take the lock.

use folio_ref::broken;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use once_cell::race::OnceBox;

use crate::rt::counter::{self, NUMBERS};
use crate::rt::shim::Position;

/// The entries in a batch from which on the lock should be taken. Few under shuttle, so that the
/// batches of a test come around.
pub(crate) const DUE: usize = if cfg!(shuttle) { 2 } else { 32 };

/// The most entries in a batch: the pages of two large requests. While the lock is taken, a batch
/// may grow from [`DUE`] to this. Positions wrap around, so it is a power of two.
const ROOM: usize = if cfg!(shuttle) { 2 * DUE } else { 16 * DUE };

/// A frame and a number that belongs to it.
type Entry = (u32, u64);

/// A ring of entries, written by one thread.
struct Batch {
    /// The number of entries that were ever added. Written by the thread with the number.
    added: Position,
    /// The number of entries that were ever taken, as far as places are free again. Written under
    /// the lock.
    taken: Position,
    places: [(AtomicU32, AtomicU64); ROOM],
}

impl Default for Batch {
    fn default() -> Self {
        let places = [const { (AtomicU32::new(0), AtomicU64::new(0)) }; ROOM];
        Self { added: Position::new(0), taken: Position::new(0), places }
    }
}

impl Batch {
    fn place(&self, position: u32) -> &(AtomicU32, AtomicU64) {
        &self.places[position as usize % ROOM]
    }

    /// Returns the number of entries that were ever added.
    fn added(&self) -> u32 {
        // Acquire: pairs with Release in `add`. The entries before this position are there.
        self.added.load(Ordering::Acquire)
    }

    /// Takes the entries from `taken` on, before a position that was at most [`Self::added`].
    fn take_until(&self, end: u32, taken: &mut u32, mut visit: impl FnMut(u32, u64)) {
        if broken!("batch-freed-before-read") {
            self.taken.store(end, Ordering::Release);
        }
        while *taken != end {
            let (frame, number) = self.place(*taken);
            // Relaxed: `added` was loaded with Acquire.
            let entry = (frame.load(Ordering::Relaxed), number.load(Ordering::Relaxed));
            // Before the visit, which may panic: no entry is visited twice, and none is skipped.
            *taken = taken.wrapping_add(1);
            if !broken!("batch-freed-before-read") {
                // Release: pairs with Acquire in `add`. The place is read before it is written
                // again.
                self.taken.store(*taken, Ordering::Release);
            }
            visit(entry.0, entry.1);
        }
    }
}

/// The result of an attempt to add to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// The entries wait in the batch.
    Waits,
    /// The entries wait in the batch, which should be taken if the lock is free.
    Due,
    /// Nothing was added: take the lock.
    NoRoom,
}

/// The batches of all threads that have a number of their own.
pub(crate) struct Batches {
    /// By the number of the thread, made when it first adds.
    of: [OnceBox<CachePadded<Batch>>; NUMBERS],
}

/// The right to take entries out of batches. It lies behind the lock.
pub(crate) struct Taker {
    /// The number of entries that were ever taken, by the number of the thread.
    taken: [u32; NUMBERS],
    /// The number that had been added at the last visit.
    seen: [u32; NUMBERS],
}

impl Batches {
    /// Returns empty batches, and the right to take out of them.
    pub(crate) fn new() -> (Self, Taker) {
        let of = [const { OnceBox::new() }; NUMBERS];
        (Self { of }, Taker { taken: [0; NUMBERS], seen: [0; NUMBERS] })
    }

    /// Adds all entries to the batch of this thread, or none of them.
    #[inline]
    pub(crate) fn add(&self, entries: impl ExactSizeIterator<Item = Entry>) -> Added {
        self.add_as(counter::number(), entries)
    }

    /// Adds all entries to the batch of a number, or none of them. Call only in its thread.
    #[inline]
    fn add_as(&self, number: usize, entries: impl ExactSizeIterator<Item = Entry>) -> Added {
        let Some(batch) = self.of.get(number) else { return Added::NoRoom };
        let batch = batch.get_or_init(Box::default);
        // Relaxed: this thread wrote it, or the number's last thread, which returned the number
        // with Release.
        let mut at = batch.added.load(Ordering::Relaxed);
        // Acquire: pairs with Release in `take_until`. The places before it were read.
        let waiting = at.wrapping_sub(batch.taken.load(Ordering::Acquire)) as usize + entries.len();
        if waiting > ROOM {
            return Added::NoRoom;
        }
        for (frame, number) in entries {
            let place = batch.place(at);
            // Relaxed: published by the store below.
            place.0.store(frame, Ordering::Relaxed);
            place.1.store(number, Ordering::Relaxed);
            at = at.wrapping_add(1);
        }
        // Release: pairs with Acquire in `Batch::added`.
        batch.added.store(at, Ordering::Release);
        if waiting >= DUE { Added::Due } else { Added::Waits }
    }

    /// Takes the entries of this thread.
    pub(crate) fn take_own(&self, taker: &mut Taker, visit: impl FnMut(u32, u64)) {
        self.take_of(counter::number(), taker, visit);
    }

    fn take_of(&self, number: usize, taker: &mut Taker, visit: impl FnMut(u32, u64)) {
        if let Some(batch) = self.of.get(number).and_then(OnceBox::get) {
            batch.take_until(batch.added(), &mut taker.taken[number], visit);
        }
    }

    /// Takes the entries that were there at the last call already, of all threads. A thread that
    /// adds often takes its own before, so these are of threads that pause.
    pub(crate) fn take_old(&self, taker: &mut Taker, mut visit: impl FnMut(u32, u64)) {
        let Taker { taken, seen } = taker;
        for ((batch, taken), seen) in self.of.iter().zip(taken).zip(seen) {
            let Some(batch) = batch.get() else { continue };
            let added = batch.added();
            let old = std::mem::replace(seen, added);
            if added.wrapping_sub(*taken) > added.wrapping_sub(old) {
                batch.take_until(old, taken, &mut visit);
            }
        }
    }

    /// Takes the entries of all threads. Returns the number of entries.
    pub(crate) fn take_all(&self, taker: &mut Taker, mut visit: impl FnMut(u32, u64)) -> u32 {
        let mut visited = 0;
        for (batch, taken) in self.of.iter().zip(&mut taker.taken) {
            let Some(batch) = batch.get() else { continue };
            let added = batch.added();
            visited += added.wrapping_sub(*taken);
            batch.take_until(added, taken, &mut visit);
        }
        visited
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use crate::rt::lock::Mutex;

    use super::*;

    /// Adds one entry, of a frame and the same number, to the batch of a thread.
    fn add(batches: &Batches, thread: usize, n: u32) -> Added {
        batches.add_as(thread, [(n, u64::from(n))].into_iter())
    }

    /// Runs one of the functions that take, and returns what it took.
    fn taken(take: impl FnOnce(&mut dyn FnMut(u32, u64))) -> Vec<u32> {
        let mut all = Vec::new();
        take(&mut |frame, number| {
            assert_eq!(u64::from(frame), number, "an entry is taken whole");
            all.push(frame);
        });
        all
    }

    #[test]
    fn entries_come_out_once_and_in_order() {
        let (batches, mut taker) = Batches::new();
        let mut next = 0;
        for _ in 0..5 {
            let first = next;
            for n in 1..=ROOM {
                let added = if n < DUE { Added::Waits } else { Added::Due };
                assert_eq!(add(&batches, 1, next), added, "entry {n}");
                next += 1;
            }
            assert_eq!(add(&batches, 1, next), Added::NoRoom);
            let all = taken(|visit| batches.take_of(1, &mut taker, visit));
            assert_eq!(all, (first..next).collect::<Vec<_>>());
        }
        assert!(taken(|visit| _ = batches.take_all(&mut taker, visit)).is_empty());
    }

    #[test]
    fn entries_that_are_too_many_are_not_added_in_part() {
        let (batches, mut taker) = Batches::new();
        assert_eq!(add(&batches, 1, 7), Added::Waits);
        let many = vec![(8, 8); ROOM];
        assert_eq!(batches.add_as(1, many.iter().copied()), Added::NoRoom);
        assert_eq!(taken(|visit| batches.take_of(1, &mut taker, visit)), [7]);
        assert_eq!(batches.add_as(1, many.iter().copied()), Added::Due);
    }

    #[test]
    fn what_an_idle_thread_left_is_taken_at_the_second_visit() {
        let (batches, mut taker) = Batches::new();
        (0..ROOM as u32).for_each(|n| _ = add(&batches, 2, n));
        assert!(taken(|visit| batches.take_of(1, &mut taker, visit)).is_empty());
        assert!(taken(|visit| batches.take_old(&mut taker, visit)).is_empty());
        let all = taken(|visit| batches.take_old(&mut taker, visit));
        assert_eq!(all, (0..ROOM as u32).collect::<Vec<_>>());
        assert!(taken(|visit| batches.take_old(&mut taker, visit)).is_empty());
    }

    #[test]
    fn a_panic_of_the_visit_loses_one_entry_at_most() {
        let (batches, mut taker) = Batches::new();
        (0..4).for_each(|n| _ = add(&batches, 1, n));
        let visit = std::panic::AssertUnwindSafe(|| {
            batches.take_of(1, &mut taker, |frame, _| assert_ne!(frame, 1, "the visit fails"));
        });
        assert!(std::panic::catch_unwind(visit).is_err());
        assert_eq!(taken(|visit| batches.take_of(1, &mut taker, visit)), [2, 3]);
    }

    /// More threads than numbers add at once, while one takes all. Each entry is taken once.
    #[test]
    fn threads_that_add_at_once_lose_no_entry() {
        const THREADS: usize = NUMBERS + 5;
        const EACH: u32 = if cfg!(miri) { 20 } else { 2000 };
        let (batches, taker) = Batches::new();
        let (lock, barrier) = (Mutex::new((taker, Vec::new())), Barrier::new(THREADS));
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS as u32)
                .map(|thread| {
                    let (batches, lock, barrier) = (&batches, &lock, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        for n in thread * EACH..(thread + 1) * EACH {
                            let result = batches.add([(n, u64::from(n))].into_iter());
                            if result == Added::Waits {
                                continue;
                            }
                            let (taker, all) = &mut *lock.lock();
                            batches.take_own(taker, |frame, _| all.push(frame));
                            if result == Added::NoRoom {
                                all.push(n);
                            }
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let (taker, all) = &mut *lock.lock();
                    batches.take_old(taker, |frame, _| all.push(frame));
                }
            });
            for thread in threads {
                thread.join().unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let (mut taker, mut all) = lock.into_inner();
        batches.take_all(&mut taker, |frame, _| all.push(frame));
        // Each thread's entries are in its order.
        for thread in 0..THREADS as u32 {
            let own = all.iter().filter(|&&n| n / EACH == thread);
            assert!(own.is_sorted(), "thread {thread}");
        }
        all.sort_unstable();
        assert_eq!(all, (0..THREADS as u32 * EACH).collect::<Vec<_>>());
    }
}
