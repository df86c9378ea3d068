//! Bit 31 set means frozen: the patch's scheme. Zeroed memory means *Dying*, which is dangerous:
//! every place that zeroes metadata must initialise it explicitly.

use super::bit::Encoding;
use crate::sync::AtomicU32;

const FROZEN: u64 = 1 << 31;
const _: () = assert!(crate::SATURATED as u64 * 2 <= FROZEN, "a live count must not reach the bit");
const _: () =
    assert!(crate::STALE_LIMIT as u64 * 2 <= FROZEN, "noise must not carry out of the word");

/// Live(n) is n; Frozen is 2^31 + noise.
#[derive(Clone, Copy, Debug)]
pub struct FrozenBit;

impl Encoding for FrozenBit {
    const NAME: &'static str = "frozen-bit";
    const ZERO_IS_FROZEN: bool = false;
    type Atomic = AtomicU32;
    const UNIT: u64 = 1;
    const KEEPS: bool = false;
    const FROZEN: u64 = FROZEN;

    #[inline(always)]
    fn is_frozen(word: u64) -> bool {
        word & FROZEN != 0
    }
    #[inline(always)]
    fn count(word: u64) -> u32 {
        (word & (FROZEN - 1)) as u32
    }
    #[inline(always)]
    fn live(n: u32, _: u64) -> u64 {
        u64::from(n)
    }
    #[inline(always)]
    fn admits(word: u64) -> bool {
        (word as u32) < crate::SATURATED
    }
    #[inline(always)]
    fn next_frozen(_: u64) -> u64 {
        FROZEN
    }
    #[inline(always)]
    fn quiet(_: u64) -> u64 {
        FROZEN
    }
}
