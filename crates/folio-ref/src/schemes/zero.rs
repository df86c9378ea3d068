//! The value 0 means frozen: Linux before the patch, and Linus Torvalds' variant that guesses 1.
//!
//! There is no Dying state, and no increment is stale: the put that reaches 0 freezes the frame in
//! the same instruction. The price is a compare-and-swap loop in `try_get` (Linux:
//! `include/linux/page_ref.h`, `atomic_add_unless`). Saturation is folio's addition: Linux's page
//! count has none.

use super::{Scheme, seeded_bugs};
use crate::sync::{AtomicU32, Ordering, Word, fence};
use crate::{CHECKS, Refused, SATURATED, Snapshot};

/// Linux before the patch: 0 is frozen, and `try_get` loads the word, then loops on a
/// compare-and-swap.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Scheme, schemes::ZeroFrozen};
///
/// assert!(ZeroFrozen::ZERO_IS_FROZEN && !ZeroFrozen::LEAVES_STALE);
/// assert_eq!(size_of::<PageRef<ZeroFrozen>>(), 4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ZeroFrozen;

/// The encoding of [`ZeroFrozen`]; the loop of `try_get` begins without a load, with the guess that
/// one reference is held.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Scheme, schemes::GuessOne};
///
/// assert!(GuessOne::ZERO_IS_FROZEN && !GuessOne::LEAVES_STALE);
/// assert_eq!(size_of::<PageRef<GuessOne>>(), 4);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct GuessOne;

macro_rules! zero_scheme {
    ($scheme:ty, $name:literal, $first:expr) => {
        impl Scheme for $scheme {
            const NAME: &'static str = $name;
            const ZERO_IS_FROZEN: bool = true;
            const LEAVES_STALE: bool = false;
            const HAS_GENERATION: bool = false;
            type Atomic = AtomicU32;

            #[cfg(not(loom))]
            const NEW: AtomicU32 = AtomicU32::new(0);
            #[cfg(loom)]
            fn new_frozen() -> AtomicU32 {
                AtomicU32::new(0)
            }
            #[inline(always)]
            fn try_get(word: &AtomicU32, n: u32) -> Result<(), Refused> {
                try_get_from(word, n, $first(word))
            }
            #[inline(always)]
            fn get(word: &AtomicU32, n: u32) -> Snapshot {
                get(word, n)
            }
            #[inline(always)]
            fn put_first(word: &AtomicU32, n: u32) -> Option<u64> {
                put(word, n)
            }
            #[inline(always)]
            fn put_second(_: &AtomicU32, _: u64) -> Option<u64> {
                // The first step has frozen the frame.
                Some(0)
            }
            #[inline(always)]
            fn freeze(word: &AtomicU32, expected: u32) -> Result<u64, Snapshot> {
                // Acquire: pairs with Release in put (R6).
                match Word::compare_exchange(word, u64::from(expected), 0, Ordering::Acquire) {
                    Ok(_) => Ok(0),
                    Err(found) => Err(snapshot(found as u32)),
                }
            }
            #[inline(always)]
            fn unfreeze(word: &AtomicU32, _: u64, n: u32) {
                // Release: publishes the frame to every successful try_get (R6).
                Word::store(word, u64::from(n), Ordering::Release);
            }
            #[inline(always)]
            fn take_frozen(_: &AtomicU32) -> u64 {
                0
            }
            #[inline(always)]
            fn held(_: &AtomicU32) -> u64 {
                0
            }
            #[inline(always)]
            fn snapshot(word: &AtomicU32) -> Snapshot {
                snapshot(word.load(Ordering::Relaxed))
            }
        }
    };
}

zero_scheme!(ZeroFrozen, "zero-frozen", |word: &AtomicU32| word.load(Ordering::Relaxed));
zero_scheme!(GuessOne, "guess-one", |_: &AtomicU32| 1);

#[inline(always)]
fn try_get_from(word: &AtomicU32, n: u32, first: u32) -> Result<(), Refused> {
    let mut old = first;
    loop {
        if old == 0 {
            return Err(Refused::Frozen);
        }
        if old >= SATURATED - n {
            return Err(saturate(word, old));
        }
        // Acquire: pairs with Release in unfreeze (R6).
        match word.compare_exchange(old, old + n, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(found) => old = found,
        }
    }
}

#[inline(always)]
fn get(word: &AtomicU32, n: u32) -> Snapshot {
    // Relaxed: the reference that the caller holds has given it the edge.
    let old = word.fetch_add(n, Ordering::Relaxed);
    if old >= SATURATED - n {
        saturate(word, old + n);
    }
    snapshot(old)
}

#[inline(always)]
fn put(word: &AtomicU32, n: u32) -> Option<u64> {
    // Release: what this holder wrote is visible to the put that reaches 0 (R6).
    let old = word.fetch_sub(n, Ordering::Release);
    assert!(
        !CHECKS || old >= n,
        "put of {n} on a frame that is {:?}: the caller holds no such references",
        snapshot(old)
    );
    if old == n {
        // Acquire: pairs with every holder's Release above.
        fence(Ordering::Acquire);
        seeded_bugs::thaw_zero(word);
        return Some(0);
    }
    if old - n >= SATURATED {
        saturate(word, old - n);
    }
    None
}

/// Lifts a saturated count far above the limit, where it stays. Returns the refusal.
#[cold]
#[inline(never)]
fn saturate(word: &AtomicU32, mut now: u32) -> Refused {
    // A try_get that would cross the limit saturates the frame as well: every later one is refused.
    while now >= SATURATED - crate::MAX_AT_ONCE {
        // Relaxed: a leaked frame publishes nothing.
        match word.compare_exchange(
            now,
            SATURATED + SATURATED / 2,
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(_) => break,
            Err(found) => now = found,
        }
    }
    Refused::Saturated
}

#[inline(always)]
fn snapshot(word: u32) -> Snapshot {
    if word == 0 { Snapshot::Frozen { stale: 0 } } else { Snapshot::live(word) }
}
