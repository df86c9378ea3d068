//! Watermarks: how much of a zone is free, in four levels, for whoever reclaims before memory runs
//! out.
//!
//! ```text
//!        min          low           high
//!  ───────┼────────────┼─────────────┼──────────▶ free frames
//!  BelowMin  BelowLow     BelowHigh     Enough
//!  reclaim   wake the     let it run    let it
//!  yourself  background   on            sleep
//! ```
//!
//! (Linux `mm/page_alloc.c`, `zone_watermark_ok`.) They only say how it stands: the allocator hands
//! out the last frame to whoever asks, as it knows nothing of who deserves it. Asking takes no lock
//! and writes nothing: the buddy's count is published by whoever lets go of its lock. Frames in
//! per-CPU lists count too, as whoever finds none elsewhere gets them; but their counts lie in
//! lines that other CPUs write, so they are looked at only where what is in the buddy does not
//! decide. (Linux leaves them out, and keeps its lists short where a zone is small.)

use core::sync::atomic::{AtomicU32, Ordering};

use crate::base::platform::Platform;
use crate::zone::zone::Zone;

/// Three numbers of free frames, `min <= low <= high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this who allocates should reclaim first.
    pub min: u32,
    /// Below this reclaim in the background begins.
    pub low: u32,
    /// From this on it may end.
    pub high: u32,
}

impl Watermarks {
    /// What Linux takes for memory of this size: `min` grows with the square root, `low` and `high`
    /// are a quarter and a half above it. 1 GiB: 1024, 1280, 1536 frames.
    pub const fn for_frames(frames: u32) -> Self {
        let min = 2 * frames.isqrt();
        Self { min, low: min + min / 4, high: min + min / 2 }
    }
}

/// Where the free frames stand among the [`Watermarks`]. Ordered: less is more pressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Fewer than `min` are free.
    BelowMin,
    /// Fewer than `low`, but `min` at the least.
    BelowLow,
    /// Fewer than `high`, but `low` at the least.
    BelowHigh,
    /// `high` or more.
    Enough,
}

/// A zone's marks, and the count that they are held against.
#[derive(Default)]
pub(crate) struct Gauge {
    /// Written by whoever holds the zone's lock.
    free: AtomicU32,
    online: AtomicU32,
    /// `high` 0: nobody set them, they follow from `online`.
    min: AtomicU32,
    low: AtomicU32,
    high: AtomicU32,
}

// All accesses are Relaxed: each number is a hint by itself, nothing is published by it.
impl Gauge {
    /// Under the zone's lock. A store only when it changed.
    pub(crate) fn publish_free(&self, frames: u32) {
        if self.free.load(Ordering::Relaxed) != frames {
            self.free.store(frames, Ordering::Relaxed);
        }
    }

    /// Under the zone's lock.
    pub(crate) fn came_online(&self, frames: u32) {
        self.online.store(self.online.load(Ordering::Relaxed) + frames, Ordering::Relaxed);
    }

    /// Under the zone's lock.
    pub(crate) fn went_offline(&self, frames: u32) {
        self.online.store(self.online.load(Ordering::Relaxed) - frames, Ordering::Relaxed);
    }

    fn marks(&self) -> Watermarks {
        match self.high.load(Ordering::Relaxed) {
            0 => Watermarks::for_frames(self.online.load(Ordering::Relaxed)),
            high => Watermarks {
                min: self.min.load(Ordering::Relaxed),
                low: self.low.load(Ordering::Relaxed),
                high,
            },
        }
    }
}

impl<P: Platform> Zone<P> {
    /// The marks: those that were set, or what fits the frames that are online.
    pub fn watermarks(&self) -> Watermarks {
        self.gauge.marks()
    }

    /// Sets the marks; a `high` of 0 goes back to what fits the frames that are online.
    ///
    /// # Panics
    ///
    /// Unless `min <= low <= high`.
    pub fn set_watermarks(&self, marks: Watermarks) {
        assert!(
            marks.min <= marks.low && marks.low <= marks.high,
            "{marks:?}: allowed is min <= low <= high"
        );
        self.gauge.min.store(marks.min, Ordering::Relaxed);
        self.gauge.low.store(marks.low, Ordering::Relaxed);
        self.gauge.high.store(marks.high, Ordering::Relaxed);
    }

    /// Where the free frames stand, those in per-CPU lists among them. No lock, some loads. Racy.
    ///
    /// Who only wants to know whether it is one mark or above asks [`Zone::is_at_least`], which is
    /// cheap enough for every miss.
    pub fn level(&self) -> Level {
        let levels = [Level::Enough, Level::BelowHigh, Level::BelowLow];
        levels.into_iter().find(|&level| self.is_at_least(level)).unwrap_or(Level::BelowMin)
    }

    /// Whether [`Zone::level`] is this one, or better. No lock; some loads, mostly of what is
    /// seldom written. Racy.
    #[inline]
    pub fn is_at_least(&self, level: Level) -> bool {
        let marks = self.watermarks();
        let enough = match level {
            Level::BelowMin => 0,
            Level::BelowLow => marks.min,
            Level::BelowHigh => marks.low,
            Level::Enough => marks.high,
        };
        let free = self.free_frames();
        free >= enough || free + self.listed_frames() >= enough
    }

    /// Frames that are online, or isolated. No lock, one load. Racy.
    #[inline]
    pub fn online_frames(&self) -> u32 {
        self.gauge.online.load(Ordering::Relaxed)
    }

    /// Free frames in the buddy and waiting for it, without those in per-CPU lists. No lock, one
    /// load. Racy.
    #[inline]
    pub fn free_frames(&self) -> u32 {
        self.gauge.free.load(Ordering::Relaxed) + self.deferred.frames()
    }

    /// Frames in per-CPU lists. Racy.
    #[cold]
    fn listed_frames(&self) -> u32 {
        self.per_cpu.iter().map(|cpu| cpu.held()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_grow_with_the_square_root_and_are_ordered() {
        assert_eq!(
            Watermarks::for_frames(1 << 18),
            Watermarks { min: 1024, low: 1280, high: 1536 }
        );
        for frames in [0, 1, 511, 512, 1 << 20, u32::MAX] {
            let marks = Watermarks::for_frames(frames);
            assert!(
                marks.min <= marks.low && marks.low <= marks.high && marks.high <= frames.max(3),
                "{marks:?}"
            );
        }
    }
}
