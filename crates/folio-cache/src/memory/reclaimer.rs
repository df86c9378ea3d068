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
use crate::rt::worker::Job;
use crate::state::shared::Shared;

/// After it found nothing: what is held, or dirty and can not be written, will not be free at once.
const REST: Duration = Duration::from_millis(10);

impl<S: Scheme> Shared<S> {
    pub(crate) const RECLAIMER: Job<Self> =
        Job { name: "folio-reclaim", delay: Duration::ZERO, work: Self::free_what_is_needed };

    /// Has frames freed in the background if few are left.
    #[inline]
    pub(crate) fn look_at_level(&self) {
        if !self.zone().is_at_least(Level::BelowHigh) {
            self.reclaimer.notify_now();
        }
    }

    fn free_what_is_needed(&self) -> Duration {
        self.fit();
        let mut pause = Duration::ZERO;
        while pause.is_zero() && !self.zone().is_at_least(Level::Enough) {
            if self.reclaim(BATCH) == 0 && !self.write_back_some() {
                pause = REST;
            }
        }
        // What was freed here lies in this thread's lists, which nobody else asks first.
        self.zone().drain();
        pause
    }
}
