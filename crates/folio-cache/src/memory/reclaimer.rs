//! The reclaimer: a thread that frees pages before a miss has to.
//!
//! Who misses takes a free frame and leaves. When few are left it rings; the reclaimer brings them
//! back to the high watermark, while who missed reads. (Linux: `kswapd`.) Who finds none at all,
//! because this thread has no processor or everything is held, reclaims by itself: that is counted,
//! as [`CacheStats::direct_reclaims`](crate::CacheStats::direct_reclaims).

use std::time::Duration;

use folio_frames::{Level, UserSpace, Watermarks, Zone};
use folio_ref::Scheme;

use crate::api::cache::Shared;
use crate::memory::evict::BATCH;
use crate::rt::worker::Job;

/// Of all frames, the part below which it begins: one in so many. It ends at [`HIGH`] times that: a
/// wake-up costs as much as some ten misses that are copies.
const LOW: u32 = 256;

const HIGH: u32 = 4;

/// The most that is below, 2 MiB: larger caches do not miss faster.
const LOW_MOST: u32 = 512;

/// After it found nothing: what is held, or dirty and can not be written, will not be free at once.
const REST: Duration = Duration::from_millis(10);

/// Sets the marks of a cache's zone, whose budget is so many frames. How many of those hold pages:
/// a policy that took the others for its own would take them from what is new.
pub(crate) fn set_watermarks<S: Scheme>(zone: &Zone<UserSpace<S>>, frames: u32) -> u32 {
    let low = (frames / LOW).clamp(1, LOW_MOST);
    zone.set_watermarks(Watermarks { min: 0, low, high: HIGH * low });
    frames - HIGH * low
}

impl<S: Scheme> Shared<S> {
    pub(crate) const RECLAIMER: Job<S> =
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
