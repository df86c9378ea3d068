//! Counters that each thread writes on a cache line of its own, and that are summed when read.
//!
//! A living thread has a number. The first few threads have a cell of their own, so they count by a
//! load and a store. All further threads share the last cell, and count by fetch-add. No count is
//! lost in either case. A number is returned when its thread ends.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// The count of cells. Each cell except the last belongs to one number.
const CELLS: usize = 16;
const SHARED: usize = CELLS - 1;

/// The count of numbers that belong to one thread at a time. All further threads share this one.
/// Few under shuttle, so that a thread that looks at what each has takes few steps.
pub(crate) const NUMBERS: usize = if cfg!(shuttle) { 4 } else { 63 };

/// A bit for each number that is taken. Not under a lock: hits are counted too, also in a child
/// that was forked while another thread might have held such a lock.
#[cfg(not(shuttle))]
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// The number of a thread, until the thread ends.
#[cfg(not(shuttle))]
struct Number(usize);

#[cfg(not(shuttle))]
impl Number {
    /// Takes a free number. Returns [`NUMBERS`] if none is free.
    #[cold]
    fn take() -> Self {
        let free = |taken: u64| (taken.trailing_ones() as usize).min(NUMBERS);
        // Acquire: pairs with Release in drop. This thread sees what the number's last thread
        // wrote.
        let taken = TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
            (free(taken) < NUMBERS).then(|| taken | 1 << free(taken))
        });
        Self(taken.map_or(NUMBERS, free))
    }
}

#[cfg(not(shuttle))]
impl Drop for Number {
    fn drop(&mut self) {
        if self.0 < NUMBERS {
            // Release: pairs with Acquire in take.
            TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
        }
    }
}

#[cfg(not(shuttle))]
thread_local! {
    static NUMBER: Number = Number::take();
}

/// Returns the number of this thread. [`NUMBERS`] belongs to several.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn number() -> usize {
    // A thread that is ending may have returned its number.
    NUMBER.try_with(|number| number.0).unwrap_or(NUMBERS)
}

/// Returns the number of this thread. [`NUMBERS`] belongs to several. Shuttle runs all its threads
/// on one thread of the system.
#[cfg(shuttle)]
pub(crate) fn number() -> usize {
    folio_ref::testing::stepped::thread_number().min(NUMBERS)
}

/// `N` counters. Those of one number lie side by side.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize> {
    cells: [CachePadded<[AtomicU64; N]>; CELLS],
}

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        let cell = [const { CachePadded::new([const { AtomicU64::new(0) }; N]) }; CELLS];
        Self { cells: cell }
    }
}

/// Adds `n` to a cell of a number.
#[inline]
fn add(number: usize, cell: &AtomicU64, n: u64) {
    // Relaxed throughout: no other value follows from a counter. The last thread with this number
    // returned it with Release.
    if number < SHARED {
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    } else {
        cell.fetch_add(n, Ordering::Relaxed);
    }
}

impl<const N: usize> Counters<N> {
    /// Adds `n` to one counter.
    #[inline]
    pub(crate) fn add(&self, counter: usize, n: u64) {
        let number = number().min(SHARED);
        add(number, &self.cells[number][counter], n);
    }

    /// Adds to each counter.
    #[inline]
    pub(crate) fn add_all(&self, n: [u64; N]) {
        let number = number().min(SHARED);
        for (cell, n) in self.cells[number].iter().zip(n) {
            add(number, cell, n);
        }
    }

    /// Returns the sum of one counter, which wraps around: what one thread adds another may
    /// subtract. Counts that other threads add at this moment may be missing.
    pub(crate) fn get(&self, counter: usize) -> u64 {
        let counts = self.cells.iter().map(|cell| cell[counter].load(Ordering::Relaxed));
        counts.fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn more_threads_than_numbers_lose_no_count_and_no_number() {
        let counters = Counters::<2>::default();
        for _ in 0..3 {
            // All threads are alive at once.
            let barrier = Barrier::new(2 * NUMBERS);
            thread::scope(|scope| {
                for _ in 0..2 * NUMBERS {
                    scope.spawn(|| {
                        barrier.wait();
                        (0..1000).for_each(|_| counters.add(1, 2));
                        barrier.wait();
                    });
                }
            });
        }
        assert_eq!([0, 1].map(|n| counters.get(n)), [0, 3 * 2 * NUMBERS as u64 * 2000]);
        let first = thread::spawn(|| NUMBER.with(|number| number.0)).join().unwrap();
        assert!(first < SHARED, "the ended threads returned their numbers");
    }
}
