//! Lookup: from a page number to a reference, and what is done when the slot has no hit.

use std::io;

use folio_frames::{FRAME_SIZE, Lookup};
use folio_ref::{CHECKS, Scheme};

use crate::coherence::refresh;
use crate::memory::alloc;
use crate::memory::frames_view;
use crate::memory::room;
use crate::policy::Advice;
use crate::read::fill;
use crate::read::fill::Filled;
use crate::read::prefetch;
use crate::read::uncached;
use crate::rt::foreign::catch_panic;
use crate::state::frames::{FolioRef, Slot};
use crate::state::mapping::Mapping;
use crate::state::stats::Count;
use crate::state::units::{MOST_PAGES, page_of, pages_of};

/// The number of fills that may be shorter than the file's length before that is an error.
const MAX_SHORT_FILLS: u32 = 8;

/// Returns the page if it is in the cache and no thread holds its page lock.
#[inline(always)]
pub(crate) fn find<S: Scheme>(mapping: &Mapping<S>, page: u32) -> Option<FolioRef<S>> {
    match mapping.index.get(page)?.get(mapping.zone()) {
        Lookup::Hit(folio) => Some(hit(mapping, folio, page)),
        _ => None,
    }
}

/// Returns the page like [`find`], but only if it is not a subpage of a large folio.
#[inline(always)]
pub(crate) fn find_alone<S: Scheme>(mapping: &Mapping<S>, page: u32) -> Option<FolioRef<S>> {
    mapping.index.get(page)?.get_alone(mapping.zone()).map(|folio| hit(mapping, folio, page))
}

#[inline(always)]
fn hit<S: Scheme>(mapping: &Mapping<S>, folio: FolioRef<S>, page: u32) -> FolioRef<S> {
    check(mapping, &folio, page);
    if folio.set_referenced() {
        prefetch::read_ahead_at_marker(mapping, page);
    }
    mapping.hit(1);
    mapping.record(page);
    folio
}

/// Asserts that a slot returned the page that it was asked for.
#[inline(always)]
pub(crate) fn check<S: Scheme>(mapping: &Mapping<S>, folio: &FolioRef<S>, page: u32) {
    assert!(
        !CHECKS || folio.owner_data() == mapping.owner_data(page),
        "a lookup of page {page} got {folio:?}, which holds another page (R8)"
    );
}

/// Returns the page. Reads it on a miss, in one request with the missing ones of the `pages` pages
/// from there on. Returns `None` if the file ends before the page.
///
/// # Errors
///
/// `Unsupported` in a child process, `OutOfMemory` if no page can be freed, `UnexpectedEof` if the
/// file keeps ending before its length, otherwise what the backing returns.
pub(crate) fn find_or_fill<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
    pages: u32,
    advice: Advice,
) -> io::Result<Option<FolioRef<S>>> {
    if let Some(folio) = find(mapping, page) {
        return Ok(Some(folio));
    }
    let found = find_slowly(mapping, page, pages, advice);
    if matches!(found, Ok(Some(_))) {
        mapping.record(page);
    }
    found
}

/// Returns the page around an offset, and where in the page the file's bytes end, which is past the
/// offset. Returns `None` if the file ends before the offset. The caller will ask for `wanted`
/// bytes: those that are missing are read in one request.
///
/// # Errors
///
/// `FileTooLarge` from 16 TiB on, otherwise what [`find_or_fill`] returns.
pub(crate) fn find_with_end<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
    advice: Advice,
) -> io::Result<Option<(FolioRef<S>, usize)>> {
    loop {
        let truncate_seq = mapping.truncate_seq();
        let len = mapping.len();
        if offset >= len {
            return Ok(None);
        }
        let (page, pages) = (page_of(offset)?, pages_of(offset, wanted));
        let Some(folio) = find_or_fill(mapping, page, pages, advice)? else {
            return Ok(None);
        };
        // See `Mapping::truncate_seq`. The bytes of the folio no longer change.
        if mapping.is_untruncated(len, truncate_seq) {
            let begins = offset - offset % FRAME_SIZE as u64;
            return Ok(Some((folio, (len - begins).min(FRAME_SIZE as u64) as usize)));
        }
    }
}

