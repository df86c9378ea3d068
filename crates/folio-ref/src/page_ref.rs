//! The atomic word, and the exclusive handle that the winner of a frame receives.

use core::{error, fmt};

use crate::schemes::{DefaultScheme, Scheme};
use crate::{CHECKS, MAX_AT_ONCE, SATURATED, Snapshot};

/// The reason why [`PageRef::try_get`] took no reference.
///
/// A refusal is expected: the caller continues without the frame. The two variants are part of the
/// specification, so callers may match them without a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The frame is frozen, free or a tail: its owner has exclusive control (R1).
    Frozen,
    /// The frame has 2^30 references or more and is leaked (R5).
    Saturated,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frozen => f.write_str("the frame is frozen"),
            Self::Saturated => {
                write!(f, "the reference count is saturated at {SATURATED}: the frame is leaked")
            }
        }
    }
}

impl error::Error for Refused {}

/// The error of [`PageRef::freeze`]: the count was not the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Busy {
    /// The state that `freeze` found.
    pub found: Snapshot,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the frame is {:?}, which is not the expected reference count", self.found)
    }
}

impl error::Error for Busy {}

/// The reference count word of one frame.
///
/// | operation | edge | ordering |
/// | --- | --- | --- |
/// | [`try_get`](Self::try_get) | Live(n) → Live(n+1); Frozen refuses | Acquire: sees what `init`/`unfreeze` published (R6) |
/// | [`get`](Self::get) | Live(n) → Live(n+1) | Relaxed: the reference that the caller holds is the edge |
/// | [`put`](Self::put) | Live(n) → Live(n-1); at 0 Dying → Frozen | Release, then Acquire by the winner (R6) |
/// | [`put_expecting_last`](Self::put_expecting_last) | Live(1) → Frozen at once, otherwise as `put` | as `freeze`, otherwise as `put` |
/// | [`freeze`](Self::freeze) | Live(expected) → Frozen | Acquire (R6) |
/// | [`Frozen::init`], [`Frozen::unfreeze`] | Frozen → Live(n) | Release (R6) |
///
/// # Examples
///
/// A lookup, and the put that frees the frame:
///
/// ```
/// use folio_ref::{PageRef, Snapshot};
///
/// let word: PageRef = PageRef::frozen();
/// word.take_frozen().init();
///
/// word.try_get(1)?;
/// assert_eq!(word.snapshot(), Snapshot::Live(2));
/// assert!(word.put().is_none());
/// if let Some(handle) = word.put() {
///     // The last reference is gone: free the frame here. It stays frozen.
///     handle.leave_frozen();
/// }
/// # Ok::<(), folio_ref::Refused>(())
/// ```
#[repr(transparent)]
pub struct PageRef<S: Scheme = DefaultScheme> {
    word: S::Atomic,
}

impl<S: Scheme> PageRef<S> {
    /// Creates a frozen word. There is no other constructor. Where [`Scheme::ZERO_IS_FROZEN`]
    /// holds, zeroed memory is this same value.
    pub fn frozen() -> Self {
        Self { word: S::new_frozen() }
    }

    /// Takes `n` references unless the frame is frozen or saturated. One fetch-add under the bit
    /// schemes, a compare-and-swap loop under the two schemes that mark frozen with the value 0.
    ///
    /// After success the caller re-checks that the frame is still the one it looked up (R8).
    ///
    /// # Errors
    ///
    /// - [`Refused::Frozen`] if the frame is frozen, free or a tail.
    /// - [`Refused::Saturated`] if the count is saturated, or would be.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`].
    #[inline(always)]
    pub fn try_get(&self, n: u32) -> Result<(), Refused> {
        assert!(
            n > 0 && n <= MAX_AT_ONCE,
            "try_get of {n} references: allowed are 1 to {MAX_AT_ONCE}"
        );
        S::try_get(&self.word, n)
    }

