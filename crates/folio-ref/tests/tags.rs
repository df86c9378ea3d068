//! The tags of frozen words against the specification: claims, and what may not lose a tag.
//!
//! Blind spot: two threads. `loom.rs` interleaves them.

#![cfg(not(loom))]

use folio_ref::schemes::Tagged;
use folio_ref::{Detached, Frozen, MAX_AT_ONCE, PageRef, STALE_LIMIT, Snapshot, Tag};

/// The length of the longest sequence of calls.
const DEPTH: usize = if cfg!(miri) { 3 } else { 6 };

const UNUSED: Tag = Tag::new(0);
const LAST: Tag = Tag::new(Tag::MAX);

#[derive(Clone, Copy, Debug)]
enum Call {
    TryGet,
    Put,
    Freeze,
    Claim(Tag),
    /// The owner opens the frame.
    Unfreeze,
    Leave(Tag),
    /// The owner gives its handle up, and takes it again. The first owner of a new frame begins so.
    TakeFrozen,
}

const CALLS: [Call; 9] = [
    Call::TryGet,
    Call::Put,
    Call::Freeze,
    Call::Claim(UNUSED),
    Call::Claim(LAST),
    Call::Unfreeze,
    Call::Leave(UNUSED),
    Call::Leave(LAST),
    Call::TakeFrozen,
];

/// Runs a sequence on a new word and on the specification. Returns the number of calls that a
/// correct caller makes, and stops there.
fn run(calls: &[Call]) -> usize {
    let word = PageRef::<Tagged>::frozen();
    let mut state = Snapshot::Tagged { tag: UNUSED, stale: 0 };
    let mut control: Option<Detached<Tagged>> = None;
    let mut legal = calls.len();
    for (n, &call) in calls.iter().enumerate() {
        let live = matches!(state, Snapshot::Live(_));
        let mut won = None;
        match call {
            Call::TryGet => {
                let (after, answer) = state.try_get(1, true);
                assert_eq!(word.try_get(1), answer, "{calls:?}");
                state = after;
            }
            Call::Put if live => {
                let (after, last) = state.put_many(1).expect("a reference is held");
                (state, won) = (after, Some((word.put(), last)));
            }
            Call::Freeze if live => {
                let (after, expected) = state.freeze(1);
                (state, won) = (after, Some((word.freeze(1).ok(), expected)));
            }
            Call::Claim(tag) => {
                let (after, expected) = state.try_claim(tag);
                (state, won) = (after, Some((word.try_claim(tag).ok(), expected)));
            }
            Call::Unfreeze | Call::Leave(_) if control.is_some() => {
                let handle = word.attach(control.take().expect("checked"));
                if let Call::Leave(tag) = call {
                    handle.leave_frozen_as(tag);
                    state = state.leave_frozen_as(tag).expect("it has an owner");
                } else {
                    handle.unfreeze(1);
                    state = state.unfreeze(1).expect("it has an owner");
                }
            }
            // Of an owned frame; of one that was left under a tag it is the first owner.
            Call::TakeFrozen if state.is_frozen() => {
                if let Some(control) = control.take() {
                    word.attach(control).leave_frozen();
                }
                if let Snapshot::Tagged { .. } = state {
                    state = Snapshot::Frozen { stale: 0 };
                }
                control = Some(word.take_frozen().detach());
            }
            _ => {
                legal = n;
                break;
            }
        }
        if let Some((handle, expected)) = won {
            let handle = handle.map(Frozen::detach);
            assert_eq!(handle.is_some(), expected, "{:?}", &calls[..=n]);
            assert!(handle.is_none() || control.is_none(), "two handles after {calls:?} (R3)");
            control = handle.or(control);
        }
        assert_eq!(word.snapshot(), state, "{:?}", &calls[..=n]);
        let is_owned = matches!(state, Snapshot::Frozen { .. });
        assert_eq!(control.is_some(), is_owned, "owners after {:?} (R3)", &calls[..=n]);
    }
    if let Some(control) = control {
        word.attach(control).leave_frozen();
    }
    legal
}

#[test]
fn every_call_sequence_with_claims_matches_the_model() {
    fn explore(calls: &mut Vec<Call>, ran: &mut u64) {
        if run(calls) < calls.len() {
            return;
        }
        *ran += 1;
        if calls.len() < DEPTH {
            for call in CALLS {
                calls.push(call);
                explore(calls, ran);
                calls.pop();
            }
        }
    }
    let mut ran = 0;
    explore(&mut Vec::new(), &mut ran);
    assert!(ran > if cfg!(miri) { 50 } else { 10_000 }, "only {ran} sequences");
}

#[test]
fn a_claim_excludes_every_other_claim() {
    let word = PageRef::<Tagged>::frozen();
    let first = word.try_claim(UNUSED).expect("unused");
    let second = word.try_claim(UNUSED).map(Frozen::leave_frozen).unwrap_err();
    assert_eq!(second.found, Snapshot::Frozen { stale: 0 });
    assert_eq!(
        second.to_string(),
        "the frame is Frozen { stale: 0 }, which is not the expected state"
    );
    first.leave_frozen_as(LAST);
    assert!(word.try_claim(UNUSED).map(Frozen::leave_frozen).is_err(), "another tag");
    word.try_claim(LAST).expect("left under it").leave_frozen();
}

/// The reset needs a million refusals, so no sequence of small calls reaches it.
#[test]
#[cfg_attr(miri, ignore = "a million calls")]
fn a_reset_keeps_the_tag() {
    let refuse = |word: &PageRef<Tagged>| {
        for _ in 0..=STALE_LIMIT / MAX_AT_ONCE {
            assert!(word.try_get(MAX_AT_ONCE).is_err());
        }
        assert!(word.snapshot().stale().is_some_and(|stale| stale < STALE_LIMIT));
    };
    let word = PageRef::<Tagged>::frozen();
    let handle = word.try_claim(UNUSED).expect("unused");
    refuse(&word);
    assert!(matches!(word.snapshot(), Snapshot::Frozen { .. }), "{word:?}");
    assert!(word.try_claim(UNUSED).map(Frozen::leave_frozen).is_err(), "the frame has an owner");
    handle.leave_frozen_as(LAST);
    refuse(&word);
    assert!(matches!(word.snapshot(), Snapshot::Tagged { tag: LAST, .. }), "{word:?}");
    // A claim takes the frame with its stale increments, and ends them.
    assert_eq!(word.try_get(1), Err(folio_ref::Refused::Frozen));
    let handle = word.try_claim(LAST).expect("left under it");
    assert_eq!(word.snapshot(), Snapshot::Frozen { stale: 0 });
    handle.leave_frozen();
}

#[test]
#[cfg(debug_assertions)]
fn an_owned_frame_that_was_left_is_reported() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let word = PageRef::<Tagged>::frozen();
    let (first, second) = (word.take_frozen(), word.take_frozen());
    first.leave_frozen_as(UNUSED);
    let panic = catch_unwind(AssertUnwindSafe(|| second.leave_frozen_as(UNUSED))).unwrap_err();
    let said = panic.downcast::<String>().expect("a message");
    assert!(said.contains("it was left under a tag meanwhile (R3)"), "{said}");
}

#[test]
fn a_tag_out_of_range_is_refused() {
    let panic = std::panic::catch_unwind(|| Tag::new(Tag::MAX + 1)).unwrap_err();
    let said = panic.downcast::<&str>().expect("a message");
    assert!(said.contains("allowed are 0 to 6"), "{said}");
    assert_eq!(Tag::new(3).get(), 3);
}
