//! Every scheme against one model of the states: all legal sequences of calls up to a depth. Each
//! result and each state is compared.
//!
//! Blind spot: two threads. Nothing happens between two calls here; `loom.rs` interleaves.

#![cfg(not(loom))]

use std::fmt::Debug;

use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};
use folio_ref::{
    Dying, Frozen, MAX_AT_ONCE, PageRef, Refused, SATURATED, STALE_LIMIT, Scheme, Snapshot,
};

/// The length of the longest sequence of calls.
const DEPTH: usize = if cfg!(miri) { 3 } else { 7 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    TryGet(u32),
    TryGetUnlessFrozen(u32),
    Get(u32),
    /// The first step of a put.
    Drop(u32),
    /// The second step of the oldest put that still owes it.
    Finish,
    Freeze(u32),
    Unfreeze(u32),
}

const CALLS: [Call; 12] = [
    Call::TryGet(1),
    Call::TryGet(2),
    Call::TryGetUnlessFrozen(1),
    Call::Get(1),
    Call::Get(2),
    Call::Drop(1),
    Call::Drop(2),
    Call::Finish,
    Call::Freeze(1),
    Call::Freeze(2),
    Call::Unfreeze(1),
    Call::Unfreeze(3),
];

/// The result of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    None,
    Get(Result<(), Refused>),
    /// True if the count reached 0.
    Drop(bool),
    /// True if the caller won the frame.
    Won(bool),
}

/// The specification of the word, and the references and handles of its callers.
#[derive(Clone, Debug)]
struct Model {
    state: Snapshot,
    /// The number of freezes so far.
    generation: u32,
    /// For each put that owes its second step: the generation in which the count reached 0.
    late: Vec<u32>,
    handles: u32,
}

impl Model {
    fn new() -> Self {
        Self { state: Snapshot::Frozen { stale: 0 }, generation: 0, late: Vec::new(), handles: 1 }
    }

    fn holders(&self) -> u32 {
        if let Snapshot::Live(n) = self.state { n } else { 0 }
    }

    /// Returns `true` if a correct caller may make this call now.
    fn allows(&self, call: Call) -> bool {
        match call {
            Call::TryGet(_) | Call::TryGetUnlessFrozen(_) => true,
            // Like get, freeze needs a reference of the caller's own.
            Call::Get(_) | Call::Freeze(_) => self.holders() > 0,
            Call::Drop(n) => self.holders() >= n,
            Call::Finish => !self.late.is_empty(),
            Call::Unfreeze(_) => self.handles > 0,
        }
    }

    fn freeze(&mut self) {
        self.state = Snapshot::Frozen { stale: 0 };
        self.generation += 1;
    }

    fn apply<S: Scheme>(&mut self, call: Call) -> Answer {
        match call {
            Call::TryGet(n) => {
                let (state, result) = self.state.try_get(n, S::LEAVES_STALE);
                self.state = state;
                Answer::Get(result)
            }
            Call::TryGetUnlessFrozen(n) => match self.state.refused_without_write() {
                Some(refused) => Answer::Get(Err(refused)),
                None => self.apply::<S>(Call::TryGet(n)),
            },
            Call::Get(n) => {
                self.state = Snapshot::Live(self.holders() + n);
                Answer::None
            }
            Call::Drop(n) if self.holders() == n => {
                if S::LEAVES_STALE {
                    self.state = Snapshot::Dying;
                } else {
                    // 0 is frozen: there is no second step.
                    self.freeze();
                }
                self.late.push(self.generation);
                Answer::Drop(true)
            }
            Call::Drop(n) => {
                self.state = Snapshot::Live(self.holders() - n);
                Answer::Drop(false)
            }
            Call::Finish => {
                let generation = self.late.remove(0);
                // Only a generation distinguishes the 0 of this life from that of a later one.
                let same_life = !S::HAS_GENERATION || generation == self.generation;
                let won = !S::LEAVES_STALE || (self.state == Snapshot::Dying && same_life);
                if won {
                    if S::LEAVES_STALE {
                        self.freeze();
                    }
                    self.handles += 1;
                }
                Answer::Won(won)
            }
            Call::Freeze(n) => {
                let (_, won) = self.state.freeze(n);
                if won {
                    self.freeze();
                    self.handles += 1;
                }
                Answer::Won(won)
            }
            Call::Unfreeze(n) => {
                self.state = Snapshot::Live(n);
                self.handles -= 1;
                Answer::None
            }
        }
    }

