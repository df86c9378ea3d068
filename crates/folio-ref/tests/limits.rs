//! The word at large counts, against the specification: no sequence of small calls reaches them.

use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};
use folio_ref::{Frozen, MAX_AT_ONCE, PageRef, Refused, SATURATED, STALE_LIMIT, Scheme, Snapshot};

/// No other test fails if a reset of the stale increments clears the generation.
#[test]
fn a_reset_keeps_the_generation() {
    reset_keeps_generation::<Generational>();
    reset_keeps_generation::<Tagged>();
}

fn reset_keeps_generation<S: Scheme>() {
    let word = PageRef::<S>::frozen();
    word.take_frozen().init();
    let late = word.drop_references(1).expect("the last one");
    word.try_get(1).expect("revived");
    // The second generation begins. Its stale increments are reset once, and nothing else changes
    // the generation.
    let handle = word.put().expect("the reviver frees it");
    for _ in 0..=STALE_LIMIT / MAX_AT_ONCE {
        assert_eq!(word.try_get(MAX_AT_ONCE), Err(Refused::Frozen));
    }
    handle.init();
    let own = word.drop_references(1).expect("the last one");
    assert!(late.finish().is_none(), "the first generation came back");
    own.finish().expect("its own life").leave_frozen();
}

/// Runs every operation from every count near a limit.
#[test]
fn state_and_word_agree_at_the_limits() {
    fn agree<S: Scheme>() {
        let counts =
            [1, 2, 3, MAX_AT_ONCE, MAX_AT_ONCE + 1, SATURATED / 2, SATURATED - MAX_AT_ONCE - 1];
        let counts = counts.into_iter().chain(SATURATED - MAX_AT_ONCE..SATURATED);
        for have in counts {
            let state = Snapshot::live(have);
            let live = || {
                let word = PageRef::<S>::frozen();
                let opened = Snapshot::Frozen { stale: 0 }.unfreeze(have);
                word.take_frozen().unfreeze(have);
                assert_eq!(Some(word.snapshot()), opened, "{}", S::NAME);
                word
            };
            for n in [1, 2, 3, MAX_AT_ONCE - 1, MAX_AT_ONCE] {
                let word = live();
                let answer = word.try_get(n);
                assert_eq!(
                    (word.snapshot(), answer),
                    state.try_get(n, S::LEAVES_STALE),
                    "{}: {have} + {n}",
                    S::NAME
                );
                let word = live();
                // It is refused without a write exactly if the load shows a refusal.
                let looked = word.try_get_unless_frozen(n);
                let (after, answer) = match state.refused_without_write() {
                    Some(refused) => (state, Err(refused)),
                    None => state.try_get(n, S::LEAVES_STALE),
                };
                assert_eq!((word.snapshot(), looked), (after, answer), "{}: {have} + {n}", S::NAME);
                let word = live();
                word.get(n);
                let (after, _) = state.try_get(n, S::LEAVES_STALE);
                assert_eq!(word.snapshot(), after, "{}: get {have} + {n}", S::NAME);
                if let Some(expected) = state.put_many(n) {
                    let word = live();
                    let won = word.put_many(n).map(Frozen::leave_frozen).is_some();
                    assert_eq!((word.snapshot(), won), expected, "{}: {have} - {n}", S::NAME);
                }
            }
            for expected in [1, have.saturating_sub(1).max(1), have, (have + 1).min(SATURATED - 1)]
            {
                let word = live();
                let won = word.freeze(expected).map(Frozen::leave_frozen).is_ok();
                assert_eq!(
                    (word.snapshot(), won),
                    state.freeze(expected),
                    "{}: freeze {expected} of {have}",
                    S::NAME
                );
            }
        }
    }
    agree::<ZeroFrozen>();
    agree::<GuessOne>();
    agree::<FrozenBit>();
    agree::<LiveBitHigh>();
    agree::<LiveBitLow>();
    agree::<Generational>();
    agree::<Tagged>();
}

/// Calls that no correct caller makes, and states that a word has only between two steps.
#[test]
fn the_specification_refuses_broken_calls() {
    let frozen = Snapshot::Frozen { stale: 3 };
    assert_eq!((frozen.put_many(1), Snapshot::Dying.put_many(1)), (None, None));
    assert_eq!((Snapshot::Live(2).put_many(3), Snapshot::Live(2).unfreeze(1)), (None, None));
    assert_eq!(Snapshot::Saturated.put_many(1), Some((Snapshot::Saturated, false)));
    assert_eq!((frozen.unfreeze(0), frozen.unfreeze(SATURATED)), (None, None));
    assert_eq!(frozen.unfreeze(SATURATED - 1), Some(Snapshot::Live(SATURATED - 1)));
    let nearly = Snapshot::Frozen { stale: STALE_LIMIT - 1 };
    assert_eq!(nearly.try_get(1, true), (Snapshot::Frozen { stale: 0 }, Err(Refused::Frozen)));
    assert_eq!(frozen.try_get(2, true), (Snapshot::Frozen { stale: 5 }, Err(Refused::Frozen)));
}

/// A word has no such counts, but a caller can ask for them.
#[test]
fn the_specification_takes_any_numbers() {
    let saturated = (Snapshot::Saturated, Err(Refused::Saturated));
    for (have, n) in [(5, u32::MAX), (u32::MAX, 1), (SATURATED - 1, 1), (1, SATURATED - 1)] {
        assert_eq!(Snapshot::Live(have).try_get(n, true), saturated, "{have} and {n}");
    }
    assert_eq!(Snapshot::Dying.try_get(SATURATED, true), saturated);
    let last = Snapshot::Live(SATURATED - 1);
    assert_eq!(Snapshot::Dying.try_get(SATURATED - 1, true), (last, Ok(())));
    let full = Snapshot::Frozen { stale: u32::MAX };
    let reset = (Snapshot::Frozen { stale: 0 }, Err(Refused::Frozen));
    assert_eq!(full.try_get(u32::MAX, true), reset);
    assert_eq!(full.try_get(1, false), (full, Err(Refused::Frozen)));
}

#[test]
fn put_expecting_last_ends_in_the_state_of_put() {
    fn same<S: Scheme>() {
        for have in [1, 2, 3, SATURATED - 1] {
            let word = PageRef::<S>::frozen();
            word.take_frozen().unfreeze(have);
            let won = word.put_expecting_last().map(Frozen::leave_frozen).is_some();
            assert_eq!(
                Some((word.snapshot(), won)),
                Snapshot::live(have).put_many(1),
                "{}: {have}",
                S::NAME
            );
        }
    }
    same::<ZeroFrozen>();
    same::<GuessOne>();
    same::<FrozenBit>();
    same::<LiveBitHigh>();
    same::<LiveBitLow>();
    same::<Generational>();
    same::<Tagged>();
}
