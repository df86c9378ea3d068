//! Counters of the slow paths. A hit counts nothing: even a count on the thread's own cache line
//! costs 1 ns, where a read of 64 bytes of a hot page takes 3.8. The feature `hits` counts it all
//! the same.

use std::iter::Sum;
use std::ops::{Add, Sub};

use crate::rt::counter;

/// Defines [`CacheStats`] and [`Count`] from one list.
macro_rules! counters {
    ($($(#[$doc:meta])* $count:ident $field:ident,)*) => {
        /// Counters since the cache was built: of a cache, of a group of files
        /// ([`Group::stats`](crate::Group::stats)), or of a file
        /// ([`File::stats`](crate::File::stats)). The difference of two snapshots is what happened
        /// between them. The sum over all groups of a cache is that of the cache.
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
            $($(#[$doc])* pub $field: u64,)*
            /// Bytes that ranges show now: those of [`RangeHandle`](crate::RangeHandle) and of
            /// `Bytes` made from a file, without page handles and without bytes that were copied. A
            /// slice of a `Bytes` counts as the whole. The difference of two snapshots has that of
            /// the later one. Counted for a cache alone.
            pub shown_bytes: u64,
            /// Bytes of the folios that these ranges pin now. A folio counts once for each range
            /// that pins it. The difference of two snapshots has that of the later one. Counted for
            /// a cache alone.
            pub pinned_bytes: u64,
        }

        /// A counter.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Count {
            Hits,
            /// Pages in indexes, now.
            Cached,
            /// Pages that have frames for a request, now.
            InFlight,
            $($count,)*
            /// The number of counters.
            Number,
        }

        impl CacheStats {
            fn with(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
                Self {
                    hits: self.hits.zip(other.hits).map(|(one, other)| with(one, other)),
                    $($field: with(self.$field, other.$field),)*
                    ..self
                }
            }
        }

        impl Counters {
            /// Returns the counts.
            pub(crate) fn read(&self) -> CacheStats {
                CacheStats {
                    hits: CacheStats::COUNTS_HITS.then(|| self.get(Count::Hits)),
                    $($field: self.get(Count::$count),)*
                    ..CacheStats::default()
                }
            }
        }
    };
}

counters! {
    /// Pages read from a backing, or attempted.
    Misses misses,
    /// Requests for pages: one for an extent of adjacent pages.
    Requests requests,
    /// Requests to distant stores that were dropped before their answer was used: no reader waited
    /// for them any more. They count as requests too if they were sent.
    Cancelled cancelled,
    /// Pages requested before a reader missed them. They count as misses too.
    Ahead ahead,
    /// Bytes read by misses.
    FilledBytes filled_bytes,
    /// Those of them that lie in pages which a reader had asked for. The others were read ahead, or
    /// lie in gaps that a store reads through.
    WantedBytes wanted_bytes,
    /// Bytes of page handles, ranges and `Bytes` that were copied instead of pinned. Reads into a
    /// buffer do not count.
    CopiedBytes copied_bytes,
    /// Bytes written to backings.
    WrittenBytes written_bytes,
    /// Write requests that failed. Their pages stayed dirty.
    WriteErrors write_errors,
    /// Times that a writer had to write dirty pages because there were too many.
    Throttled throttled,
    /// Pages evicted, on request or by a miss.
    Reclaimed reclaimed,
    /// Times that a miss or a write found no free frame, and had to reclaim by itself. The pages
    /// that misses evict ahead do not count. They count for the group of files without a group.
    DirectReclaims direct_reclaims,
    /// Lookups that met a frozen page.
    RefusedFrozen refused_frozen,
    /// Lookups that failed the re-check (R8): the page had left its slot.
    RefusedMoved refused_moved,
    /// Sleeps until a page was no longer in progress.
    Waits waits,
    /// Pages that were read without the cache, because there was no room to index them or in the
    /// share of their group, or their object changed meanwhile. They count as misses too.
    Uncached uncached,
    /// Signals of memory pressure that were read. Those of one reading count as one.
    PressureSignals pressure_signals,
    /// Bytes by which memory pressure lowered the capacity, all steps together.
    GivenBackBytes given_back_bytes,
    /// Bytes by which the capacity grew again after memory pressure, all steps together.
    TakenAgainBytes taken_again_bytes,
}

/// The counters of the files of one group, or of one file.
#[derive(Debug, Default)]
pub(crate) struct Counters(counter::Counters<{ Count::Number as usize }>);

impl Sub for CacheStats {
    type Output = Self;

    /// Returns the counts between two snapshots: those of `self`, less those of the earlier one. A
    /// count that would be negative is 0.
    fn sub(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }
}

impl Add for CacheStats {
    type Output = Self;

    /// Returns the sums of the counts of two groups.
    fn add(self, other: Self) -> Self {
        Self {
            shown_bytes: self.shown_bytes + other.shown_bytes,
            pinned_bytes: self.pinned_bytes + other.pinned_bytes,
            ..self.with(other, u64::wrapping_add)
        }
    }
}

impl Sum for CacheStats {
    fn sum<I: Iterator<Item = Self>>(stats: I) -> Self {
        let zero = Self { hits: Self::COUNTS_HITS.then_some(0), ..Self::default() };
        stats.fold(zero, Add::add)
    }
}

impl CacheStats {
    /// `true` with the feature `hits`: then hits are counted.
    pub const COUNTS_HITS: bool = cfg!(feature = "hits");
}

impl Counters {
    /// Adds `n` to a counter.
    #[inline]
    pub(crate) fn add(&self, count: Count, n: u64) {
        self.0.add(count as usize, n);
    }

    /// Subtracts `n` from a counter of what is there now.
    #[inline]
    pub(crate) fn subtract(&self, count: Count, n: u64) {
        self.0.add(count as usize, n.wrapping_neg());
    }

    fn get(&self, count: Count) -> u64 {
        self.0.get(count as usize)
    }

    /// Returns a counter of what is there now. Racy: a page may have left before it was seen to
    /// come.
    pub(crate) fn now(&self, count: Count) -> u64 {
        u64::try_from(self.get(count).cast_signed()).unwrap_or(0)
    }
}
