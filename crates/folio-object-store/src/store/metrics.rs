//! Metrics: hands the counters to the recorder of the program (the crate `metrics`).

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::CachedStore;
use crate::StoreStats;

/// A counter: name, unit, description, and its value.
type CounterOf = (&'static str, Unit, &'static str, fn(&StoreStats) -> u64);

const COUNTERS: &[CounterOf] = &[
    ("object_cache_gets_total", Unit::Count, "Calls that read an object", |stats| stats.gets),
    ("object_cache_requests_total", Unit::Count, "Requests for them", |stats| stats.requests),
    ("object_cache_heads_total", Unit::Count, "Requests without bytes", |stats| stats.heads),
    ("object_cache_wanted_bytes_total", Unit::Bytes, "Bytes that gets returned", |stats| {
        stats.bytes_wanted
    }),
    ("object_cache_hit_bytes_total", Unit::Bytes, "Bytes found in the cache", |stats| {
        stats.bytes_hit
    }),
    ("object_cache_fetched_bytes_total", Unit::Bytes, "Bytes that the store sent", |stats| {
        stats.bytes_fetched
    }),
    ("object_cache_passed_bytes_total", Unit::Bytes, "Bytes past the cache", |stats| {
        stats.bytes_passed
    }),
    ("object_cache_changed_total", Unit::Count, "Objects changed by others", |stats| stats.changed),
    ("object_cache_errors_total", Unit::Count, "Requests that failed", |stats| stats.errors),
    ("object_cache_writes_total", Unit::Count, "Writes, copies and deletes", |stats| stats.writes),
];

/// A gauge: name, unit, description, and its value.
const GAUGES: &[CounterOf] = &[
    ("object_cache_objects", Unit::Count, "Objects with metadata", |stats| stats.objects),
    ("object_cache_metadata_bytes", Unit::Bytes, "Memory of their metadata", |stats| {
        stats.metadata_bytes
    }),
];

impl CachedStore {
    /// Describes to the recorder of the program what [`record_metrics`](Self::record_metrics)
    /// records. Call it once.
    pub fn describe_metrics() {
        for &(name, unit, about, _) in COUNTERS {
            describe_counter!(name, unit, about);
        }
        for &(name, unit, about, _) in GAUGES {
            describe_gauge!(name, unit, about);
        }
    }

    /// Records all counters and gauges with the recorder of the program. The labels are `store`,
    /// the name of the store, and `prefix`, which is empty for the whole store.
    ///
    /// Call it before each scrape, or periodically.
    pub fn record_metrics(&self) {
        let store = self.core.name();
        let whole = (String::new(), self.stats());
        for (prefix, stats) in std::iter::once(whole).chain(self.prefix_stats()) {
            for &(name, _, _, value) in COUNTERS {
                let labels = [("store", store.clone()), ("prefix", prefix.clone())];
                counter!(name, &labels).absolute(value(&stats));
            }
        }
        let stats = self.stats();
        for &(name, _, _, value) in GAUGES {
            gauge!(name, "store" => store.clone()).set(value(&stats) as f64);
        }
    }
}
