//! Truncation: taking pages out of the index, because the file changed or somebody asks for it.
//!
//! A page that is held leaves all the same: it belongs to its holders then, and is freed by the
//! last of them.
//!
//! A page that is dirty stays, whatever somebody else did to the file: what was written through the
//! cache is newer. So the length is never less than what the dirty pages say. Only who cuts the
//! file through the cache drops them.

use std::io;
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::memory::large_folio;
use crate::state::frames::Slot;
use crate::state::mapping::Mapping;
use crate::writeback::write_back;
use crate::writeback::write_back::Then;

/// How often the last page may be dirty again when the file has grown beside us, before the growth
/// waits for the next look.
const LOOKS: u32 = 8;

/// Looks at the file's size, and applies it. The length now.
pub(crate) fn refresh_len<S: Scheme>(mapping: &Mapping<S>) -> io::Result<u64> {
    refresh(mapping, Err)
}

/// The same for who reads: that something can not be written is told to who syncs. Until it
/// can, the file ends where it did.
pub(crate) fn refresh_len_to_read<S: Scheme>(mapping: &Mapping<S>) -> io::Result<u64> {
    refresh(mapping, |_| Ok(mapping.len()))
}

#[cold]
fn refresh<S: Scheme>(
    mapping: &Mapping<S>,
    unwritten: impl FnOnce(io::Error) -> io::Result<u64>,
) -> io::Result<u64> {
    mapping.shared.check_process()?;
    for _ in 0..LOOKS {
        let at = {
            let _length = mapping.length.lock();
            match look(mapping, None)? {
                Ok(len) => return Ok(len),
                Err(page) => page,
            }
        };
        // What was appended beside us belongs into a page that we have not written.
        if let Err(error) = write_back::write_back(mapping, at..at + 1, Then::Nothing) {
            return unwritten(error);
        }
    }
    Ok(mapping.len())
}

/// Looks whether the file changed since it was opened or last looked at, and drops what is
/// clean if so.
pub(crate) fn revalidate<S: Scheme>(mapping: &Mapping<S>) -> io::Result<bool> {
    refresh_len_to_read(mapping)?;
    let mut change_token = mapping.changing.lock();
    let _length = mapping.length.lock();
    let now = mapping.backing.version()?;
    let changed = now != *change_token;
    if look(mapping, Some(now.len))?.is_err() {
        // It grows under our hands: what it was given is found by the next look.
        return Ok(true);
    }
    if changed {
        invalidate(mapping);
        *change_token = now;
    }
    Ok(changed)
}

/// Runs a change of the file that changes no byte, and takes the version after it as known: the
/// next look keeps the pages. If the version was not the known one before, it stays unknown.
///
/// No lock is held meanwhile: `change` may use the file. Own writes in between make known versions
/// as well.
pub(crate) fn change_metadata<S: Scheme, T>(
    mapping: &Mapping<S>,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    mapping.shared.check_process()?;
    let was_known = {
        let known = mapping.changing.lock();
        mapping.backing.version()?.change_token == known.change_token
    };
    let result = change();
    if was_known && !mapping.shared.is_inherited() {
        let mut known = mapping.changing.lock();
        // What fails here is found by the next look.
        if let Ok(now) = mapping.backing.version() {
            *known = now;
        }
    }
    result
}

/// Drops every page of the file that is not dirty.
pub(crate) fn invalidate<S: Scheme>(mapping: &Mapping<S>) {
    if mapping.shared.is_inherited() {
        return invalidate_inherited(mapping);
    }
    drop_clean_pages_from(mapping, 0);
}

/// Looks at the file's size unless it was looked at just now, and applies it, under the lock
/// `length`: of two looks the later one must be applied last. `Err`: a dirty page that must
/// be written before.
fn look<S: Scheme>(mapping: &Mapping<S>, seen: Option<u64>) -> io::Result<Result<u64, u64>> {
    // Before the look: what is written between the two is in what it sees.
    let unwritten = mapping.dirty.end();
    let backed = match seen {
        Some(len) => len,
        None => mapping.backing.version()?.len,
    };
    let old = mapping.len();
    let new = backed.max(unwritten.min(old));
    if let Err(page) = set_len(mapping, new) {
        return Ok(Err(page));
    }
    // After the cut, if it is one: see resize. Release: pairs with Acquire in publish.
    mapping.backed.store(backed, Ordering::Release);
    // Somebody may have begun to write before the cut, to a page behind it, and not have
    // finished before the look.
    let unwritten = mapping.dirty.end();
    if unwritten > new && new < old {
        // Release: pairs with Acquire in `len`.
        mapping.len.store(unwritten.min(old), Ordering::Release);
    }
    Ok(Ok(mapping.len()))
}

