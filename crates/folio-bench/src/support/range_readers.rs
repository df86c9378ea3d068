//! Readers of ranges of a distant store: the cache, the bare store, and caches of ranges.
//!
//! foyer and moka are caches from an object and a range to `Bytes`, with a capacity in bytes. A
//! range is one entry where reads repeat equal ranges ([`By::Range`]). Where reads overlap, the
//! entries are chunks of [`CHUNK`] bytes ([`By::Chunk`]): a read within one chunk is a slice of it,
//! and another one joins copies.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use folio_cache::{Bytes, Cache, File};
use futures_core::Stream;

use crate::support::store::{Object, Store};

/// The bytes of a chunk in a cache of ranges: those of a block in the engines that use foyer.
pub(crate) const CHUNK: u64 = 64 << 10;

/// The bytes of a request of a stream, as the cache prefers them too.
const REQUEST: u64 = 8 << 20;

/// What a cache of ranges has as its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Range,
    Chunk,
}

/// A future on the heap.
pub(crate) type Job<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + 'a>>;

/// A reader of one object.
pub(crate) trait Reader {
    /// Returns its name, as rows show it.
    fn name(&self) -> &'static str;

    /// Forgets all bytes.
    fn clear(&self);

    /// Returns the bytes of ranges, in their order. All that is missing is requested at once.
    fn read<'a>(&'a self, ranges: &'a [Range<u64>], by: By) -> Job<'a, Vec<Bytes>>;

    /// Returns the bytes of one range.
    fn read_one(&self, range: Range<u64>, by: By) -> Job<'_, Bytes>;

    /// Reads a range as a stream. Returns its number of bytes.
    fn stream(&self, range: Range<u64>) -> Job<'_, u64>;

    /// Returns the bytes of a range that is cached, without waiting. The bare store has none.
    fn warm(&self, range: Range<u64>, by: By) -> Option<Bytes>;
}

/// The cache.
pub(crate) struct Folio {
    pub(crate) cache: Cache,
    pub(crate) file: File,
}

impl Folio {
    /// Makes a cache with an object of a store open.
    ///
    /// # Errors
    ///
    /// The system's error if memory for the frames is not to be had.
    pub(crate) fn new(capacity: usize, store: &Arc<Store>, len: u64) -> io::Result<Self> {
        let cache = Cache::new(capacity)?;
        let file = cache.open_async(Object::new(store, 0, len))?;
        Ok(Self { cache, file })
    }
}

impl Reader for Folio {
    fn name(&self) -> &'static str {
        "folio"
    }
    fn clear(&self) {
        self.cache.invalidate(&self.file.key());
    }
    fn read<'a>(&'a self, ranges: &'a [Range<u64>], _: By) -> Job<'a, Vec<Bytes>> {
        Box::pin(self.file.read_ranges_async(ranges))
    }
    fn read_one(&self, range: Range<u64>, _: By) -> Job<'_, Bytes> {
        Box::pin(self.file.bytes_async(range.start, (range.end - range.start) as usize))
    }
    fn stream(&self, range: Range<u64>) -> Job<'_, u64> {
        Box::pin(async move {
            let mut stream = pin!(self.file.stream(range.start, range.end - range.start));
            let mut bytes = 0;
            while let Some(piece) = poll_fn(|context| stream.as_mut().poll_next(context)).await {
                bytes += piece?.len() as u64;
            }
            Ok(bytes)
        })
    }
    fn warm(&self, range: Range<u64>, _: By) -> Option<Bytes> {
        self.file.bytes(range.start, (range.end - range.start) as usize).ok()
    }
}

/// The store without a cache.
pub(crate) struct Bare(pub(crate) Arc<Store>);

impl Reader for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }
    fn clear(&self) {}
    fn read<'a>(&'a self, ranges: &'a [Range<u64>], _: By) -> Job<'a, Vec<Bytes>> {
        Box::pin(async { Ok(all(ranges.iter().map(|range| self.0.get_one(range.clone()))).await) })
    }
    fn read_one(&self, range: Range<u64>, _: By) -> Job<'_, Bytes> {
        Box::pin(async { Ok(self.0.get_one(range).await) })
    }
    fn stream(&self, range: Range<u64>) -> Job<'_, u64> {
        Box::pin(async { Ok(self.0.get(range).await.map(|piece| piece.len() as u64).sum()) })
    }
    fn warm(&self, _: Range<u64>, _: By) -> Option<Bytes> {
        None
    }
}

/// The key of an entry: the object, and the range.
pub(crate) type EntryKey = (u64, u64, u64);

/// A cache of another project.
pub(crate) trait RangeCache {
    fn get(&self, key: &EntryKey) -> Option<Bytes>;
    fn insert(&self, key: EntryKey, bytes: Bytes);
    fn clear(&self);
}

#[cfg(feature = "baselines")]
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

#[cfg(feature = "baselines")]
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
#[cfg(feature = "baselines")]
pub(crate) fn foyer(capacity: usize) -> foyer::Cache<EntryKey, Bytes> {
    foyer::CacheBuilder::new(capacity)
        .with_weighter(|_: &EntryKey, bytes: &Bytes| bytes.len())
        .build()
}

/// Makes a moka cache of ranges with a capacity in bytes.
#[cfg(feature = "baselines")]
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

/// Drives futures at once. Returns their outputs, in their order.
pub(crate) async fn all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> =
        futures.into_iter().map(|future| (Some(Box::pin(future)), None)).collect();
    poll_fn(|context| {
        let mut pending = false;
        for (future, output) in &mut running {
            if let Some(polled) = future.as_mut().map(|future| future.as_mut().poll(context)) {
                match polled {
                    Poll::Pending => pending = true,
                    Poll::Ready(value) => (*future, *output) = (None, Some(value)),
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}
