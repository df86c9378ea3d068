//! Bytes of one frame, pinned: what self-referential structures build on.

use core::fmt;
use core::ops::{Deref, Range};

use crate::base::ids::FRAME_SIZE;
use crate::base::platform::Platform;
use crate::zone::folio::FolioRef;

/// A range of the bytes of one frame, with the reference that keeps them. They do not change while
/// it exists, and do not move when it moves.
///
/// With the feature `stable_deref_trait` it implements `StableDeref`: a parser may keep views into
/// the bytes beside it, in one structure (yoke, ouroboros, `owning_ref`).
///
/// ```
/// use folio_frames::{Arena, Kind, Order, PinnedBytes, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let mut folio = arena.zone().alloc_frozen(Order::ZERO)?;
/// folio.set_owner(Kind::owner(0), 0);
/// folio.as_mut_slice()[..5].copy_from_slice(b"hello");
/// let bytes = PinnedBytes::new(folio.init(), 1..5);
/// assert_eq!(&*bytes, b"ello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PinnedBytes<P: Platform> {
    /// The reference. The bytes are those of the frame that it was looked up by.
    folio: FolioRef<P>,
    /// **Invariant:** `start <= end <= FRAME_SIZE`.
    start: usize,
    end: usize,
}

impl<P: Platform> PinnedBytes<P> {
    /// Returns the bytes `range` of the frame that the folio was looked up by.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in the frame.
    pub fn new(folio: FolioRef<P>, range: Range<usize>) -> Self {
        let Range { start, end } = range;
        assert!(start <= end && end <= FRAME_SIZE, "bytes {start}..{end} of a frame");
        Self { folio, start, end }
    }
}

impl<P: Platform> Clone for PinnedBytes<P> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        Self { folio: self.folio.clone(), ..*self }
    }
}

impl<P: Platform> Deref for PinnedBytes<P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.folio.frame()[self.start..self.end]
    }
}

// SAFETY: the bytes lie in the direct map of the folio's zone, not in this value, so they stay
// where they are when it moves. They stay mapped and unchanged while the reference exists, which
// only dropping this value ends.
#[cfg(feature = "stable_deref_trait")]
unsafe impl<P: Platform> stable_deref_trait::StableDeref for PinnedBytes<P> {}

// SAFETY: a clone holds another reference to the same folio and the same range of its frame, so it
// dereferences to the same address.
#[cfg(feature = "stable_deref_trait")]
unsafe impl<P: Platform> stable_deref_trait::CloneStableDeref for PinnedBytes<P> {}

impl<P: Platform> fmt::Debug for PinnedBytes<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{} of the {:?}", self.start, self.end, self.folio)
    }
}
