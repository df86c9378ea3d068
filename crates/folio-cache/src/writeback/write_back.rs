//! Writeback: dirty pages go to the backing, neighbours in one request.
//!
//! | step | |
//! | --- | --- |
//! | 1. take a dirty range from the set | under `changing`: one request of a mapping at a time |
//! | 2. take a reference on each page | from now on no thread writes to them in place, frees or moves them |
//! | 3. load the length | after 2, so that no byte is left out |
//! | 4. write | no page lock is held: readers read, writers write to copies |
//! | 5. mark each page that is still the one in its slot as clean | another one is a copy that a writer made, which is dirty |
//!
//! When step 4 fails, the error is noted for every open file and the pages stay dirty. They are
//! written again by the next sync, by the flusher, or when memory is needed. Nothing is dropped.
//!
//! A page counts as dirty until the backing has it, so reclaim and invalidation leave it alone
//! until then.

use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use folio_frames::{FRAME_SIZE, Lookup, Order, joined};
use folio_ref::{CHECKS, Scheme};

use crate::backing::{Backing, Durable, Version};
use crate::state::error_cursor::ErrorCursor;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::MOST_PAGES;
use crate::writeback::dirty_pages;
use crate::writeback::unlinked;

/// The next step after a write: a sync of the backing, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    Sync,
}

impl Then {
    /// Returns the maximum number of pages in one request. A thread that needs memory or is
    /// throttled waits for 1 MiB. A sync waits for all that is dirty: requests of 8 MiB keep a disk
    /// busy, and a distant store gets fewer of them.
    fn max_pages(self) -> u64 {
        match self {
            Self::Nothing => u64::from(MOST_PAGES),
            Self::Sync => 2048,
        }
    }
}

/// The number of requests of one file that are tried when memory is needed, until one succeeds.
const MAX_TRIES: usize = 4;

/// The number of a page, and a reference that pins it while it is written.
type PinnedPage<S> = (u64, FolioRef<S>);

/// Returns when everything that was written before is durable, or an error was reported.
///
/// # Errors
///
/// The latest writeback or sync error unless `cursor` has already seen it.
pub(crate) fn sync<S: Scheme>(
    mapping: &Mapping<S>,
    what: Durable,
    cursor: &ErrorCursor,
) -> io::Result<()> {
    let since = mapping.errors.count();
    let written = write_back(mapping, 0..u64::MAX, Then::Sync);
    let backing: &dyn Backing = mapping.writer.get().map_or(&*mapping.backing, |writer| &**writer);
    mapping.syncs.sync(what, || {
        if let Err(error) = backing.sync(what) {
            let backing = backing.file_id();
            tracing::error!(%error, ?backing, "a sync failed: what was written may be lost");
            mapping.errors.record(&error);
        }
    });
    mapping.errors.report(cursor, since).and(written)
}

/// Writes everything dirty to the backing.
///
/// # Errors
///
/// The latest writeback error unless `cursor` has already seen it.
pub(crate) fn flush<S: Scheme>(mapping: &Mapping<S>, cursor: &ErrorCursor) -> io::Result<()> {
    let since = mapping.errors.count();
    let written = write_back(mapping, 0..u64::MAX, Then::Nothing);
    mapping.errors.report(cursor, since).and(written)
}

/// Writes the dirty pages within a range, all of them even if some fail.
///
/// # Errors
///
/// The first error of the backing.
pub(crate) fn write_back<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> io::Result<()> {
    let mut result = Ok(());
    let mut at = pages.start;
    while let Some((range, written)) = write_range(mapping, at..pages.end, then) {
        at = range.end;
        result = result.and(written);
    }
    result
}

