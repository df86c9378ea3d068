//! One open of a file: its backing, and the errors that it has seen.
//!
//! An open that may write has a state of its own, which its clones share. The first of those that
//! only read has none, and neither has an open of a distant object: the mapping counts its clones.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use folio_ref::Scheme;
use rustix::io::Errno;

use crate::backing::error::{error, numbered};
use crate::backing::{Backing, Durable};
use crate::coherence::refresh;
use crate::memory::file_room;
use crate::state::groups::GroupState;
use crate::state::mapping::Mapping;
use crate::state::registry::Found;
use crate::state::shared::Shared;
use crate::state::writeback_errors::ErrorCursor;
use crate::writeback::sync;
use crate::writeback::unlinked;

/// The bytes of an open with a state of its own: with the counts of its `Arc`, and what an
/// allocator adds.
const BYTES: usize = size_of::<State>() + 2 * size_of::<usize>() + 8;

/// An open of a file. A clone is the same open.
pub(crate) struct Open<S: Scheme> {
    pub(crate) mapping: Arc<Mapping<S>>,
    state: Option<Arc<State>>,
}

/// The state of an open that is not the first reader.
struct State {
    /// `None`: opened for reading only.
    writer: Option<Box<Writer>>,
    cursor: ErrorCursor,
}

struct Writer {
    backing: Arc<dyn Backing>,
    /// The writes of a cursor append.
    appends: bool,
}

impl<S: Scheme> Open<S> {
    /// Returns a new open of a backing that blocks.
    pub(crate) fn new(mapping: Arc<Mapping<S>>, backing: Arc<dyn Backing>, appends: bool) -> Self {
        mapping.opened();
        let writer = backing.is_writable().then(|| Box::new(Writer { backing, appends }));
        let begin = || mapping.writing().map(|writing| writing.errors.begin());
        if let Some(writer) = &writer {
            // The first writable backing writes for all opens: they are the same bytes.
            let _ = mapping.make_writing().backing.set(Arc::clone(&writer.backing));
        } else if mapping
            .readers
            // Relaxed: what the reader before saw is of no concern.
            .compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            if let Some(writing) = mapping.writing() {
                writing.reader.set(&writing.errors.begin());
            }
            return Self { mapping, state: None };
        }
        let cursor = begin().unwrap_or_default();
        mapping.shared.leaves.count_file(BYTES);
        Self { mapping, state: Some(Arc::new(State { writer, cursor })) }
    }

    /// Returns a new open of a distant object: all its opens are clones.
    pub(crate) fn distant(mapping: Arc<Mapping<S>>) -> Self {
        let open = Self { mapping, state: None };
        open.cloned();
        open
    }

    /// Counts a clone of an open without a state.
    fn cloned(&self) {
        // Relaxed: the caller has the mapping. The first one opens a distant object.
        if self.mapping.readers.fetch_add(1, Ordering::Relaxed) == 0 {
            self.mapping.opened();
        }
    }

    fn writes(&self) -> Option<&Writer> {
        self.state.as_ref()?.writer.as_deref()
    }

    /// Returns `true` if the writes of a cursor append.
    pub(crate) fn appends(&self) -> bool {
        self.writes().is_some_and(|writer| writer.appends)
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
        match self.writes() {
            Some(writer) => Ok(&*writer.backing),
            None => Err(self.read_only()),
        }
    }

    /// Returns the error of [`writer`](Self::writer) for a file that was opened for reading only.
    #[cold]
    fn read_only(&self) -> io::Error {
        let message = match self.mapping.remote() {
            Some(remote) => format!("{:?} is an object of a distant store", remote.object.key),
            None => format!("{:?} was opened for reading only", self.mapping.file_id()),
        };
        numbered(io::ErrorKind::PermissionDenied, Errno::BADF, message)
    }

    /// Returns the backing to write to, or that of the file.
    pub(crate) fn backing(&self) -> &Arc<dyn Backing> {
        self.writes().map_or_else(|| self.mapping.backing(), |writer| &writer.backing)
    }

    /// Returns the errors that were reported to this open. `None`: there was none.
    fn cursor(&self) -> Option<&ErrorCursor> {
        match &self.state {
            Some(state) => Some(&state.cursor),
            None => self.mapping.writing().map(|writing| &writing.reader),
        }
    }

    /// Writes the dirty pages and makes them durable.
    pub(crate) fn sync(&self, what: Durable) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        if self.mapping.remote().is_some() {
            // Nothing was ever written.
            return Ok(());
        }
        self.mapping.make_writing();
        self.cursor().map_or(Ok(()), |cursor| sync::sync(&self.mapping, what, cursor))
    }

    /// Counts all errors so far as reported to this open file.
    pub(crate) fn acknowledge(&self) {
        let _ = self.report();
    }

    /// Reports the latest error unless this open has seen it.
    fn report(&self) -> io::Result<()> {
        match (self.mapping.writing(), self.cursor()) {
            (Some(writing), Some(cursor)) => writing.errors.report(cursor, writing.errors.count()),
            _ => Ok(()),
        }
    }

    /// Flushes before the open is dropped, or only one of its clones. A file without a name that
    /// nothing else has open is not written.
    pub(crate) fn flush_to_close(&self) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        if self.is_last_clone()
            && self.mapping.is_last_open()
            && unlinked::is_unlinked(&self.mapping)
        {
            return self.report();
        }
        self.flush()
    }

    fn is_last_clone(&self) -> bool {
        match &self.state {
            Some(state) => Arc::strong_count(state) == 1,
            // Relaxed: a hint, as the count of an `Arc` is.
            None => self.mapping.readers.load(Ordering::Relaxed) == 1,
        }
    }

    /// Writes the dirty pages to the backing, which may keep them in memory for a while.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.mapping.shared.check_process()?;
        self.cursor().map_or(Ok(()), |cursor| sync::flush(&self.mapping, cursor))
    }
}

