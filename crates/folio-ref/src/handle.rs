//! The handles that a word hands out: the exclusive handle of a frozen frame, with and without a
//! borrow of the word, and a put between its two steps.

use core::fmt;
use core::marker::PhantomData;

use crate::schemes::Scheme;
use crate::{CHECKS, SATURATED};

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
    pub(crate) word: &'a S::Atomic,
    pub(crate) dying: u64,
}

impl<'a, S: Scheme> Dying<'a, S> {
    /// Runs the second step: Dying → Frozen by compare-and-swap. The result is `Some` if the caller
    /// won the frame, `None` if a `try_get` revived it or another put won it.
    #[inline(always)]
    pub fn finish(self) -> Option<Frozen<'a, S>> {
        S::put_second(self.word, self.dying).map(|frozen| Frozen::new(self.word, frozen))
    }
}

impl<S: Scheme> fmt::Debug for Dying<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "late step of a put on {:?} ({})", S::snapshot(self.word), S::NAME)
    }
}

/// The exclusive handle of a frozen frame. Exactly one exists for each Live → Frozen edge (R3).
///
/// Each handle ends in [`init`](Self::init), [`unfreeze`](Self::unfreeze) or
/// [`leave_frozen`](Self::leave_frozen), or in `leave_frozen_as` under the scheme `Tagged`. A
/// dropped handle leaves the frame frozen forever; with [`CHECKS`](crate::CHECKS) the drop panics.
///
/// It borrows the word. [`detach`](Self::detach) ends the borrow and keeps the exclusive control.
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
    word: &'a S::Atomic,
    /// **Invariant:** the word's value but for its stale increments. So the end of the handle need
    /// not load the generation, which would wait for the instruction that froze the frame.
    frozen: u64,
}

impl<'a, S: Scheme> Frozen<'a, S> {
    /// Creates the handle of a word that is frozen for the caller.
    #[inline(always)]
    pub(crate) fn new(word: &'a S::Atomic, frozen: u64) -> Self {
        Self { word, frozen }
    }

    /// Begins a new life of the frame with one reference, the caller's. Release: publishes all
    /// earlier writes to the frame and its metadata (R6).
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not frozen, or was left under a tag.
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
    /// word is not frozen, or was left under a tag.
    #[inline(always)]
    pub fn unfreeze(self, n: u32) {
        // First: if a check below fails, the unwind must not reach the check in drop as well.
        let (word, frozen) = self.end();
        assert!(
            n > 0 && n < SATURATED,
            "unfreeze with {n} references: allowed are 1 to {}",
            SATURATED - 1
        );
        check_owned::<S>(word);
        S::unfreeze(word, frozen, n);
    }

    /// Gives up the handle and leaves the frame frozen: the allocator takes it, or its owner
    /// records it elsewhere. [`PageRef::take_frozen`](crate::PageRef::take_frozen) returns a handle
    /// again.
    #[inline(always)]
    pub fn leave_frozen(self) {
        self.end();
    }

    /// Ends the borrow of the word. The frame stays frozen for the caller, and
    /// [`PageRef::attach`](crate::PageRef::attach) returns the handle.
    ///
    /// # Examples
    ///
    /// A frame that owns its word moves into its exclusive owner:
    ///
    /// ```
    /// use folio_ref::{Detached, Frozen, PageRef};
    ///
    /// struct Shared(Box<PageRef>);
    /// struct Unique(Shared, Detached);
    ///
    /// fn into_unique(frame: Shared) -> Result<Unique, Shared> {
    ///     match frame.0.freeze(1).map(Frozen::detach) {
    ///         Ok(control) => Ok(Unique(frame, control)),
    ///         Err(_) => Err(frame),
    ///     }
    /// }
    ///
    /// let word = Box::new(PageRef::frozen());
    /// word.take_frozen().init();
    /// let Ok(Unique(frame, control)) = into_unique(Shared(word)) else { unreachable!() };
    /// frame.0.attach(control).leave_frozen();
    /// ```
    ///
    /// Without it the result of `freeze` borrows the frame to the end of the `match`, also where
    /// it is an error:
    ///
    /// ```compile_fail,E0505
    /// use folio_ref::PageRef;
    ///
    /// struct Shared(Box<PageRef>);
    ///
    /// fn into_unique(frame: Shared) -> Result<Shared, Shared> {
    ///     match frame.0.freeze(1) {
    ///         Ok(handle) => {
    ///             handle.leave_frozen();
    ///             Ok(frame)
    ///         }
    ///         Err(_) => Err(frame),
    ///     }
    /// }
    /// ```
    #[inline(always)]
    pub fn detach(self) -> Detached<S> {
        self.end();
        Detached { scheme: PhantomData }
    }

