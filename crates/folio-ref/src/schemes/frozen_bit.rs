//! Bit 31 set means frozen: the patch's scheme. Zeroed memory means *Dying*, which is dangerous:
//! all code that zeroes metadata must initialise it explicitly.

use super::bit::Encoding;
use super::layout::Layout;
use crate::sync::AtomicU32;

/// Bit 31 set means frozen, the patch's scheme: Live(n) is n, Frozen is 2^31 + stale. Zeroed memory
/// means Dying.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Scheme, schemes::FrozenBit};
///
/// assert!(!FrozenBit::ZERO_IS_FROZEN);
/// assert_eq!(size_of::<PageRef<FrozenBit>>(), 4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct FrozenBit;

impl Encoding for FrozenBit {
    const NAME: &'static str = "frozen-bit";
    type Atomic = AtomicU32;
    #[cfg(not(loom))]
    const NEW: AtomicU32 = AtomicU32::new(Self::LAYOUT.frozen() as u32);
    const LAYOUT: Layout = Layout {
        width: 32,
        bit: 1 << 31,
        live: 0,
        shift: 0,
        count: (1 << 31) - 1,
        generation: 0,
        tag: 0,
    }
    .checked();
}
