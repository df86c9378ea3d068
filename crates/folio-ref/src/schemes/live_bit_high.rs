//! Bit 31 set means live: the mail's inverted scheme, highest bit. Zeroed memory is frozen.

use super::bit::Encoding;
use super::layout::Layout;
use crate::sync::AtomicU32;

/// Bit 31 set means live: Live(n) is 2^31 + n, Frozen is the stale increments alone. Zeroed memory
/// is frozen.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Scheme, schemes::LiveBitHigh};
///
/// assert!(LiveBitHigh::ZERO_IS_FROZEN);
/// assert_eq!(size_of::<PageRef<LiveBitHigh>>(), 4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LiveBitHigh;

impl Encoding for LiveBitHigh {
    const NAME: &'static str = "live-bit-high";
    type Atomic = AtomicU32;
    #[cfg(not(loom))]
    const NEW: AtomicU32 = AtomicU32::new(Self::LAYOUT.frozen() as u32);
    const LAYOUT: Layout = Layout {
        width: 32,
        bit: 1 << 31,
        live: 1 << 31,
        shift: 0,
        count: (1 << 31) - 1,
        generation: 0,
        tag: 0,
    }
    .checked();
}
