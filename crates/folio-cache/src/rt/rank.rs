//! The rank of a request in the queues of permits. A reader that joins the request while it waits
//! may raise it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The place of a waiter in a queue: the lowest comes first, by rank, then by arrival.
pub(super) type Place = (u8, u64);

/// The rank of a request, which waits in one queue at a time.
#[derive(Debug)]
pub(crate) struct Rank {
    /// The rank that it should have.
    wish: AtomicU8,
    /// The place that it has, or had. Changed under the lock of its queue only. Read under the lock
    /// of another queue it may be any two numbers: that queue looks at the request too.
    place: (AtomicU8, AtomicU64),
}

// Relaxed throughout: the lock of its queue orders the places of a request. A wish is stored before
// the lock of each queue is taken to raise the request there, so one that comes later finds it.
impl Rank {
    /// Returns a rank. Lower ranks come first.
    pub(crate) fn new(rank: u8) -> Arc<Self> {
        Arc::new(Self { wish: AtomicU8::new(rank), place: Default::default() })
    }

    /// Returns the rank.
    pub(crate) fn get(&self) -> u8 {
        self.wish.load(Ordering::Relaxed)
    }

    /// Raises the rank, unless it is as high. Returns `true` if it was raised:
    /// [`Permits::raise`](super::permits::Permits::raise) moves the request then, if it waits.
    pub(crate) fn raise(&self, rank: u8) -> bool {
        self.wish.fetch_min(rank, Ordering::Relaxed) > rank
    }

    /// Returns the place that it has in its queue, if the caller has the lock of that.
    pub(super) fn place(&self) -> Place {
        (self.place.0.load(Ordering::Relaxed), self.place.1.load(Ordering::Relaxed))
    }

    /// Sets the place.
    pub(super) fn set_place(&self, (rank, number): Place) {
        self.place.0.store(rank, Ordering::Relaxed);
        self.place.1.store(number, Ordering::Relaxed);
    }
}
