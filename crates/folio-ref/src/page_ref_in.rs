//! The operations on a word, wherever the word lies: in a [`PageRef`](crate::PageRef), or in a
//! descriptor of the caller's.

use core::fmt;

use crate::schemes::{DefaultScheme, Scheme};
use crate::{Busy, CHECKS, Detached, Dying, Frozen, MAX_AT_ONCE, Refused, SATURATED, Snapshot};

/// A word that lies in a descriptor of the caller's, which declares it as core's atomic integer.
///
/// [`PageRef::from_ref`](crate::PageRef::from_ref) makes it. The methods are those of
/// [`PageRef`](crate::PageRef), which documents them in full; their handles borrow the descriptor.
/// A field that is initialised with 0 is a frozen word, where
/// [`Scheme::ZERO_IS_FROZEN`](crate::Scheme::ZERO_IS_FROZEN) holds.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::AtomicU64;
///
/// use folio_ref::{Frozen, PageRef, PageRefIn, schemes::Generational};
///
/// #[derive(Default)]
/// struct Descriptor {
///     count: AtomicU64,
///     flags: u64,
/// }
///
/// impl Descriptor {
///     fn word(&self) -> PageRefIn<'_, Generational> {
///         PageRef::from_ref(&self.count)
///     }
///     fn put(&self) -> Option<Frozen<'_, Generational>> {
///         self.word().put()
///     }
/// }
///
/// let page = Descriptor::default();
/// page.word().take_frozen().init();
/// page.word().try_get(1)?;
/// assert!(page.put().is_none());
/// page.put().expect("the last reference").leave_frozen();
/// # Ok::<(), folio_ref::Refused>(())
/// ```
pub struct PageRefIn<'a, S: Scheme = DefaultScheme> {
    pub(crate) word: &'a S::Atomic,
}

impl<S: Scheme> Copy for PageRefIn<'_, S> {}

#[expect(clippy::expl_impl_clone_on_copy, reason = "derived, it would ask the atomic to be `Copy`")]
impl<S: Scheme> Clone for PageRefIn<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, S: Scheme> PageRefIn<'a, S> {
    /// Takes `n` references unless the frame is frozen or saturated.
    ///
    /// # Errors
    ///
    /// The reason of the refusal.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`].
    #[inline(always)]
    pub fn try_get(self, n: u32) -> Result<(), Refused> {
        assert!(
            n > 0 && n <= MAX_AT_ONCE,
            "try_get of {n} references: allowed are 1 to {MAX_AT_ONCE}"
        );
        S::try_get(self.word, n)
    }

    /// Takes `n` references unless the frame is frozen or saturated. A refusal writes nothing.
    ///
    /// # Errors
    ///
    /// The reason of the refusal.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`], unless it is refused.
    #[inline(always)]
    pub fn try_get_unless_frozen(self, n: u32) -> Result<(), Refused> {
        // Relaxed: a refusal hands on nothing, and otherwise try_get decides.
        match self.snapshot().refused_without_write() {
            Some(refused) => Err(refused),
            None => self.try_get(n),
        }
    }

    /// Takes `n` more references, for a caller that already holds one.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also if the
    /// frame is not live.
    #[inline(always)]
    pub fn get(self, n: u32) {
        assert!(n > 0 && n <= MAX_AT_ONCE, "get of {n} references: allowed are 1 to {MAX_AT_ONCE}");
        let old = S::get(self.word, n);
        assert!(
            !CHECKS || matches!(old, Snapshot::Live(_) | Snapshot::Saturated),
            "get on a frame that is {old:?}: the caller holds no reference to it"
        );
    }

    /// Returns one reference to the count. `Some` if it was the last one.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the frame is not live.
    #[inline(always)]
    pub fn put(self) -> Option<Frozen<'a, S>> {
        self.put_many(1)
    }

    /// Returns `n` references to the count at once. `Some` if they were the last ones.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also if fewer
    /// references are held.
    #[inline(always)]
    pub fn put_many(self, n: u32) -> Option<Frozen<'a, S>> {
        self.drop_references(n)?.finish()
    }

    /// Returns one reference to the count, for a caller that expects it to be the last.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the frame is not live.
    #[inline(always)]
    pub fn put_expecting_last(self) -> Option<Frozen<'a, S>> {
        // The one expected reference is the caller's own. Acquire, as in freeze; the caller's own
        // writes need no Release, since the caller is the winner.
        match S::freeze(self.word, 1) {
            Ok(frozen) => Some(Frozen::new(self.word, frozen)),
            Err(_) => self.put(),
        }
    }

    /// Runs the first step of [`put_many`](Self::put_many) alone. `Some` if the count reached 0.
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0 or above [`MAX_AT_ONCE`]; with [`CHECKS`](crate::CHECKS) also if fewer
    /// references are held.
    #[inline(always)]
    pub fn drop_references(self, n: u32) -> Option<Dying<'a, S>> {
        assert!(n > 0 && n <= MAX_AT_ONCE, "put of {n} references: allowed are 1 to {MAX_AT_ONCE}");
        S::put_first(self.word, n).map(|dying| Dying { word: self.word, dying })
    }

    /// Takes exclusive control if exactly `expected` references exist. They are consumed.
    ///
    /// # Errors
    ///
    /// [`Busy`] with the state that was found, if it is not Live(`expected`).
    ///
    /// # Panics
    ///
    /// Panics if `expected` is 0 or not below [`SATURATED`].
    #[inline(always)]
    pub fn freeze(self, expected: u32) -> Result<Frozen<'a, S>, Busy> {
        assert!(
            expected > 0 && expected < SATURATED,
            "freeze with {expected} references expected: allowed are 1 to {}",
            SATURATED - 1
        );
        match S::freeze(self.word, expected) {
            Ok(frozen) => Ok(Frozen::new(self.word, frozen)),
            Err(found) => Err(Busy { found }),
        }
    }

    /// Returns the exclusive handle of a frame that its owner left frozen. The caller is the only
    /// owner.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not frozen.
    #[inline(always)]
    pub fn take_frozen(self) -> Frozen<'a, S> {
        assert!(
            !CHECKS || self.snapshot().is_frozen(),
            "take_frozen on a frame that is {:?}: only a frozen frame has an exclusive handle (R3)",
            self.snapshot()
        );
        Frozen::new(self.word, S::take_frozen(self.word))
    }

    /// Returns the handle that [`Frozen::detach`] took from this word.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not that of an exclusive handle.
    #[inline(always)]
    pub fn attach(self, control: Detached<S>) -> Frozen<'a, S> {
        control.attach(self.word)
    }

    /// Returns the state at this instant, by a Relaxed load.
    #[inline(always)]
    pub fn snapshot(self) -> Snapshot {
        S::snapshot(self.word)
    }
}

impl<S: Scheme> fmt::Debug for PageRefIn<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.snapshot(), S::NAME)
    }
}
