//! The reclaimer: a thread that frees pages where a miss cannot.
//!
//! A miss evicts pages for its own thread (`alloc.rs`). If the policy names too few, because the
//! others are pinned or dirty, it notifies the reclaimer. That writes dirty pages, and brings the
//! free frames to the high watermark. (Linux: `kswapd`.) A miss that finds no free frame even so
//! reclaims by all means. Such misses are counted as
//! [`CacheStats::direct_reclaims`](crate::CacheStats::direct_reclaims).

use std::time::Duration;

use folio_frames::Level;
use folio_ref::Scheme;

use crate::memory::capacity;
use crate::memory::frames_view::BATCH;
use crate::memory::reclaim;
use crate::rt::worker::Job;
use crate::state::shared::Shared;
use crate::writeback::throttle;

/// The pause after a round that freed nothing: pinned or dirty pages are not evictable at once.
const BACK_OFF: Duration = Duration::from_millis(10);

/// The frames that one round visits if the policy names no victim. So while all pages are pinned,
/// this thread takes a small part of a CPU.
const VISITS: u32 = 4096;

impl<S: Scheme> Shared<S> {
    pub(crate) const RECLAIMER: Job<Self> =
        Job { name: "reclaim", delay: Duration::ZERO, work: free_to_high_watermark };
}

fn free_to_high_watermark<S: Scheme>(shared: &Shared<S>) -> Duration {
    capacity::fit(shared);
    let mut pause = Duration::ZERO;
    while pause.is_zero() && !shared.zone().is_at_least(Level::Enough) {
        if reclaim::reclaim_some(shared, BATCH, VISITS) == 0 && !throttle::write_back_some(shared) {
            pause = BACK_OFF;
        }
    }
    // Frames that were freed here lie in this thread's lists, which no other thread asks first.
    shared.zone().drain_this_cpu();
    pause
}
