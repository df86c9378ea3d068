//! Bit 0 set means live: the mail's inverted scheme, lowest bit. Zeroed memory is frozen.

use super::bit::Encoding;
use crate::sync::AtomicU32;

const LIVE: u64 = 1;
const _: () =
    assert!(crate::SATURATED as u64 * 4 <= 1 << 32, "a live count must not carry out of the word");
const _: () =
    assert!(crate::STALE_LIMIT as u64 * 4 <= 1 << 32, "noise must not carry out of the word");

/// Live(n) is 2n + 1; Frozen is twice the noise.
#[derive(Clone, Copy, Debug)]
pub struct LiveBitLow;

impl Encoding for LiveBitLow {
    const NAME: &'static str = "live-bit-low";
    const ZERO_IS_FROZEN: bool = true;
    type Atomic = AtomicU32;
    const UNIT: u64 = 2;
    const KEEPS: bool = false;
    const FROZEN: u64 = 0;

    #[inline(always)]
    fn is_frozen(word: u64) -> bool {
        word & LIVE == 0
    }
    #[inline(always)]
    fn count(word: u64) -> u32 {
        (word as u32) >> 1
    }
    #[inline(always)]
    fn live(n: u32, _: u64) -> u64 {
        u64::from(n << 1) | LIVE
    }
    #[inline(always)]
    fn admits(word: u64) -> bool {
        // Bit 31 is count bit 30: saturated.
        word & (LIVE | 1 << 31) == LIVE
    }
    #[inline(always)]
    fn next_frozen(_: u64) -> u64 {
        0
    }
    #[inline(always)]
    fn quiet(_: u64) -> u64 {
        0
    }
}
