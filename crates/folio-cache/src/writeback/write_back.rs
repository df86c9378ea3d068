//! Writeback: dirty pages go to the backing, neighbours in one request.
//!
//! | step | |
//! | --- | --- |
//! | 1. take a run of neighbours from the set | under `changing`: one request of a mapping at a time |
//! | 2. take a reference on each page | from now on nobody writes to them in place, frees or moves them |
//! | 3. ask for the length | after 2, so that no byte is left out |
//! | 4. write | no claim is held: readers read, writers write to copies |
//! | 5. each page that is still the one in its slot is clean | else somebody wrote to a copy, which is dirty |
//!
//! When step 4 fails, the error is noted for every open file, the pages stay dirty, and are written
//! again by the next sync, by the flusher, or when memory is needed. Nothing is dropped.
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
use crate::state::frames::{FolioRef, FrozenFolio};
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::MOST_PAGES;
use crate::writeback::unlinked;

/// What follows when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    Sync,
}

impl Then {
    /// The most pages in one request. Who wants memory, or is throttled, waits for 1 MiB; a sync
    /// waits for all there is, and 8 MiB at once keep a disk busy, and let a distant store be
    /// asked less often.
    fn most_pages(self) -> u64 {
        match self {
            Self::Nothing => u64::from(MOST_PAGES),
            Self::Sync => 2048,
        }
    }
}

/// The flusher is notified for with one in so many pages that become dirty.
const RING: u64 = 64;

/// Requests of one file that are tried for who needs room, until one succeeds.
const TRIES: usize = 4;

/// A page, held while it is written.
type Held<S> = (u64, FolioRef<S>);

/// Marks a page as dirty. Under its claim.
pub(crate) fn make_dirty<S: Scheme>(mapping: &Mapping<S>, folio: &mut FrozenFolio<S>, page: u32) {
    if !folio.is_dirty() {
        folio.set_dirty(true);
        mapping.dirty.insert(page);
        dirty_pages_changed(&mapping.shared, 1);
    }
}

/// Takes a page out of the set. Under its claim.
pub(crate) fn forget_dirty<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    mapping.dirty.remove(page);
    dirty_pages_changed(&mapping.shared, -1);
}

/// Returns when everything that was written before is durable, or an error was told.
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
            tracing::error!(%error, backing = ?backing.file_id(), "a sync failed: what was written may be lost");
            mapping.errors.record(&error);
        }
    });
    mapping.errors.report(cursor, since).and(written)
}

/// Writes everything to the backing, or tells an error.
pub(crate) fn flush<S: Scheme>(mapping: &Mapping<S>, cursor: &ErrorCursor) -> io::Result<()> {
    let since = mapping.errors.count();
    let written = write_back(mapping, 0..u64::MAX, Then::Nothing);
    mapping.errors.report(cursor, since).and(written)
}

/// Writes the dirty pages within a range. The first error; the others are tried all the same.
pub(crate) fn write_back<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> io::Result<()> {
    let mut result = Ok(());
    let mut at = pages.start;
    while let Some((run, written)) = write_range(mapping, at..pages.end, then) {
        at = run.end;
        result = result.and(written);
    }
    result
}

/// Writes the first dirty neighbours within a range. Which, and how it went; `None`: there are
/// none.
pub(crate) fn write_range<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> Option<(Range<u64>, io::Result<()>)> {
    if mapping.shared.is_inherited() {
        // What is dirty is the parent's, which may have written newer bytes by now.
        return None;
    }
    let mut change_token = mapping.changing.lock();
    // Without a writer nothing can have become dirty.
    let writer = mapping.writer.get()?;
    let run = mapping.dirty.run(pages, then.most_pages());
    if run.is_empty() {
        return None;
    }
    let held = hold(mapping, run.clone());
    // Under the lock, after the pages: see `grow_by`.
    let len = {
        let _length = mapping.length.lock();
        mapping.len()
    };
    let Some(&(first, _)) = held.first() else { return Some((run, Ok(()))) };
    let start = first * FRAME_SIZE as u64;
    let bytes = (held.len() * FRAME_SIZE)
        .min(usize::try_from(len.saturating_sub(start)).unwrap_or(usize::MAX));
    let mut left = bytes;
    // What lies in one piece of memory is one slice.
    let cut = joined(held.iter().map(|(_, folio)| folio)).map(|slice| {
        let n = slice.len().min(left);
        left -= n;
        IoSlice::new(&slice[..n])
    });
    let slices: Vec<IoSlice<'_>> = cut.collect();
    let written = change(&**writer, &mut change_token, || match then {
        Then::Nothing => writer.write(start, &slices),
        Then::Sync => writer.write_to_sync(start, &slices),
    });
    let run = run.start..first + held.len() as u64;
    match &written {
        Ok(()) => {
            mapping.shared.counters.written_bytes.add(bytes as u64);
            mapping.errors.end();
            // Before they count as clean: a fill that finds them gone expects that much.
            // Relaxed: a hint, as any look at the backing is.
            mapping.backed.fetch_max(start + bytes as u64, Ordering::Relaxed);
            for held in &held {
                make_clean(mapping, held);
            }
        }
        Err(error) => {
            mapping.shared.counters.write_errors.add(1);
            if mapping.errors.begins() {
                let backing = mapping.backing.file_id();
                tracing::warn!(%error, ?backing, start, bytes, "what is dirty can not be written: it stays");
            }
            mapping.errors.record(error);
        }
    }
    Some((run, written))
}

