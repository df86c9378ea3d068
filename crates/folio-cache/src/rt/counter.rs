//! Counters that each thread writes on a cache line of its own, and that are summed when read.
//!
//! A living thread has a number. The first few threads have a number of their own, so they count by
//! a load and a store. All further threads share the last number, and count by fetch-add. No count
//! is lost in either case. A number is returned when its thread ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// The count of numbers. Each number except the last belongs to one thread at a time.
const NUMBERS: usize = 16;
const SHARED: usize = NUMBERS - 1;

/// A bit for each number that is taken. Not under a lock: hits are counted too, also in a child
/// that was forked while another thread might have held such a lock.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// The number of a thread, until the thread ends.
struct Number(usize);

impl Number {
    /// Takes a free number. Returns the shared number if none is free.
    #[cold]
    fn take() -> Self {
        let free = |taken: u32| (taken.trailing_ones() as usize).min(SHARED);
        // Acquire: pairs with Release in drop. This thread sees the counts of the number's last
        // thread.
        let taken = TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
            (free(taken) < SHARED).then(|| taken | 1 << free(taken))
        });
        Self(taken.map_or(SHARED, free))
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if self.0 < SHARED {
            // Release: pairs with Acquire in take.
            TAKEN.fetch_and(!(1 << self.0), Ordering::Release);
        }
    }
}

thread_local! {
    static NUMBER: Number = Number::take();
}

/// One counter, with a cell for each number.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    cells: [CachePadded<AtomicU64>; NUMBERS],
}

/// Returns the number of the calling thread. A thread that is ending may have returned its own.
#[inline]
fn number() -> usize {
    NUMBER.try_with(|number| number.0).unwrap_or(SHARED)
}

/// Adds `n` to the cell of a number.
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

impl Counter {
    /// Adds `n`.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        let number = number();
        add(number, &self.cells[number], n);
    }

    /// Returns the sum, which wraps around: what one thread adds another may subtract. Counts that
    /// other threads add at this moment may be missing.
    pub(crate) fn get(&self) -> u64 {
        let counts = self.cells.iter().map(|cell| cell.load(Ordering::Relaxed));
        counts.fold(0, u64::wrapping_add)
    }
}

/// Two counters that are added to together, with their cells side by side.
#[derive(Debug, Default)]
pub(crate) struct CounterPair {
    cells: [CachePadded<[AtomicU64; 2]>; NUMBERS],
}

impl CounterPair {
    /// Adds to both.
    #[inline]
    pub(crate) fn add(&self, n: [u64; 2]) {
        let number = number();
        let [first, second] = &*self.cells[number];
        add(number, first, n[0]);
        add(number, second, n[1]);
    }

    /// Returns the sums, which wrap around, as [`Counter::get`] does.
    pub(crate) fn get(&self) -> [u64; 2] {
        [0, 1].map(|n| {
            let counts = self.cells.iter().map(|cell| cell[n].load(Ordering::Relaxed));
            counts.fold(0, u64::wrapping_add)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn more_threads_than_numbers_lose_no_count_and_no_number() {
        let counter = Counter::default();
        for _ in 0..3 {
            // All threads are alive at once.
            let barrier = Barrier::new(2 * NUMBERS);
            thread::scope(|scope| {
                for _ in 0..2 * NUMBERS {
                    scope.spawn(|| {
                        barrier.wait();
                        (0..1000).for_each(|_| counter.add(2));
                        barrier.wait();
                    });
                }
            });
        }
        assert_eq!(counter.get(), 3 * 2 * NUMBERS as u64 * 2000);
        let first = thread::spawn(|| NUMBER.with(|number| number.0)).join().unwrap();
        assert!(first < SHARED, "the ended threads returned their numbers");
    }
}
