//! Pages that are read once: they leave as soon as their reader has passed them.

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::coherence::drop_pages;
use crate::coherence::drop_pages::Keep;
use crate::state::mapping::Mapping;

/// Drops the pages of a blocking backing that a reader of `len` bytes from `offset` on has passed
/// to their end, except those that others used, dirty and locked ones. The reader may read the rest
/// of the last page next.
pub(crate) fn passed<S: Scheme>(mapping: &Mapping<S>, offset: u64, len: usize) {
    if mapping.shared.is_inherited() {
        return;
    }
    let page = FRAME_SIZE as u64;
    let end = offset.saturating_add(len as u64);
    let is_end = end >= mapping.len();
    let first = offset / page;
    let pages = first..if is_end { end.div_ceil(page) } else { end / page };
    if pages.is_empty() {
        return;
    }
    if !offset.is_multiple_of(page) {
        // The reader itself used it, for the step before.
        drop_pages::evict_clean(mapping, first..first + 1, Keep::Hot);
    }
    drop_pages::evict_clean(mapping, pages, Keep::Used);
}
