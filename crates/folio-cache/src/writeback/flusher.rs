//! The flusher: a thread that writes dirty pages after a while.
//!
//! Without a thread they are written by syncs, by the last close, and by writers past the limit.

use std::time::Duration;

use folio_ref::Scheme;

use crate::rt::worker::Job;
use crate::state::shared::Shared;
use crate::writeback::dirty_pages;
use crate::writeback::write_back;

/// The time that a page may stay dirty before the flusher writes it.
const AGE: Duration = Duration::from_secs(1);

impl<S: Scheme> Shared<S> {
    pub(crate) const FLUSHER: Job<Self> =
        Job { name: "flusher", delay: AGE, work: write_old_pages };
}

fn write_old_pages<S: Scheme>(shared: &Shared<S>) -> Duration {
    // Each open of a file that failed has the error reported.
    let failed = write_back::write_back_all(shared).is_err();
    if dirty_pages::count(shared) > 0 {
        // Dirtied again meanwhile, or the write failed: then not at once.
        shared.flusher.notify_soon();
    }
    if failed { AGE } else { Duration::ZERO }
}
