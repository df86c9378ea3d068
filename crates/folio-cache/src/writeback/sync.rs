//! Syncs, flushes and closes of one file, and the flush of all files.
//!
//! Concurrent calls for one file share their writes, and then their sync: a call that arrives while
//! a round of either is under way shares the next one.

use std::io;
use std::mem;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use folio_frames::FRAME_SIZE;
use folio_ref::{Scheme, broken};

use crate::backing::Durable;
use crate::backing::error::{copy, share};
use crate::rt::flush_pool::Flushable;
use crate::rt::foreign::{call_in_drop, catch_panic};
use crate::rt::shim::Mutex;
use crate::state::kept;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::writeback_errors::ErrorCursor;
use crate::state::writing::Writing;
use crate::writeback::dirty_pages;
use crate::writeback::unlinked;
use crate::writeback::write_back::{Then, write_back};

/// Returns when everything that was written before is durable, or an error was reported.
///
/// # Errors
///
/// The latest writeback or sync error unless `cursor` has already seen it, or one that says that
/// bytes are lost ([`Unsynced`](crate::state::unsynced::Unsynced)).
pub(crate) fn sync<S: Scheme>(
    mapping: &Mapping<S>,
    what: Durable,
    cursor: &ErrorCursor,
) -> io::Result<()> {
    let writing = mapping.make_writing();
    let since = writing.errors.count();
    let (written, first) = write_round(mapping, writing, Then::Sync);
    writing.syncs.sync_from(what, first, || sync_backing(mapping, writing, what));
    writing.errors.report(cursor, since).and(written).and_then(|()| writing.unsynced.check())
}

/// Syncs the backing. If that fails, notes the error, and has everything written again that was
/// written since the last sync that succeeded.
fn sync_backing<S: Scheme>(mapping: &Mapping<S>, writing: &Writing, what: Durable) {
    let backing = writing.backing.get().unwrap_or_else(|| mapping.backing());
    writing.unsynced.begin_sync();
    let synced = catch_panic(|| backing.sync(what).map_err(share));
    if let Ok(Ok(())) = synced {
        writing.unsynced.synced(mapping.shared.unsynced_room());
        return;
    }
    if !broken!("failed-sync-forgets") {
        // No write is under way: its pages would count as clean after this.
        let _changing = mapping.changing().map(Mutex::lock);
        let room = mapping.shared.unsynced_room();
        writing.unsynced.failed(room, |page| dirty_pages::make_dirty_again(mapping, page));
    }
    match synced {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let backing = backing.file_id();
            tracing::error!(%error, ?backing, "a sync failed: what it covers is written again");
            writing.errors.record(&error);
        }
        Err(panic) => {
            // Before the next caller's turn: what it wrote before is dirty again.
            writing.errors.record(&io::Error::other("the backing panicked"));
            panic::resume_unwind(panic)
        }
    }
}

/// Writes everything dirty to the backing.
///
/// # Errors
///
/// The latest writeback error unless `cursor` has already seen it.
pub(crate) fn flush<S: Scheme>(mapping: &Mapping<S>, cursor: &ErrorCursor) -> io::Result<()> {
    let Some(writing) = mapping.writing() else { return Ok(()) };
    let since = writing.errors.count();
    let written = flush_round(mapping);
    writing.errors.report(cursor, since).and(written)
}

/// Writes everything that was dirty before the call to the backing, which may keep it in memory.
///
/// # Errors
///
/// The first error of the backing.
pub(crate) fn flush_round<S: Scheme>(mapping: &Mapping<S>) -> io::Result<()> {
    let Some(writing) = mapping.writing() else { return Ok(()) };
    write_round(mapping, writing, Then::Nothing).0
}

