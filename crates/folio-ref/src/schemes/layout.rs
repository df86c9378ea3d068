//! The layout of a word: which bits are the live bit, the count, the generation and the tag.
//!
//! The encoding of each scheme with a bit is one [`Layout`]. The algorithm in `bit.rs` reads words
//! through it, and `cargo x c-header` writes it as C.

use super::seeded_bugs;
use crate::{SATURATED, STALE_LIMIT};

/// The constants of an encoding. Masks lie where their field lies in the word, which is widened to
/// 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The width of the word: 32 or 64.
    pub width: u32,
    /// The bit that tells live words from frozen ones.
    pub bit: u64,
    /// The value of that bit in a live word: the bit itself, or 0.
    pub live: u64,
    /// The position of the count, which counts stale increments in a frozen word.
    pub shift: u32,
    /// The mask of the count.
    pub count: u64,
    /// The mask of the generation, which each freeze increments; or 0.
    pub generation: u64,
    /// The mask of the tag of a frozen word; or 0. All ones mean that an exclusive handle exists.
    pub tag: u64,
}

impl Layout {
    /// Returns the layout if a count has room for [`SATURATED`] twice: neither a live count nor
    /// stale increments can then leave their field (R5).
    pub(super) const fn checked(self) -> Self {
        let most = self.count >> self.shift;
        assert!(SATURATED as u64 * 2 <= most + 1, "a live count must not leave its field");
        assert!(STALE_LIMIT as u64 * 2 <= most + 1, "stale increments must not leave their field");
        assert!(self.bit & (self.count | self.generation | self.tag) == 0, "fields overlap");
        assert!(self.count & (self.generation | self.tag) == 0, "fields overlap");
        assert!(self.generation & self.tag == 0, "fields overlap");
        self
    }

    /// Returns the value of one reference.
    #[inline(always)]
    pub const fn unit(&self) -> u64 {
        1 << self.shift
    }

    /// Returns the bits of the count that are set only in a saturated one.
    #[inline(always)]
    pub const fn saturated(&self) -> u64 {
        self.count & !((SATURATED as u64 - 1) << self.shift)
    }

    /// Returns what a freeze adds to the generation.
    #[inline(always)]
    pub const fn bump(&self) -> u64 {
        // The lowest bit of the mask.
        self.generation & self.generation.wrapping_neg()
    }

    /// Returns a new frozen word: no stale increments, the first generation, tag 0.
    #[inline(always)]
    pub const fn frozen(&self) -> u64 {
        self.bit ^ self.live
    }

    #[inline(always)]
    pub(super) const fn is_frozen(&self, word: u64) -> bool {
        word & self.bit != self.live
    }

    /// Returns the references if live, the stale increments if frozen.
    #[inline(always)]
    pub(super) const fn count(&self, word: u64) -> u32 {
        ((word & self.count) >> self.shift) as u32
    }

    /// Returns the live word with `n` references, in the generation of `word`.
    #[inline(always)]
    pub(super) const fn live(&self, n: u32, word: u64) -> u64 {
        self.live | word & self.generation | (n as u64) << self.shift
    }

    /// Returns `true` if live and below saturation: one mask and one compare.
    #[inline(always)]
    pub(super) const fn admits(&self, word: u64) -> bool {
        word & (self.bit | self.saturated()) == self.live
    }

    /// Returns the frozen word of an exclusive handle, without stale increments, that follows the
    /// live `word`.
    #[inline(always)]
    pub(super) fn next_frozen(&self, word: u64) -> u64 {
        let bump = if seeded_bugs::same_generation() { 0 } else { self.bump() };
        let generation = (word & self.generation).wrapping_add(bump) & self.generation;
        self.frozen() | generation | self.tag
    }

    /// Returns the frozen `word` without its stale increments.
    #[inline(always)]
    pub(super) fn without_stale(&self, word: u64) -> u64 {
        word & (self.bit | self.generation | self.tag & seeded_bugs::reset_keeps())
    }

    /// Returns the frozen word of an exclusive handle, without stale increments, in the generation
    /// of `word`.
    #[inline(always)]
    pub(super) const fn held(&self, word: u64) -> u64 {
        self.frozen() | word & self.generation | self.tag
    }

    /// Returns the frozen word under a tag, without stale increments, in the generation of `word`.
    #[cfg(target_has_atomic = "64")]
    #[inline(always)]
    pub(super) const fn left(&self, tag: u8, word: u64) -> u64 {
        self.frozen() | word & self.generation | (tag as u64) << self.tag.trailing_zeros()
    }

    /// Returns the tag of the frozen `word`, or `None` if an exclusive handle exists.
    #[inline(always)]
    pub(super) const fn tag(&self, word: u64) -> Option<u8> {
        if word & self.tag == self.tag {
            return None;
        }
        Some(((word & self.tag) >> self.tag.trailing_zeros()) as u8)
    }
}
