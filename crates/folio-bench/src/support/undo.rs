//! Three ways in which a refused attempt cleans up its increment, from the patch's versions.
//!
//! They are for measurements only and not among folio-ref's schemes, because two of them are not
//! fit for use. A single attempt gives no bound (docs/proof.md), and a reset on each refusal makes
//! it as expensive as a lost race. The encoding is that of `FrozenBit`. Up to the refusal the code
//! of all three is the same.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use folio_ref::STALE_LIMIT;

const FROZEN: u32 = 1 << 31;

/// The clean-up of a refused attempt.
pub(crate) trait Policy: Send + Sync + 'static {
    const NAME: &'static str;

    /// Cleans up. `now` is the word after the increment, frozen.
    fn clean(word: &AtomicU32, now: u32);
}

/// Does nothing below the limit; at the limit it loops until the stale increments are reset. This
/// is the way of folio-ref.
pub(crate) struct AtLimit;

impl Policy for AtLimit {
    const NAME: &'static str = "undo-at-limit";

    fn clean(word: &AtomicU32, mut now: u32) {
        while now >= FROZEN | STALE_LIMIT {
            now = reset(word, now);
        }
    }
}

/// Tries one compare-and-swap back to no stale increments, successful or not.
pub(crate) struct Once;

impl Policy for Once {
    const NAME: &'static str = "undo-once";

    fn clean(word: &AtomicU32, now: u32) {
        reset(word, now);
    }
}

/// Loops until the stale increments are gone, on every refusal.
pub(crate) struct Whenever;

impl Policy for Whenever {
    const NAME: &'static str = "undo-always";

    fn clean(word: &AtomicU32, mut now: u32) {
        while now > FROZEN {
            now = reset(word, now);
        }
    }
}

/// Tries once to reset the word. Returns the word afterwards.
fn reset(word: &AtomicU32, now: u32) -> u32 {
    // Relaxed: frozen to frozen publishes nothing.
    word.compare_exchange(now, FROZEN, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|found| found, |_| FROZEN)
}

/// A word that is frozen and stays frozen.
pub(crate) struct Undo<P>(AtomicU32, PhantomData<P>);

impl<P: Policy> Undo<P> {
    pub(crate) fn frozen() -> Self {
        Self(AtomicU32::new(FROZEN), PhantomData)
    }

    /// Returns `true` if a reference was taken.
    #[inline(always)]
    pub(crate) fn try_get(&self) -> bool {
        // Acquire: the ordering of folio-ref's try_get (R6); nothing is published here.
        let now = self.0.fetch_add(1, Ordering::Acquire).wrapping_add(1);
        if now & FROZEN == 0 {
            return true;
        }
        refuse::<P>(&self.0, now);
        false
    }

    /// Returns the number of stale increments.
    pub(crate) fn stale(&self) -> u32 {
        // Relaxed: a statistic.
        self.0.load(Ordering::Relaxed) & !FROZEN
    }
}

#[cold]
#[inline(never)]
fn refuse<P: Policy>(word: &AtomicU32, now: u32) {
    P::clean(word, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the stale increments after two refusals, with `stale` of them before.
    fn after<P: Policy>(stale: u32) -> u32 {
        let word = Undo::<P>(AtomicU32::new(FROZEN | stale), PhantomData);
        assert!(!word.try_get() && !word.try_get());
        word.stale()
    }

    #[test]
    fn each_policy_leaves_its_stale_increments() {
        assert_eq!((after::<AtLimit>(5), after::<Once>(5), after::<Whenever>(5)), (7, 0, 0));
        assert_eq!(
            after::<AtLimit>(STALE_LIMIT - 1),
            1,
            "the first reset it, the second left its own"
        );
    }

    #[test]
    fn a_lost_attempt_leaves_the_stale_increments() {
        let word = AtomicU32::new(FROZEN | 9);
        Once::clean(&word, FROZEN | 8);
        assert_eq!(word.load(Ordering::Relaxed), FROZEN | 9);
        Whenever::clean(&word, FROZEN | 8);
        assert_eq!(word.load(Ordering::Relaxed), FROZEN);
    }
}
