//! The trait: reads go to the cache, writes and listings to the store.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tracing::Instrument;

use super::CachedStore;
use super::os::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use super::write::{Upload, Write, delete_stream};

impl CachedStore {
    fn span(&self, call: &'static str, path: &Path, ranges: usize) -> tracing::Span {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return tracing::Span::none();
        }
        let store = self.core.name();
        tracing::debug_span!("object_store", call, store, path = path.as_ref(), ranges)
    }

    /// Passes the objects of a listing on, and compares them with what is known.
    fn listed(
        &self,
        list: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let core = Arc::clone(&self.core);
        let listed = list.inspect(move |meta| {
            if let Ok(meta) = meta {
                core.listed(meta);
            }
        });
        listed.boxed()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for CachedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let write = Write::begin(&self.core, location);
        let result = self.inner().put_opts(location, payload, opts);
        let result = result.instrument(self.span("put", location, 1)).await;
        write.end(&result);
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner().put_multipart_opts(location, opts).await?;
        let core = Arc::clone(&self.core);
        Ok(Box::new(Upload { core, path: location.clone(), inner }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let span = self.span(if options.head { "head" } else { "get" }, location, 1);
        self.core.get(location, options).instrument(span).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let span = self.span("get_ranges", location, ranges.len());
        self.core.get_ranges(location, ranges).instrument(span).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        delete_stream(Arc::clone(&self.core), locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.inner().list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(self.inner().list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let result = self.inner().list_with_delimiter(prefix).await?;
        result.objects.iter().for_each(|meta| self.core.listed(meta));
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let write = Write::begin(&self.core, to);
        let result = self.inner().copy_opts(from, to, options).await;
        write.end(&result);
        result
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        // It counts as one write.
        let writes = [Write::begin(&self.core, to), Write::forget(&self.core, from)];
        let result = self.inner().rename_opts(from, to, options).await;
        for write in writes {
            write.end(&result);
        }
        result
    }
}
