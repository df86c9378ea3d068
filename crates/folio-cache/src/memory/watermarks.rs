//! The number of frames that are kept free, by the size of the cache.

use folio_frames::Watermarks;
use folio_ref::Scheme;

use crate::state::frames::Zone;

/// The divisor for the low watermark: the reclaimer begins below this share of all frames. It ends
/// at [`HIGH_FACTOR`] times that: a wake-up costs as much as some ten misses that are copies.
const LOW_SHARE: u32 = 256;

const HIGH_FACTOR: u32 = 4;

/// The maximum of the low watermark, 2 MiB: larger caches do not miss faster.
const MAX_LOW: u32 = 512;

/// Sets the watermarks of a cache's zone for a capacity of `frames` frames. Returns the number of
/// frames for pages. Misses keep about as many free as the low watermark says (`alloc.rs`): a
/// policy that counts those as its own would take them from new pages.
pub(crate) fn set_watermarks<S: Scheme>(zone: &Zone<S>, frames: u32) -> u32 {
    let low = (frames / LOW_SHARE).clamp(1, MAX_LOW);
    zone.set_watermarks(Watermarks { min: 0, low, high: HIGH_FACTOR * low });
    frames - low
}