    /// Takes `n` more references, for a caller that already holds one. It is never refused and
    /// never revives a frame.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also if the
    /// frame is not live.
    #[inline(always)]
    pub fn get(&self, n: u32) {
        assert!(n > 0 && n <= MAX_AT_ONCE, "get of {n} references: allowed are 1 to {MAX_AT_ONCE}");
        let old = S::get(&self.word, n);
        assert!(
            !CHECKS || matches!(old, Snapshot::Live(_) | Snapshot::Saturated),
            "get on a frame that is {old:?}: the caller holds no reference to it"
        );
    }

    /// Returns one reference to the count. The result is `Some` if it was the last one: the frame
    /// is then frozen, and the caller is its only owner and must free it (R3).
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the frame is not live.
    #[inline(always)]
    pub fn put(&self) -> Option<Frozen<'_, S>> {
        self.put_many(1)
    }

    /// Returns `n` references to the count at once. The result is `Some` if they were the last
    /// ones: the frame is then frozen, and the caller is its only owner and must free it (R3).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also if fewer
    /// references are held.
    #[inline(always)]
    pub fn put_many(&self, n: u32) -> Option<Frozen<'_, S>> {
        self.drop_references(n)?.finish()
    }

    /// Returns one reference to the count, for a caller that expects it to be the last. The result
    /// is that of [`put`](Self::put).
    ///
    /// If the expectation holds, it is one compare-and-swap from Live(1) to Frozen, with no instant
    /// between two steps. Otherwise it costs a failed compare-and-swap more than `put`.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the frame is not live.
    #[inline(always)]
    pub fn put_expecting_last(&self) -> Option<Frozen<'_, S>> {
        // The one expected reference is the caller's own. Acquire, as in freeze; the caller's own
        // writes need no Release, since the caller is the winner.
        match S::freeze(&self.word, 1) {
            Ok(()) => Some(Frozen { page: self }),
            Err(_) => self.put(),
        }
    }

    /// Runs the first step of [`put_many`](Self::put_many) alone: the fetch-sub. The result is
    /// `Some` if the count reached 0: the caller then owes the second step, [`Dying::finish`].
    ///
    /// Tests and tracepoints use it to act between the two steps. There another thread may revive,
    /// free and reuse the frame (R4), or take its block offline (R7).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also if fewer
    /// references are held.
    #[inline(always)]
    pub fn drop_references(&self, n: u32) -> Option<Dying<'_, S>> {
        assert!(n > 0 && n <= MAX_AT_ONCE, "put of {n} references: allowed are 1 to {MAX_AT_ONCE}");
        S::put_first(&self.word, n).map(|dying| Dying { page: self, dying })
    }

    /// Takes exclusive control if exactly `expected` references exist. They are consumed.
    ///
    /// All of them must be the caller's own, or held for it (the index's reference, for example),
    /// never another holder's.
    ///
    /// # Errors
    ///
    /// [`Busy`] with the state that was found, if it is not Live(`expected`).
    ///
    /// # Panics
    ///
    /// Panics if `expected` is 0 or not below [`SATURATED`].
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

    /// Returns the exclusive handle of a frame that its owner left frozen.
    ///
    /// The owner is the allocator that keeps the frame in a free list, or the holder of the page
    /// lock of its index entry. The caller promises that it is the only owner: a second handle
    /// would break R3.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not frozen.
    #[inline(always)]
    pub fn take_frozen(&self) -> Frozen<'_, S> {
        assert!(
            !CHECKS || self.snapshot().is_frozen(),
            "take_frozen on a frame that is {:?}: only a frozen frame has an exclusive handle (R3)",
            self.snapshot()
        );
        Frozen { page: self }
    }

    /// Returns the state at this instant, by a Relaxed load. Use it for statistics and checks only:
    /// the next operation may find another state.
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

