//! What belongs to one open, however often its `File` is cloned: whether it may write, and which
//! errors it was told.

use std::io;
use std::sync::Arc;

use folio_ref::Scheme;

use crate::backing::{Backing, Durable};
use crate::length::refresh;
use crate::state::error_cursor::ErrorCursor;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::writeback::sync;

/// One open of a file.
pub(crate) struct Opened<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    /// To write to; `None`: it was opened for reading only.
    writer: Option<Arc<dyn Backing>>,
    cursor: ErrorCursor,
}

impl<S: Scheme> Opened<S> {
    pub(crate) fn new(mapping: &Arc<Mapping<S>>, backing: Arc<dyn Backing>) -> Self {
        mapping.opened();
        let writer = backing.is_writable().then_some(backing);
        if let Some(writer) = &writer {
            // The first one writes for all: they are the same bytes.
            let _ = mapping.writer.set(Arc::clone(writer));
        }
        Self { mapping: Arc::clone(mapping), writer, cursor: mapping.errors.begin() }
    }

    /// # Errors
    ///
    /// `PermissionDenied` when it was opened for reading only; `Unsupported` in a child that was
    /// forked since the cache was made.
    pub(crate) fn writer(&self) -> io::Result<&dyn Backing> {
        self.mapping.shared.check_process()?;
        self.writer.as_deref().ok_or_else(|| {
            let message =
                format!("{:?} was opened for reading only", self.mapping.backing.file_id());
            io::Error::new(io::ErrorKind::PermissionDenied, message)
        })
    }

    pub(crate) fn sync(&self, what: Durable) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        sync::sync(&self.mapping, what, &self.cursor)
    }

    /// Counts all errors so far as reported to this open file.
    pub(crate) fn acknowledge(&self) {
        let _ = self.mapping.errors.report(&self.cursor, self.mapping.errors.count());
    }

    /// Writes everything to the backing, which may keep it in memory for a while.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        sync::flush(&self.mapping, &self.cursor)
    }
}

impl<S: Scheme> Drop for Opened<S> {
    fn drop(&mut self) {
        sync::closed(&self.mapping);
    }
}

/// Returns the mapping of a backing: that of its file id, made now or shared.
///
/// # Errors
///
/// Those of [`Backing::version`](crate::Backing::version).
pub(crate) fn open_mapping<S: Scheme>(
    shared: &Arc<Shared<S>>,
    backing: Arc<dyn Backing>,
) -> io::Result<Arc<Mapping<S>>> {
    let file_id = backing.file_id();
    let version = backing.version()?;
    let make = |id| Mapping::new(shared, id, backing, version);
    let (mapping, was_open) = shared.registry.get_or_insert(file_id, make);
    if was_open {
        refresh::revalidate(&mapping)?;
    }
    Ok(mapping)
}
