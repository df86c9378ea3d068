//! The atomic word of a frame.

use core::fmt;

use crate::schemes::{DefaultScheme, Scheme};
use crate::{Busy, Detached, Dying, Frozen, PageRefIn, Refused, Snapshot};
#[cfg(doc)]
use crate::{MAX_AT_ONCE, SATURATED};

/// The reference count word of one frame.
///
/// | operation | edge | ordering |
/// | --- | --- | --- |
/// | [`try_get`](Self::try_get) | Live(n) → Live(n+1); Frozen refuses | Acquire: sees what `init`/`unfreeze` published (R6) |
/// | [`try_get_unless_frozen`](Self::try_get_unless_frozen) | the same; a refusal writes nothing | Acquire if it takes, otherwise a Relaxed load |
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
    /// Creates a frozen word, also in a constant or a static. There is no other constructor. Where
    /// [`Scheme::ZERO_IS_FROZEN`] holds, zeroed memory is this same value.
    ///
    /// # Examples
    ///
    /// ```
    /// use folio_ref::PageRef;
    ///
    /// static WORDS: [PageRef; 512] = [const { PageRef::frozen() }; 512];
    /// assert!(WORDS[7].try_get(1).is_err());
    /// ```
    #[cfg(not(loom))]
    pub const fn frozen() -> Self {
        Self { word: S::NEW }
    }

    /// Creates a frozen word.
    #[cfg(loom)]
    pub fn frozen() -> Self {
        Self { word: S::new_frozen() }
    }

    /// Returns the word in a descriptor of the caller's, which declares it as core's atomic
    /// integer: `AtomicU64` under the schemes of 8 bytes, `AtomicU32` under the others.
    ///
    /// The caller creates the integer frozen: with the value 0 where [`Scheme::ZERO_IS_FROZEN`]
    /// holds. Only these operations may change it.
    #[inline(always)]
    pub const fn from_ref(word: &S::Atomic) -> PageRefIn<'_, S> {
        PageRefIn { word }
    }

    /// Returns the word by reference, as [`PageRefIn`].
    #[inline(always)]
    pub const fn by_ref(&self) -> PageRefIn<'_, S> {
        PageRefIn { word: &self.word }
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
        self.by_ref().try_get(n)
    }

    /// Takes `n` references unless the frame is frozen or saturated. A refusal is one plain load
    /// and writes nothing, so the word's cache line stays shared.
    ///
    /// Use it where refusals are common: a walk over frames of which many are free. Use
    /// [`try_get`](Self::try_get) in a lookup, which nearly always succeeds: this call adds a load,
    /// which may fetch the line once more if another core writes the word. Both take and refuse
    /// under the same conditions. A frame that is frozen after the load is refused by the add.
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
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`], unless it is refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use folio_ref::{PageRef, Refused, Snapshot};
    ///
    /// let word: PageRef = PageRef::frozen();
    /// assert_eq!(word.try_get_unless_frozen(1), Err(Refused::Frozen));
    /// assert_eq!(word.snapshot(), Snapshot::Frozen { stale: 0 }); // nothing was written
    /// ```
    #[inline(always)]
    pub fn try_get_unless_frozen(&self, n: u32) -> Result<(), Refused> {
        self.by_ref().try_get_unless_frozen(n)
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
        self.by_ref().get(n);
    }

    /// Returns one reference to the count. The result is `Some` if it was the last one: the frame
    /// is then frozen, and the caller is its only owner and must free it (R3).
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the frame is not live.
    #[inline(always)]
    pub fn put(&self) -> Option<Frozen<'_, S>> {
        self.by_ref().put()
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
        self.by_ref().put_many(n)
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
        self.by_ref().put_expecting_last()
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
        self.by_ref().drop_references(n)
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
        self.by_ref().freeze(expected)
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
        self.by_ref().take_frozen()
    }

    /// Returns the handle that [`Frozen::detach`] took from this word.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not that of an exclusive handle.
    #[inline(always)]
    pub fn attach(&self, control: Detached<S>) -> Frozen<'_, S> {
        self.by_ref().attach(control)
    }

    /// Returns the state at this instant, by a Relaxed load. Use it for statistics and checks only:
    /// the next operation may find another state.
    #[inline]
    pub fn snapshot(&self) -> Snapshot {
        self.by_ref().snapshot()
    }
}

impl<S: Scheme> fmt::Debug for PageRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.snapshot(), S::NAME)
    }
}
