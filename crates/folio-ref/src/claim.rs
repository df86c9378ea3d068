//! Claims by tag: the operations that only the scheme [`Tagged`] has.

use crate::handle::check_owned;
use crate::schemes::Tagged;
use crate::{Busy, Frozen, PageRef, PageRefIn, Tag};

impl PageRef<Tagged> {
    /// Takes exclusive control of a frame that was left frozen under `tag`. One compare-and-swap,
    /// which excludes every other claim: the tag is gone while the handle exists. Acquire: sees
    /// what the last owner wrote before it left the frame (R6).
    ///
    /// Stale increments delay it by a round each. A refusal writes nothing.
    ///
    /// # Errors
    ///
    /// [`Busy`] with the state that was found, if it is not frozen under `tag`.
    ///
    /// # Examples
    ///
    /// ```
    /// use folio_ref::schemes::Tagged;
    /// use folio_ref::{PageRef, Snapshot, Tag};
    ///
    /// const UNUSED: Tag = Tag::new(0);
    /// let word = PageRef::<Tagged>::frozen(); // tag 0, like zeroed memory
    /// let handle = word.try_claim(UNUSED)?;
    /// let busy = word.try_claim(UNUSED).map(|_| ()).unwrap_err();
    /// assert_eq!(busy.found, Snapshot::Frozen { stale: 0 });
    /// handle.init();
    /// # Ok::<(), folio_ref::Busy>(())
    /// ```
    #[inline(always)]
    pub fn try_claim(&self, tag: Tag) -> Result<Frozen<'_, Tagged>, Busy> {
        self.by_ref().try_claim(tag)
    }
}

impl<'a> PageRefIn<'a, Tagged> {
    /// Takes exclusive control of a frame that was left frozen under `tag`.
    ///
    /// # Errors
    ///
    /// [`Busy`] with the state that was found, if it is not frozen under `tag`.
    #[inline(always)]
    pub fn try_claim(self, tag: Tag) -> Result<Frozen<'a, Tagged>, Busy> {
        match Tagged::claim(self.word, tag) {
            Ok(held) => Ok(Frozen::new(self.word, held)),
            Err(found) => Err(Busy { found }),
        }
    }
}

impl Frozen<'_, Tagged> {
    /// Gives up the handle and leaves the frame frozen under `tag`, so that
    /// [`PageRef::try_claim`] can take it. Release: publishes all earlier writes to the frame and
    /// its metadata to the thread that claims it (R6).
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](crate::CHECKS), panics if the word is not frozen, or was left under a tag.
    #[inline(always)]
    pub fn leave_frozen_as(self, tag: Tag) {
        let (word, held) = self.end();
        check_owned::<Tagged>(word);
        Tagged::leave(word, held, tag);
    }
}
