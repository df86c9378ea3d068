//! The word of every scheme against the specification: sequences of calls with amounts up to the
//! limits. Each result and each state is compared with the pure transitions of `Snapshot`.
//!
//! Blind spots: two threads; stale increments near their limit, which need a million refused calls.

#![no_main]

use arbitrary::Arbitrary;
use folio_ref::schemes::{
    FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, Tagged, ZeroFrozen,
};
use folio_ref::{Dying, Frozen, MAX_AT_ONCE, PageRef, SATURATED, Scheme, Snapshot};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Amount(u16);

impl Amount {
    /// Returns an amount for one call: 1 to `MAX_AT_ONCE`.
    fn small(&self) -> u32 {
        u32::from(self.0) % MAX_AT_ONCE + 1
    }

    /// Returns a count that an owner may store: small, or near the limit.
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
    TryGetUnlessFrozen(Amount),
    Get(Amount),
    /// The first step of a put of this many references, if they are held.
    Drop(Amount),
    DropOne,
    /// The first step of a put of all references, at most `MAX_AT_ONCE`.
    DropAll,
    /// The second step of a put that owes it.
    Finish(u8),
    ExpectLast,
    Freeze(Amount),
    /// A freeze that expects exactly the references that are held.
    FreezeAll,
    Unfreeze(Amount),
    /// The owner gives its handle up and takes it again.
    TakeFrozen,
}

/// A word, its expected state, and the references and handles of its callers.
struct Run<'a, S: Scheme> {
    word: &'a PageRef<S>,
    state: Snapshot,
    /// The references that the callers hold, also of a leaked frame.
    held: u64,
    /// The number of freezes so far.
    generation: u64,
    /// The puts that owe their second step, each with the generation in which the count reached 0.
    late: Vec<(Dying<'a, S>, u64)>,
    handle: Option<Frozen<'a, S>>,
}

impl<'a, S: Scheme> Run<'a, S> {
    fn expect_handle(&mut self, got: Option<Frozen<'a, S>>, won: bool) {
        assert_eq!(got.is_some(), won, "{}: won", S::NAME);
        if let Some(handle) = got {
            self.generation += u64::from(S::LEAVES_STALE);
            self.held = 0;
            assert!(self.handle.replace(handle).is_none(), "{}: two handles (R3)", S::NAME);
        }
    }

    fn put(&mut self, n: u32) {
        let Some((after, last)) = self.state.put_many(n).filter(|_| self.held >= u64::from(n))
        else {
            return;
        };
        self.held -= u64::from(n);
        let dying = self.word.drop_references(n);
        assert_eq!(dying.is_some(), last, "{}: the count reached 0", S::NAME);
        if let Some(dying) = dying {
            self.state = if S::LEAVES_STALE { Snapshot::Dying } else { after };
            self.late.push((dying, self.generation));
        } else {
            self.state = after;
        }
    }

    fn freeze(&mut self, n: u32) {
        // Only the caller's own references.
        if self.held >= u64::from(n) && n > 0 && n < SATURATED {
            let (after, won) = self.state.freeze(n);
            self.state = after;
            let got = self.word.freeze(n).ok();
            self.expect_handle(got, won);
        }
    }

    fn call(&mut self, call: &Call) {
        match call {
            Call::TryGet(n) => self.try_get(n.small()),
            Call::TryGetOne => self.try_get(1),
            Call::TryGetUnlessFrozen(n) => self.try_get_unless_frozen(n.small()),
            Call::Get(n) => {
                if self.held > 0 {
                    let n = n.small();
                    // The transition of try_get, but never refused.
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
                    let same_life = !S::HAS_GENERATION || generation == self.generation;
                    let won = !S::LEAVES_STALE || self.state == Snapshot::Dying && same_life;
                    if won {
                        self.state = Snapshot::Frozen { stale: 0 };
                    }
                    self.expect_handle(dying.finish(), won);
                }
            }
            Call::ExpectLast => {
                if self.held > 0
                    && let Some((after, won)) = self.state.put_many(1)
                {
                    self.held -= 1;
                    self.state = after;
                    let got = self.word.put_expecting_last();
                    self.expect_handle(got, won);
                }
            }
            Call::Freeze(n) => self.freeze(n.count()),
            Call::FreezeAll => self.freeze(u32::try_from(self.held).unwrap_or(0)),
            Call::Unfreeze(n) => {
                if let Some(handle) = self.handle.take() {
                    let n = n.count();
                    self.state = self.state.unfreeze(n).expect("the frame of a handle is frozen");
                    handle.unfreeze(n);
                    self.held = u64::from(n);
                }
            }
            Call::TakeFrozen => {
                if let Some(handle) = self.handle.take() {
                    handle.leave_frozen();
                    self.handle = Some(self.word.take_frozen());
                }
            }
        }
    }

    fn try_get_unless_frozen(&mut self, n: u32) {
        let (after, answer) = match self.state.refused_without_write() {
            Some(refused) => (self.state, Err(refused)),
            None => self.state.try_get(n, S::LEAVES_STALE),
        };
        self.state = after;
        assert_eq!(self.word.try_get_unless_frozen(n), answer, "{}: looking first", S::NAME);
        self.held += if answer.is_ok() { u64::from(n) } else { 0 };
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
    let handle = Some(word.take_frozen());
    let state = Snapshot::Frozen { stale: 0 };
    let mut run = Run { word: &word, state, held: 0, generation: 0, late: Vec::new(), handle };
    for call in calls {
        run.call(call);
        assert_eq!(word.snapshot(), run.state, "{} after {call:?}", S::NAME);
        // R3: a frozen frame has one owner. Where 0 is frozen, a put that owes its second step has
        // already won.
        let owners =
            usize::from(run.handle.is_some()) + if S::LEAVES_STALE { 0 } else { run.late.len() };
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
        .chain(run.handle)
        .for_each(Frozen::leave_frozen);
}

fuzz_target!(|calls: Vec<Call>| {
    run::<ZeroFrozen>(&calls);
    run::<GuessOne>(&calls);
    run::<FrozenBit>(&calls);
    run::<LiveBitHigh>(&calls);
    run::<LiveBitLow>(&calls);
    run::<Generational>(&calls);
    run::<Tagged>(&calls);
});
