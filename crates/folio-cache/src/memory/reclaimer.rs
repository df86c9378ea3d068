//! The reclaimer: a thread that frees pages before a miss has to.
//!
//! Who misses takes a free frame and leaves. When few are left it rings; the reclaimer brings them
//! back to the high watermark, while who missed reads. (Linux: `kswapd`.) Who finds none at all,
//! because this thread has no processor or everything is held, reclaims by itself: that is counted,
//! as [`CacheStats::direct_reclaims`](crate::CacheStats::direct_reclaims).

use std::time::Duration;

use folio_frames::Level;
use folio_ref::Scheme;

use crate::memory::alloc::BATCH;
use crate::memory::capacity;
use crate::memory::evict;
use crate::rt::worker::Job;
use crate::state::shared::Shared;
use crate::writeback::write_back;

/// After it found nothing: what is held, or dirty and can not be written, will not be free at once.
const REST: Duration = Duration::from_millis(10);

impl<S: Scheme> Shared<S> {
    pub(crate) const RECLAIMER: Job<Self> =
        Job { name: "reclaim", delay: Duration::ZERO, work: free_to_high_watermark };
}

/// Notifies the reclaimer if few frames are free. Never waits.
#[inline]
pub(crate) fn notify_if_low<S: Scheme>(shared: &Shared<S>) {
    if !shared.zone().is_at_least(Level::BelowHigh) {
        shared.reclaimer.notify_now();
    }
}

fn free_to_high_watermark<S: Scheme>(shared: &Shared<S>) -> Duration {
    capacity::fit(shared);
    let mut pause = Duration::ZERO;
    while pause.is_zero() && !shared.zone().is_at_least(Level::Enough) {
        if evict::reclaim(shared, BATCH) == 0 && !write_back::write_back_some(shared) {
            pause = REST;
        }
    }
    // What was freed here lies in this thread's lists, which no other thread asks first.
    shared.zone().drain();
    pause
}
