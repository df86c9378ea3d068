//! What is said when no page can be freed: where the memory is.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::state::shared::Shared;

impl<S: Scheme> Shared<S> {
    /// Pages that are newer than their backings, of all files, in bytes.
    pub(crate) fn dirty_bytes(&self) -> usize {
        // Relaxed: for reports.
        self.dirty_pages.load(Ordering::Relaxed) as usize * FRAME_SIZE
    }

    /// The error of who found no memory, with how much is pinned, dirty and offline. Racy: pages
    /// may be pinned and dirty.
    #[cold]
    pub(crate) fn out_of_memory(&self) -> io::Error {
        let (pinned, dirty, capacity) = (self.pinned_bytes(), self.dirty_bytes(), self.capacity());
        let online = self.zone().stats().online_frames as usize * FRAME_SIZE;
        let offline = capacity.saturating_sub(online);
        tracing::error!(capacity, pinned, dirty, offline, "no page of the cache can be freed");
        let message = format!(
            "no page can be freed: of the cache's {capacity} bytes {pinned} are pinned by handles, {dirty} are dirty, \
             {offline} are offline"
        );
        #[cfg(feature = "track")]
        let message = format!(
            "{message}; references are held: {}",
            self.zone().pin_owners_of(self.zone().pfns())
        );
        io::Error::new(io::ErrorKind::OutOfMemory, message)
    }
}
