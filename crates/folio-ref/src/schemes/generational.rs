//! A live bit, a generation that every freeze bumps, and the count, in 64 bits: ours.
//!
//! ```text
//!  63   62 ........ 32   31 ........ 0
//! live   generation      count / noise
//! ```
//!
//! A put that sleeps between its two steps expects the generation it saw: once the frame was
//! frozen, its compare-and-swap fails, so the reuse race of R4 can not win. The generation wraps
//! after 2^31 freezes of one frame; to be fooled, a thread would have to sleep through exactly that
//! many.

use super::bit::Encoding;
use super::seeded_bugs;
use crate::sync::AtomicU64;

const LIVE: u64 = 1 << 63;
const COUNT: u64 = (1 << 32) - 1;
const GENERATION: u64 = !(LIVE | COUNT);
const BUMP: u64 = if seeded_bugs::SAME_GENERATION { 0 } else { 1 << 32 };
const SATURATED: u64 = 0b11 << 30;
const _: () =
    assert!(crate::SATURATED as u64 * 4 <= COUNT + 1, "a live count must not reach the generation");
const _: () =
    assert!(crate::STALE_LIMIT as u64 * 4 <= COUNT + 1, "noise must not reach the generation");

/// Live(n) is 2^63 + generation + n; Frozen is the next generation + noise.
#[derive(Clone, Copy, Debug)]
pub struct Generational;

impl Encoding for Generational {
    const NAME: &'static str = "generational";
    const ZERO_IS_FROZEN: bool = true;
    type Atomic = AtomicU64;
    const UNIT: u64 = 1;
    const KEEPS: bool = true;
    const FROZEN: u64 = 0;

    #[inline(always)]
    fn is_frozen(word: u64) -> bool {
        word & LIVE == 0
    }
    #[inline(always)]
    fn count(word: u64) -> u32 {
        word as u32
    }
    #[inline(always)]
    fn live(n: u32, word: u64) -> u64 {
        LIVE | word & GENERATION | u64::from(n)
    }
    #[inline(always)]
    fn admits(word: u64) -> bool {
        word & (LIVE | SATURATED) == LIVE
    }
    #[inline(always)]
    fn next_frozen(word: u64) -> u64 {
        (word & GENERATION).wrapping_add(BUMP) & GENERATION
    }
    #[inline(always)]
    fn quiet(word: u64) -> u64 {
        word & GENERATION
    }
}
