//! Every scheme against one model of the states: all legal sequences of calls up to a depth, each
//! result and each state compared.
//!
//! What this can not see: two threads. Between two calls here nothing happens. `loom.rs`
//! interleaves.

#![cfg(not(loom))]

use std::fmt::Debug;

use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};
use folio_ref::{
    Busy, Dying, Frozen, MAX_AT_ONCE, PageRef, Refused, SATURATED, STALE_LIMIT, Scheme, Snapshot,
};

/// Longest sequence of calls.
const DEPTH: usize = if cfg!(miri) { 3 } else { 7 };

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    TryGet(u32),
    Get(u32),
    /// The first step of a put.
    Drop(u32),
    /// The second step of the oldest put that owes one.
    Finish,
    Freeze(u32),
    Unfreeze(u32),
}

const CALLS: [Call; 11] = [
    Call::TryGet(1),
    Call::TryGet(2),
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

/// What a call answered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    None,
    Get(Result<(), Refused>),
    /// Whether the count came to 0.
    Drop(bool),
    /// Whether the frame was won.
    Won(bool),
}

/// The word as design.md section 2 has it, with what the callers around it hold.
#[derive(Clone, Debug)]
struct Model {
    state: Snapshot,
    /// Freezes so far.
    generation: u32,
    /// The generation in which each put that owes its second step brought the count to 0.
    late: Vec<u32>,
    tokens: u32,
}

impl Model {
    fn new() -> Self {
        Self { state: Snapshot::Frozen { stale: 0 }, generation: 0, late: Vec::new(), tokens: 1 }
    }

    fn holders(&self) -> u32 {
        if let Snapshot::Live(n) = self.state { n } else { 0 }
    }

    /// Whether a correct caller may do this now.
    fn allows(&self, call: Call) -> bool {
        match call {
            Call::TryGet(_) => true,
            // Freezing needs a reference of one's own, like get.
            Call::Get(_) | Call::Freeze(_) => self.holders() > 0,
            Call::Drop(n) => self.holders() >= n,
            Call::Finish => !self.late.is_empty(),
            Call::Unfreeze(_) => self.tokens > 0,
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
            Call::Get(n) => {
                self.state = Snapshot::Live(self.holders() + n);
                Answer::None
            }
            Call::Drop(n) if self.holders() == n => {
                if S::LEAVES_STALE {
                    self.state = Snapshot::Dying;
                } else {
                    // 0 is frozen: the first step was all.
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
                // Only a generation tells this life's 0 from a later life's.
                let same_life = S::NAME != Generational::NAME || generation == self.generation;
                let won = !S::LEAVES_STALE || (self.state == Snapshot::Dying && same_life);
                if won {
                    if S::LEAVES_STALE {
                        self.freeze();
                    }
                    self.tokens += 1;
                }
                Answer::Won(won)
            }
            Call::Freeze(n) => {
                let (_, won) = self.state.freeze(n);
                if won {
                    self.freeze();
                    self.tokens += 1;
                }
                Answer::Won(won)
            }
            Call::Unfreeze(n) => {
                self.state = Snapshot::Live(n);
                self.tokens -= 1;
                Answer::None
            }
        }
    }

    /// R3: the frame has exactly one owner while it is frozen, and none otherwise. Where 0 is
    /// frozen, a put that owes its second step has won already.
    fn check<S: Scheme>(&self) {
        let owners = self.tokens as usize + if S::LEAVES_STALE { 0 } else { self.late.len() };
        assert_eq!(owners, usize::from(self.state.is_frozen()), "{self:?}");
    }
}

/// The real word, and what its callers hold.
struct Real<'a, S: Scheme> {
    word: &'a PageRef<S>,
    late: Vec<Dying<'a, S>>,
    tokens: Vec<Frozen<'a, S>>,
}

impl<S: Scheme> Real<'_, S> {
    fn apply(&mut self, call: Call) -> Answer {
        match call {
            Call::TryGet(n) => Answer::Get(self.word.try_get(n)),
            Call::Get(n) => {
                self.word.get(n);
                Answer::None
            }
            Call::Drop(n) => {
                let dying = self.word.drop_references(n);
                let came_to_0 = dying.is_some();
                self.late.extend(dying);
                Answer::Drop(came_to_0)
            }
            Call::Finish => {
                let token = self.late.remove(0).finish();
                let won = token.is_some();
                self.tokens.extend(token);
                Answer::Won(won)
            }
            Call::Freeze(n) => {
                let token = self.word.freeze(n).ok();
                let won = token.is_some();
                self.tokens.extend(token);
                Answer::Won(won)
            }
            Call::Unfreeze(n) => {
                self.tokens.pop().expect("the model has a token as well").unfreeze(n);
                Answer::None
            }
        }
    }
}