/// References on the first neighbours of a run that are there. Waits for writers.
fn hold<S: Scheme>(mapping: &Mapping<S>, run: Range<u64>) -> Vec<Held<S>> {
    let mut held: Vec<Held<S>> = Vec::with_capacity((run.end - run.start) as usize);
    for page in run {
        let Some(slot) = u32::try_from(page).ok().and_then(|page| mapping.index.get(page)) else {
            break;
        };
        loop {
            match slot.get(mapping.zone) {
                Lookup::Hit(folio) => {
                    assert!(
                        !CHECKS || folio.order() == Order::ZERO,
                        "what is dirty is a page of its own: {folio:?}"
                    );
                    held.push((page, folio));
                    break;
                }
                Lookup::InProgress => slot.wait(),
                Lookup::Moved => {}
                // Who has the claim can share it all the same.
                Lookup::Saturated => match slot.try_lock(mapping.zone) {
                    Some(locked) => {
                        held.push((page, locked.folio().clone()));
                        break;
                    }
                    None => slot.wait(),
                },
                // Nobody empties a dirty slot but under `changing`.
                Lookup::Empty => return held,
            }
        }
    }
    held
}

/// What was written is clean, unless somebody wrote to a copy meanwhile.
fn make_clean<S: Scheme>(mapping: &Mapping<S>, (page, folio): &Held<S>) {
    let Some(slot) = mapping.index.get(*page as u32) else { return };
    loop {
        if let Some(mut locked) = slot.try_lock(mapping.zone) {
            if locked.pfn() == folio.pfn() && locked.folio().is_dirty() {
                locked.set_dirty(false);
                forget_dirty(mapping, *page as u32);
            }
            return;
        }
        if slot.is_empty() {
            return;
        }
        slot.wait();
    }
}

/// Writes some dirty neighbours, those that follow the last ones: so what can not be written
/// does not come first for ever. Of a few requests the first that succeeds; else the first
/// error. `None`: nothing is dirty.
fn write_some<S: Scheme>(mapping: &Mapping<S>) -> Option<io::Result<()>> {
    // Relaxed, here and below: where to look first, no more.
    let start = mapping.swept.load(Ordering::Relaxed);
    let (mut tries, mut failed) = (0, None);
    for mut pages in [start..u64::MAX, 0..start] {
        while tries < TRIES
            && let Some((run, written)) = write_range(mapping, pages.clone(), Then::Nothing)
        {
            mapping.swept.store(run.end, Ordering::Relaxed);
            (pages.start, tries) = (run.end, tries + 1);
            match written {
                Ok(()) => return Some(Ok(())),
                Err(error) => failed = failed.or(Some(Err(error))),
            }
        }
    }
    failed
}

