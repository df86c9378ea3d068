//! The error when no page can be freed, with the places where the memory is.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::error::error;
use crate::state::shared::Shared;

/// Returns the bytes of all dirty pages: those that are newer than their backings.
pub(crate) fn dirty_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    // Relaxed: for reports.
    shared.dirty_pages.load(Ordering::Relaxed) as usize * FRAME_SIZE
}

/// Returns the error of an allocation that found no memory, with the bytes pinned, dirty, offline
/// and in flight. Racy, and a page that is both pinned and dirty counts as dirty: the pinned bytes
/// are those that are nothing else.
#[cold]
pub(crate) fn out_of_memory<S: Scheme>(shared: &Shared<S>) -> io::Error {
    let (dirty, capacity) = (dirty_bytes(shared), shared.capacity());
    let stats = shared.zone().stats();
    let [online, free] =
        [stats.online_frames, stats.free_frames].map(|frames| frames as usize * FRAME_SIZE);
    let offline = capacity.saturating_sub(online);
    let in_flight = shared.memory_wait.in_flight() as usize * FRAME_SIZE;
    let pinned = online.saturating_sub(free + dirty + in_flight);
    tracing::error!(
        capacity,
        pinned,
        dirty,
        offline,
        in_flight,
        "no page of the cache can be freed"
    );
    let message = format!(
        "no page can be freed: of the cache's {capacity} bytes {pinned} are pinned by handles, \
         {dirty} are dirty, {offline} are offline, {in_flight} are in flight"
    );
    #[cfg(feature = "track")]
    let message = format!(
        "{message}; references are held: {}",
        shared.zone().pin_owners_of(shared.zone().pfns())
    );
    error(io::ErrorKind::OutOfMemory, message)
}