    /// Checks R3: the frame has exactly one owner while it is frozen, and none otherwise. Where 0
    /// is frozen, a put that owes its second step has already won.
    fn check<S: Scheme>(&self) {
        let owners = self.handles as usize + if S::LEAVES_STALE { 0 } else { self.late.len() };
        assert_eq!(owners, usize::from(self.state.is_frozen()), "{self:?}");
    }
}

/// The real word, and the handles of its callers.
struct Real<'a, S: Scheme> {
    word: &'a PageRef<S>,
    late: Vec<Dying<'a, S>>,
    handles: Vec<Frozen<'a, S>>,
}

impl<S: Scheme> Real<'_, S> {
    fn apply(&mut self, call: Call) -> Answer {
        match call {
            Call::TryGet(n) => Answer::Get(self.word.try_get(n)),
            Call::TryGetUnlessFrozen(n) => Answer::Get(self.word.try_get_unless_frozen(n)),
            Call::Get(n) => {
                self.word.get(n);
                Answer::None
            }
            Call::Drop(n) => {
                let dying = self.word.drop_references(n);
                let reached_0 = dying.is_some();
                self.late.extend(dying);
                Answer::Drop(reached_0)
            }
            Call::Finish => {
                let handle = self.late.remove(0).finish();
                let won = handle.is_some();
                self.handles.extend(handle);
                Answer::Won(won)
            }
            Call::Freeze(n) => {
                let handle = self.word.freeze(n).ok();
                let won = handle.is_some();
                self.handles.extend(handle);
                Answer::Won(won)
            }
            Call::Unfreeze(n) => {
                self.handles.pop().expect("the model has a handle too").unfreeze(n);
                Answer::None
            }
        }
    }
}

/// Runs one sequence on a new word and on the model. Returns the model.
fn run<S: Scheme>(calls: &[Call]) -> Model {
    let word = PageRef::<S>::frozen();
    let mut real = Real { word: &word, late: Vec::new(), handles: vec![word.take_frozen()] };
    let mut model = Model::new();
    for (n, &call) in calls.iter().enumerate() {
        let expected = model.apply::<S>(call);
        let got = real.apply(call);
        if (got, word.snapshot()) != (expected, model.state) {
            // The panic of a dropped handle would hide the reason.
            std::mem::forget(real);
            panic!(
                "{}: {got:?}, {word:?} instead of {expected:?}, {model:?} after {:?}",
                S::NAME,
                &calls[..=n]
            );
        }
        model.check::<S>();
    }
    real.handles.extend(real.late.drain(..).filter_map(Dying::finish));
    real.handles.into_iter().for_each(Frozen::leave_frozen);
    model
}

fn explore<S: Scheme>(calls: &mut Vec<Call>, ran: &mut u64) {
    *ran += 1;
    let model = run::<S>(calls);
    if calls.len() == DEPTH {
        return;
    }
    for call in CALLS.into_iter().filter(|&call| model.allows(call)) {
        calls.push(call);
        explore::<S>(calls, ran);
        calls.pop();
    }
}

