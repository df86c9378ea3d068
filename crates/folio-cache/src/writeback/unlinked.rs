//! Files without a name: nothing can open them again, so nothing needs their dirty pages.
//!
//! A file that is unlinked and has no open is not written, and not kept as unwritten. Its dirty
//! pages leave with its mapping, when the last reference to that goes. **Invariant:** they leave
//! in no other way, so an open that finds the mapping finds them.

use folio_ref::Scheme;

use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// Returns `true` if the file has no name.
pub(crate) fn is_unlinked<S: Scheme>(mapping: &Mapping<S>) -> bool {
    let _request = mapping.shared.requests.begin_query(mapping.id);
    let writer = mapping.writing().and_then(|writing| writing.backing.get());
    writer.unwrap_or_else(|| mapping.backing()).is_unlinked()
}

/// Forgets a mapping that has dirty pages, no open and no name. Returns `true` if it did.
pub(crate) fn forget_if_unlinked<S: Scheme>(shared: &Shared<S>, mapping: &Mapping<S>) -> bool {
    if mapping.is_open() || !is_unlinked(mapping) {
        return false;
    }
    tracing::debug!(backing = ?mapping.file_id(), "a file without a name is not written");
    let kept = shared.unwritten.lock().remove(&mapping.id);
    // Not under the lock: it may be the last one.
    drop(kept);
    true
}
