//! Bit 0 set means live: the mail's inverted scheme, lowest bit. Zeroed memory is frozen.

use super::bit::Encoding;
use super::layout::Layout;
use crate::sync::AtomicU32;

/// Bit 0 set means live: Live(n) is 2n + 1, Frozen is twice the stale increments. Zeroed memory is
/// frozen.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Scheme, schemes::LiveBitLow};
///
/// assert!(LiveBitLow::ZERO_IS_FROZEN);
/// assert_eq!(size_of::<PageRef<LiveBitLow>>(), 4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LiveBitLow;

impl Encoding for LiveBitLow {
    const NAME: &'static str = "live-bit-low";
    type Atomic = AtomicU32;
    #[cfg(not(loom))]
    const NEW: AtomicU32 = AtomicU32::new(Self::LAYOUT.frozen() as u32);
    const LAYOUT: Layout = Layout {
        width: 32,
        bit: 1,
        live: 1,
        shift: 1,
        count: ((1 << 31) - 1) << 1,
        generation: 0,
        tag: 0,
    }
    .checked();
}
