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
use std::ops::Range;
use std::sync::atomic::Ordering;

use folio_frames::{FRAME_SIZE, Lookup, Order, joined};
use folio_ref::{CHECKS, Scheme, broken};

use crate::backing::Backing;
use crate::backing::error::share;
use crate::rt::in_flight::HeldBy;
use crate::state::frames::FolioRef;
use crate::state::known::Known;
use crate::state::mapping::Mapping;
use crate::state::stats::Count;
use crate::state::units::MOST_PAGES;
use crate::state::writing::Writing;
use crate::writeback::dirty_pages;

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

/// The number of a page, and a reference that pins it while it is written.
type PinnedPage<S> = (u64, FolioRef<S>);

/// A request that was made for a dirty range.
pub(crate) struct Written {
    /// The pages, from the first to the last that the request had.
    pub(crate) range: Range<u64>,
    pub(crate) result: io::Result<()>,
    /// There is no room for bytes that were appended. The pages behind them must wait.
    pub(crate) is_full: bool,
}

/// Writes the dirty pages within a range, all of them even if some fail. If there is no
/// room for appended bytes, the pages behind them wait: see [`next_range`].
///
/// # Errors
///
/// The first error of the backing.
pub(crate) fn write_back<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> io::Result<()> {
    if mapping.shared.is_inherited() {
        return Ok(());
    }
    // Its waits for locks count as well: their holders may hang.
    let _round = mapping.shared.requests.begin_round(mapping.id);
    let mut result = Ok(());
    let mut at = pages.start;
    while let Some(written) = write_range(mapping, at..pages.end, then) {
        at = written.range.end;
        result = result.and(written.result);
        if written.is_full {
            break;
        }
    }
    result
}

/// Moves the end up to which the file is in order to `len`, the new length of the backing, unless
/// dirty pages lie past it. Call under the lock `length`.
pub(crate) fn set_ordered<S: Scheme>(mapping: &Mapping<S>, len: u64) {
    // Relaxed, here and below: a write under way may move it as well, and a smaller value only
    // means more order than promised.
    let Some(writing) = mapping.writing() else { return };
    let ordered = writing.ordered.load(Ordering::Relaxed);
    if len < ordered || writing.dirty.end() <= ordered {
        writing.ordered.store(len, Ordering::Relaxed);
    }
}

/// Returns the dirty range to write next, for a caller that wants one within `pages`. Returns also
/// whether it reaches past the end up to which the file is in order ([`Writing::ordered`]).
///
/// **Order:** of the pages past that end, one that is dirty is written after all dirty ones before
/// it. So a crash of the process leaves no zeroes before bytes that were appended later.
fn next_range(writing: &Writing, pages: Range<u64>, max_pages: u64) -> (Range<u64>, bool) {
    let range = writing.dirty.range(pages, max_pages);
    let ordered = writing.ordered.load(Ordering::Relaxed) / FRAME_SIZE as u64;
    if range.end <= ordered {
        return (range, false);
    }
    if broken!("appends-out-of-order") && !range.is_empty() {
        return (range, true);
    }
    let earlier = writing.dirty.range(ordered..range.start, max_pages);
    (if earlier.is_empty() { range } else { earlier }, true)
}

/// Writes the first dirty neighbours within a range, or those that must come before them. Returns
/// `None` if there are none. Waits for other changes of the backing.
pub(crate) fn write_range<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> Option<Written> {
    if mapping.shared.is_inherited() {
        // The dirty pages are the parent's, which may have written newer bytes by now.
        return None;
    }
    write_range_under(mapping, pages, then, &mut mapping.changing()?.lock())
}

/// Does what [`write_range`] does, unless another change of the backing is under way. Returns
/// `None` then, too.
pub(crate) fn try_write_range<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
) -> Option<Written> {
    if mapping.shared.is_inherited() {
        return None;
    }
    let mut known = mapping.changing()?.try_lock()?;
    write_range_under(mapping, pages, then, &mut known)
}