/// Writes everything that was dirty before the call. Calls that arrive meanwhile share the next
/// round. Returns the first error, and the number of the first sync that covers what was written.
fn write_round<S: Scheme>(
    mapping: &Mapping<S>,
    writing: &Writing,
    then: Then,
) -> (io::Result<()>, u64) {
    // Without a dirty page there is nothing to wait for, except the round under way, which takes
    // pages from the set only when the backing has them.
    if writing.dirty.is_empty() {
        return (Ok(()), writing.syncs.next());
    }
    let act = || {
        // What becomes dirty behind this end meanwhile is left to the next round.
        let end = writing.dirty.end() / FRAME_SIZE as u64;
        (write_back(mapping, 0..end, then), writing.syncs.next())
    };
    writing.writes.run(act, |(written, sync)| (written.as_ref().copied().map_err(copy), *sync))
}

/// Counts one open file less. The last close writes what is dirty. For a destructor.
pub(crate) fn closed<S: Scheme>(mapping: &Arc<Mapping<S>>) {
    if mapping.shared.is_inherited() {
        // The parent writes them.
        return;
    }
    // AcqRel: the last close sees what the others wrote.
    if mapping.opens.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    if mapping.is_dirty() && !broken!("drop-without-write") {
        call_in_drop(|| _ = flush_or_forget(mapping));
    }
    kept::keep(mapping);
}

/// Writes everything that was dirty before the call, or forgets a file without a name and an open.
/// Keeps the mapping if it is closed and still dirty, even if its backing panics.
///
/// # Errors
///
/// The first error of the backing.
pub(crate) fn flush_or_forget<S: Scheme>(mapping: &Arc<Mapping<S>>) -> io::Result<()> {
    let keep = KeepUnwritten(mapping);
    if unlinked::forget_if_unlinked(&mapping.shared, mapping) {
        mem::forget(keep);
        return Ok(());
    }
    flush_round(mapping)
}

/// Keeps a mapping that is closed as long as it is dirty, even if its backing panics.
struct KeepUnwritten<'m, S: Scheme>(&'m Arc<Mapping<S>>);

impl<S: Scheme> Drop for KeepUnwritten<'_, S> {
    fn drop(&mut self) {
        keep_unwritten(&self.0.shared, self.0);
    }
}

impl<S: Scheme> Flushable for Mapping<S> {
    fn id(&self) -> u32 {
        self.id
    }

    fn flush(self: &Arc<Self>) -> io::Result<()> {
        flush_or_forget(self)
    }

    fn forget(self: &Arc<Self>) {
        unlinked::forget_if_unlinked(&self.shared, self);
    }

    fn panicked(&self) {
        self.make_writing().health.failed(&io::Error::other("the backing panicked"));
    }

    fn copy(error: &io::Error) -> io::Error {
        copy(error)
    }

    fn hung(&self, time: Duration) -> Vec<u32> {
        self.shared.requests.longer_than(time)
    }
}

/// Keeps a mapping that is not open as long as it is dirty, and no longer.
pub(crate) fn keep_unwritten<S: Scheme>(shared: &Shared<S>, mapping: &Arc<Mapping<S>>) {
    let unneeded = {
        let mut unwritten = shared.unwritten.lock();
        if !mapping.is_dirty() || mapping.is_open() {
            unwritten.remove(&mapping.id)
        } else {
            unwritten.insert(mapping.id, Arc::clone(mapping))
        }
    };
    // Not under the lock: this may be the last reference.
    drop(unneeded);
}

/// Writes everything that is dirty, many files at a time. Each open file has the error of its own
/// pages reported. If a backing panics, the panic continues after the other files were written.
///
/// # Errors
///
/// The first error of a backing, or `TimedOut` if a request of a backing does not end.
pub(crate) fn write_back_all<S: Scheme>(shared: &Shared<S>) -> io::Result<()> {
    let mut files = shared.registry.dirty();
    // Without threads, the files that failed last time come last.
    files.sort_by_key(|mapping| mapping.is_sick());
    match shared.flush_pool.flush(&files) {
        // The threads were ended meanwhile: this one does it.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => shared.flush_pool.flush(&files),
        written => written,
    }
}
