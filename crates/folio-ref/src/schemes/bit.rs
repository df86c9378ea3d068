//! The algorithm of every scheme with a dedicated bit: one fetch-add to take a reference.
//!
//! The four encodings differ only in where the bit, the count and the generation lie.

use super::{Scheme, seeded_bugs};
use crate::sync::{Ordering, Word};
use crate::{CHECKS, Refused, SATURATED, STALE_LIMIT, Snapshot};

/// Where a saturated count is put: far from both edges, so that no number of threads caught between
/// two steps moves it out (R5).
const PINNED: u32 = SATURATED + SATURATED / 2;

/// What all threads together can add to a word between a refused add and its reset: 2^18 threads,
/// each with [`MAX_AT_ONCE`](crate::MAX_AT_ONCE). `models/invariant.py` proves the bound.
const IN_FLIGHT: u32 = 1 << 28;
const _: () = assert!(PINNED + IN_FLIGHT < 1 << 31, "a pinned count must stay below the bit");

/// How a word is written. All functions are pure; `word` is the atomic's value widened to 64 bits.
pub trait Encoding: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    const ZERO_IS_FROZEN: bool;
    type Atomic: Word;
    /// One reference.
    const UNIT: u64;
    /// Whether a frozen word carries something that `unfreeze` must keep.
    const KEEPS: bool;
    /// Frozen without noise, first generation.
    const FROZEN: u64;

    fn is_frozen(word: u64) -> bool;
    /// References if live, noise if frozen.
    fn count(word: u64) -> u32;
    /// Live with `n` references, in the generation of `word`.
    fn live(n: u32, word: u64) -> u64;
    /// Live, and below saturation: one mask and one compare.
    fn admits(word: u64) -> bool;
    /// The frozen word, without noise, that follows the live `word`.
    fn next_frozen(word: u64) -> u64;
    /// The frozen `word` without its noise.
    fn quiet(word: u64) -> u64;
}

impl<E: Encoding> Scheme for E {
    const NAME: &'static str = E::NAME;
    const ZERO_IS_FROZEN: bool = E::ZERO_IS_FROZEN;
    const LEAVES_STALE: bool = true;
    type Atomic = E::Atomic;

    fn new_frozen() -> E::Atomic {
        E::Atomic::new(E::FROZEN)
    }

    #[inline(always)]
    fn try_get(word: &E::Atomic, n: u32) -> Result<(), Refused> {
        let n = u64::from(n) * E::UNIT;
        // Acquire: pairs with Release in unfreeze, so the holder sees what the token's holder wrote
        // (R6).
        let old = word.fetch_add(n, Ordering::Acquire);
        // The sum is judged as well: the last reference below saturation must not carry past it
        // unseen.
        if E::admits(old) && E::admits(old.wrapping_add(n))
            || seeded_bugs::NO_SATURATION && !E::is_frozen(old)
        {
            Ok(())
        } else {
            Err(refuse::<E>(word, old, n))
        }
    }

    #[inline(always)]
    fn get(word: &E::Atomic, n: u32) -> Snapshot {
        // Relaxed: the reference that the caller holds already gave it the edge.
        let old = word.fetch_add(u64::from(n) * E::UNIT, Ordering::Relaxed);
        if E::count(old) >= SATURATED - n {
            pin::<E>(word, SATURATED);
        }
        snapshot::<E>(old)
    }

    #[inline(always)]
    fn put_first(word: &E::Atomic, n: u32) -> Option<u64> {
        // Release: what this holder wrote is visible to whoever wins the frame (R6), through the
        // release sequence of read-modify-writes up to the winner's compare-and-swap.
        let old = word.fetch_sub(u64::from(n) * E::UNIT, Ordering::Release);
        assert!(
            !CHECKS || !E::is_frozen(old) && E::count(old) >= n,
            "put of {n} on a frame that is {:?}: the caller holds no such references",
            snapshot::<E>(old)
        );
        // One compare for both rare cases: exactly n wraps to the top, saturated is above the
        // limit.
        let left = E::count(old).wrapping_sub(n);
        if left.wrapping_sub(1) < SATURATED - 1 {
            return None;
        }
        if left == 0 {
            return Some(E::live(0, old));
        }
        pin::<E>(word, SATURATED);
        None
    }

