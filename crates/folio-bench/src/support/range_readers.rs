//! Readers of ranges of a distant store: the cache, and the bare store.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use folio_cache::{Bytes, Cache, File};
use futures_core::Stream;

use crate::support::distant_store::{Object, Store};

/// The entries of a cache of ranges (`support/range_caches.rs`). Other readers take no notice.
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
