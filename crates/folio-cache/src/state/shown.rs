//! The bytes that ranges and `Bytes` show, and those that they pin.
//!
//! They are counted when a range is made and when it is dropped, each thread on a cache line of its
//! own. A page handle is not counted: that would cost more than the handle.
//!
//! A handle may outlive its cache, so the counts live for ever. A new cache takes those of a cache
//! that is gone, and of which all handles are.

use crate::rt::counter::Counters;
use crate::rt::lock::Mutex;

/// The counts of caches that are gone.
static FREE: Mutex<Vec<&Shown>> = Mutex::new(Vec::new());

/// The bytes shown and pinned by the ranges of a cache.
#[derive(Debug, Default)]
pub(crate) struct Shown(Counters<2>);

impl Shown {
    /// Returns counts that are 0, for a new cache.
    pub(crate) fn take() -> &'static Self {
        // In a forked child another thread may hold the lock for ever.
        let free = FREE.try_lock().and_then(|mut free| {
            let unused = free.iter().position(|shown| shown.get() == [0, 0])?;
            Some(free.swap_remove(unused))
        });
        free.unwrap_or_else(|| Box::leak(Box::default()))
    }

    /// Gives the counts of a cache that is gone to a later one.
    pub(crate) fn give_back(&'static self) {
        if let Some(mut free) = FREE.try_lock() {
            free.push(self);
        }
    }

    /// Returns the bytes shown and the bytes pinned. Racy.
    pub(crate) fn get(&self) -> [u64; 2] {
        // A sum of racy counts may be below 0 for a moment.
        [0, 1].map(|n| u64::try_from(self.0.get(n).cast_signed()).unwrap_or(0))
    }
}

/// A range that counts what it shows and pins.
#[derive(Debug)]
pub(crate) struct Counted {
    of: &'static Shown,
    /// The bytes shown and the bytes pinned.
    bytes: [usize; 2],
}

impl Counted {
    /// Counts a range that shows and pins so many bytes.
    pub(crate) fn new(of: &'static Shown, shown: usize, pinned: usize) -> Self {
        let bytes = [shown, pinned];
        of.0.add_all(bytes.map(|bytes| bytes as u64));
        Self { of, bytes }
    }

    /// Changes what the range shows and pins.
    pub(crate) fn set(&mut self, shown: usize, pinned: usize) {
        let [was_shown, was_pinned] = self.bytes;
        self.bytes = [shown, pinned];
        let change = [shown.wrapping_sub(was_shown), pinned.wrapping_sub(was_pinned)];
        self.of.0.add_all(change.map(|bytes| bytes as u64));
    }

    /// Returns the counts.
    pub(crate) fn of(&self) -> &'static Shown {
        self.of
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        let [shown, pinned] = self.bytes;
        Self::new(self.of, shown, pinned)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}
