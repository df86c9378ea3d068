//! How a refused attempt cleans up its increment: the three ways of the patch's versions, for
//! measurements only.
//!
//! They stand here and not among folio-ref's schemes, because two of them are not fit for use: one
//! attempt is no bound (docs/proof.md), and a reset each time makes a refusal as dear as a lost
//! race. The encoding is that of `FrozenBit`; up to the refusal the code is the same for all.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use folio_ref::STALE_LIMIT;

const FROZEN: u32 = 1 << 31;

/// What a refused attempt does about the increment that it left.
pub(crate) trait Policy: Send + Sync + 'static {
    const NAME: &'static str;

    /// `now` is the word after the increment, frozen.
    fn clean(word: &AtomicU32, now: u32);
}

/// Nothing below the limit; there it loops until the noise is reset. What folio-ref does.
pub(crate) struct AtLimit;

impl Policy for AtLimit {
    const NAME: &'static str = "undo-at-limit";

    fn clean(word: &AtomicU32, mut now: u32) {
        while now >= FROZEN | STALE_LIMIT {
            now = reset(word, now);
        }
    }
}

/// One compare-and-swap back to zero noise, whether it wins or not.
pub(crate) struct Once;

impl Policy for Once {
    const NAME: &'static str = "undo-once";

    fn clean(word: &AtomicU32, now: u32) {
        reset(word, now);
    }
}

/// Loops until the noise is gone, every time.
pub(crate) struct Whenever;

impl Policy for Whenever {
    const NAME: &'static str = "undo-always";

    fn clean(word: &AtomicU32, mut now: u32) {
        while now > FROZEN {
            now = reset(word, now);
        }
    }
}

/// One attempt; what the word is afterwards.
fn reset(word: &AtomicU32, now: u32) -> u32 {
    // Relaxed: frozen to frozen publishes nothing.
    word.compare_exchange(now, FROZEN, Ordering::Relaxed, Ordering::Relaxed)
        .map_or_else(|found| found, |_| FROZEN)
}

/// A word that is frozen and stays so.
pub(crate) struct Undo<P>(AtomicU32, PhantomData<P>);

impl<P: Policy> Undo<P> {
    pub(crate) fn frozen() -> Self {
        Self(AtomicU32::new(FROZEN), PhantomData)
    }

    /// Whether a reference was taken.
    #[inline(always)]
    pub(crate) fn try_get(&self) -> bool {
        // Acquire: what folio-ref's try_get has (R6); nothing is published here.
        let now = self.0.fetch_add(1, Ordering::Acquire).wrapping_add(1);
        if now & FROZEN == 0 {
            return true;
        }
        refuse::<P>(&self.0, now);
        false
    }

    /// Increments that refused attempts left.
    pub(crate) fn noise(&self) -> u32 {
        // Relaxed: a number to look at.
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

    /// The noise after two refusals, with the word at `noise` before.
    fn after<P: Policy>(noise: u32) -> u32 {
        let word = Undo::<P>(AtomicU32::new(FROZEN | noise), PhantomData);
        assert!(!word.try_get() && !word.try_get());
        word.noise()
    }

    #[test]
    fn each_policy_leaves_the_noise_that_it_says() {
        assert_eq!((after::<AtLimit>(5), after::<Once>(5), after::<Whenever>(5)), (7, 0, 0));
        assert_eq!(
            after::<AtLimit>(STALE_LIMIT - 1),
            1,
            "the first reset it, the second left its own"
        );
    }

    #[test]
    fn one_attempt_that_loses_leaves_the_noise() {
        let word = AtomicU32::new(FROZEN | 9);
        Once::clean(&word, FROZEN | 8);
        assert_eq!(word.load(Ordering::Relaxed), FROZEN | 9);
        Whenever::clean(&word, FROZEN | 8);
        assert_eq!(word.load(Ordering::Relaxed), FROZEN);
    }
}
