//! The flusher: a thread that writes dirty pages after a while.
//!
//! Without a thread they are written by syncs, by the last close, and by writers past the limit.

use std::time::Duration;

use folio_ref::Scheme;

use crate::rt::worker::Job;
use crate::state::shared::Shared;

/// How long a page may stay dirty before its turn comes.
const AGE: Duration = Duration::from_secs(1);

impl<S: Scheme> Shared<S> {
    pub(crate) const FLUSHER: Job<Self> =
        Job { name: "folio-flusher", delay: AGE, work: Self::write_what_is_old };

    fn write_what_is_old(&self) -> Duration {
        // The errors are told to who has the files open.
        let failed = self.write_back_all().is_err();
        if self.dirty_pages() > 0 {
            // Dirty again meanwhile, or it failed: then not at once.
            self.flusher.notify_soon();
        }
        if failed { AGE } else { Duration::ZERO }
    }
}
