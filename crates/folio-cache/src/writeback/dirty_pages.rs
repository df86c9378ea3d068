//! The number of dirty pages of all files and its limit, kept together with the set of each file.

use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::rt::busy::HUNG_AFTER;
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// The flusher is notified for one in this number of pages that become dirty.
const NOTIFY_INTERVAL: u64 = 64;

/// Marks a page as dirty. Call while the page is locked. Changes nothing if it is dirty already.
#[inline]
pub(crate) fn make_dirty<S: Scheme>(mapping: &Mapping<S>, folio: &mut FrozenFolio<S>, page: u32) {
    if !folio.is_dirty() {
        folio.set_dirty(true);
        insert(mapping, page);
    }
}

#[inline(never)]
fn insert<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    let registry = &mapping.shared.registry;
    let dirty = &mapping.make_writing().dirty;
    if dirty.insert(page, || registry.dirty.insert(mapping.id)) {
        add_to_sick(&mapping.shared, 1);
    }
    add_to_count(&mapping.shared, 1);
}

/// Marks a clean page as dirty, though its bytes did not change: a sync of the backing failed.
/// Returns `false` if the page is not in the cache, or was read again as a subpage. Waits for page
/// locks.
pub(crate) fn make_dirty_again<S: Scheme>(mapping: &Mapping<S>, page: u32) -> bool {
    let Some(slot) = mapping.index.get(page) else { return false };
    loop {
        if let Some(mut locked) = slot.try_lock(mapping.zone()) {
            if locked.subpage_of().is_some() {
                return false;
            }
            if !locked.folio().is_dirty() {
                locked.set_dirty(true);
                insert(mapping, page);
            }
            return true;
        }
        if slot.is_empty() {
            return false;
        }
        slot.wait();
    }
}

/// Removes a page from the set of dirty pages. Call while the page is locked.
pub(crate) fn forget_dirty<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    let last = || mapping.shared.registry.dirty.remove(mapping.id);
    if mapping.make_writing().dirty.remove(page, last) {
        add_to_sick(&mapping.shared, -1);
    }
    add_to_count(&mapping.shared, -1);
}

/// Returns the number of dirty pages of all files. Racy.
#[inline]
pub(crate) fn count<S: Scheme>(shared: &Shared<S>) -> u64 {
    // Relaxed: a count.
    shared.dirty_pages.load(Ordering::Relaxed)
}

/// Returns the number of pages that may be dirty before writers have to write them: a quarter of
/// the capacity.
#[inline]
pub(crate) fn limit<S: Scheme>(shared: &Shared<S>) -> u64 {
    (shared.capacity() / FRAME_SIZE / 4) as u64
}

/// Returns `true` if at most half of the limit is dirty: then writers are not throttled. Racy.
#[inline]
pub(crate) fn are_few<S: Scheme>(shared: &Shared<S>) -> bool {
    count(shared) <= limit(shared) / 2
}

/// Returns the number of dirty pages of sick files. Racy.
pub(crate) fn count_sick<S: Scheme>(shared: &Shared<S>) -> u64 {
    // Relaxed: a count. It may be one too low for a moment.
    shared.sick_pages.load(Ordering::Relaxed).cast_signed().max(0).cast_unsigned()
}

/// Notes that a file is sick, or no longer: its pages do not count against the limits of others.
pub(crate) fn set_sick<S: Scheme>(mapping: &Mapping<S>, is_sick: bool) {
    // Without a writer, only a request for the version hangs: no page can be dirty.
    let Some(writing) = mapping.writing() else { return };
    if let Some(pages) = writing.dirty.set_sick(is_sick) {
        let pages = pages.cast_signed();
        add_to_sick(&mapping.shared, if is_sick { pages } else { -pages });
    }
}

/// Notes that the files are sick of which a request hangs. Returns `true` if there are any.
pub(crate) fn find_hung<S: Scheme>(shared: &Shared<S>) -> bool {
    let hung = shared.requests.longer_than(HUNG_AFTER);
    for mapping in hung.iter().filter_map(|&id| shared.registry.by_id(id)) {
        set_sick(&mapping, true);
    }
    !hung.is_empty()
}

fn add_to_sick<S: Scheme>(shared: &Shared<S>, by: i64) {
    // Relaxed: a count.
    shared.sick_pages.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
}

fn add_to_count<S: Scheme>(shared: &Shared<S>, by: i64) {
    // Relaxed: a count.
    let before = shared.dirty_pages.fetch_add(by.cast_unsigned(), Ordering::Relaxed);
    // For the first page, and for some of the others in case its thread could not be started for
    // that one.
    if by > 0 && before.is_multiple_of(NOTIFY_INTERVAL) {
        shared.flusher.notify_soon();
    }
}