macro_rules! for_every_scheme {
    ($($name:ident: $scheme:ty),* $(,)?) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn every_call_sequence_matches_the_model() {
                    let mut ran = 0;
                    explore::<$scheme>(&mut Vec::new(), &mut ran);
                    assert!(ran > if cfg!(miri) { 50 } else { 10_000 }, "only {ran} sequences");
                }

                #[test]
                #[cfg_attr(miri, ignore = "a million calls")]
                fn a_count_that_nears_the_limit_saturates_and_stays() {
                    saturates::<$scheme>();
                }

                #[test]
                #[cfg_attr(miri, ignore = "two million calls")]
                fn stale_increments_stay_below_the_limit() {
                    bounds_stale_increments::<$scheme>();
                }

                #[test]
                fn zeroed_memory_is_frozen_except_under_frozen_bit() {
                    zeroed::<$scheme>();
                }

                #[test]
                #[cfg(debug_assertions)]
                fn broken_callers_are_caught_in_debug_builds() {
                    catches::<$scheme>();
                }
            }
        )*
    };
}

for_every_scheme! {
    zero_frozen: ZeroFrozen,
    guess_one: GuessOne,
    frozen_bit: FrozenBit,
    live_bit_high: LiveBitHigh,
    live_bit_low: LiveBitLow,
    generational: Generational,
    tagged: Tagged,
}

/// R5, for counts: the last get below the limit is refused, and nothing ends the leak.
fn saturates<S: Scheme>() {
    let word = PageRef::<S>::frozen();
    word.take_frozen().unfreeze(SATURATED - 1);
    assert_eq!(word.try_get(1), Err(Refused::Saturated));
    assert_eq!(word.snapshot(), Snapshot::Saturated);
    // Puts neither revive the frame nor end it. So many that the count would fall to the limit if
    // it were not lifted again.
    for _ in 0..SATURATED / MAX_AT_ONCE {
        assert!(word.put_many(MAX_AT_ONCE).is_none());
    }
    assert_eq!(word.try_get(1), Err(Refused::Saturated));
    let busy = word.freeze(1).map(Frozen::leave_frozen).unwrap_err();
    assert_eq!(busy.found, Snapshot::Saturated);
    word.get(1);
    assert_eq!(word.snapshot(), Snapshot::Saturated);

    let word = PageRef::<S>::frozen();
    word.take_frozen().unfreeze(SATURATED - 1);
    word.get(1);
    assert_eq!(word.snapshot(), Snapshot::Saturated, "get saturates too");
    assert!(word.put().is_none());
    assert_eq!(word.snapshot(), Snapshot::Saturated, "and a put does not undo it");
    // So many that the count would run into the bit.
    for _ in 0..2 * SATURATED / MAX_AT_ONCE {
        word.get(MAX_AT_ONCE);
    }
    assert_eq!(word.snapshot(), Snapshot::Saturated, "get stays pinned");
}

/// R5, for stale increments: one thread alone never leaves more than the limit, for any number of
/// attempts.
fn bounds_stale_increments<S: Scheme>() {
    let word = PageRef::<S>::frozen();
    let mut most = 0;
    for _ in 0..2 * STALE_LIMIT / MAX_AT_ONCE + 3 {
        assert_eq!(word.try_get(MAX_AT_ONCE), Err(Refused::Frozen));
        let Some(stale) = word.snapshot().stale() else {
            panic!("stale increments thawed the frame: {word:?}")
        };
        assert!(stale < STALE_LIMIT, "{stale}");
        most = most.max(stale);
    }
    assert_eq!(most, if S::LEAVES_STALE { STALE_LIMIT - MAX_AT_ONCE } else { 0 });
    word.take_frozen().init();
    assert_eq!(word.snapshot(), Snapshot::Live(1), "stale increments were counted as references");
}

fn zeroed<S: Scheme>() {
    // The word of all zeroes is the one that the constructor makes, or it is not frozen.
    assert_eq!(PageRef::<S>::frozen().snapshot().stale(), Some(0));
    assert_eq!(S::ZERO_IS_FROZEN, S::NAME != FrozenBit::NAME);
}

