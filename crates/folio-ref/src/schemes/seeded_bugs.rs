//! The seeded bugs of the word: each breaks one rule on purpose, in a run of
//! `cargo x seeded-bugs` only.
//!
//! `cargo x seeded-bugs` requires that a check fails for each (docs/seeded-bugs.md). In all other
//! builds the functions change nothing.

use crate::sync::{AtomicU32, Ordering, Word};

/// R5: a live count does not saturate.
#[inline(always)]
pub(super) fn no_saturation() -> bool {
    broken!("count-into-the-bit")
}

/// R5: stale increments are never reset.
#[inline(always)]
pub(super) fn no_reset() -> bool {
    broken!("stale-unbounded")
}

/// R3: `freeze` accepts one reference more than it was given.
#[inline(always)]
pub(super) fn one_more() -> u32 {
    u32::from(broken!("freeze-one-more"))
}

/// R4: a freeze keeps the generation.
#[inline(always)]
pub(super) fn same_generation() -> bool {
    broken!("generation-not-bumped")
}

/// R3: a claim leaves the tag that it claims, so it excludes no other claim.
#[cfg(target_has_atomic = "64")]
#[inline(always)]
pub(super) fn claim_keeps_tag() -> bool {
    broken!("claim-keeps-tag")
}

/// R2: the bits of the tag that a reset of stale increments keeps. Without them an owned frame
/// looks unused.
#[inline(always)]
pub(super) fn reset_keeps() -> u64 {
    if broken!("reset-loses-tag") { 0 } else { u64::MAX }
}

/// R2: returns the stale increments, which `unfreeze` then adds to its references.
#[inline(always)]
pub(super) fn kept_increments<W: Word>(word: &W, count: impl FnOnce(u64) -> u32) -> u32 {
    if broken!("init-keeps-stale") { count(word.load(Ordering::Relaxed)) } else { 0 }
}

/// R2: takes a refused increment back with a subtraction.
#[inline(always)]
pub(super) fn subtract_increment<W: Word>(word: &W, n: u64) {
    if broken!("undo-by-subtraction") {
        word.fetch_sub(n, Ordering::Relaxed);
    }
}

/// R1, R2, R3: stores a live or dying word over the frozen state that a put has won.
#[inline(always)]
pub(super) fn thaw<W: Word>(word: &W, dying: u64, live: u64, won: bool) {
    if won && broken!("freed-left-dying") {
        word.store(dying, Ordering::Relaxed);
    }
    if won && broken!("put-clears-frozen") {
        word.store(live, Ordering::Relaxed);
    }
}

/// R1, R2, R3: the counterpart of [`thaw`] where 0 is frozen.
#[inline(always)]
pub(super) fn thaw_zero(word: &AtomicU32) {
    let (left_dying, clears) = (broken!("freed-left-dying"), broken!("put-clears-frozen"));
    if left_dying || clears {
        word.store(1, Ordering::Relaxed);
    }
}
