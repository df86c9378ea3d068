//! Bit 31 set means live: the mail's inverted scheme, highest bit. Zeroed memory is frozen.

use super::bit::Encoding;
use crate::sync::AtomicU32;

const LIVE: u64 = 1 << 31;
const _: () =
    assert!(crate::SATURATED as u64 * 2 <= LIVE, "a live count must not carry out of the word");
const _: () = assert!(crate::STALE_LIMIT as u64 * 2 <= LIVE, "noise must not reach the bit");

/// Live(n) is 2^31 + n; Frozen is the noise alone.
#[derive(Clone, Copy, Debug)]
pub struct LiveBitHigh;

impl Encoding for LiveBitHigh {
    const NAME: &'static str = "live-bit-high";
    const ZERO_IS_FROZEN: bool = true;
    type Atomic = AtomicU32;
    const UNIT: u64 = 1;
    const KEEPS: bool = false;
    const FROZEN: u64 = 0;

    #[inline(always)]
    fn is_frozen(word: u64) -> bool {
        word & LIVE == 0
    }
    #[inline(always)]
    fn count(word: u64) -> u32 {
        (word & (LIVE - 1)) as u32
    }
    #[inline(always)]
    fn live(n: u32, _: u64) -> u64 {
        LIVE | u64::from(n)
    }
    #[inline(always)]
    fn admits(word: u64) -> bool {
        // Bits 31 and 30 are live and saturated.
        (word as u32) >> 30 == 0b10
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
