//! The algorithm of every scheme with a dedicated bit: one fetch-add to take a reference.
//!
//! The encodings differ only in where the bit, the count, the generation and the tag lie.

use super::layout::Layout;
use super::{Scheme, seeded_bugs};
use crate::sync::{Ordering, Word};
use crate::{CHECKS, Refused, SATURATED, STALE_LIMIT, Snapshot, Tag};

/// The value of a saturated count: far from both edges, so that no number of threads between two
/// steps moves it out (R5).
const PINNED: u32 = SATURATED + SATURATED / 2;

/// The maximum that all threads together add to a word between a refused add and its reset: 2^18
/// threads, each with [`MAX_AT_ONCE`](crate::MAX_AT_ONCE). `models/invariant.py` proves the bound.
const IN_FLIGHT: u32 = 1 << 28;
const _: () = assert!(PINNED + IN_FLIGHT < 1 << 31, "a pinned count must stay below the bit");

/// The encoding of a word. One with tags has a generation too.
pub trait Encoding: Copy + Send + Sync + 'static {
    const NAME: &'static str;
    const ZERO_IS_FROZEN: bool = Self::LAYOUT.frozen() == 0;
    type Atomic: Word;
    /// A new frozen word.
    #[cfg(not(loom))]
    const NEW: Self::Atomic;
    /// The constants. They are read with the word's value widened to 64 bits.
    const LAYOUT: Layout;
}

impl<E: Encoding> Scheme for E {
    const NAME: &'static str = E::NAME;
    const ZERO_IS_FROZEN: bool = E::ZERO_IS_FROZEN;
    const LEAVES_STALE: bool = true;
    const HAS_GENERATION: bool = E::LAYOUT.generation != 0;
    type Atomic = E::Atomic;

    #[cfg(not(loom))]
    const NEW: E::Atomic = E::NEW;

    #[cfg(loom)]
    fn new_frozen() -> E::Atomic {
        E::Atomic::new(E::LAYOUT.frozen())
    }

    #[inline(always)]
    fn try_get(word: &E::Atomic, n: u32) -> Result<(), Refused> {
        let n = u64::from(n) * E::LAYOUT.unit();
        // Acquire: pairs with Release in unfreeze, so the new holder sees what the owner wrote
        // (R6).
        let old = word.fetch_add(n, Ordering::Acquire);
        // The sum is checked as well: the last reference below saturation must not carry past it.
        if E::LAYOUT.admits(old) && E::LAYOUT.admits(old.wrapping_add(n))
            || seeded_bugs::no_saturation() && !E::LAYOUT.is_frozen(old)
        {
            Ok(())
        } else {
            Err(refuse::<E>(word, old, n))
        }
    }

    #[inline(always)]
    fn get(word: &E::Atomic, n: u32) -> Snapshot {
        // Relaxed: the reference that the caller holds has given it the edge.
        let old = word.fetch_add(u64::from(n) * E::LAYOUT.unit(), Ordering::Relaxed);
        if E::LAYOUT.count(old) >= SATURATED - n {
            pin::<E>(word, SATURATED);
        }
        snapshot::<E>(old)
    }

    #[inline(always)]
    fn put_first(word: &E::Atomic, n: u32) -> Option<u64> {
        // Release: what this holder wrote is visible to the winner of the frame (R6), through the
        // release sequence of read-modify-writes up to the winner's compare-and-swap.
        let old = word.fetch_sub(u64::from(n) * E::LAYOUT.unit(), Ordering::Release);
        assert!(
            !CHECKS || !E::LAYOUT.is_frozen(old) && E::LAYOUT.count(old) >= n,
            "put of {n} on a frame that is {:?}: the caller holds no such references",
            snapshot::<E>(old)
        );
        // One compare for both rare cases: a count of exactly n wraps to the top, a saturated one
        // is above the limit.
        let left = E::LAYOUT.count(old).wrapping_sub(n);
        if left.wrapping_sub(1) < SATURATED - 1 {
            return None;
        }
        if left == 0 {
            return Some(E::LAYOUT.live(0, old));
        }
        pin::<E>(word, SATURATED);
        None
    }

    #[inline(always)]
    fn put_second(word: &E::Atomic, dying: u64) -> Option<u64> {
        // Acquire: pairs with every holder's Release in put_first (R6). With a generation in
        // `dying` this fails if the frame was frozen in between; without one it may win the frame
        // of another life (R4).
        let frozen = E::LAYOUT.next_frozen(dying);
        let won = word.compare_exchange(dying, frozen, Ordering::Acquire).is_ok();
        seeded_bugs::thaw(word, dying, E::LAYOUT.live(1, dying), won);
        won.then_some(frozen)
    }

