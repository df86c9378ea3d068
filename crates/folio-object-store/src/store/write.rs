//! Writes: they go to the store, and the cache forgets what they replace.
//!
//! Before a write is sent, what is known about the object is forgotten, and once more when it is
//! answered: see `base/epochs.rs` for the order of writes and gets. A write that is dropped, or
//! fails so that its outcome is unknown, leaves the object doubted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;

use super::Core;
use super::error::is_refusal;
use super::os::{MultipartUpload, PutPayload, PutResult, Result, UploadPart, path::Path};
use crate::base::counters::Event;

/// A write under way.
pub(super) struct Write {
    core: Arc<Core>,
    path: Path,
    certain: bool,
}

impl Write {
    /// Begins a write: what is known about the object is forgotten.
    pub(super) fn begin(core: &Arc<Core>, path: &Path) -> Self {
        let place = core.source.counters.place(path.as_ref());
        core.source.counters.count(place, Event::Writes, 1);
        Self::forget(core, path)
    }

    /// Begins a write that is counted already.
    pub(super) fn forget(core: &Arc<Core>, path: &Path) -> Self {
        core.epochs.begin_write(path.as_ref());
        core.drop_known(path);
        Self { core: Arc::clone(core), path: path.clone(), certain: false }
    }

    /// Ends a write with the answer of the store.
    pub(super) fn end<T>(mut self, result: &Result<T>) {
        self.certain = result.as_ref().err().is_none_or(is_refusal);
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.core.epochs.end_write(self.path.as_ref(), self.certain);
    }
}

/// An upload in parts. Its object changes when it is completed.
pub(super) struct Upload {
    pub(super) core: Arc<Core>,
    pub(super) path: Path,
    pub(super) inner: Box<dyn MultipartUpload>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let write = Write::begin(&self.core, &self.path);
        let result = self.inner.complete().await;
        write.end(&result);
        result
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// Deletes a stream of objects. A delete is under way from when the store takes its path until the
/// store reports it.
pub(super) fn delete_stream(
    core: Arc<Core>,
    paths: BoxStream<'static, Result<Path>>,
) -> BoxStream<'static, Result<Path>> {
    let under_way = Arc::new(Mutex::new(VecDeque::<Write>::new()));
    let (inner, begun) = (Arc::clone(&core.source.inner.0), Arc::clone(&under_way));
    let reported = Arc::clone(&core);
    let taken = paths.inspect(move |path| {
        if let Ok(path) = path {
            begun.lock().push_back(Write::begin(&core, path));
        }
    });
    let reports = inner.delete_stream(taken.boxed());
    let reports = reports.inspect(move |report| {
        let mut under_way = under_way.lock();
        let Ok(path) = report else {
            // It names no path. If there are several, it may belong to any: the first is doubted.
            let is_only = under_way.len() == 1;
            if let Some(first) = under_way.pop_front()
                && is_only
            {
                first.end(report);
            }
            return;
        };
        let at = under_way.iter().position(|write| write.path == *path);
        let write = at.and_then(|at| under_way.remove(at));
        // An error was taken for the end of this delete.
        let write = write.unwrap_or_else(|| Write::forget(&reported, path));
        write.end(report);
    });
    reports.boxed()
}
