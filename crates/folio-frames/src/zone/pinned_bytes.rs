//! Bytes of adjacent frames, pinned: what self-referential structures build on.

use core::fmt;
use core::ops::{Deref, Range};

use crate::base::ids::FRAME_SIZE;
use crate::base::platform::Platform;
use crate::zone::adjacent::Adjacent;
use crate::zone::folio::FolioRef;

/// A range of the bytes of one frame, or of adjacent frames, with the references that keep them.
/// They do not change while it exists, and do not move when it moves.
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
    /// The references. The bytes are those of their frames.
    folios: Adjacent<P>,
    /// **Invariant:** `start <= end`, and `end` is at most the number of bytes of the frames.
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
        Self { folios: Adjacent::from(folio), start, end }
    }

    /// Returns the bytes `range` of adjacent frames.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in the frames.
    pub fn of_adjacent(folios: Adjacent<P>, range: Range<usize>) -> Self {
        let (Range { start, end }, bytes) = (range, folios.as_slice().len());
        assert!(start <= end && end <= bytes, "bytes {start}..{end} of frames with {bytes}");
        Self { folios, start, end }
    }
}

impl<P: Platform> Clone for PinnedBytes<P> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        Self { folios: self.folios.clone(), ..*self }
    }
}

impl<P: Platform> Deref for PinnedBytes<P> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.folios.as_slice()[self.start..self.end]
    }
}

// SAFETY: the bytes lie in the direct map of the folios' zone, not in this value, so they stay
// where they are when it moves. They stay mapped and unchanged while the references exist, which
// only dropping this value ends: `Adjacent` is neither joined nor shortened in here.
#[cfg(feature = "stable_deref_trait")]
unsafe impl<P: Platform> stable_deref_trait::StableDeref for PinnedBytes<P> {}

// SAFETY: a clone holds another reference to each of the same folios and the same range of their
// frames, so it dereferences to the same address.
#[cfg(feature = "stable_deref_trait")]
unsafe impl<P: Platform> stable_deref_trait::CloneStableDeref for PinnedBytes<P> {}

impl<P: Platform> fmt::Debug for PinnedBytes<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{} of the {:?}", self.start, self.end, self.folios)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use crate::{Arena, FRAME_SIZE, FrozenFolio, Order, UserSpace};

    use super::*;

    #[test]
    fn bytes_of_adjacent_frames_keep_each_folio() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let zone = arena.zone();
        let pair = zone.alloc_frozen(Order::new(1).unwrap()).unwrap();
        let mut pair = pair.split(Order::ZERO).map(FrozenFolio::init);
        let mut both = Adjacent::from(pair.next().unwrap());
        both.join(pair.next().unwrap()).unwrap();
        let bytes = PinnedBytes::of_adjacent(both, 1..2 * FRAME_SIZE - 1);
        let (address, clone) = (bytes.as_ptr(), bytes.clone());
        drop(bytes);
        assert_eq!((clone.as_ptr(), clone.len()), (address, 2 * FRAME_SIZE - 2));
        assert_eq!(zone.stats().free_frames, zone.stats().online_frames - 2);
        drop(clone);
        zone.drain();
        assert_eq!(zone.stats().free_frames, zone.stats().online_frames);
    }

    #[test]
    #[should_panic(expected = "bytes 1..4097 of frames with 4096")]
    fn bytes_past_the_frames_are_refused() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let folio = arena.zone().alloc_frozen(Order::ZERO).unwrap().init();
        PinnedBytes::of_adjacent(Adjacent::from(folio), 1..FRAME_SIZE + 1);
    }
}
