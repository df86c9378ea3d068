//! The flusher: a thread that has dirty pages written after a while, by the threads of
//! [`FlushPool`](crate::rt::flush_pool::FlushPool).
//!
//! Without a thread they are written by syncs, by the last close, and by writers past the limit.

use std::time::Duration;

use folio_ref::{Scheme, broken};

use crate::rt::foreign::catch_panic;
use crate::rt::worker::Job;
use crate::state::health::Why;
use crate::state::shared::Shared;
use crate::writeback::dirty_pages;
use crate::writeback::sync;

/// The time that a page may stay dirty before the flusher writes it.
const AGE: Duration = Duration::from_secs(1);

/// The pause between two rounds: writers past the limit notify the flusher for each page.
const PAUSE: Duration = Duration::from_millis(2);

impl<S: Scheme> Shared<S> {
    pub(crate) const FLUSHER: Job<Self> =
        Job { name: "flusher", delay: AGE, work: write_old_pages };
}

fn write_old_pages<S: Scheme>(shared: &Shared<S>) -> Duration {
    dirty_pages::find_hung(shared);
    let mut failed = false;
    for mapping in shared.registry.dirty() {
        if broken!("flusher-idle") {
            continue;
        }
        if !mapping.make_writing().health.may_write(Why::Age) {
            // It may have been deleted to make room: its memory and its space come back then.
            if !mapping.is_open() {
                shared.flush_pool.request_to_forget(&mapping);
            }
            continue;
        }
        if !shared.flush_pool.request(&mapping) {
            // The system gives no second thread. Each open of a file that failed reports the error.
            failed |= !matches!(catch_panic(|| sync::flush_or_forget(&mapping)), Ok(Ok(())));
        }
    }
    if dirty_pages::count(shared) > 0 {
        // Under way, dirtied again meanwhile, or the write failed.
        shared.flusher.notify_soon();
    }
    if failed { AGE } else { PAUSE }
}
