//! A zone's gauge: its watermarks, and the counts of frames that they are compared with.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::zone::watermarks::Watermarks;

/// The watermarks of a zone, and its counts of free and online frames.
#[derive(Default)]
pub(crate) struct Gauge {
    /// Free frames in the buddy. Written under the zone's lock.
    free: AtomicU32,
    /// Online frames. Written under the zone's lock.
    online: AtomicU32,
    /// If `high` is 0, the watermarks were never set and follow from `online`.
    min: AtomicU32,
    low: AtomicU32,
    high: AtomicU32,
}

// All accesses are Relaxed: each number is a hint by itself, and publishes nothing.
impl Gauge {
    /// Stores the number of free frames, under the zone's lock, if it has changed.
    pub(crate) fn publish_free(&self, frames: u32) {
        if self.free.load(Ordering::Relaxed) != frames {
            self.free.store(frames, Ordering::Relaxed);
        }
    }

    /// Adds frames that came online, under the zone's lock.
    pub(crate) fn add_online(&self, frames: u32) {
        self.online.store(self.online.load(Ordering::Relaxed) + frames, Ordering::Relaxed);
    }

    /// Subtracts frames that went offline, under the zone's lock.
    pub(crate) fn subtract_online(&self, frames: u32) {
        self.online.store(self.online.load(Ordering::Relaxed) - frames, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn online(&self) -> u32 {
        self.online.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn watermarks(&self) -> Watermarks {
        match self.high.load(Ordering::Relaxed) {
            0 => Watermarks::for_frames(self.online()),
            high => Watermarks {
                min: self.min.load(Ordering::Relaxed),
                low: self.low.load(Ordering::Relaxed),
                high,
            },
        }
    }

    pub(crate) fn set_watermarks(&self, watermarks: Watermarks) {
        self.min.store(watermarks.min, Ordering::Relaxed);
        self.low.store(watermarks.low, Ordering::Relaxed);
        self.high.store(watermarks.high, Ordering::Relaxed);
    }
}