/// Writes the first dirty neighbours within a range. Returns their range and the result of the
/// write, or `None` if there are none.
pub(crate) fn write_range<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> Option<(Range<u64>, io::Result<()>)> {
    if mapping.shared.is_inherited() {
        // The dirty pages are the parent's, which may have written newer bytes by now.
        return None;
    }
    let mut change_token = mapping.changing.lock();
    // Without a writer no page can have become dirty.
    let writer = mapping.writer.get()?;
    let range = mapping.dirty.range(pages, then.max_pages());
    if range.is_empty() {
        return None;
    }
    let pinned = pin_pages(mapping, range.clone());
    // Under the lock, after the pages: see `grow_by`.
    let len = {
        let _length = mapping.length.lock();
        mapping.len()
    };
    let Some(&(first, _)) = pinned.first() else { return Some((range, Ok(()))) };
    let start = first * FRAME_SIZE as u64;
    let bytes = (pinned.len() * FRAME_SIZE)
        .min(usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX));
    let mut left = bytes;
    // Pages that are contiguous in memory are one slice.
    let pieces = joined(pinned.iter().map(|(_, folio)| folio)).map(|slice| {
        let n = slice.len().min(left);
        left -= n;
        IoSlice::new(&slice[..n])
    });
    let slices: Vec<IoSlice<'_>> = pieces.collect();
    let written = change(&**writer, &mut change_token, || match then {
        Then::Nothing => writer.write(start, &slices),
        Then::Sync => writer.write_to_sync(start, &slices),
    });
    let range = range.start..first + pinned.len() as u64;
    match &written {
        Ok(()) => {
            mapping.shared.counters.written_bytes.add(bytes as u64);
            mapping.errors.end();
            // Before they count as clean: a fill that finds them gone expects that much. Relaxed: a
            // hint, like any length that the backing returned.
            mapping.backed.fetch_max(start + bytes as u64, Ordering::Relaxed);
            for pinned in &pinned {
                make_clean(mapping, pinned);
            }
        }
        Err(error) => {
            mapping.shared.counters.write_errors.add(1);
            if mapping.errors.begins() {
                let backing = mapping.backing.file_id();
                let message = "writeback failed: the pages stay dirty";
                tracing::warn!(%error, ?backing, start, bytes, "{message}");
            }
            mapping.errors.record(error);
        }
    }
    drop(pinned);
    if written.is_ok() {
        // The pages are evictable from now on.
        mapping.shared.room.notify();
    }
    Some((range, written))
}

/// Returns references to the first neighbours of a range that are there. Waits for writers.
fn pin_pages<S: Scheme>(mapping: &Mapping<S>, range: Range<u64>) -> Vec<PinnedPage<S>> {
    let mut pinned: Vec<PinnedPage<S>> = Vec::with_capacity((range.end - range.start) as usize);
    for page in range {
        let Some(slot) = u32::try_from(page).ok().and_then(|page| mapping.index.get(page)) else {
            break;
        };
        loop {
            match slot.get(mapping.zone) {
                Lookup::Hit(folio) => {
                    assert!(
                        !CHECKS || folio.order() == Order::ZERO,
                        "a dirty page must not lie in a large folio: {folio:?}"
                    );
                    pinned.push((page, folio));
                    break;
                }
                Lookup::InProgress => slot.wait(),
                Lookup::Moved => {}
                // The thread with the page lock can take a reference all the same.
                Lookup::Saturated => match slot.try_lock(mapping.zone) {
                    Some(locked) => {
                        pinned.push((page, locked.folio().clone()));
                        break;
                    }
                    None => slot.wait(),
                },
                // A dirty slot is emptied only under `changing`.
                Lookup::Empty => return pinned,
            }
        }
    }
    pinned
}

/// Marks a page that was written as clean, unless a writer replaced it by a copy meanwhile.
fn make_clean<S: Scheme>(mapping: &Mapping<S>, (page, folio): &PinnedPage<S>) {
    let Some(slot) = mapping.index.get(*page as u32) else { return };
    loop {
        if let Some(mut locked) = slot.try_lock(mapping.zone) {
            if locked.pfn() == folio.pfn() && locked.folio().is_dirty() {
                locked.set_dirty(false);
                dirty_pages::forget_dirty(mapping, *page as u32);
            }
            return;
        }
        if slot.is_empty() {
            return;
        }
        slot.wait();
    }
}

/// Writes some dirty neighbours, starting behind the last ones: so pages that cannot be written do
/// not always come first. Returns the first success of a few requests, otherwise the first error,
/// or `None` if nothing is dirty.
fn write_some<S: Scheme>(mapping: &Mapping<S>) -> Option<io::Result<()>> {
    // Relaxed, here and below: a hint of where to look first.
    let start = mapping.swept.load(Ordering::Relaxed);
    let (mut tries, mut failed) = (0, None);
    for mut pages in [start..u64::MAX, 0..start] {
        while tries < MAX_TRIES
            && let Some((range, written)) = write_range(mapping, pages.clone(), Then::Nothing)
        {
            mapping.swept.store(range.end, Ordering::Relaxed);
            (pages.start, tries) = (range.end, tries + 1);
            match written {
                Ok(()) => return Some(Ok(())),
                Err(error) => failed = failed.or(Some(Err(error))),
            }
        }
    }
    failed
}

