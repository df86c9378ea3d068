//! The tag of a frozen word.

/// The tag of a frozen word under the scheme [`Tagged`](crate::schemes::Tagged): what the frame is
/// while no exclusive handle exists. The caller chooses the meaning of each number, except that
/// zeroed memory has tag 0.
///
/// # Examples
///
/// ```
/// use folio_ref::Tag;
///
/// const UNUSED: Tag = Tag::new(0);
/// const UNIQUE: Tag = Tag::new(1);
/// assert!(UNUSED < UNIQUE && UNIQUE.get() <= Tag::MAX);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub(crate) u8);

impl Tag {
    /// The greatest tag. The number above it stands for an exclusive handle.
    pub const MAX: u8 = 6;

    /// Creates the tag with number `n`.
    ///
    /// # Panics
    ///
    /// Panics if `n` is above [`MAX`](Self::MAX).
    #[inline(always)]
    pub const fn new(n: u8) -> Self {
        assert!(n <= Self::MAX, "this tag does not exist: allowed are 0 to 6");
        Self(n)
    }

    /// Returns the number.
    #[inline(always)]
    pub const fn get(self) -> u8 {
        self.0
    }
}
