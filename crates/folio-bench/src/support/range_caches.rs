//! foyer and moka as caches of ranges before a distant store.
//!
//! They are caches from an object and a range to `Bytes`, with a capacity in bytes. A range is one
//! entry where reads repeat equal ranges ([`By::Range`]). Where reads overlap, the entries are
//! chunks of [`CHUNK`] bytes ([`By::Chunk`]): a read within one chunk is a slice of it, and another
//! one joins copies.

use std::ops::Range;
use std::sync::Arc;

use folio_cache::Bytes;

use crate::support::distant_store::Store;
use crate::support::range_readers::{By, Job, Reader, all};

/// The bytes of a chunk in a cache of ranges: those of a block in the engines that use foyer.
pub(crate) const CHUNK: u64 = 64 << 10;

/// The bytes of a request of a stream, as the cache prefers them too.
const REQUEST: u64 = 8 << 20;

/// The key of an entry: the object, and the range.
pub(crate) type EntryKey = (u64, u64, u64);

/// A cache of another project.
pub(crate) trait RangeCache {
    fn get(&self, key: &EntryKey) -> Option<Bytes>;
    fn insert(&self, key: EntryKey, bytes: Bytes);
    fn clear(&self);
}

impl RangeCache for foyer::Cache<EntryKey, Bytes> {
    fn get(&self, key: &EntryKey) -> Option<Bytes> {
        self.get(key).map(|entry| entry.value().clone())
    }
    fn insert(&self, key: EntryKey, bytes: Bytes) {
        self.insert(key, bytes);
    }
    fn clear(&self) {
        self.clear();
    }
}

impl RangeCache for moka::sync::Cache<EntryKey, Bytes> {
    fn get(&self, key: &EntryKey) -> Option<Bytes> {
        self.get(key)
    }
    fn insert(&self, key: EntryKey, bytes: Bytes) {
        self.insert(key, bytes);
    }
    fn clear(&self) {
        self.invalidate_all();
        self.run_pending_tasks();
    }
}

/// Makes a foyer cache of ranges with a capacity in bytes.
pub(crate) fn foyer(capacity: usize) -> foyer::Cache<EntryKey, Bytes> {
    foyer::CacheBuilder::new(capacity)
        .with_weighter(|_: &EntryKey, bytes: &Bytes| bytes.len())
        .build()
}

/// Makes a moka cache of ranges with a capacity in bytes.
pub(crate) fn moka(capacity: usize) -> moka::sync::Cache<EntryKey, Bytes> {
    moka::sync::Cache::builder()
        .max_capacity(capacity as u64)
        .weigher(|_, bytes: &Bytes| bytes.len() as u32)
        .build()
}

/// A cache of ranges before a store.
pub(crate) struct Ranges<C> {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<Store>,
    pub(crate) cache: C,
}

impl<C: RangeCache> Ranges<C> {
    async fn entry(&self, range: Range<u64>) -> Bytes {
        let key = (0, range.start, range.end);
        if let Some(bytes) = self.cache.get(&key) {
            return bytes;
        }
        let bytes = self.store.get_one(range).await;
        self.cache.insert(key, bytes.clone());
        bytes
    }

    async fn range(&self, range: Range<u64>, by: By) -> Bytes {
        match by {
            By::Range => self.entry(range).await,
            By::Chunk => {
                let entries = all(chunks(&range).map(|chunk| self.entry(chunk))).await;
                join(&range, entries.into_iter())
            }
        }
    }
}

/// Returns the chunks of a range.
fn chunks(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    (range.start / CHUNK..range.end.div_ceil(CHUNK)).map(|n| n * CHUNK..(n + 1) * CHUNK)
}

/// Returns the bytes of a range out of its chunks: a slice of one, or a copy of several.
fn join(range: &Range<u64>, mut chunks: impl Iterator<Item = Bytes>) -> Bytes {
    let (skip, len) = ((range.start % CHUNK) as usize, (range.end - range.start) as usize);
    let Some(first) = chunks.next() else { return Bytes::new() };
    if skip + len <= first.len() {
        return first.slice(skip..skip + len);
    }
    let mut joined = Vec::with_capacity(len);
    joined.extend_from_slice(&first[skip..]);
    for chunk in chunks {
        joined.extend_from_slice(&chunk[..chunk.len().min(len - joined.len())]);
    }
    joined.into()
}

impl<C: RangeCache> Reader for Ranges<C> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn clear(&self) {
        self.cache.clear();
    }
    fn read<'a>(&'a self, ranges: &'a [Range<u64>], by: By) -> Job<'a, Vec<Bytes>> {
        let reads = ranges.iter().map(move |range| self.range(range.clone(), by));
        Box::pin(async { Ok(all(reads).await) })
    }
    fn read_one(&self, range: Range<u64>, by: By) -> Job<'_, Bytes> {
        Box::pin(async move { Ok(self.range(range, by).await) })
    }
    fn stream(&self, range: Range<u64>) -> Job<'_, u64> {
        let starts = range.clone().step_by(REQUEST as usize);
        let parts = starts.map(move |at| at..(at + REQUEST).min(range.end));
        Box::pin(async {
            let parts = all(parts.map(|part| self.entry(part))).await;
            Ok(parts.iter().map(|part| part.len() as u64).sum())
        })
    }
    fn warm(&self, range: Range<u64>, by: By) -> Option<Bytes> {
        let get = |range: Range<u64>| self.cache.get(&(0, range.start, range.end));
        match by {
            By::Range => get(range),
            // A missing chunk makes it short, which the caller notices.
            By::Chunk => Some(join(&range, chunks(&range).map_while(get))),
        }
    }
}
