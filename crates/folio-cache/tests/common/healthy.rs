//! The calls of a healthy file, which must end beside any sick one.

use std::sync::Arc;

use folio_cache::testing::Memory;
use folio_cache::{CACHED, Cache, File};
use pollster::block_on;

use super::hanging::{ends, within};

const PAGE: u64 = 4096;

/// A call of a user of a healthy file. It must end, and give the right result.
type Healthy = fn(&Cache, &File, &Arc<Memory>);

const HEALTHY: &[(&str, Healthy)] = &[
    ("a miss", |_, file, _| {
        file.invalidate();
        assert_eq!(file.read_at(&mut [0; 8], 20 * PAGE).unwrap(), 8);
    }),
    ("a read at the end", |_, file, _| {
        assert_eq!(file.read_at(&mut [0; 8], file.len()).unwrap(), 0);
    }),
    ("a read ahead", |_, file, _| {
        file.invalidate();
        (0..64).for_each(|page| assert_eq!(file.read_at(&mut [0; 8], page * PAGE).unwrap(), 8));
    }),
    ("a future", |_, file, _| {
        file.invalidate();
        (0..64).for_each(|page| {
            assert_eq!(block_on(file.bytes_async(page * PAGE, 8)).unwrap().len(), 8);
        });
    }),
    ("a range", |_, file, _| assert_eq!(file.range(0, 200_000).unwrap().len(), 200_000)),
    ("a write", |_, file, _| {
        (0..300).for_each(|n| assert_eq!(file.write_at(&[3; 4096], n % 100 * PAGE).unwrap(), 4096));
    }),
    ("a sync", |_, file, memory| {
        file.write_at(b"sync me", 8).unwrap();
        file.sync_data().unwrap();
        assert_eq!(&memory.durable()[8..15], b"sync me");
    }),
    ("the flusher", |_, file, memory| {
        file.write_at(b"flush me", 0).unwrap();
        within("the flusher does not write", || memory.contents().starts_with(b"flush me"));
    }),
    ("an open and a close", |cache, _, memory| {
        let other = cache.open_backing(memory.clone()).unwrap();
        assert!(!other.revalidate().unwrap());
        other.write_at(b"close me", 0).unwrap();
        other.close().unwrap();
        assert!(memory.contents().starts_with(b"close me"));
        let third = Arc::new(Memory::new(b"third"));
        let other = cache.open_backing(third.clone()).unwrap();
        other.write_at(b"T", 0).unwrap();
        drop(other);
        assert_eq!(third.contents(), b"Third");
    }),
    ("a resize and a hole", |_, file, _| {
        file.set_len(99 * PAGE).unwrap();
        file.punch_hole(PAGE, 3 * PAGE).unwrap();
        file.set_len(100 * PAGE).unwrap();
    }),
    ("a discard", |_, file, _| {
        file.write_at(&[9; 4096], 0).unwrap();
        // Another thread may have flushed it.
        assert!(file.discard().unwrap() <= 100 * PAGE);
    }),
    ("a capacity", |cache, _, _| {
        let capacity = cache.capacity();
        cache.set_capacity(4 << 20).unwrap();
        cache.set_capacity(capacity).unwrap();
    }),
    ("quiesce", |_, file, _| file.quiesce()),
    ("a migration", |cache, file, _| {
        let page = file.page(5 * PAGE).unwrap().unwrap();
        let zone = cache.frames().zone();
        let frames = zone.pfns().filter(|&pfn| zone.peek(pfn).kind == CACHED);
        // Some are pinned, or in flight.
        frames.take(200).for_each(|pfn| _ = cache.frames().migrate(pfn));
        cache.frames().compact(2);
        assert_eq!(page.len(), 4096);
    }),
    ("a block offline", |cache, _, _| {
        let blocks = (0..8).filter_map(|block| cache.frames().offline(block).ok());
        blocks.take(1).for_each(|block| cache.frames().online(block));
    }),
    ("a reclaim", |cache, _, _| _ = cache.reclaim(50)),
    ("the lists", |cache, _, _| drop((cache.unwritten(), cache.stats(), format!("{cache:?}")))),
];

/// Makes each call on a new file, one after the other. Each must end, whatever other files do.
#[track_caller]
pub(crate) fn assert_healthy(cache: &Cache, sickness: &str) {
    let memory = Arc::new(Memory::new(&vec![2; 100 * 4096]));
    let file = cache.open_backing(memory.clone()).unwrap();
    for &(what, act) in HEALTHY {
        let (cache, file, memory) = (cache.clone(), file.clone(), memory.clone());
        ends(&format!("{what} beside {sickness}"), move || act(&cache, &file, &memory));
    }
    file.close().unwrap();
}