#[cfg(debug_assertions)]
fn catches<S: Scheme>() {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn message<T: Debug>(call: impl FnOnce() -> T) -> String {
        let panic =
            catch_unwind(AssertUnwindSafe(call)).expect_err("a broken caller was not caught");
        panic
            .downcast::<String>()
            .map_or_else(|panic| (*panic.downcast::<&str>().unwrap()).to_owned(), |text| *text)
    }

    let word = PageRef::<S>::frozen();
    assert!(message(|| word.get(1)).contains("the caller holds no reference to it"));
    let word = PageRef::<S>::frozen();
    assert!(
        message(|| word.put().map(Frozen::leave_frozen))
            .contains("the caller holds no such references")
    );
    let word = PageRef::<S>::frozen();
    word.take_frozen().init();
    assert!(
        message(|| word.take_frozen().leave_frozen())
            .contains("only a frozen frame has an exclusive handle (R3)")
    );
    let word = PageRef::<S>::frozen();
    assert!(message(|| drop(word.take_frozen())).contains("an exclusive handle was dropped"));
    let word = PageRef::<S>::frozen();
    let (first, second) = (word.take_frozen(), word.take_frozen());
    first.init();
    assert!(message(|| second.init()).contains("something cleared its frozen state (R2)"));
}

#[test]
fn an_amount_out_of_range_panics_with_the_range() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let word: PageRef = PageRef::frozen();
    word.take_frozen().init();
    for n in [0, MAX_AT_ONCE + 1] {
        let calls: [&dyn Fn(); 3] =
            [&|| assert!(word.try_get(n).is_ok()), &|| word.get(n), &|| {
                assert!(word.put_many(n).is_none());
            }];
        for call in calls {
            let panic = catch_unwind(AssertUnwindSafe(call))
                .expect_err("0 and above the limit are refused");
            let text = panic.downcast::<String>().unwrap();
            assert!(
                text.contains(&format!("of {n} references: allowed are 1 to {MAX_AT_ONCE}")),
                "{text}"
            );
        }
    }
    assert_eq!(word.snapshot(), Snapshot::Live(1), "a refused call changed the word");
}

/// A handle that is made and dropped here is reported as a leak in debug builds (`then_some`
/// evaluates its argument in both cases).
#[test]
fn a_put_that_loses_its_second_step_makes_no_handle() {
    let word: PageRef = PageRef::frozen();
    word.take_frozen().init();
    let late = word.drop_references(1).expect("the last one");
    word.try_get(1).expect("revived");
    assert!(late.finish().is_none());
    assert_eq!(word.snapshot(), Snapshot::Live(1));
}

/// The reuse race (R4): the late put of the first life meets the Dying of the second. The default
/// scheme tells them apart. Under the others it wins, so a destructor is chosen after the win.
#[test]
fn only_a_generation_defeats_a_late_put() {
    fn late_put_wins<S: Scheme>() -> bool {
        let word = PageRef::<S>::frozen();
        word.take_frozen().init();
        let late = word.drop_references(1).expect("the last one");
        word.try_get(1).expect("revived");
        let handle = word.put().expect("the reviver frees it");
        handle.init(); // the next life
        let own = word.drop_references(1).expect("the last one");
        let stolen = late.finish();
        let won = stolen.is_some();
        for handle in stolen.into_iter().chain(own.finish()) {
            handle.leave_frozen();
        }
        won
    }
    assert!(late_put_wins::<FrozenBit>());
    assert!(late_put_wins::<LiveBitHigh>());
    assert!(late_put_wins::<LiveBitLow>());
    assert!(!late_put_wins::<Generational>());
    assert!(!late_put_wins::<Tagged>());
}

#[test]
fn handles_print_the_state_of_their_word() {
    let word: PageRef = PageRef::frozen();
    word.take_frozen().init();
    let late = word.drop_references(1).expect("the last one");
    assert_eq!(format!("{late:?}"), "late step of a put on Dying (generational)");
    let handle = late.finish().expect("no other put");
    assert_eq!(format!("{handle:?}"), "exclusive handle of Frozen { stale: 0 } (generational)");
    handle.leave_frozen();
}