    /// Ends the handle without its check in drop. Returns the word, and its value when it was
    /// frozen.
    #[inline(always)]
    pub(crate) fn end(self) -> (&'a S::Atomic, u64) {
        let parts = (self.word, self.frozen);
        core::mem::forget(self);
        parts
    }
}

/// Panics, with [`CHECKS`], if the word of an exclusive handle is not one.
#[inline(always)]
pub(crate) fn check_owned<S: Scheme>(word: &S::Atomic) {
    assert!(
        !CHECKS || S::snapshot(word).is_frozen(),
        "the frame of an exclusive handle is {:?}: something cleared its frozen state (R2)",
        S::snapshot(word)
    );
    assert!(
        !CHECKS || matches!(S::snapshot(word), crate::Snapshot::Frozen { .. }),
        "the frame of an exclusive handle is {:?}: it was left under a tag meanwhile (R3)",
        S::snapshot(word)
    );
}

/// Panics, with [`CHECKS`], because an exclusive handle is dropped.
#[inline(always)]
fn dropped() {
    #[expect(clippy::manual_assert, reason = "an assertion of a constant is refused as well")]
    if CHECKS {
        panic!(
            "an exclusive handle was dropped, its frame stays frozen forever: call init, \
             unfreeze or leave_frozen"
        );
    }
}

impl<S: Scheme> Drop for Frozen<'_, S> {
    fn drop(&mut self) {
        dropped();
    }
}

impl<S: Scheme> fmt::Debug for Frozen<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exclusive handle of {:?} ({})", S::snapshot(self.word), S::NAME)
    }
}

/// An exclusive handle that does not borrow its word.
///
/// It stands for the exclusive control of one frame, and has no size. Its holder
/// knows the frame, and [`PageRef::attach`](crate::PageRef::attach) makes it a [`Frozen`] again. A
/// dropped one leaves the frame frozen forever; with [`CHECKS`](crate::CHECKS) the drop panics.
///
/// # Examples
///
/// ```
/// use folio_ref::PageRef;
///
/// let word: PageRef = PageRef::frozen();
/// let control = word.take_frozen().detach();
/// let moved = Box::new((word, control)); // the word is not borrowed
/// moved.0.attach(moved.1).init();
/// ```
#[must_use = "a frozen frame without an owner is leaked: attach it to its word"]
pub struct Detached<S: Scheme = crate::DefaultScheme> {
    scheme: PhantomData<fn() -> S>,
}

impl<S: Scheme> Detached<S> {
    /// Returns the handle on `word`, which must be the word that this one came from.
    #[inline(always)]
    pub(crate) fn attach(self, word: &S::Atomic) -> Frozen<'_, S> {
        core::mem::forget(self);
        check_owned::<S>(word);
        Frozen::new(word, S::held(word))
    }
}

impl<S: Scheme> Drop for Detached<S> {
    fn drop(&mut self) {
        dropped();
    }
}

impl<S: Scheme> fmt::Debug for Detached<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "detached exclusive handle ({})", S::NAME)
    }
}
