//! Memory pressure beside a user that sets the capacity.

use std::time::Duration;

use folio_cache::Cache;
use folio_cache::pressure::{Pressure, PressureHandle};
use folio_ref::testing::explore::{Search, explore, race};

use crate::common::assert_nothing_leaked;

/// The capacity grows back after pressure, while the user sets a lower one.
fn growth_against_a_capacity(search: Search) {
    explore("growth after pressure against a smaller capacity", search, || {
        let handle = PressureHandle::new().unwrap();
        let fast = Pressure::new().source(handle.clone()).grow_rate(u64::MAX).hold(Duration::ZERO);
        let builder = Cache::builder().capacity(6 << 20).pressure(fast).io_threads(0);
        let cache = builder.build().expect("memory for a test");
        handle.signal();
        cache.relieve();
        assert_eq!(cache.capacity(), 2 << 20);
        let (growing, setting) = (cache.clone(), cache.clone());
        race(vec![
            Box::new(move || _ = growing.relieve()),
            Box::new(move || setting.set_capacity(4 << 20).unwrap()),
        ]);
        assert!(cache.capacity() <= 4 << 20, "more than the user set: {}", cache.capacity());
        let online = cache.frames().zone().stats().online_frames;
        assert!(online <= 1024, "{online} frames are online, for a capacity of 1024");
        cache.relieve();
        assert_eq!(cache.capacity(), 4 << 20);
        assert_eq!(cache.frames().zone().stats().online_frames, 1024);
        assert_nothing_leaked(&cache);
    });
}

#[test]
fn pressure_never_outgrows_what_the_user_set() {
    growth_against_a_capacity(Search::Delays(1));
    growth_against_a_capacity(Search::Pct { depth: 3, executions: 300, seed: 1 });
}
