//! Pages leave the index: the file became shorter or changed, or a caller needs them no longer.
//!
//! A pinned page leaves too: it belongs to its pin owners then, and the last of them frees it.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use folio_ref::Scheme;

use crate::memory::frames_view;
use crate::memory::large_folio;
use crate::rt::shim::back_off;
use crate::state::frames::{LockedSlot, Slot};
use crate::state::mapping::Mapping;
use crate::writeback::dirty_pages;

/// The pause between two tries to lock a page that may stay locked for ever.
const PAUSE: Duration = Duration::from_millis(1);

/// Drops every page of the file that is not dirty.
pub(crate) fn invalidate<S: Scheme>(mapping: &Mapping<S>) {
    if mapping.shared.is_inherited() {
        return invalidate_inherited(mapping);
    }
    drop_clean_pages_from(mapping, 0);
}

/// Empties every slot of a range of pages. Waits for page locks. Dirty pages are lost.
pub(crate) fn drop_pages<S: Scheme>(mapping: &Mapping<S>, pages: Range<u64>) {
    mapping.shared.io_pool.forget(mapping.id, &pages);
    large_folio::split_edges(mapping, &pages);
    mapping.index.for_each_in(pages, |slot| _ = drop_page(mapping, slot, true));
}

/// Empties every slot of a range of pages, except those that stay locked until `may_wait` returns
/// `false`: a fill may hang. Dirty pages are lost.
pub(crate) fn drop_pages_while<S: Scheme>(
    mapping: &Mapping<S>,
    pages: Range<u64>,
    may_wait: impl Fn() -> bool,
) {
    mapping.shared.io_pool.forget(mapping.id, &pages);
    large_folio::split_edges(mapping, &pages);
    let wait = |slot: &Slot<S>| {
        if cfg!(shuttle) {
            // No time passes, and each fill ends.
            slot.wait();
            return true;
        }
        let waits = may_wait();
        if waits && !slot.ends_soon() {
            back_off(PAUSE);
        }
        waits
    };
    mapping.index.for_each_in(pages, |slot| _ = drop_page_or(mapping, slot, true, wait));
}

/// Empties every slot from a page on, except those of dirty pages. Waits for page locks.
pub(super) fn drop_clean_pages_from<S: Scheme>(mapping: &Mapping<S>, page: u64) {
    let pages = page..u64::MAX;
    mapping.shared.io_pool.forget(mapping.id, &pages);
    large_folio::split_edges(mapping, &pages);
    mapping.index.for_each_in(pages, |slot| _ = drop_page(mapping, slot, false));
}

/// The pages that [`evict_clean`] leaves in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    /// Those that are hot for the policy.
    Hot,
    /// Those that are hot, or were used lately.
    Used,
}

/// Drops pages of a range that are not dirty and that no other thread has locked, except some.
pub(crate) fn evict_clean<S: Scheme>(mapping: &Mapping<S>, pages: Range<u64>, keep: Keep) {
    large_folio::split_edges(mapping, &pages);
    mapping.index.for_each_in(pages, |slot| {
        let Some(locked) = slot.try_lock(mapping.zone()) else { return };
        let is_kept = match keep {
            Keep::Nothing => false,
            Keep::Hot => frames_view::is_hot(mapping, locked.pfn()),
            Keep::Used => !frames_view::is_cold(mapping, locked.pfn()),
        };
        if is_kept || locked.folio().is_dirty() {
            return;
        }
        if locked.subpage_of().is_none() {
            mapping.evicts(locked.folio().owner_data() as u32);
        }
        remove(mapping, locked);
    });
}

/// Takes a page out of its slot, and frees it unless it is pinned: then the reference of the index
/// goes, and the others stay.
fn remove<S: Scheme>(mapping: &Mapping<S>, locked: LockedSlot<'_, S>) {
    match locked.freeze() {
        Ok(frozen) => frozen.remove().free(),
        Err(locked) => drop(locked.remove()),
    }
    mapping.left(1);
}

/// Empties a slot. Returns `false` if its page is dirty and stays.
pub(super) fn drop_page<S: Scheme>(mapping: &Mapping<S>, slot: &Slot<S>, even_dirty: bool) -> bool {
    let wait = |slot: &Slot<S>| {
        slot.wait();
        true
    };
    drop_page_or(mapping, slot, even_dirty, wait)
}

/// Empties a slot. Returns `false` if its page is dirty and stays, or if it is locked and `wait`
/// returns `false`.
fn drop_page_or<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    even_dirty: bool,
    wait: impl Fn(&Slot<S>) -> bool,
) -> bool {
    loop {
        if let Some(mut locked) = slot.try_lock(mapping.zone()) {
            if locked.folio().is_dirty() {
                if !even_dirty {
                    return false;
                }
                locked.set_dirty(false);
                dirty_pages::forget_dirty(mapping, locked.folio().owner_data() as u32);
            } else if !even_dirty && locked.subpage_of().is_none() {
                mapping.evicts(locked.folio().owner_data() as u32);
            }
            remove(mapping, locked);
            return true;
        }
        if slot.is_empty() {
            return true;
        }
        if !wait(slot) {
            return false;
        }
    }
}

/// Makes each read of the file miss, in a child process: the page drop would need threads and locks
/// that a child does not have.
pub(crate) fn invalidate_inherited<S: Scheme>(mapping: &Mapping<S>) {
    // Relaxed: no other value follows from it. A reader that sees it finds no bytes, or no length,
    // and the miss returns the error.
    mapping.len.store(0, Ordering::Relaxed);
    if let Some(remote) = mapping.remote() {
        remote.forget_length();
    }
}
