//! The number of dirty pages of all files and its limit, kept together with the set of each file.

use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// The flusher is notified for one in this number of pages that become dirty.
const NOTIFY_INTERVAL: u64 = 64;

/// Marks a page as dirty. Call while the page is locked.
pub(crate) fn make_dirty<S: Scheme>(mapping: &Mapping<S>, folio: &mut FrozenFolio<S>, page: u32) {
    if !folio.is_dirty() {
        folio.set_dirty(true);
        mapping.dirty.insert(page);
        add_to_count(&mapping.shared, 1);
    }
}

/// Removes a page from the set of dirty pages. Call while the page is locked.
pub(crate) fn forget_dirty<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    mapping.dirty.remove(page);
    add_to_count(&mapping.shared, -1);
}

/// Returns the number of dirty pages of all files. Racy.
pub(crate) fn count<S: Scheme>(shared: &Shared<S>) -> u64 {
    // Relaxed: a count.
    shared.dirty_pages.load(Ordering::Relaxed)
}

/// Returns the number of pages that may be dirty before writers have to write them: a quarter of
/// the capacity.
pub(crate) fn limit<S: Scheme>(shared: &Shared<S>) -> u64 {
    (shared.capacity() / FRAME_SIZE / 4) as u64
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