/// Makes a writer wait, by letting it work, when too much is dirty. With no lock held but
/// `grow`.
pub(crate) fn throttle<S: Scheme>(mapping: &Mapping<S>) -> io::Result<()> {
    let dirty = dirty_pages(&mapping.shared);
    let limit = dirty_limit(&mapping.shared);
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

/// An open file is closed. If it was the last one, nothing of it may be lost.
pub(crate) fn closed<S: Scheme>(mapping: &Arc<Mapping<S>>) {
    if mapping.shared.is_inherited() {
        // The parent writes them.
        return;
    }
    // AcqRel: the last one sees what the others wrote.
    if mapping.opens.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    let keep = Keep(mapping);
    if mapping.dirty.is_empty() {
        return;
    }
    if unlinked::forget_if_unlinked(&mapping.shared, mapping) {
        mem::forget(keep);
    } else {
        let _ = write_back(mapping, 0..u64::MAX, Then::Nothing);
    }
}

/// Keeps a mapping that is closed, if it is dirty: also when its backing panics.
struct Keep<'m, S: Scheme>(&'m Arc<Mapping<S>>);

impl<S: Scheme> Drop for Keep<'_, S> {
    fn drop(&mut self) {
        keep_unwritten(&self.0.shared, self.0);
    }
}

/// A change of the backing, by us: if nobody else changed it before, its stamp is known afterwards,
/// and the next look finds it unchanged. If somebody did, the next look will say so.
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

/// What is done with somebody's backing, among others: none of which should suffer from its panic.
/// Whatever unwinds leaves claims and locks as an error does.
fn unless_it_panics<T>(act: impl FnOnce() -> T) -> thread::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(act))
}

/// How many pages are dirty. Racy.
pub(crate) fn dirty_pages<S: Scheme>(shared: &Shared<S>) -> u64 {
    // Relaxed: a count.
    shared.dirty_pages.load(Ordering::Relaxed)
}

/// Pages that may be dirty before writers have to write them: a quarter of the budget.
pub(crate) fn dirty_limit<S: Scheme>(shared: &Shared<S>) -> u64 {
    (shared.capacity() / FRAME_SIZE / 4) as u64
}

fn dirty_pages_changed<S: Scheme>(shared: &Shared<S>, by: i64) {
    // Relaxed: a count.
    let before = shared.dirty_pages.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
    // The first; and some of the others, lest its thread could not be started for that one.
    if by > 0 && before.is_multiple_of(RING) {
        shared.flusher.notify_soon();
    }
}

/// Writes everything that is dirty. The first error; every file's is told to who has it open.
/// If a backing panics, its panic goes on when the other files have had their turn.
pub(crate) fn write_back_all<S: Scheme>(shared: &Shared<S>) -> io::Result<()> {
    let (mut result, mut panicked) = (Ok(()), Ok(()));
    for mapping in shared.registry.all() {
        if !mapping.dirty.is_empty() {
            match unless_it_panics(|| unlinked::forget_if_unlinked(shared, &mapping)) {
                Ok(false) => {}
                Ok(true) => continue,
                Err(panic) => {
                    panicked = panicked.and(Err(panic));
                    continue;
                }
            }
            match unless_it_panics(|| write_back(&mapping, 0..u64::MAX, Then::Nothing)) {
                Ok(written) => result = result.and(written),
                Err(panic) => panicked = panicked.and(Err(panic)),
            }
            keep_unwritten(shared, &mapping);
        }
    }
    panicked.unwrap_or_else(|panic| panic::resume_unwind(panic));
    result
}

/// Writes a run of some file, because memory is needed. Whether pages are clean that were not.
/// What its backing says, or that it panics, is for who syncs that file.
pub(crate) fn write_back_some<S: Scheme>(shared: &Shared<S>) -> bool {
    let dirty = shared.registry.all().into_iter().filter(|mapping| !mapping.dirty.is_empty());
    dirty.into_iter().any(|mapping| {
        match unless_it_panics(|| unlinked::forget_if_unlinked(shared, &mapping)) {
            Ok(false) => {}
            // Its pages leave with it.
            Ok(true) => return true,
            Err(_) => return false,
        }
        let written = unless_it_panics(|| write_some(&mapping));
        // It may have been kept for this.
        keep_unwritten(shared, &mapping);
        matches!(written, Ok(Some(Ok(()))))
    })
}

/// Keeps a mapping that nobody has open as long as it is dirty, and no longer.
fn keep_unwritten<S: Scheme>(shared: &Shared<S>, mapping: &Arc<Mapping<S>>) {
    let unneeded = {
        let mut unwritten = shared.unwritten.lock();
        if mapping.dirty.is_empty() || mapping.is_open() {
            unwritten.remove(&mapping.id)
        } else {
            unwritten.insert(mapping.id, Arc::clone(mapping))
        }
    };
    // Not under the lock: it may be the last one.
    drop(unneeded);
}
