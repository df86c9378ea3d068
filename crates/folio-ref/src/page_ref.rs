//! The atomic word, and the token that the winner of a frame holds.

use core::fmt;

use crate::schemes::{DefaultScheme, Scheme};
use crate::{CHECKS, MAX_AT_ONCE, SATURATED, Snapshot};

/// Why `try_get` said no. Expected, not an error: the caller goes on without the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Frozen, free or a tail: someone else has exclusive control (R1).
    Frozen,
    /// So many references exist that the frame was leaked (R5).
    Saturated,
}

/// Why `freeze` said no: the count was not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Busy {
    /// What the word said instead.
    pub found: Snapshot,
}

/// The reference count word of one frame.
///
/// | operation | edge | ordering |
/// | --- | --- | --- |
/// | [`try_get`](Self::try_get) | Live(n) → Live(n+1); Frozen refuses | Acquire: sees what `init`/`unfreeze` published (R6) |
/// | [`get`](Self::get) | Live(n) → Live(n+1) | Relaxed: the reference that the caller holds is the edge |
/// | [`put`](Self::put) | Live(n) → Live(n-1); at 0 Dying → Frozen | Release, then Acquire by the winner (R6) |
/// | [`put_expecting_last`](Self::put_expecting_last) | Live(1) → Frozen at once, else as `put` | as `freeze`, else as `put` |
/// | [`freeze`](Self::freeze) | Live(expected) → Frozen | Acquire (R6) |
/// | [`Frozen::init`], [`Frozen::unfreeze`] | Frozen → Live(n) | Release (R6) |
#[repr(transparent)]
pub struct PageRef<S: Scheme = DefaultScheme> {
    word: S::Atomic,
}

impl<S: Scheme> PageRef<S> {
    /// A word that is frozen: the only way to make one. Where [`Scheme::ZERO_IS_FROZEN`] holds,
    /// zeroed memory is this same value.
    pub fn frozen() -> Self {
        Self { word: S::new_frozen() }
    }

    /// Takes `n` references, unless the frame is frozen or saturated. One fetch-add under the bit
    /// schemes, a compare-and-swap loop under the two that mark frozen with the value 0.
    ///
    /// After success the caller re-checks that the frame is still what it looked up (R8).
    ///
    /// # Panics
    ///
    /// When `n` is 0 or above [`MAX_AT_ONCE`].
    #[inline(always)]
    pub fn try_get(&self, n: u32) -> Result<(), Refused> {
        assert!(
            n > 0 && n <= MAX_AT_ONCE,
            "try_get of {n} references: allowed are 1 to {MAX_AT_ONCE}"
        );
        S::try_get(&self.word, n)
    }

    /// Takes `n` more references; the caller already holds one. Never refused, never resurrects.
    ///
    /// # Panics
    ///
    /// When `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also when the frame
    /// is not live.
    #[inline(always)]
    pub fn get(&self, n: u32) {
        assert!(n > 0 && n <= MAX_AT_ONCE, "get of {n} references: allowed are 1 to {MAX_AT_ONCE}");
        let old = S::get(&self.word, n);
        assert!(
            !CHECKS || matches!(old, Snapshot::Live(_) | Snapshot::Saturated),
            "get on a frame that is {old:?}: the caller holds no reference to it"
        );
    }