    #[inline(always)]
    fn put_second(word: &E::Atomic, dying: u64) -> bool {
        // Acquire: pairs with every holder's Release in put_first (R6). With a generation in
        // `dying` this fails when the frame moved on in between; without one it may win
        // another life's frame (R4).
        let won = word.compare_exchange(dying, E::next_frozen(dying), Ordering::Acquire).is_ok();
        seeded_bugs::thaw::<E>(word, dying, won);
        won
    }

    #[inline(always)]
    fn freeze(word: &E::Atomic, expected: u32) -> Result<(), Snapshot> {
        let expected = expected + seeded_bugs::ONE_MORE;
        // Relaxed, and not looked at again: the references that the caller holds keep the
        // generation, and the way it got them has shown it this one.
        let live = E::live(expected, if E::KEEPS { word.load(Ordering::Relaxed) } else { 0 });
        // Acquire: pairs with Release in put_first, so the new owner may overwrite what holders
        // read (R6).
        match word.compare_exchange(live, E::next_frozen(live), Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(found) => Err(snapshot::<E>(found)),
        }
    }

    #[inline(always)]
    fn unfreeze(word: &E::Atomic, n: u32) {
        // Relaxed: only noise changes under the token's holder, and the noise is not kept.
        let frozen = if E::KEEPS { word.load(Ordering::Relaxed) } else { 0 };
        let n = n + seeded_bugs::kept_increments::<E>(word);
        // Release: publishes the frame to every successful try_get (R6).
        word.store(E::live(n, frozen), Ordering::Release);
    }

    fn snapshot(word: &E::Atomic) -> Snapshot {
        snapshot::<E>(word.load(Ordering::Relaxed))
    }
}

fn snapshot<E: Encoding>(word: u64) -> Snapshot {
    if E::is_frozen(word) {
        Snapshot::Frozen { stale: E::count(word) }
    } else {
        Snapshot::live(E::count(word))
    }
}

/// What a refused `try_get` still owes: the bound on noise, or the pin of a saturated count.
///
/// The add is never taken back by a subtract: the frame may have been reinitialised in between, and
/// the subtract would steal a reference (R2).
#[cold]
#[inline(never)]
fn refuse<E: Encoding>(word: &E::Atomic, old: u64, n: u64) -> Refused {
    if !E::is_frozen(old) {
        // Whatever the count is by now: what was added belongs to nobody, so the frame is leaked
        // already.
        pin::<E>(word, 0);
        return Refused::Saturated;
    }
    assert!(
        !CHECKS || E::count(old) <= STALE_LIMIT + IN_FLIGHT,
        "a frozen frame has a noise of {}: more than all threads together can leave (R5)",
        E::count(old)
    );
    seeded_bugs::subtract_increment(word, n);
    let mut now = old.wrapping_add(n);
    // R5: loop until the noise was reset, by us or by somebody, or the frame is live again. One
    // attempt is not enough: there are schedules in which every single attempt fails.
    while E::is_frozen(now) && E::count(now) >= STALE_LIMIT && !seeded_bugs::NO_RESET {
        // Relaxed: frozen to frozen publishes nothing.
        match word.compare_exchange(now, E::quiet(now), Ordering::Relaxed) {
            Ok(_) => break,
            Err(found) => now = found,
        }
    }
    Refused::Frozen
}

/// Puts a count of `from` or more far above the limit, where it stays: no freeze accepts it, no put
/// ends it.
#[cold]
#[inline(never)]
fn pin<E: Encoding>(word: &E::Atomic, from: u32) {
    let mut now = word.load(Ordering::Relaxed);
    while !E::is_frozen(now) && E::count(now) >= from && !seeded_bugs::NO_SATURATION {
        // Relaxed: a leaked frame publishes nothing.
        match word.compare_exchange(now, E::live(PINNED, now), Ordering::Relaxed) {
            Ok(_) => break,
            Err(found) => now = found,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::catch_unwind;
    use std::string::String;

    use super::*;
    use crate::schemes::LiveBitHigh;
    use crate::sync::AtomicU32;

    /// What a user is told, provoked from inside: no caller can.
    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn noise_beyond_what_all_threads_can_leave_is_reported() {
        let panic = catch_unwind(|| {
            let word = <AtomicU32 as Word>::new(u64::from(STALE_LIMIT + IN_FLIGHT + 1));
            LiveBitHigh::try_get(&word, 1)
        });
        let said = *panic.expect_err("nobody noticed").downcast::<String>().expect("a message");
        assert!(said.contains("more than all threads together can leave (R5)"), "{said}");
    }
}