    #[inline(always)]
    fn freeze(word: &E::Atomic, expected: u32) -> Result<u64, Snapshot> {
        let expected = expected + seeded_bugs::one_more();
        // Relaxed, and loaded once: the references that the caller holds keep the generation, and
        // the edge by which it got them has made this one visible.
        let live = E::LAYOUT
            .live(expected, if E::HAS_GENERATION { word.load(Ordering::Relaxed) } else { 0 });
        // Acquire: pairs with Release in put_first, so the new owner may overwrite what earlier
        // holders read (R6).
        let frozen = E::LAYOUT.next_frozen(live);
        match word.compare_exchange(live, frozen, Ordering::Acquire) {
            Ok(_) => Ok(frozen),
            Err(found) => Err(snapshot::<E>(found)),
        }
    }

    #[inline(always)]
    fn unfreeze(word: &E::Atomic, frozen: u64, n: u32) {
        // While the owner has the handle only stale increments change, and they are not kept.
        let n = n + seeded_bugs::kept_increments(word, |word| E::LAYOUT.count(word));
        // Release: publishes the frame to every successful try_get (R6).
        word.store(E::LAYOUT.live(n, frozen), Ordering::Release);
    }

    #[inline(always)]
    fn take_frozen(word: &E::Atomic) -> u64 {
        let now = Self::held(word);
        if E::LAYOUT.tag != 0 && E::LAYOUT.tag(now).is_some() {
            // Relaxed: the caller is the only owner.
            word.store(E::LAYOUT.held(now), Ordering::Relaxed);
        }
        now
    }

    #[inline(always)]
    fn held(word: &E::Atomic) -> u64 {
        // Relaxed: while an owner has the handle only stale increments change.
        if E::HAS_GENERATION { word.load(Ordering::Relaxed) } else { 0 }
    }

    #[inline(always)]
    fn snapshot(word: &E::Atomic) -> Snapshot {
        snapshot::<E>(word.load(Ordering::Relaxed))
    }
}

#[inline(always)]
pub(super) fn snapshot<E: Encoding>(word: u64) -> Snapshot {
    let count = E::LAYOUT.count(word);
    match E::LAYOUT.tag(word) {
        _ if !E::LAYOUT.is_frozen(word) => Snapshot::live(count),
        None => Snapshot::Frozen { stale: count },
        Some(tag) => Snapshot::Tagged { tag: Tag(tag), stale: count },
    }
}

/// Ends a refused `try_get`: keeps the bound on stale increments, or pins a saturated count.
///
/// The add is never taken back by a subtraction: the frame may have been initialised again in
/// between, and the subtraction would steal a reference (R2).
#[cold]
#[inline(never)]
fn refuse<E: Encoding>(word: &E::Atomic, old: u64, n: u64) -> Refused {
    if !E::LAYOUT.is_frozen(old) {
        // From 0, whatever the count is now: the increment has no holder, so the frame is leaked.
        pin::<E>(word, 0);
        return Refused::Saturated;
    }
    assert!(
        !CHECKS || E::LAYOUT.count(old) <= STALE_LIMIT + IN_FLIGHT,
        "a frozen frame has {} stale increments: more than all threads together can leave (R5)",
        E::LAYOUT.count(old)
    );
    seeded_bugs::subtract_increment(word, n);
    let mut now = old.wrapping_add(n);
    // R5: loop until this or another thread reset the stale increments, or the frame is live again.
    // One attempt is not enough: there are schedules in which every single attempt fails.
    while E::LAYOUT.is_frozen(now)
        && E::LAYOUT.count(now) >= STALE_LIMIT
        && !seeded_bugs::no_reset()
    {
        // Relaxed: frozen to frozen publishes nothing.
        match word.compare_exchange(now, E::LAYOUT.without_stale(now), Ordering::Relaxed) {
            Ok(_) => break,
            Err(found) => now = found,
        }
    }
    Refused::Frozen
}

/// Lifts a live count of `from` or more far above the limit, where it stays: no freeze accepts it,
/// no put ends it.
#[cold]
#[inline(never)]
fn pin<E: Encoding>(word: &E::Atomic, from: u32) {
    let mut now = word.load(Ordering::Relaxed);
    while !E::LAYOUT.is_frozen(now) && E::LAYOUT.count(now) >= from && !seeded_bugs::no_saturation()
    {
        // Relaxed: a leaked frame publishes nothing.
        match word.compare_exchange(now, E::LAYOUT.live(PINNED, now), Ordering::Relaxed) {
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

    /// No caller can reach this state, so the test builds the word from inside.
    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn excess_stale_increments_are_reported() {
        let panic = catch_unwind(|| {
            let word = <AtomicU32 as Word>::new(u64::from(STALE_LIMIT + IN_FLIGHT + 1));
            LiveBitHigh::try_get(&word, 1)
        });
        let said = *panic.expect_err("no panic").downcast::<String>().expect("a message");
        assert!(said.contains("more than all threads together can leave (R5)"), "{said}");
    }
}
