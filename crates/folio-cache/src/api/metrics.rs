//! Metrics: hands the counters to the recorder of the program (the crate `metrics`).
//!
//! Nothing is recorded while the cache works. Its counters belong to its threads, and are summed on
//! a call of [`Cache::record_metrics`].

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::api::cache::Cache;
use crate::memory::out_of_memory;
use crate::memory::pinned;
use crate::state::stats::CacheStats;

/// A counter: name, unit, description, and its value.
type CounterOf = (&'static str, Unit, &'static str, fn(&CacheStats) -> u64);

const COUNTERS: &[CounterOf] = &[
    ("page_cache_misses_total", Unit::Count, "Pages read from backings, or tried to be", |stats| {
        stats.misses
    }),
    ("page_cache_requests_total", Unit::Count, "Requests for pages", |stats| stats.requests),
    ("page_cache_cancelled_total", Unit::Count, "Requests dropped unanswered", |stats| {
        stats.cancelled
    }),
    ("page_cache_ahead_total", Unit::Count, "Pages requested before they were missed", |stats| {
        stats.ahead
    }),
    ("page_cache_filled_bytes_total", Unit::Bytes, "Bytes read from backings", |stats| {
        stats.filled_bytes
    }),
    ("page_cache_written_bytes_total", Unit::Bytes, "Bytes written to backings", |stats| {
        stats.written_bytes
    }),
    ("page_cache_write_errors_total", Unit::Count, "Requests to write that failed", |stats| {
        stats.write_errors
    }),
    ("page_cache_throttled_total", Unit::Count, "Writers that had to write dirty pages", |stats| {
        stats.throttled
    }),
    ("page_cache_reclaimed_total", Unit::Count, "Pages that reclaim freed", |stats| {
        stats.reclaimed
    }),
    ("page_cache_direct_reclaims_total", Unit::Count, "Misses that had to reclaim", |stats| {
        stats.direct_reclaims
    }),
    ("page_cache_waits_total", Unit::Count, "Sleeps until a page was there", |stats| stats.waits),
    ("page_cache_uncached_total", Unit::Count, "Pages read without the cache", |stats| {
        stats.uncached
    }),
    ("page_cache_pressure_signals_total", Unit::Count, "Signals of memory pressure", |stats| {
        stats.pressure_signals
    }),
    ("page_cache_given_back_bytes_total", Unit::Bytes, "Capacity lost to pressure", |stats| {
        stats.given_back_bytes
    }),
    ("page_cache_taken_again_bytes_total", Unit::Bytes, "Capacity back after it", |stats| {
        stats.taken_again_bytes
    }),
];

const HITS: &str = "page_cache_hits_total";

/// All gauges in the order of [`Cache::gauges`]: name and description. All are bytes.
const GAUGES: [(&str, &str); 9] = [
    ("page_cache_capacity_bytes", "The most memory for pages, indexes and open files"),
    ("page_cache_used_bytes", "Memory of pages"),
    ("page_cache_index_bytes", "Memory of indexes"),
    ("page_cache_file_bytes", "Memory of the state of open files"),
    ("page_cache_dirty_bytes", "Pages newer than their backings"),
    ("page_cache_pinned_bytes", "Pages held by handles"),
    ("page_cache_offline_bytes", "Memory of the cache that the system has back"),
    ("page_cache_range_shown_bytes", "Bytes that ranges show, without page handles"),
    ("page_cache_range_pinned_bytes", "Pages that these ranges hold, once for each range"),
];

impl Cache {
    /// Describes to the recorder of the program what [`record_metrics`](Self::record_metrics)
    /// records. Call it once.
    pub fn describe_metrics() {
        for &(name, unit, about, _) in COUNTERS {
            describe_counter!(name, unit, about);
        }
        if CacheStats::COUNTS_HITS {
            describe_counter!(HITS, Unit::Count, "Pages found in the cache");
        }
        for (name, about) in GAUGES {
            describe_gauge!(name, Unit::Bytes, about);
        }
    }
}

impl<S: Scheme> Cache<S> {
    /// Records all counters and gauges with the recorder of the program. The label `cache` is the
    /// cache's name.
    ///
    /// Call it before each scrape, or periodically: it inspects every frame, which takes about a
    /// millisecond for each GiB.
    pub fn record_metrics(&self) {
        if self.shared.is_inherited() {
            // It needs locks, and the counters belong to the parent.
            return;
        }
        let (name, stats) = (self.name(), self.stats());
        for &(counter, _, _, value) in COUNTERS {
            counter!(counter, "cache" => name.to_owned()).absolute(value(&stats));
        }
        if let Some(hits) = stats.hits {
            counter!(HITS, "cache" => name.to_owned()).absolute(hits);
        }
        for ((gauge, _), bytes) in GAUGES.into_iter().zip(self.gauges()) {
            gauge!(gauge, "cache" => name.to_owned()).set(bytes as f64);
        }
    }

    /// Returns the values of [`GAUGES`], in its order.
    fn gauges(&self) -> [usize; GAUGES.len()] {
        let (shared, zone) = (self.shared(), self.shared().zone());
        let stats = zone.stats();
        let [online, free] =
            [stats.online_frames, stats.free_frames].map(|frames| frames as usize * FRAME_SIZE);
        let all = zone.pfns().frames() as usize * FRAME_SIZE;
        let [shown, shown_pinned] = shared.shown.get().map(|bytes| bytes as usize);
        [
            self.capacity(),
            online.saturating_sub(free),
            self.index_bytes(),
            self.file_bytes(),
            out_of_memory::dirty_bytes(shared),
            pinned::pinned_bytes(shared),
            all.saturating_sub(online),
            shown,
            shown_pinned,
        ]
    }
}
