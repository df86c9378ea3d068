//! Column chunks: queries that read some columns of each row group, in less memory than they need.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::os::{ObjectStore, ObjectStoreExt};
use super::{Cache, CachedStore, Consistency, Options, Tricky, pattern, put, run};

const M: u64 = 1 << 20;

/// The row groups of the object, the columns of each, and the bytes of a chunk.
const GROUPS: u64 = 32;
const COLUMNS: u64 = 12;
const CHUNK: u64 = 64 << 10;

/// The columns of each query. Two are popular.
const QUERIES: [&[u64]; 8] = [
    &[0, 3, 6, 7],
    &[0, 3, 9],
    &[3, 10, 11],
    &[0, 1, 3],
    &[2, 5],
    &[0, 3, 4, 8],
    &[0, 9, 11],
    &[3, 5, 8],
];

/// Calls `get` with the chunks of each row group, for all queries.
async fn queries(mut get: impl AsyncFnMut(&[Range<u64>])) {
    for columns in QUERIES {
        for group in 0..GROUPS {
            let chunk = |column: &u64| {
                // Chunks begin and end within pages.
                let at = (group * COLUMNS + column) * CHUNK + 100;
                at..at + CHUNK
            };
            let chunks: Vec<_> = columns.iter().map(chunk).collect();
            get(&chunks).await;
        }
    }
}

/// A cache of ranges that evicts the least recently used one, over a store that joins ranges.
#[derive(Default)]
struct Lru {
    ranges: VecDeque<Range<u64>>,
    fetched: u64,
}

impl Lru {
    fn get(&mut self, wanted: &[Range<u64>], most: usize) {
        let mut end = None;
        for range in wanted {
            if let Some(at) = self.ranges.iter().position(|known| known == range) {
                self.ranges.remove(at);
            } else {
                let from = end.filter(|end| range.start - end <= M).unwrap_or(range.start);
                self.fetched += range.end - from;
                end = Some(range.end);
            }
            self.ranges.push_back(range.clone());
        }
        self.ranges.drain(..self.ranges.len().saturating_sub(most));
    }
}

#[test]
fn chunks_are_fetched_less_often_than_by_a_cache_of_ranges() {
    let capacity = 8 * M;
    let store = Arc::new(Tricky::in_memory());
    let inner: Arc<dyn ObjectStore> = store.clone();
    let cache = Cache::new(capacity as usize).expect("memory");
    let options = Options::new().consistency(Consistency::Immutable);
    let cached = CachedStore::with_options(inner, &cache, options);
    let (mut lru, path) = (Lru::default(), "table".into());
    run(async {
        let bytes = pattern(1, (GROUPS * COLUMNS * CHUNK + 4096) as usize);
        put(&store.inner, "table", &bytes).await;
        cached.head(&path).await.unwrap();
        let mut fetched = [0; 4];
        for round in &mut fetched {
            let before = (cached.stats().bytes_fetched, lru.fetched);
            queries(async |chunks| {
                let read = cached.get_ranges(&path, chunks).await.unwrap();
                let first = chunks[0].start as usize;
                assert!(read[0] == bytes[first..first + CHUNK as usize]);
            })
            .await;
            queries(async |chunks| lru.get(chunks, (capacity / CHUNK) as usize)).await;
            let ours = cached.stats().bytes_fetched - before.0;
            *round = ours * 100 / (lru.fetched - before.1);
        }
        assert!(fetched[1..].iter().all(|&share| share < 70), "{fetched:?} in 100 of LRU's bytes");
    });
}
