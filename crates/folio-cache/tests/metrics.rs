//! The counters and gauges that the cache records with the crate `metrics`.

#![cfg(feature = "metrics")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use folio_cache::testing::Memory;
use folio_cache::{Cache, CacheStats};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};

/// A recorder that keeps the last value of each metric, and the names that were described.
#[derive(Default)]
struct Recorded {
    counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    described: Mutex<Vec<String>>,
}

impl Recorded {
    fn value(&self, name: &str) -> f64 {
        let of = |map: &Mutex<BTreeMap<_, Arc<AtomicU64>>>| {
            let map = map.lock().unwrap();
            map.get(name).map(|value| value.load(Ordering::Relaxed))
        };
        of(&self.counters)
            .map_or_else(|| f64::from_bits(of(&self.gauges).expect(name)), |count| count as f64)
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().unwrap().push(key.as_str().to_owned());
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        assert!(key.labels().map(|label| (label.key(), label.value())).eq([("cache", "small")]));
        Counter::from_arc(
            self.counters.lock().unwrap().entry(key.name().to_owned()).or_default().clone(),
        )
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        assert!(key.labels().map(|label| (label.key(), label.value())).eq([("cache", "small")]));
        Gauge::from_arc(
            self.gauges.lock().unwrap().entry(key.name().to_owned()).or_default().clone(),
        )
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn metrics_equal_the_stats() {
    let recorder = Recorded::default();
    let cache =
        Cache::builder().name("small").capacity(2 << 20).max_capacity(4 << 20).build().unwrap();
    let file = cache.open_backing(Arc::new(Memory::new(&vec![7; 100 * 4096]))).unwrap();
    file.read_at(&mut vec![0; 100 * 4096], 0).unwrap();
    cache.quiesce();
    let handles: Vec<_> = (0..10).map(|page| file.page(page * 4096).unwrap()).collect();
    let range = file.range(0, 9 * 4096 + 2048).unwrap();
    with_local_recorder(&recorder, || {
        Cache::describe_metrics();
        cache.record_metrics();
    });
    let stats = cache.stats();
    let bytes = |pages: u32| f64::from(pages * 4096);
    for (name, expected) in [
        ("page_cache_misses_total", stats.misses as f64),
        ("page_cache_requests_total", stats.requests as f64),
        ("page_cache_filled_bytes_total", bytes(100)),
        ("page_cache_capacity_bytes", bytes(512)),
        ("page_cache_offline_bytes", bytes(512)),
        ("page_cache_used_bytes", bytes(100)),
        ("page_cache_pinned_bytes", bytes(10)),
        ("page_cache_dirty_bytes", 0.0),
        ("page_cache_range_shown_bytes", bytes(10) - 2048.0),
        ("page_cache_range_pinned_bytes", bytes(10)),
    ] {
        assert!(
            (recorder.value(name) - expected).abs() < 0.5,
            "{name}: {} instead of {expected}",
            recorder.value(name)
        );
    }
    if CacheStats::COUNTS_HITS {
        assert!((recorder.value("page_cache_hits_total") - stats.hits.unwrap() as f64).abs() < 0.5);
    }
    // Every recorded metric is described.
    let names = [&recorder.counters, &recorder.gauges]
        .map(|map| map.lock().unwrap().keys().cloned().collect::<Vec<_>>());
    let mut described = recorder.described.lock().unwrap().clone();
    described.sort();
    let mut names = names.concat();
    names.sort();
    assert_eq!(names, described);
    drop((handles, range));
}