/// A put after its fetch-sub brought the count to 0, before its second step.
///
/// It holds no reference. Its second step still accesses the word, so the memory must stay a word
/// until then (R7).
///
/// # Examples
///
/// A lookup revives the frame between the two steps, so the second step loses:
///
/// ```
/// use folio_ref::{PageRef, Snapshot};
///
/// let word: PageRef = PageRef::frozen();
/// word.take_frozen().init();
///
/// let dying = word.drop_references(1).expect("the last reference");
/// assert_eq!(word.snapshot(), Snapshot::Dying);
/// word.try_get(1)?;
/// assert!(dying.finish().is_none());
/// assert_eq!(word.snapshot(), Snapshot::Live(1));
/// # Ok::<(), folio_ref::Refused>(())
/// ```
#[must_use = "the second step of put is owed: call finish"]
pub struct Dying<'a, S: Scheme> {
    page: &'a PageRef<S>,
    dying: u64,
}

impl<'a, S: Scheme> Dying<'a, S> {
    /// Runs the second step: Dying → Frozen by compare-and-swap. The result is `Some` if the caller
    /// won the frame, `None` if a `try_get` revived it or another put won it.
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

/// The exclusive handle of a frozen frame. Exactly one exists for each Live → Frozen edge (R3).
///
/// Each handle ends in [`init`](Self::init), [`unfreeze`](Self::unfreeze) or
/// [`leave_frozen`](Self::leave_frozen). A dropped handle leaves the frame frozen forever; with
/// [`CHECKS`](crate::CHECKS) the drop panics.
///
/// # Examples
///
/// ```
/// use folio_ref::{PageRef, Refused, Snapshot};
///
/// let word: PageRef = PageRef::frozen();
/// word.take_frozen().unfreeze(2); // one reference for the index, one for the caller
///
/// let handle = word.freeze(2)?; // no other reference exists
/// assert_eq!(word.try_get(1), Err(Refused::Frozen));
/// handle.unfreeze(2);
/// assert_eq!(word.snapshot(), Snapshot::Live(2));
/// # Ok::<(), folio_ref::Busy>(())
/// ```
#[must_use = "a frozen frame without an owner is leaked: init, unfreeze, or leave_frozen"]
pub struct Frozen<'a, S: Scheme> {
    page: &'a PageRef<S>,
}

impl<S: Scheme> Frozen<'_, S> {
    /// Begins a new life of the frame with one reference, the caller's. Release: publishes all
    /// earlier writes to the frame and its metadata (R6).
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not frozen.
    #[inline(always)]
    pub fn init(self) {
        self.unfreeze(1);
    }

    /// Ends the freeze with `n` references. Release: publishes all earlier writes to the frame and
    /// its metadata (R6).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or not below [`SATURATED`]; with [`CHECKS`](crate::CHECKS) also if the
    /// word is not frozen.
    #[inline(always)]
    pub fn unfreeze(self, n: u32) {
        let page = self.page;
        // First: if a check below fails, the unwind must not reach the check in drop as well.
        self.leave_frozen();
        assert!(
            n > 0 && n < SATURATED,
            "unfreeze with {n} references: allowed are 1 to {}",
            SATURATED - 1
        );
        assert!(
            !CHECKS || page.snapshot().is_frozen(),
            "the frame of an exclusive handle is {:?}: something cleared its frozen state (R2)",
            page.snapshot()
        );
        S::unfreeze(&page.word, n);
    }

    /// Gives up the handle and leaves the frame frozen: the allocator takes it, or its owner
    /// records it elsewhere. [`PageRef::take_frozen`] returns a handle again.
    #[inline(always)]
    pub fn leave_frozen(self) {
        core::mem::forget(self);
    }
}

impl<S: Scheme> Drop for Frozen<'_, S> {
    fn drop(&mut self) {
        #[expect(clippy::manual_assert, reason = "an assertion of a constant is refused as well")]
        if CHECKS {
            panic!(
                "an exclusive handle was dropped, its frame stays frozen forever: call init, \
                 unfreeze or leave_frozen"
            );
        }
    }
}

impl<S: Scheme> fmt::Debug for Frozen<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exclusive handle of {:?}", self.page)
    }
}
