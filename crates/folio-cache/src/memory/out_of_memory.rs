//! What is said when no page can be freed: where the memory is.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::error::error;
use crate::memory::pinned;
use crate::state::shared::Shared;

/// Pages that are newer than their backings, of all files, in bytes.
pub(crate) fn dirty_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    // Relaxed: for reports.
    shared.dirty_pages.load(Ordering::Relaxed) as usize * FRAME_SIZE
}

/// The error of who found no memory, with how much is pinned, dirty and offline. Racy: pages
/// may be pinned and dirty.
#[cold]
pub(crate) fn out_of_memory<S: Scheme>(shared: &Shared<S>) -> io::Error {
    let (pinned, dirty, capacity) =
        (pinned::pinned_bytes(shared), dirty_bytes(shared), shared.capacity());
    let online = shared.zone().stats().online_frames as usize * FRAME_SIZE;
    let offline = capacity.saturating_sub(online);
    tracing::error!(capacity, pinned, dirty, offline, "no page of the cache can be freed");
    let message = format!(
        "no page can be freed: of the cache's {capacity} bytes {pinned} are pinned by handles, {dirty} are dirty, \
         {offline} are offline"
    );
    #[cfg(feature = "track")]
    let message = format!(
        "{message}; references are held: {}",
        shared.zone().pin_owners_of(shared.zone().pfns())
    );
    error(io::ErrorKind::OutOfMemory, message)
}