/// Runs one sequence on a fresh word beside the model.
fn run<S: Scheme>(calls: &[Call]) -> Model {
    let word = PageRef::<S>::frozen();
    let mut real = Real { word: &word, late: Vec::new(), tokens: vec![word.take_frozen()] };
    let mut model = Model::new();
    for (n, &call) in calls.iter().enumerate() {
        let expected = model.apply::<S>(call);
        let got = real.apply(call);
        if (got, word.snapshot()) != (expected, model.state) {
            // A token that is dropped while the test fails would hide why.
            std::mem::forget(real);
            panic!(
                "{}: {got:?}, {word:?} instead of {expected:?}, {model:?} after {:?}",
                S::NAME,
                &calls[..=n]
            );
        }
        model.check::<S>();
    }
    real.tokens.extend(real.late.drain(..).filter_map(Dying::finish));
    real.tokens.into_iter().for_each(Frozen::leave_frozen);
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
                fn every_sequence_of_calls_does_what_the_model_says() {
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
                fn noise_stays_below_the_limit() {
                    bounds_noise::<$scheme>();
                }

                #[test]
                fn zeroed_memory_is_what_the_scheme_says() {
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
}

/// R5, for counts: the last get below the limit is refused, and then nothing ends the leak.
fn saturates<S: Scheme>() {
    let word = PageRef::<S>::frozen();
    word.take_frozen().unfreeze(SATURATED - 1);
    assert_eq!(word.try_get(1), Err(Refused::Saturated));
    assert_eq!(word.snapshot(), Snapshot::Saturated);
    // Holders that give back what they hold do not bring it to life again, nor to an end.
    // So many that the count would come down to the limit if it were not put back up.
    for _ in 0..SATURATED / MAX_AT_ONCE {
        assert!(word.put_many(MAX_AT_ONCE).is_none());
    }
    assert_eq!(word.try_get(1), Err(Refused::Saturated));
    assert_eq!(word.freeze(1).map(Frozen::leave_frozen), Err(Busy { found: Snapshot::Saturated }));
    word.get(1);
    assert_eq!(word.snapshot(), Snapshot::Saturated);

    let word = PageRef::<S>::frozen();
    word.take_frozen().unfreeze(SATURATED - 1);
    word.get(1);
    assert_eq!(word.snapshot(), Snapshot::Saturated, "get saturates too");
    assert!(word.put().is_none());
    assert_eq!(word.snapshot(), Snapshot::Saturated, "and a put does not undo it");
    // So many that they would run into the bit.
    for _ in 0..2 * SATURATED / MAX_AT_ONCE {
        word.get(MAX_AT_ONCE);
    }
    assert_eq!(word.snapshot(), Snapshot::Saturated, "get stays pinned");
}

/// R5, for noise: alone, a thread never leaves more than the limit behind, however often it tries.
fn bounds_noise<S: Scheme>() {
    let word = PageRef::<S>::frozen();
    let mut most = 0;
    for _ in 0..2 * STALE_LIMIT / MAX_AT_ONCE + 3 {
        assert_eq!(word.try_get(MAX_AT_ONCE), Err(Refused::Frozen));
        let Snapshot::Frozen { stale } = word.snapshot() else {
            panic!("noise thawed the frame: {word:?}")
        };
        assert!(stale < STALE_LIMIT, "{stale}");
        most = most.max(stale);
    }
    assert_eq!(most, if S::LEAVES_STALE { STALE_LIMIT - MAX_AT_ONCE } else { 0 });
    word.take_frozen().init();
    assert_eq!(word.snapshot(), Snapshot::Live(1), "noise was counted as references");
}

fn zeroed<S: Scheme>() {
    // The only word whose bits are all 0 is what the constructor makes, or it is not frozen at all.
    let bits = format!("{:?}", PageRef::<S>::frozen());
    assert!(bits.starts_with("Frozen { stale: 0 }"), "{bits}");
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
            .contains("only a frozen frame has a token (R3)")
    );
    let word = PageRef::<S>::frozen();
    assert!(message(|| drop(word.take_frozen())).contains("a token was dropped"));
    let word = PageRef::<S>::frozen();
    let (first, second) = (word.take_frozen(), word.take_frozen());
    first.init();
    assert!(message(|| second.init()).contains("something cleared its frozen state (R2)"));
}

#[test]
fn amounts_outside_the_limits_are_refused_with_what_is_allowed() {
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

/// Found by the sequences above: a put that lost its second step built the token and dropped it,
/// which debug builds report as a leak. (`then_some` evaluates its argument also when it says no.)
#[test]
fn a_put_that_loses_its_second_step_makes_no_token() {
    let word: PageRef = PageRef::frozen();
    word.take_frozen().init();
    let late = word.drop_references(1).expect("the last one");
    word.try_get(1).expect("revived");
    assert!(late.finish().is_none());
    assert_eq!(word.snapshot(), Snapshot::Live(1));
}

/// The reuse race (R4): the first life's late put meets the second life's Dying. The default scheme
/// tells them apart; with the others it wins, which is why a destructor is chosen after the win.
#[test]
fn only_a_generation_tells_a_late_put_that_the_frame_has_a_new_life() {
    fn late_put_wins<S: Scheme>() -> bool {
        let word = PageRef::<S>::frozen();
        word.take_frozen().init();
        let late = word.drop_references(1).expect("the last one");
        word.try_get(1).expect("revived");
        let token = word.put().expect("the reviver frees it");
        token.init(); // the next life
        let own = word.drop_references(1).expect("the last one");
        let stolen = late.finish();
        let won = stolen.is_some();
        for token in stolen.into_iter().chain(own.finish()) {
            token.leave_frozen();
        }
        won
    }
    assert!(late_put_wins::<FrozenBit>());
    assert!(late_put_wins::<LiveBitHigh>());
    assert!(late_put_wins::<LiveBitLow>());
    assert!(!late_put_wins::<Generational>());
}

#[test]
fn tokens_print_what_they_are_of() {
    let word: PageRef = PageRef::frozen();
    word.take_frozen().init();
    let late = word.drop_references(1).expect("the last one");
    assert_eq!(format!("{late:?}"), "late step of a put on Dying (generational)");
    let token = late.finish().expect("nobody else");
    assert_eq!(format!("{token:?}"), "token of Frozen { stale: 0 } (generational)");
    token.leave_frozen();
}
