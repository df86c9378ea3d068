//! How many frames are kept free, for how large a cache.

use folio_frames::Watermarks;
use folio_ref::Scheme;

use crate::state::frames::Zone;

/// Of all frames, the part below which it begins: one in so many. It ends at [`HIGH_FACTOR`] times that: a
/// wake-up costs as much as some ten misses that are copies.
const LOW_SHARE: u32 = 256;

const HIGH_FACTOR: u32 = 4;

/// The most that is below, 2 MiB: larger caches do not miss faster.
const MAX_LOW: u32 = 512;

/// Sets the marks of a cache's zone, whose budget is so many frames. How many of those hold pages:
/// a policy that took the others for its own would take them from what is new.
pub(crate) fn set_watermarks<S: Scheme>(zone: &Zone<S>, frames: u32) -> u32 {
    let low = (frames / LOW_SHARE).clamp(1, MAX_LOW);
    zone.set_watermarks(Watermarks { min: 0, low, high: HIGH_FACTOR * low });
    frames - HIGH_FACTOR * low
}
