//! The seeded bugs of the word: each breaks one rule on purpose, in a build with
//! `--cfg 'broken="NAME"'` only.
//!
//! `cargo x seeded-bugs` builds each and requires that a check fails (docs/seeded-bugs.md). In all
//! other builds the constants change nothing, and the functions do nothing.

use crate::sync::{AtomicU32, Ordering, Word};

/// R5: a live count does not saturate.
pub(super) const NO_SATURATION: bool = cfg!(broken = "count-into-the-bit");

/// R5: stale increments are never reset.
pub(super) const NO_RESET: bool = cfg!(broken = "stale-unbounded");

/// R3: `freeze` accepts one reference more than it was given.
pub(super) const ONE_MORE: u32 = cfg!(broken = "freeze-one-more") as u32;

/// R4: a freeze keeps the generation.
pub(super) const SAME_GENERATION: bool = cfg!(broken = "generation-not-bumped");

/// R3: a claim leaves the tag that it claims, so it excludes no other claim.
#[cfg(target_has_atomic = "64")]
pub(super) const CLAIM_KEEPS_TAG: bool = cfg!(broken = "claim-keeps-tag");

/// R2: the bits of the tag that a reset of stale increments keeps. Without them an owned frame
/// looks unused.
pub(super) const RESET_KEEPS: u64 = if cfg!(broken = "reset-loses-tag") { 0 } else { u64::MAX };

/// R2: returns the stale increments, which `unfreeze` then adds to its references.
#[inline(always)]
pub(super) fn kept_increments<W: Word>(word: &W, count: impl FnOnce(u64) -> u32) -> u32 {
    if cfg!(broken = "init-keeps-stale") { count(word.load(Ordering::Relaxed)) } else { 0 }
}

/// R2: takes a refused increment back with a subtraction.
#[inline(always)]
pub(super) fn subtract_increment<W: Word>(word: &W, n: u64) {
    if cfg!(broken = "undo-by-subtraction") {
        word.fetch_sub(n, Ordering::Relaxed);
    }
}

/// R1, R2, R3: stores a live or dying word over the frozen state that a put has won.
#[inline(always)]
pub(super) fn thaw<W: Word>(word: &W, dying: u64, live: u64, won: bool) {
    if won && cfg!(broken = "freed-left-dying") {
        word.store(dying, Ordering::Relaxed);
    }
    if won && cfg!(broken = "put-clears-frozen") {
        word.store(live, Ordering::Relaxed);
    }
}

/// R1, R2, R3: the counterpart of [`thaw`] where 0 is frozen.
#[inline(always)]
pub(super) fn thaw_zero(word: &AtomicU32) {
    if cfg!(any(broken = "freed-left-dying", broken = "put-clears-frozen")) {
        word.store(1, Ordering::Relaxed);
    }
}