/// Makes `new` the length. Under the lock `length`. `Err`: the page that the file ended in is
/// dirty, and nothing was changed.
fn set_len<S: Scheme>(mapping: &Mapping<S>, new: u64) -> Result<(), u64> {
    // Relaxed: written under the lock only.
    let old = mapping.len.load(Ordering::Relaxed);
    if new > old {
        // The old last page ends with zeroes where there are bytes now: it goes before any
        // reader may see the new length.
        // SeqCst, the fence in fill: a fill that this visit does not see reads the file after
        // the look at its size, so it gets the new bytes.
        fence(Ordering::SeqCst);
        let last = old / FRAME_SIZE as u64;
        drop_clean_pages_from(mapping, last);
        let slot = u32::try_from(last).ok().and_then(|page| mapping.index.get(page));
        // Whether it is dirty says its visit: who comes later to write finds no page, and reads
        // one with the new bytes.
        if !old.is_multiple_of(FRAME_SIZE as u64)
            && slot.is_some_and(|slot| !drop_page(mapping, slot, false))
        {
            return Err(last);
        }
        // Release: pairs with Acquire in `len`.
        mapping.len.store(new, Ordering::Release);
    } else if new < old {
        // The other way round: from now on fills past the end decline, and readers notice.
        mapping.len.store(new, Ordering::Release);
        bump_truncate_seq(mapping);
        // SeqCst, Dekker with the fences in fill and write: either this visit sees the claim
        // and waits for it, or they see the new length and take their page out by
        // themselves.
        fence(Ordering::SeqCst);
        drop_clean_pages_from(mapping, new / FRAME_SIZE as u64);
    }
    Ok(())
}

/// After the length, before the pages go. Under the lock `length`.
pub(crate) fn bump_truncate_seq<S: Scheme>(mapping: &Mapping<S>) {
    // Relaxed: no other writer. Release: pairs with Acquire in `truncate_seq`.
    mapping.truncate_seq.store(mapping.truncate_seq.load(Ordering::Relaxed) + 1, Ordering::Release);
}

/// Empties every slot of a range of pages. Waits for those in progress. Dirty pages are lost.
pub(crate) fn drop_pages<S: Scheme>(mapping: &Mapping<S>, pages: Range<u64>) {
    mapping.shared.io_pool.forget(mapping.id, &pages);
    large_folio::split_edges(mapping, &pages);
    mapping.index.for_each_in(pages, |slot| _ = drop_page(mapping, slot, true));
}

/// Empties every slot from a page on that is not dirty. Waits for those in progress.
fn drop_clean_pages_from<S: Scheme>(mapping: &Mapping<S>, page: u64) {
    let pages = page..u64::MAX;
    mapping.shared.io_pool.forget(mapping.id, &pages);
    large_folio::split_edges(mapping, &pages);
    mapping.index.for_each_in(pages, |slot| _ = drop_page(mapping, slot, false));
}

/// `false`: it is dirty, and stays.
fn drop_page<S: Scheme>(mapping: &Mapping<S>, slot: &Slot<S>, even_dirty: bool) -> bool {
    loop {
        if let Some(mut locked) = slot.try_lock(mapping.zone) {
            if locked.folio().is_dirty() {
                if !even_dirty {
                    return false;
                }
                locked.set_dirty(false);
                write_back::forget_dirty(mapping, locked.folio().owner_data() as u32);
            }
            match locked.freeze() {
                Ok(frozen) => frozen.remove().free(),
                // Somebody holds it: the index's reference goes, theirs stay.
                Err(locked) => drop(locked.remove()),
            }
            return true;
        }
        if slot.is_empty() {
            return true;
        }
        slot.wait();
    }
}

/// Makes each read of the file miss, in a child: its pages are to be dropped, which takes what
/// a child has not.
pub(crate) fn invalidate_inherited<S: Scheme>(mapping: &Mapping<S>) {
    // Relaxed: no other value follows from it. A reader that sees it finds no bytes, and the
    // miss says why.
    mapping.len.store(0, Ordering::Relaxed);
}
