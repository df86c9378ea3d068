//! Counters that each thread writes on a line of its own, added up when somebody asks.
//!
//! A living thread has a number. The first few threads have one for themselves, so they count by a
//! load and a store; the rest share the last number, and count by fetch-add. Either way nothing is
//! lost. A number goes back when its thread ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// Numbers: all but the last belong to one thread at a time.
const NUMBERS: usize = 16;
const SHARED: usize = NUMBERS - 1;

/// A bit for each number that is taken. Not under a lock: hits count as well, also in a child that
/// was forked while another thread would have held it.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A thread's number, until it ends.
struct Number(usize);

impl Number {
    #[cold]
    fn take() -> Self {
        let free = |taken: u32| (taken.trailing_ones() as usize).min(SHARED);
        // Acquire: pairs with Release in drop. What the number's last thread counted is seen here.
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

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    parts: [CachePadded<AtomicU64>; NUMBERS],
}

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // A thread that is ending may have given its number back.
        let number = NUMBER.try_with(|number| number.0).unwrap_or(SHARED);
        let part = &self.parts[number];
        // Relaxed throughout: nothing follows from a counter. The thread that had the number
        // before gave it back with Release.
        if number < SHARED {
            part.store(part.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        } else {
            part.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The sum. What other threads count just now may be missing.
    pub(crate) fn get(&self) -> u64 {
        self.parts.iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn nothing_is_lost_by_more_threads_than_numbers_and_none_keeps_its_number() {
        let counter = Counter::default();
        for _ in 0..3 {
            // All alive at once.
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
        assert!(first < SHARED, "the threads before gave theirs back");
    }
}
