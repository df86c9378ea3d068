//! What belongs to one open, however often its `File` is cloned: whether it may write, and which
//! errors it was told.

use std::io;
use std::sync::Arc;

use folio_ref::Scheme;

use crate::backing::{Backing, Durable};
use crate::state::error_cursor::Told;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// One open of a file.
pub(crate) struct Opened<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    /// To write to; `None`: it was opened for reading only.
    writer: Option<Arc<dyn Backing>>,
    told: Told,
}

impl<S: Scheme> Opened<S> {
    pub(crate) fn new(mapping: &Arc<Mapping<S>>, backing: Arc<dyn Backing>) -> Self {
        mapping.opened();
        let writer = backing.is_writable().then_some(backing);
        if let Some(writer) = &writer {
            // The first one writes for all: they are the same bytes.
            let _ = mapping.writer.set(Arc::clone(writer));
        }
        Self { mapping: Arc::clone(mapping), writer, told: mapping.errors.begin() }
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
        self.mapping.sync(what, &self.told)
    }

    /// Writes everything to the backing, which may keep it in memory for a while.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        self.mapping.flush(&self.told)
    }
}

impl<S: Scheme> Drop for Opened<S> {
    fn drop(&mut self) {
        self.mapping.closed();
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
        mapping.revalidate()?;
    }
    Ok(mapping)
}