impl<S: Scheme> Clone for Open<S> {
    fn clone(&self) -> Self {
        let open = Self { mapping: Arc::clone(&self.mapping), state: self.state.clone() };
        if open.state.is_none() {
            open.cloned();
        }
        open
    }
}

impl<S: Scheme> Drop for Open<S> {
    fn drop(&mut self) {
        let is_last = match self.state.take() {
            Some(state) => {
                let is_last = Arc::into_inner(state).is_some();
                if is_last {
                    self.mapping.shared.leaves.uncount_file(BYTES);
                }
                is_last
            }
            // AcqRel: as the count of an `Arc`.
            None => self.mapping.readers.fetch_sub(1, Ordering::AcqRel) == 1,
        };
        if is_last {
            sync::closed(&self.mapping);
        }
    }
}

/// Returns the mapping of a backing: it has one for each file id, made here or shared.
///
/// # Errors
///
/// - `InvalidInput` if the file id is the key of a distant object, or the file is in another group.
/// - `OutOfMemory` if the group has as many files as it can have, or there is no room for the state
///   of one more file.
/// - Otherwise the error of [`Backing::version`](crate::Backing::version).
pub(crate) fn open_mapping<S: Scheme>(
    shared: &Arc<Shared<S>>,
    backing: Arc<dyn Backing>,
    group: Option<&Arc<GroupState>>,
) -> io::Result<Arc<Mapping<S>>> {
    shared.watch_pressure();
    let file_id = backing.file_id();
    let key = file_id.into();
    let generation = backing.generation();
    let removals = shared.registry.removals();
    let version = backing.version()?;
    let len = version.len;
    file_room::check(shared, Mapping::<S>::BYTES)?;
    // No call of the backing: the lock of all files is held.
    let make = |id| Mapping::new(shared, id, backing, version);
    let to_open = shared.groups.to_open(group)?;
    let (mapping, found) = shared.registry.get_or_insert(&key, to_open, removals, make)?;
    shared.groups.check_file(mapping.id, group)?;
    if mapping.remote().is_some() {
        let message = format!("{file_id:?} is the key of an object of a distant store");
        return Err(error(io::ErrorKind::InvalidInput, message));
    }
    {
        // Under the lock: another open of the file takes it, or finds that it was taken.
        let mut all = shared.left_unsynced.lock();
        if let Some(mut left) = all.take(&key) {
            if found == Found::Nothing {
                // Another program has cut off what is past the end.
                left.cut(len);
            }
            if left.is_of(generation) {
                mapping.make_writing().unsynced.inherit(left, shared.unsynced_room());
            } else {
                left.uncount(shared.unsynced_room());
            }
        }
    }
    if found != Found::Nothing {
        refresh::revalidate(&mapping)?;
    }
    if found == Found::Open {
        return Ok(mapping);
    }
    file_room::grown(shared);
    Ok(mapping)
}
