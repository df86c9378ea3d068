//! The counters and gauges that a store records with the crate `metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};

use super::{CachedStore, Consistency, Options, Tricky, cache, pattern, put, run, whole};

/// A recorder that keeps the last value of each metric of each prefix.
#[derive(Default)]
struct Recorded(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Recorded {
    fn slot(&self, key: &Key) -> Arc<AtomicU64> {
        let label = |name: &str| key.labels().find(|label| label.key() == name);
        assert_eq!(label("store").map(metrics::Label::value), Some("sales"));
        let prefix = label("prefix").map_or("", metrics::Label::value);
        let name = format!("{} {prefix}", key.name());
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn counter(&self, name: &str) -> u64 {
        self.0.lock().unwrap()[name].load(Ordering::Relaxed)
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.0.lock().unwrap().entry(format!("{} described", key.as_str())).or_default();
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.0.lock().unwrap().entry(format!("{} described", key.as_str())).or_default();
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn metrics_equal_the_stats_of_the_store_and_its_prefixes() {
    let bare = Arc::new(Tricky::in_memory());
    let options = Options::new().id("sales").consistency(Consistency::Immutable);
    let store = CachedStore::with_options(bare.clone(), &cache(), options.count_prefix("t"));
    run(async {
        for path in ["t/a", "u/b", "t/a"] {
            put(&bare.inner, path, &pattern(1, 5000)).await;
            whole(&store, path).await.unwrap();
        }
    });
    let recorded = Recorded::default();
    with_local_recorder(&recorded, || {
        CachedStore::describe_metrics();
        store.record_metrics();
    });
    let stats = store.stats();
    assert_eq!(recorded.counter("object_cache_gets_total "), stats.gets);
    assert_eq!(recorded.counter("object_cache_gets_total t"), 2);
    assert_eq!(recorded.counter("object_cache_requests_total t"), 1);
    assert_eq!(recorded.counter("object_cache_fetched_bytes_total "), 10_000);
    assert_eq!(recorded.counter("object_cache_objects "), 2.0_f64.to_bits());
    let names = recorded.0.lock().unwrap();
    let described = names.keys().filter(|name| name.ends_with(" described")).count();
    assert_eq!(names.len(), described + 10 + 10 + 2, "each of {names:?} is described");
    assert_eq!(described, 12);
}
