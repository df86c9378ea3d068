//! Discarding dirty pages at a user's request, and the list of the files that cannot be written.
//!
//! Nothing here waits for the backing, which may hang, for more than a moment. A request under way
//! keeps its pages until it ends, and its bytes may still reach the backing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::FileId;
use crate::coherence::drop_pages;
use crate::coherence::refresh;
use crate::rt::busy::HUNG_AFTER;
use crate::rt::shim::{fence, lock_for};
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::unwritten::Unwritten;
use crate::state::writing::Writing;
use crate::writeback::dirty_pages;
use crate::writeback::sync;
use crate::writeback::write_back;

/// The time that a discard waits for fills of pages past the new end. It is long: a fill that has
/// its bytes, and is about to publish them, may know the old length.
const PATIENCE: Duration = Duration::from_secs(1);

/// Drops the dirty pages of a file. The file ends where its backing does then, as far as is known.
/// Forgets which bytes a failed sync may have lost. Returns the number of bytes dropped.
pub(crate) fn discard<S: Scheme>(mapping: &Arc<Mapping<S>>) -> u64 {
    let dropped;
    {
        // A request that hangs may hold it. Then the pages leave all the same, and the length stays
        // until a read past the end of the backing asks for it.
        let length = lock_for(&mapping.length, HUNG_AFTER);
        let is_locked = length.is_some();
        // Relaxed: a hint. The next refresh asks the backing.
        let backed = mapping.backed.load(Ordering::Relaxed);
        let old = mapping.len();
        if is_locked && backed < old {
            // As in `set_len` of refresh: first the length, then the count, then the pages.
            // Release: pairs with Acquire in `len`.
            mapping.len.store(backed, Ordering::Release);
            refresh::bump_truncate_seq(mapping);
        }
        // SeqCst, Dekker with the fences in fill and install_new.
        fence(Ordering::SeqCst);
        dropped = drop_dirty(mapping);
        if is_locked && backed < old {
            // A fill that hangs finds the new length when it ends, and does not publish its pages.
            let end = Instant::now() + PATIENCE;
            let past = backed.div_ceil(FRAME_SIZE as u64)..u64::MAX;
            drop_pages::drop_pages_while(mapping, past, || Instant::now() < end);
        }
        if is_locked {
            // Appends are in order again from there on.
            write_back::set_ordered(mapping, backed);
        }
    }
    if let Some(writing) = mapping.writing() {
        writing.unsynced.forget_lost(mapping.shared.unsynced_room());
        writing.health.succeeded();
        writing.errors.end();
    }
    dirty_pages::set_sick(mapping, false);
    sync::keep_unwritten(&mapping.shared, mapping);
    dropped
}

/// Drops the pages that are dirty now, and forgets that their bytes may not be durable: they are
/// given up. Returns the number of bytes dropped.
fn drop_dirty<S: Scheme>(mapping: &Mapping<S>) -> u64 {
    let Some(Writing { dirty, unsynced, .. }) = mapping.writing() else { return 0 };
    let pages = dirty.all();
    for &page in &pages {
        let page = u64::from(page)..u64::from(page) + 1;
        // No thread that calls the backing has the lock of a dirty page. One that fills the page
        // again has it when the page is not dirty any more.
        let is_dirty = || !dirty.range(page.clone(), 1).is_empty();
        drop_pages::drop_pages_while(mapping, page.clone(), is_dirty);
        unsynced.forget(&(page.start * FRAME_SIZE as u64..page.end * FRAME_SIZE as u64));
    }
    (pages.len() * FRAME_SIZE) as u64
}

/// Forgets which bytes of a closed file a failed sync may have lost.
pub(crate) fn discard_closed<S: Scheme>(shared: &Shared<S>, file_id: FileId) {
    shared.left_unsynced.lock().forget_lost(&file_id.into(), shared.unsynced_room());
}

/// Returns the files that cannot be written: the last write failed, a request hangs, or a failed
/// sync may have lost bytes.
pub(crate) fn unwritten<S: Scheme>(shared: &Shared<S>) -> Vec<Unwritten> {
    let hung = shared.requests.longer_than(HUNG_AFTER);
    let describe = |mapping: &Arc<Mapping<S>>| {
        let is_hung = hung.contains(&mapping.id);
        let writing = mapping.writing();
        let error = writing.and_then(|writing| writing.health.error()).or_else(|| {
            is_hung.then(|| {
                let message = format!("a request has not ended for more than {HUNG_AFTER:?}");
                io::Error::new(io::ErrorKind::TimedOut, message)
            })
        });
        let error = error.or_else(|| writing?.unsynced.check().err())?;
        Some(Unwritten {
            file_id: mapping.file_id(),
            dirty_bytes: mapping.dirty_count() * FRAME_SIZE as u64,
            lost_bytes: writing.map_or(0, |writing| writing.unsynced.lost_bytes()),
            error,
            is_open: mapping.is_open(),
        })
    };
    let mut files: Vec<_> = shared.registry.all().iter().filter_map(describe).collect();
    let left = shared.left_unsynced.lock();
    let closed = left.lost().filter_map(|(key, left)| {
        let (file_id, error) = (key.file_id()?, left.check().err()?);
        let lost_bytes = left.lost_bytes();
        Some(Unwritten { file_id, dirty_bytes: 0, lost_bytes, error, is_open: false })
    });
    files.extend(closed);
    files
}