/// Throttles a writer when too much is dirty: it writes dirty pages itself. Call with no lock held
/// except `grow`.
///
/// # Errors
///
/// What the backing returns for dirty pages of the same file.
pub(crate) fn throttle<S: Scheme>(mapping: &Mapping<S>) -> io::Result<()> {
    let dirty = dirty_pages::count(&mapping.shared);
    let limit = dirty_pages::limit(&mapping.shared);
    if dirty > limit / 2 {
        mapping.shared.flusher.notify_now();
    }
    if dirty <= limit {
        return Ok(());
    }
    mapping.shared.counters.throttled.add(1);
    if let Some(written) = write_some(mapping) {
        return written;
    }
    write_back_some(&mapping.shared);
    Ok(())
}

/// Counts one open file less. The last close writes what is dirty.
pub(crate) fn closed<S: Scheme>(mapping: &Arc<Mapping<S>>) {
    if mapping.shared.is_inherited() {
        // The parent writes them.
        return;
    }
    // AcqRel: the last close sees what the others wrote.
    if mapping.opens.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    let keep = KeepUnwritten(mapping);
    if mapping.dirty.is_empty() {
        return;
    }
    if unlinked::forget_if_unlinked(&mapping.shared, mapping) {
        mem::forget(keep);
    } else {
        let _ = write_back(mapping, 0..u64::MAX, Then::Nothing);
    }
}

/// Keeps a mapping that is closed as long as it is dirty, even if its backing panics.
struct KeepUnwritten<'m, S: Scheme>(&'m Arc<Mapping<S>>);

impl<S: Scheme> Drop for KeepUnwritten<'_, S> {
    fn drop(&mut self) {
        keep_unwritten(&self.0.shared, self.0);
    }
}

/// Changes the backing. If only this cache changed it since the last refresh, stores its new change
/// token, and the next refresh finds it unchanged. Otherwise the next refresh finds the change.
/// Returns the result of `change`.
pub(crate) fn change<T>(
    backing: &dyn Backing,
    change_token: &mut Version,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let before = backing.version();
    let result = change();
    if before.is_ok_and(|before| before.change_token == change_token.change_token)
        && let Ok(after) = backing.version()
    {
        *change_token = after;
    }
    result
}

/// Calls a backing that is one among others, so that its panic does not affect the others. A panic
/// leaves page locks and locks in the same state as an error does.
fn catch_panic<T>(act: impl FnOnce() -> T) -> thread::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(act))
}

/// Writes everything that is dirty. Each open file has the error of its own pages reported. If a
/// backing panics, the panic continues after the other files were written.
///
/// # Errors
///
/// The first error of a backing.
pub(crate) fn write_back_all<S: Scheme>(shared: &Shared<S>) -> io::Result<()> {
    let (mut result, mut panicked) = (Ok(()), Ok(()));
    for mapping in shared.registry.dirty() {
        match catch_panic(|| unlinked::forget_if_unlinked(shared, &mapping)) {
            Ok(false) => {}
            Ok(true) => continue,
            Err(panic) => {
                panicked = panicked.and(Err(panic));
                continue;
            }
        }
        match catch_panic(|| write_back(&mapping, 0..u64::MAX, Then::Nothing)) {
            Ok(written) => result = result.and(written),
            Err(panic) => panicked = panicked.and(Err(panic)),
        }
        keep_unwritten(shared, &mapping);
    }
    panicked.unwrap_or_else(|panic| panic::resume_unwind(panic));
    result
}

/// Writes a dirty range of some file, because memory is needed. Returns `true` if pages became
/// clean. An error or panic of a backing is left to the next sync of that file.
pub(crate) fn write_back_some<S: Scheme>(shared: &Shared<S>) -> bool {
    shared.registry.any_dirty(|mapping| {
        match catch_panic(|| unlinked::forget_if_unlinked(shared, mapping)) {
            Ok(false) => {}
            // Its pages leave with it.
            Ok(true) => return true,
            Err(_) => return false,
        }
        let written = catch_panic(|| write_some(mapping));
        // It may have been kept only because it was dirty.
        keep_unwritten(shared, mapping);
        matches!(written, Ok(Some(Ok(()))))
    })
}

/// Keeps a mapping that is not open as long as it is dirty, and no longer.
fn keep_unwritten<S: Scheme>(shared: &Shared<S>, mapping: &Arc<Mapping<S>>) {
    let unneeded = {
        let mut unwritten = shared.unwritten.lock();
        if mapping.dirty.is_empty() || mapping.is_open() {
            unwritten.remove(&mapping.id)
        } else {
            unwritten.insert(mapping.id, Arc::clone(mapping))
        }
    };
    // Not under the lock: this may be the last reference.
    drop(unneeded);
}
