//! The level of a zone: where its free frames stand among its watermarks.
//!
//! Reading it takes no lock and writes nothing: each holder of the buddy's lock publishes the
//! buddy's count when it unlocks. Frames in per-CPU lists count too, because an allocation that
//! finds none elsewhere takes those. Their counts lie in lines that other CPUs write, so they are
//! read only where the buddy's count does not decide. (Linux leaves them out, and keeps its lists
//! short where a zone is small.)

use crate::base::platform::Platform;
use crate::zone::watermarks::Watermarks;
use crate::zone::zone::Zone;

/// Where the free frames stand among the [`Watermarks`]. Ordered: less is more pressing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Fewer than `min` are free.
    BelowMin,
    /// Fewer than `low` are free, and at least `min`.
    BelowLow,
    /// Fewer than `high` are free, and at least `low`.
    BelowHigh,
    /// `high` or more are free.
    Enough,
}

impl<P: Platform> Zone<P> {
    /// Returns the watermarks: those that were set, or those that fit the online frames.
    pub fn watermarks(&self) -> Watermarks {
        self.gauge.watermarks()
    }

    /// Sets the watermarks. A `high` of 0 returns to those that fit the online frames.
    ///
    /// # Panics
    ///
    /// Panics unless `min <= low <= high`.
    pub fn set_watermarks(&self, watermarks: Watermarks) {
        assert!(
            watermarks.min <= watermarks.low && watermarks.low <= watermarks.high,
            "{watermarks:?}: allowed is min <= low <= high"
        );
        self.gauge.set_watermarks(watermarks);
    }

    /// Returns the level of the free frames, those in per-CPU lists included. Takes no lock, and
    /// loads a few numbers. Racy.
    ///
    /// To learn only if the zone is at one level or above, call [`Zone::is_at_least`], which is
    /// cheap enough for every miss.
    pub fn level(&self) -> Level {
        let levels = [Level::Enough, Level::BelowHigh, Level::BelowLow];
        levels.into_iter().find(|&level| self.is_at_least(level)).unwrap_or(Level::BelowMin)
    }

    /// Returns `true` if [`Zone::level`] is this level or a higher one. Takes no lock, and loads a
    /// few numbers, most of them seldom written. Racy.
    #[inline]
    pub fn is_at_least(&self, level: Level) -> bool {
        let watermarks = self.watermarks();
        let enough = match level {
            Level::BelowMin => 0,
            Level::BelowLow => watermarks.min,
            Level::BelowHigh => watermarks.low,
            Level::Enough => watermarks.high,
        };
        let free = self.free_frames();
        free >= enough || free + self.listed_frames() >= enough
    }

    /// Returns the number of frames that are online or isolated. Takes no lock; one load. Racy.
    #[inline]
    pub fn online_frames(&self) -> u32 {
        self.gauge.online()
    }

    /// Returns the number of free frames in the buddy and in deferred blocks, without those in
    /// per-CPU lists. Takes no lock. Racy.
    #[inline]
    pub fn free_frames(&self) -> u32 {
        self.gauge.free() + self.deferred.frames()
    }

    /// Returns the number of frames in per-CPU lists. Racy.
    #[cold]
    fn listed_frames(&self) -> u32 {
        self.per_cpu.iter().map(|cpu| cpu.frames()).sum()
    }
}
