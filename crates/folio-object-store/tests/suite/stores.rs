//! Small stores of the tests.

use std::fmt;
use std::ops::Range;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::os;
use os::path::Path;
use os::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The object of a store that has one.
pub(super) trait OneObject: fmt::Debug + Send + Sync + 'static {
    fn size(&self) -> u64;
    fn payload(&self, range: Range<u64>) -> GetResultPayload;
}

/// A store with one object at each path, which can only be read.
#[derive(Debug)]
pub(super) struct One<O>(pub(super) O);

impl<O> fmt::Display for One<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("One")
    }
}

fn refused<T>() -> Result<T> {
    Err(Error::NotSupported { source: "it can only be read".into() })
}

#[async_trait::async_trait]
impl<O: OneObject> ObjectStore for One<O> {
    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        refused()
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        refused()
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: "2020-01-01T00:00:00Z".parse().expect("a time"),
            size: self.0.size(),
            e_tag: Some("\"one\"".to_owned()),
            version: None,
        };
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            None => 0..meta.size,
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| Error::Generic { store: "One", source: error.into() })?,
        };
        let payload = self.0.payload(range.clone());
        Ok(super::result(payload, meta, range, os::Attributes::new()))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        stream::once(async { refused() }).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::empty().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        refused()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        refused()
    }
}