/// Returns the page like [`find_or_fill`], and records no use: that of a write is recorded once it
/// is done.
///
/// # Errors
///
/// Those of [`find_or_fill`].
#[cold]
pub(crate) fn find_slowly<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
    pages: u32,
    advice: Advice,
) -> io::Result<Option<FolioRef<S>>> {
    mapping.shared.check_process()?;
    let start = u64::from(page) * FRAME_SIZE as u64;
    let mut fills = 0;
    let mut short_fills = 0;
    while start < mapping.len() {
        let slot = mapping.index.get(page);
        match slot.map_or(Lookup::Empty, |slot| slot.get(mapping.zone())) {
            Lookup::Hit(folio) => {
                check(mapping, &folio, page);
                if folio.set_referenced() {
                    prefetch::read_ahead_at_marker(mapping, page);
                }
                return Ok(Some(folio));
            }
            Lookup::Empty => {
                let left = (mapping.len().saturating_sub(start)).div_ceil(FRAME_SIZE as u64);
                let pages = pages.min(u32::try_from(left).unwrap_or(u32::MAX));
                if fills == 0 {
                    prefetch::read_ahead_after_miss(mapping, page, pages, advice);
                }
                fills += 1;
                match fill_or_pass(mapping, page, pages, advice)? {
                    Filled::Page(folio) => return Ok(Some(folio)),
                    Filled::Lost => {}
                    Filled::Short { at } => {
                        let len = refresh::refresh_len_to_read(mapping)?;
                        short_fills += 1;
                        if short_fills == MAX_SHORT_FILLS {
                            let message =
                                format!("the file ends at {at} though its size is {len} bytes");
                            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                        }
                    }
                }
            }
            Lookup::InProgress => {
                mapping.count(Count::RefusedFrozen, 1);
                if let Some(slot) = slot {
                    wait_for(mapping, slot, page)?;
                }
            }
            Lookup::Moved => mapping.count(Count::RefusedMoved, 1),
            Lookup::Saturated => {
                slot.map_or(Ok(()), |slot| desaturate(mapping, slot, page))?;
            }
        }
    }
    Ok(None)
}

/// Fills a page, or reads it without the cache if there is no room for its slot, or in the share of
/// its group.
fn fill_or_pass<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
    pages: u32,
    advice: Advice,
) -> io::Result<Filled<S>> {
    let filled = match room::make_room_to_read(mapping, page, pages.min(MOST_PAGES)) {
        0 => uncached::fill_uncached(mapping, page),
        room => fill::fill(mapping, page, room, advice),
    };
    if !matches!(filled, Ok(Filled::Page(_) | Filled::Lost)) {
        mapping.give_back_leaf(page);
    }
    filled
}

/// Waits for the thread that holds the lock of a page. If readahead holds it and the request has
/// not begun, reads the page in this thread.
///
/// # Errors
///
/// The error of the fill that it waited for.
pub(crate) fn wait_for<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    page: u32,
) -> io::Result<()> {
    if let Some(extent) = mapping.shared.io_pool.take(mapping.id, page) {
        // A panic may concern another page, which no reader asked for yet, as an error may.
        let _ = catch_panic(|| extent.fill());
        return Ok(());
    }
    let waiter = mapping.shared.fill_waiters.register(mapping.id, page);
    mapping.count(Count::Waits, 1);
    slot.wait();
    waiter.error().map_or(Ok(()), Err)
}

/// Replaces a folio with a saturated reference count by a copy. The old folio is leaked.
pub(crate) fn desaturate<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    page: u32,
) -> io::Result<()> {
    let mut new = alloc::allocate_for(mapping, page)?;
    if let Some(locked) = slot.try_lock(mapping.zone()) {
        new.as_mut_slice().copy_from_slice(locked.folio().frame());
        new.set_dirty(locked.folio().is_dirty());
        let pfn = new.pfn();
        drop(locked.replace(new));
        frames_view::insert(&mapping.shared, pfn, mapping.owner_data(page));
    } else {
        new.free();
        slot.wait();
    }
    Ok(())
}