    /// Returns one reference. `Some`: it was the last one, the frame is now frozen, and the caller
    /// alone owns it and must free it (R3).
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), when the frame is not live.
    #[inline(always)]
    pub fn put(&self) -> Option<Frozen<'_, S>> {
        self.put_many(1)
    }

    /// Returns `n` references at once; see [`put`](Self::put).
    ///
    /// # Panics
    ///
    /// When `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also when fewer are
    /// held.
    #[inline(always)]
    pub fn put_many(&self, n: u32) -> Option<Frozen<'_, S>> {
        self.drop_references(n)?.finish()
    }

    /// As [`put`](Self::put), for a holder who expects to be the last: one compare-and-swap from
    /// Live(1) to Frozen instead of two steps, and no instant between them. When others hold
    /// the frame, it costs a failed compare-and-swap more than `put`.
    ///
    /// # Panics
    ///
    /// As [`put`](Self::put).
    #[inline(always)]
    pub fn put_expecting_last(&self) -> Option<Frozen<'_, S>> {
        // The one expected reference is the caller's own. Acquire, as in freeze; the caller's own
        // writes need no Release, since the caller is the winner.
        match S::freeze(&self.word, 1) {
            Ok(()) => Some(Frozen { page: self }),
            Err(_) => self.put(),
        }
    }

    /// The first step of [`put_many`](Self::put_many), alone: the fetch-sub. `Some`: the count came
    /// to 0 and the second step, [`Dying::finish`], is owed.
    ///
    /// Split so that tests and tracepoints can stand between the steps: it is there that another
    /// thread may revive, free and reuse the frame (R4), or take its block offline (R7).
    ///
    /// # Panics
    ///
    /// As [`put_many`](Self::put_many).
    #[inline(always)]
    pub fn drop_references(&self, n: u32) -> Option<Dying<'_, S>> {
        assert!(n > 0 && n <= MAX_AT_ONCE, "put of {n} references: allowed are 1 to {MAX_AT_ONCE}");
        S::put_first(&self.word, n).map(|dying| Dying { page: self, dying })
    }

    /// Takes exclusive control if exactly `expected` references exist, all of them the caller's own
    /// or held for it (an index's reference, say), never somebody else's. They are gone
    /// afterwards.
    ///
    /// # Panics
    ///
    /// When `expected` is 0 or not below [`SATURATED`].
    #[inline(always)]
    pub fn freeze(&self, expected: u32) -> Result<Frozen<'_, S>, Busy> {
        assert!(
            expected > 0 && expected < SATURATED,
            "freeze with {expected} references expected: allowed are 1 to {}",
            SATURATED - 1
        );
        match S::freeze(&self.word, expected) {
            Ok(()) => Ok(Frozen { page: self }),
            Err(found) => Err(Busy { found }),
        }
    }

    /// The token of a frame that rests frozen, for the one who owns it: the allocator that
    /// keeps it in a free list, the index that has it under its claim. That there is one such owner
    /// is the caller's promise; a second token would break R3.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), when the word is not frozen.
    #[inline(always)]
    pub fn take_frozen(&self) -> Frozen<'_, S> {
        assert!(
            !CHECKS || self.snapshot().is_frozen(),
            "take_frozen on a frame that is {:?}: only a frozen frame has a token (R3)",
            self.snapshot()
        );
        Frozen { page: self }
    }

    /// What the word says now. Relaxed: nothing follows from it but statistics and checks.
    #[inline]
    pub fn snapshot(&self) -> Snapshot {
        S::snapshot(&self.word)
    }
}

impl<S: Scheme> fmt::Debug for PageRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.snapshot(), S::NAME)
    }
}

/// A put whose fetch-sub brought the count to 0. It holds no reference any more; its second step
/// still touches the word, so the word must stay a word for as long as this exists (R7).
#[must_use = "the second step of put is owed: call finish"]
pub struct Dying<'a, S: Scheme> {
    page: &'a PageRef<S>,
    dying: u64,
}

impl<'a, S: Scheme> Dying<'a, S> {
    /// The second step: Dying → Frozen by compare-and-swap. `Some`: the caller won the frame.
    /// `None`: a `try_get` revived it, or another put won it.
    #[inline(always)]
    pub fn finish(self) -> Option<Frozen<'a, S>> {
        S::put_second(&self.page.word, self.dying).then(|| Frozen { page: self.page })
    }
}

impl<S: Scheme> fmt::Debug for Dying<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "late step of a put on {:?}", self.page)
    }
}

/// Exclusive control of a frozen frame. Exactly one exists for each Live → Frozen edge (R3).
#[must_use = "a frozen frame that nobody owns is leaked: init, unfreeze, or leave_frozen"]
pub struct Frozen<'a, S: Scheme> {
    page: &'a PageRef<S>,
}

impl<S: Scheme> Frozen<'_, S> {
    /// Begins a new life with one reference, the caller's. Release: publishes all that was
    /// written to the frame and its metadata before (R6).
    #[inline(always)]
    pub fn init(self) {
        self.unfreeze(1);
    }

    /// Ends the freeze with `n` references. Release, as [`init`](Self::init).
    ///
    /// # Panics
    ///
    /// When `n` is 0 or not below [`SATURATED`]; with [`CHECKS`](crate::CHECKS) also when the word
    /// is not frozen.
    #[inline(always)]
    pub fn unfreeze(self, n: u32) {
        let page = self.page;
        // First, so that a check that fails below is not met by the check in drop while it unwinds.
        self.leave_frozen();
        assert!(
            n > 0 && n < SATURATED,
            "unfreeze with {n} references: allowed are 1 to {}",
            SATURATED - 1
        );
        assert!(
            !CHECKS || page.snapshot().is_frozen(),
            "a token's frame is {:?}: something cleared its frozen state (R2)",
            page.snapshot()
        );
        S::unfreeze(&page.word, n);
    }

    /// Gives up the token and leaves the frame frozen: it goes to the allocator, or its owner
    /// keeps it under another name. [`PageRef::take_frozen`] is the way back.
    #[inline(always)]
    pub fn leave_frozen(self) {
        core::mem::forget(self);
    }
}

impl<S: Scheme> Drop for Frozen<'_, S> {
    fn drop(&mut self) {
        #[expect(clippy::manual_assert, reason = "an assertion of a constant is refused as well")]
        if CHECKS {
            panic!("a token was dropped: its frame is leaked, frozen for ever");
        }
    }
}

impl<S: Scheme> fmt::Debug for Frozen<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token of {:?}", self.page)
    }
}
