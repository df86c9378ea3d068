//! Counters of the slow paths. A hit counts nothing: even a count on the thread's own cache line
//! costs 1 ns, where a read of 64 bytes of a hot page takes 3.8. The feature `hits` counts it all
//! the same.

use std::ops::Sub;

use crate::rt::counter::Counter;

/// Counters since the cache was built. The difference of two snapshots is what happened between
/// them.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Cache, testing::Memory};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::builder().capacity(4 << 20).io_threads(0).build()?;
/// let file = cache.open_backing(Arc::new(Memory::new(&[7; 4096])))?;
/// let before = cache.stats();
/// file.read_exact_at(&mut [0; 64], 0)?; // a miss
/// file.read_exact_at(&mut [0; 64], 0)?; // a hit
/// let during = cache.stats() - before;
/// assert_eq!((during.misses, during.filled_bytes), (1, 4096));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStats {
    /// Pages found in the cache. `None` without the feature `hits`.
    pub hits: Option<u64>,
    /// Pages read from a backing, or attempted.
    pub misses: u64,
    /// Requests for pages: one for an extent of adjacent pages.
    pub requests: u64,
    /// Requests to distant stores that were dropped before their answer was used: no reader waited
    /// for them any more. They count as requests too if they were sent.
    pub cancelled: u64,
    /// Pages requested before a reader missed them. They count as misses too.
    pub ahead: u64,
    /// Bytes read by misses.
    pub filled_bytes: u64,
    /// Bytes written to backings.
    pub written_bytes: u64,
    /// Write requests that failed. Their pages stayed dirty.
    pub write_errors: u64,
    /// Times that a writer had to write dirty pages because there were too many.
    pub throttled: u64,
    /// Pages evicted, on request or by a miss.
    pub reclaimed: u64,
    /// Times that a miss found too few free frames, and had to evict.
    pub direct_reclaims: u64,
    /// Lookups that met a frozen page.
    pub refused_frozen: u64,
    /// Lookups that failed the re-check (R8): the page had left its slot.
    pub refused_moved: u64,
    /// Sleeps until a page was no longer in progress.
    pub waits: u64,
    /// Pages that were read without the cache, because there was no room to index them. They count
    /// as misses too.
    pub uncached: u64,
    /// Signals of memory pressure that were read. Those of one reading count as one.
    pub pressure_signals: u64,
    /// Bytes by which memory pressure lowered the capacity, all steps together.
    pub given_back_bytes: u64,
    /// Bytes by which the capacity grew again after memory pressure, all steps together.
    pub taken_again_bytes: u64,
    /// Bytes that ranges show now: those of [`RangeHandle`](crate::RangeHandle) and of `Bytes` made
    /// from a file, without page handles and without bytes that were copied. A slice of a `Bytes`
    /// counts as the whole. The difference of two snapshots has that of the later one.
    pub shown_bytes: u64,
    /// Bytes of the folios that these ranges pin now. A folio counts once for each range that pins
    /// it. The difference of two snapshots has that of the later one.
    pub pinned_bytes: u64,
}

/// The counters behind [`CacheStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) requests: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) ahead: Counter,
    pub(crate) filled_bytes: Counter,
    pub(crate) written_bytes: Counter,
    pub(crate) write_errors: Counter,
    pub(crate) throttled: Counter,
    pub(crate) reclaimed: Counter,
    pub(crate) direct_reclaims: Counter,
    pub(crate) refused_frozen: Counter,
    pub(crate) refused_moved: Counter,
    pub(crate) waits: Counter,
    pub(crate) uncached: Counter,
    pub(crate) pressure_signals: Counter,
    pub(crate) given_back_bytes: Counter,
    pub(crate) taken_again_bytes: Counter,
}

impl Sub for CacheStats {
    type Output = Self;

    /// Returns the counts between two snapshots: those of `self`, less those of the earlier one. A
    /// count that would be negative is 0.
    fn sub(self, earlier: Self) -> Self {
        Self {
            hits: self.hits.zip(earlier.hits).map(|(now, then)| now.saturating_sub(then)),
            misses: self.misses.saturating_sub(earlier.misses),
            requests: self.requests.saturating_sub(earlier.requests),
            cancelled: self.cancelled.saturating_sub(earlier.cancelled),
            ahead: self.ahead.saturating_sub(earlier.ahead),
            filled_bytes: self.filled_bytes.saturating_sub(earlier.filled_bytes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            write_errors: self.write_errors.saturating_sub(earlier.write_errors),
            throttled: self.throttled.saturating_sub(earlier.throttled),
            reclaimed: self.reclaimed.saturating_sub(earlier.reclaimed),
            direct_reclaims: self.direct_reclaims.saturating_sub(earlier.direct_reclaims),
            refused_frozen: self.refused_frozen.saturating_sub(earlier.refused_frozen),
            refused_moved: self.refused_moved.saturating_sub(earlier.refused_moved),
            waits: self.waits.saturating_sub(earlier.waits),
            uncached: self.uncached.saturating_sub(earlier.uncached),
            pressure_signals: self.pressure_signals.saturating_sub(earlier.pressure_signals),
            given_back_bytes: self.given_back_bytes.saturating_sub(earlier.given_back_bytes),
            taken_again_bytes: self.taken_again_bytes.saturating_sub(earlier.taken_again_bytes),
            shown_bytes: self.shown_bytes,
            pinned_bytes: self.pinned_bytes,
        }
    }
}

impl CacheStats {
    /// `true` with the feature `hits`: then hits are counted.
    pub const COUNTS_HITS: bool = cfg!(feature = "hits");
}

impl Counters {
    /// Counts a page that was found.
    #[inline(always)]
    pub(crate) fn hit(&self) {
        if CacheStats::COUNTS_HITS {
            self.hits.add(1);
        }
    }

    /// Returns the counts, with the bytes that ranges show and pin.
    pub(crate) fn read(&self, [shown_bytes, pinned_bytes]: [u64; 2]) -> CacheStats {
        CacheStats {
            hits: CacheStats::COUNTS_HITS.then(|| self.hits.get()),
            misses: self.misses.get(),
            requests: self.requests.get(),
            cancelled: self.cancelled.get(),
            ahead: self.ahead.get(),
            filled_bytes: self.filled_bytes.get(),
            written_bytes: self.written_bytes.get(),
            write_errors: self.write_errors.get(),
            throttled: self.throttled.get(),
            reclaimed: self.reclaimed.get(),
            direct_reclaims: self.direct_reclaims.get(),
            refused_frozen: self.refused_frozen.get(),
            refused_moved: self.refused_moved.get(),
            waits: self.waits.get(),
            uncached: self.uncached.get(),
            pressure_signals: self.pressure_signals.get(),
            given_back_bytes: self.given_back_bytes.get(),
            taken_again_bytes: self.taken_again_bytes.get(),
            shown_bytes,
            pinned_bytes,
        }
    }
}