fn write_range_under<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    then: Then,
    known: &mut Known,
) -> Option<Written> {
    // Without a writer no page can have become dirty.
    let writing = mapping.writing()?;
    let writer = writing.backing.get()?;
    let (range, appends) = next_range(writing, pages, then.max_pages());
    if range.is_empty() {
        return None;
    }
    let wait = &mapping.shared.memory_wait;
    let hold = wait.hold(HeldBy::Write, (range.end - range.start) as usize);
    let (pinned, len) = pin_pages_and_len(mapping, range.clone());
    let Some(&(first, _)) = pinned.first() else {
        // Its page was discarded.
        hold.end_quietly();
        let range = range.start..range.start + 1;
        return Some(Written { range, result: Ok(()), is_full: false });
    };
    let start = first * FRAME_SIZE as u64;
    let len = if broken!("last-page-whole") { u64::MAX } else { len };
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
    let end = start + bytes as u64;
    if broken!("clean-before-written") {
        for page in &pinned {
            make_clean(mapping, page);
        }
    }
    writing.unsynced.wrote(&(start..end), mapping.shared.unsynced_room());
    let result = change(mapping, &**writer, known, || match then {
        Then::Nothing => writer.write(start, &slices),
        Then::Sync => writer.write_to_sync(start, &slices),
    });
    let result = result.map_err(share);
    let mut is_full = false;
    match &result {
        Ok(()) => {
            mapping.count(Count::WrittenBytes, bytes as u64);
            writing.errors.end();
            writing.health.succeeded();
            dirty_pages::set_sick(mapping, false);
            // Before they count as clean: a fill that finds them gone expects that much. Relaxed: a
            // hint, like any length that the backing returned.
            mapping.backed.fetch_max(end, Ordering::Relaxed);
            writing.ordered.fetch_max(end, Ordering::Relaxed);
            // Again, and before they count as clean: a sync may have begun meanwhile.
            writing.unsynced.wrote(&(start..end), mapping.shared.unsynced_room());
            for pinned in &pinned {
                make_clean(mapping, pinned);
            }
        }
        Err(error) => {
            mapping.count(Count::WriteErrors, 1);
            is_full = appends && is_no_room(error);
            if !is_full {
                // What the backing refuses does not hold up the pages behind it.
                writing.ordered.fetch_max(end, Ordering::Relaxed);
            }
            writing.health.failed(error);
            dirty_pages::set_sick(mapping, true);
            if writing.errors.begins() {
                let backing = mapping.backing().file_id();
                let message = "writeback failed: the pages stay dirty";
                tracing::warn!(%error, ?backing, start, bytes, "{message}");
            }
            writing.errors.record(error);
        }
    }
    let range = range.start..first + pinned.len() as u64;
    drop(pinned);
    if result.is_ok() {
        // The pages are evictable from now on.
        drop(hold);
    } else {
        hold.end_quietly();
    }
    Some(Written { range, result, is_full })
}

/// Returns `true` for an error that other appended bytes would get as well.
fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Pins the pages of a dirty range. Returns them, and the length of the file at the time when the
/// last one was pinned: an append to it is in both or in none. Bytes that the length counts and the
/// page lacks would go out as zeroes; bytes that the page has and the length lacks would not go
/// out, and count as clean.
fn pin_pages_and_len<S: Scheme>(
    mapping: &Mapping<S>,
    range: Range<u64>,
) -> (Vec<PinnedPage<S>>, u64) {
    let early = broken!("length-before-pages").then(|| mapping.len());
    let last = range.end - 1;
    let mut pinned = pin_pages(mapping, range.start..last);
    // See `grow_by`: an append changes page and length under this lock.
    let _length = mapping.length.lock();
    if pinned.len() as u64 == last - range.start {
        pinned.extend(pin_pages(mapping, last..range.end));
    }
    (pinned, early.unwrap_or_else(|| mapping.len()))
}

/// Returns references to the first neighbours of a range that are there. Waits for writers.
fn pin_pages<S: Scheme>(mapping: &Mapping<S>, range: Range<u64>) -> Vec<PinnedPage<S>> {
    let mut pinned: Vec<PinnedPage<S>> = Vec::with_capacity((range.end - range.start) as usize);
    for page in range {
        let Some(slot) = u32::try_from(page).ok().and_then(|page| mapping.index.get(page)) else {
            break;
        };
        loop {
            match slot.get(mapping.zone()) {
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
                Lookup::Saturated => match slot.try_lock(mapping.zone()) {
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
        if let Some(mut locked) = slot.try_lock(mapping.zone()) {
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

/// Changes the backing. If only this cache changed it since the last refresh, stores its new change
/// token, and the next refresh finds it unchanged. Otherwise the next refresh finds the change.
/// Returns the result of `change`.
pub(crate) fn change<S: Scheme, T>(
    mapping: &Mapping<S>,
    backing: &dyn Backing,
    known: &mut Known,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let _request = mapping.shared.requests.begin(mapping.id);
    let before = backing.version();
    let result = change();
    if before.is_ok_and(|before| before.change_token == known.get().change_token)
        && let Ok(after) = backing.version()
    {
        known.set(after);
    }
    result
}
