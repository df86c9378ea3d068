//! A cache of ranges over a store, in foyer's cache in memory: what engines build today.
//!
//! An entry is the bytes of one range of one object, as it was asked for. Objects never change.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, once};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

type Key = (Path, u64, u64);

/// A store, with the ranges that were read of it.
pub(crate) struct RangeCache {
    inner: Arc<dyn ObjectStore>,
    ranges: foyer::Cache<Key, Bytes>,
    metas: Mutex<HashMap<Path, ObjectMeta>>,
}

impl RangeCache {
    /// Wraps a store. The cache has one shard, so that its whole capacity is one pool.
    pub(crate) fn new(inner: Arc<dyn ObjectStore>, capacity: usize) -> Self {
        let ranges = foyer::CacheBuilder::new(capacity)
            .with_shards(1)
            .with_weighter(|_: &Key, bytes: &Bytes| bytes.len())
            .build();
        Self { inner, ranges, metas: Mutex::default() }
    }

    fn known(&self, location: &Path) -> Option<ObjectMeta> {
        self.metas.lock().expect("no panic under the lock").get(location).cloned()
    }

    fn learn(&self, meta: &ObjectMeta) {
        let mut metas = self.metas.lock().expect("no panic under the lock");
        metas.insert(meta.location.clone(), meta.clone());
    }
}

impl fmt::Debug for RangeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeCache").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for RangeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, cached by foyer", self.inner)
    }
}

/// Returns the result of a get out of its bytes.
fn result(meta: ObjectMeta, range: Range<u64>, bytes: Option<Bytes>) -> GetResult {
    let stream = match bytes {
        Some(bytes) => once(async move { Ok::<_, Error>(bytes) }).boxed(),
        None => futures_util::stream::empty().boxed(),
    };
    let payload = GetResultPayload::Stream(stream);
    GetResult { payload, meta, range, attributes: object_store::Attributes::default() }
}

#[async_trait]
impl ObjectStore for RangeCache {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            if let Some(meta) = self.known(location) {
                return Ok(result(meta, 0..0, None));
            }
            let head = self.inner.get_opts(location, options).await?;
            self.learn(&head.meta);
            return Ok(head);
        }
        let Some(GetRange::Bounded(range)) = options.range.clone() else {
            return self.inner.get_opts(location, options).await;
        };
        let key = (location.clone(), range.start, range.end);
        if let (Some(entry), Some(meta)) = (self.ranges.get(&key), self.known(location)) {
            return Ok(result(meta, range, Some(entry.value().clone())));
        }
        let got = self.inner.get_opts(location, options).await?;
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let bytes = got.bytes().await?;
        self.learn(&meta);
        self.ranges.insert(key, bytes.clone());
        Ok(result(meta, range, Some(bytes)))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let key = |range: &Range<u64>| (location.clone(), range.start, range.end);
        let mut found: Vec<_> = ranges
            .iter()
            .map(|range| self.ranges.get(&key(range)).map(|entry| entry.value().clone()))
            .collect();
        let missing: Vec<_> = ranges
            .iter()
            .zip(&found)
            .filter(|(_, found)| found.is_none())
            .map(|(range, _)| range.clone())
            .collect();
        if !missing.is_empty() {
            let fetched = self.inner.get_ranges(location, &missing).await?;
            let slots = found.iter_mut().filter(|found| found.is_none());
            for ((slot, range), bytes) in slots.zip(&missing).zip(fetched) {
                self.ranges.insert(key(range), bytes.clone());
                *slot = Some(bytes);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
