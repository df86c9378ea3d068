//! The state of one open, shared by the clones of its `File`: its backing, and the errors that it
//! has seen.

use std::io;
use std::sync::Arc;

use folio_ref::Scheme;
use rustix::io::Errno;

use crate::backing::error::{error, numbered};
use crate::backing::{Backing, Durable};
use crate::length::refresh;
use crate::state::error_cursor::ErrorCursor;
use crate::state::groups::GroupState;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::writeback::sync;
use crate::writeback::unlinked;

/// One open of a file.
pub(crate) struct Opened<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    /// The backing to write to. `None`: opened for reading only.
    writer: Option<Arc<dyn Backing>>,
    /// The writes of a cursor append.
    pub(crate) appends: bool,
    cursor: ErrorCursor,
}

impl<S: Scheme> Opened<S> {
    pub(crate) fn new(mapping: &Arc<Mapping<S>>, backing: Arc<dyn Backing>, appends: bool) -> Self {
        mapping.opened();
        let writer = backing.is_writable().then_some(backing);
        if let Some(writer) = &writer {
            // The first writable backing writes for all opens: they are the same bytes.
            let _ = mapping.writer.set(Arc::clone(writer));
        }
        Self { mapping: Arc::clone(mapping), writer, appends, cursor: mapping.errors.begin() }
    }

    /// Returns the backing to write to.
    ///
    /// # Errors
    ///
    /// - `PermissionDenied` if the file was opened for reading only.
    /// - `Unsupported` in a child forked after the cache was built.
    #[inline]
    pub(crate) fn writer(&self) -> io::Result<&dyn Backing> {
        self.mapping.shared.check_process()?;
        match &self.writer {
            Some(writer) => Ok(&**writer),
            None => Err(self.read_only()),
        }
    }

    /// Returns the error of [`writer`](Self::writer) for a file that was opened for reading only.
    #[cold]
    fn read_only(&self) -> io::Error {
        let message = match &self.mapping.remote {
            Some(remote) => format!("{:?} is an object of a distant store", remote.key),
            None => format!("{:?} was opened for reading only", self.mapping.file_id),
        };
        numbered(io::ErrorKind::PermissionDenied, Errno::BADF, message)
    }

    /// Returns the backing to write to, or that of the file.
    pub(crate) fn backing(&self) -> &Arc<dyn Backing> {
        self.writer.as_ref().unwrap_or(&self.mapping.backing)
    }

    /// Writes the dirty pages and makes them durable.
    pub(crate) fn sync(&self, what: Durable) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        sync::sync(&self.mapping, what, &self.cursor)
    }

    /// Counts all errors so far as reported to this open file.
    pub(crate) fn acknowledge(&self) {
        let _ = self.mapping.errors.report(&self.cursor, self.mapping.errors.count());
    }

    /// Flushes before the last `File` of this open is dropped. A file without a name that nothing
    /// else has open is not written.
    pub(crate) fn flush_to_close(&self) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        if self.mapping.is_last_open() && unlinked::is_unlinked(&self.mapping) {
            let errors = &self.mapping.errors;
            return errors.report(&self.cursor, errors.count());
        }
        sync::flush(&self.mapping, &self.cursor)
    }

    /// Writes the dirty pages to the backing, which may keep them in memory for a while.
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

/// Returns the mapping of a backing: it has one for each file id, made here or shared.
///
/// # Errors
///
/// - `InvalidInput` if the file id is the key of a distant object, or the file is in another group.
/// - `OutOfMemory` if the group has as many files as it can have.
/// - Otherwise the error of [`Backing::version`](crate::Backing::version).
pub(crate) fn open_mapping<S: Scheme>(
    shared: &Arc<Shared<S>>,
    backing: Arc<dyn Backing>,
    group: Option<&Arc<GroupState>>,
) -> io::Result<Arc<Mapping<S>>> {
    let file_id = backing.file_id();
    let version = backing.version()?;
    // No call of the backing: the lock of all files is held.
    let make = |id| Mapping::new(shared, id, file_id, backing, version);
    let to_open = shared.groups.to_open(group)?;
    let (mapping, was_open) = shared.registry.get_or_insert(file_id.into(), to_open, make)?;
    shared.groups.check_file(mapping.id, group)?;
    if mapping.remote.is_some() {
        let message = format!("{file_id:?} is the key of an object of a distant store");
        return Err(error(io::ErrorKind::InvalidInput, message));
    }
    if was_open {
        refresh::revalidate(&mapping)?;
    } else if let Some(left) = shared.left_unsynced.lock().take(&mapping.key()) {
        mapping.unsynced.inherit(left);
    }
    Ok(mapping)
}
