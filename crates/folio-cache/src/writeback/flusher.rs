//! The flusher: a thread that writes dirty pages after a while.
//!
//! Without a thread they are written by syncs, by the last close, and by writers past the limit.

use std::time::Duration;

use folio_ref::Scheme;

use crate::rt::worker::Job;
use crate::state::shared::Shared;
use crate::writeback::write_back;

/// How long a page may stay dirty before its turn comes.
const AGE: Duration = Duration::from_secs(1);

impl<S: Scheme> Shared<S> {
    pub(crate) const FLUSHER: Job<Self> =
        Job { name: "flusher", delay: AGE, work: write_old_pages };
}

fn write_old_pages<S: Scheme>(shared: &Shared<S>) -> Duration {
    // Each open of a file that failed has the error reported.
    let failed = write_back::write_back_all(shared).is_err();
    if write_back::dirty_pages(shared) > 0 {
        // Dirtied again meanwhile, or it failed: then not at once.
        shared.flusher.notify_soon();
    }
    if failed { AGE } else { Duration::ZERO }
}
