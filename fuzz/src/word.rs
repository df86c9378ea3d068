//! The word of every scheme against the specification: sequences of calls whose amounts reach the
//! limits, each answer and each state compared with `Snapshot`'s pure transitions.
//!
//! What this can not see: two threads; a noise near its limit, which needs a million refused calls.

#![no_main]

use arbitrary::Arbitrary;
use folio_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};
use folio_ref::{Dying, Frozen, MAX_AT_ONCE, PageRef, SATURATED, Scheme, Snapshot};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Amount(u16);

impl Amount {
    /// What one call may take: 1 to the most.
    fn small(&self) -> u32 {
        u32::from(self.0) % MAX_AT_ONCE + 1
    }

    /// A count as an owner may store it: small, or near the limit.
    fn count(&self) -> u32 {
        let n = u32::from(self.0 >> 2);
        match self.0 & 3 {
            0 => SATURATED - 1 - n % (2 * MAX_AT_ONCE),
            1 => SATURATED / 2 + n,
            _ => n % 8 + 1,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Call {
    TryGet(Amount),
    TryGetOne,
    Get(Amount),
    /// The first step of a put of so many of those that are held.
    Drop(Amount),
    DropOne,
    /// The first step of a put of all, if one call may put so many.
    DropAll,
    /// The second step of one put that owes it.
    Finish(u8),
    ExpectLast,
    Freeze(Amount),
    /// Freezes with exactly what is held.
    FreezeAll,
    Unfreeze(Amount),
    /// The owner gives its token up and claims it again.
    LockedSlot,
}

/// A word, the state that it must have, and what the callers around it hold.
struct Run<'a, S: Scheme> {
    word: &'a PageRef<S>,
    state: Snapshot,
    /// References that the callers hold, also of a leaked frame.
    held: u64,
    /// Freezes so far.
    generation: u64,
    /// Puts that owe their second step, and the generation in which each brought the count to 0.
    late: Vec<(Dying<'a, S>, u64)>,
    token: Option<Frozen<'a, S>>,
}

impl<'a, S: Scheme> Run<'a, S> {
    fn expect_token(&mut self, got: Option<Frozen<'a, S>>, won: bool) {
        assert_eq!(got.is_some(), won, "{}: whether it won", S::NAME);
        if let Some(token) = got {
            self.generation += u64::from(S::LEAVES_STALE);
            self.held = 0;
            assert!(self.token.replace(token).is_none(), "{}: two tokens (R3)", S::NAME);
        }
    }

    fn put(&mut self, n: u32) {
        let Some((after, last)) = self.state.put_many(n).filter(|_| self.held >= u64::from(n))
        else {
            return;
        };
        self.held -= u64::from(n);
        let dying = self.word.drop_references(n);
        assert_eq!(dying.is_some(), last, "{}: whether the count came to 0", S::NAME);
        if let Some(dying) = dying {
            self.state = if S::LEAVES_STALE { Snapshot::Dying } else { after };
            self.late.push((dying, self.generation));
        } else {
            self.state = after;
        }
    }

    fn freeze(&mut self, n: u32) {
        // The references are the caller's own.
        if self.held >= u64::from(n) && n > 0 && n < SATURATED {
            let (after, won) = self.state.freeze(n);
            self.state = after;
            let got = self.word.freeze(n).ok();
            self.expect_token(got, won);
        }
    }

    fn call(&mut self, call: &Call) {
        match call {
            Call::TryGet(n) => self.try_get(n.small()),
            Call::TryGetOne => self.try_get(1),
            Call::Get(n) => {
                if self.held > 0 {
                    let n = n.small();
                    // As a try_get, but never refused.
                    (self.state, _) = self.state.try_get(n, S::LEAVES_STALE);
                    self.word.get(n);
                    self.held += u64::from(n);
                }
            }
            Call::Drop(n) => self.put(n.small()),
            Call::DropOne => self.put(1),
            Call::DropAll => {
                self.put(u32::try_from(self.held).unwrap_or(u32::MAX).clamp(1, MAX_AT_ONCE))
            }
            Call::Finish(which) => {
                if !self.late.is_empty() {
                    let (dying, generation) =
                        self.late.swap_remove(usize::from(*which) % self.late.len());
                    let same_life = S::NAME != Generational::NAME || generation == self.generation;
                    let won = !S::LEAVES_STALE || self.state == Snapshot::Dying && same_life;
                    if won {
                        self.state = Snapshot::Frozen { stale: 0 };
                    }
                    self.expect_token(dying.finish(), won);
                }
            }
            Call::ExpectLast => {
                if self.held > 0
                    && let Some((after, won)) = self.state.put_many(1)
                {
                    self.held -= 1;
                    self.state = after;
                    let got = self.word.put_expecting_last();
                    self.expect_token(got, won);
                }
            }
            Call::Freeze(n) => self.freeze(n.count()),
            Call::FreezeAll => self.freeze(u32::try_from(self.held).unwrap_or(0)),
            Call::Unfreeze(n) => {
                if let Some(token) = self.token.take() {
                    let n = n.count();
                    self.state = self.state.unfreeze(n).expect("a token's frame is frozen");
                    token.unfreeze(n);
                    self.held = u64::from(n);
                }
            }
            Call::LockedSlot => {
                if let Some(token) = self.token.take() {
                    token.leave_frozen();
                    self.token = Some(self.word.take_frozen());
                }
            }
        }
    }

    fn try_get(&mut self, n: u32) {
        let (after, answer) = self.state.try_get(n, S::LEAVES_STALE);
        self.state = after;
        assert_eq!(self.word.try_get(n), answer, "{}: try_get of {n}", S::NAME);
        if answer.is_ok() {
            self.held += u64::from(n);
        }
    }
}

fn run<S: Scheme>(calls: &[Call]) {
    let word = PageRef::<S>::frozen();
    let token = Some(word.take_frozen());
    let state = Snapshot::Frozen { stale: 0 };
    let mut run = Run { word: &word, state, held: 0, generation: 0, late: Vec::new(), token };
    for call in calls {
        run.call(call);
        assert_eq!(word.snapshot(), run.state, "{} after {call:?}", S::NAME);
        // R3: while it is frozen it has one owner. Where 0 is frozen, a put that owes its second
        // step has won already.
        let owners = usize::from(run.token.is_some()) + if S::LEAVES_STALE { 0 } else { run.late.len() };
        assert_eq!(
            owners,
            usize::from(run.state.is_frozen()),
            "{} after {call:?}: owners (R3)",
            S::NAME
        );
    }
    run.late
        .into_iter()
        .filter_map(|(late, _)| late.finish())
        .chain(run.token)
        .for_each(Frozen::leave_frozen);
}

fuzz_target!(|calls: Vec<Call>| {
    run::<ZeroFrozen>(&calls);
    run::<GuessOne>(&calls);
    run::<FrozenBit>(&calls);
    run::<LiveBitHigh>(&calls);
    run::<LiveBitLow>(&calls);
    run::<Generational>(&calls);
});
