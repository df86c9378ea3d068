//! Folios that lie one behind the other in memory: the bytes of their references, or of their
//! exclusive handles, as one slice.

use core::fmt;
use core::iter;
use core::mem::{self, ManuallyDrop};
use core::ops::Range;
use core::ptr;
use core::slice;
use core::sync::atomic::Ordering;

use crate::base::ids::{FRAME_SIZE, Pfn};
use crate::base::platform::Platform;
use crate::base::sync::{self, fence};
use crate::zone::folio::{FolioRef, FrozenFolio, put};
use crate::zone::track::Site;
use crate::zone::zone::Zone;

/// One reference of each of one or more folios that are neighbours, in the order of their frames.
/// Of the first and the last folio it may cover some frames only.
///
/// It is as small as a single [`FolioRef`], for any number of folios. Dropping it returns the
/// references one by one.
pub struct Adjacent<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** this value accounts for one reference in the word of each folio that has one
    /// of the `frames` frames from here on. There is at least one.
    index: u32,
    frames: u32,
    /// The site of the first reference; the others count as taken there too.
    site: Site,
}

impl<P: Platform> Adjacent<P> {
    /// Returns the first frame.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// Returns the number of frames of all folios together.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Adds the folio behind the last one, or the following frames of the last one, from the frame
    /// that it was looked up by.
    ///
    /// # Errors
    ///
    /// Gives `folio` back if that frame does not follow the last one.
    #[inline]
    pub fn join(&mut self, folio: FolioRef<P>) -> Result<(), FolioRef<P>> {
        let at = folio.at();
        if !ptr::eq(folio.zone(), self.zone) || at != self.index + self.frames {
            return Err(folio);
        }
        self.frames += folio.index() + folio.order().frames() - at;
        if folio.index() == at {
            let (zone, index, site) = folio.into_parts();
            site.moved(self.site, zone.place(index));
        }
        // Otherwise the frame before is of the same folio, which is pinned already. Once is enough.
        Ok(())
    }

    /// Shortens this value to its first `frames` frames. At least one frame of the last folio must
    /// stay.
    ///
    /// # Panics
    ///
    /// Panics if no frame of the last folio would stay, or if there are fewer frames.
    pub fn shorten(&mut self, frames: u32) {
        if frames == self.frames {
            return;
        }
        let (last, _) = self.around(self.index + self.frames - 1);
        // Without the sum of the caller's number, which may overflow.
        let before_last = last.max(self.index) - self.index;
        let is_whole = (before_last + 1..=self.frames).contains(&frames);
        assert!(is_whole, "{frames} frames do not end in the last of the {self:?}");
        self.frames = frames;
    }

    /// Drops the first `frames` frames, and returns the references of the folios that have no other
    /// frame here.
    ///
    /// # Panics
    ///
    /// Panics if no frame would stay.
    pub fn skip(&mut self, frames: u32) {
        assert!(frames < self.frames, "{frames} frames are all of the {self:?}");
        let (first, end) = (self.index + frames, self.index + self.frames);
        let mut index = self.index;
        // Before the puts: if one of them panics, nothing is returned twice.
        (self.index, self.frames) = (first, end - first);
        while index < first {
            let (head, next) = self.around(index);
            index = next;
            if next <= first {
                self.site.ended(self.zone.place(head), 1);
                put(self.zone, head, 1);
            }
        }
    }

    /// Returns a value for some of the frames, with one more reference of each folio that has one
    /// of them.
    ///
    /// # Panics
    ///
    /// Panics if the range is empty, or does not lie in these frames.
    #[cfg_attr(feature = "track", track_caller)]
    #[must_use]
    pub fn part(&self, frames: Range<u32>) -> Self {
        assert!(
            !frames.is_empty() && frames.end <= self.frames,
            "frames {frames:?} of the {self:?}"
        );
        let (first, end) = (self.index + frames.start, self.index + frames.end);
        let mut index = first;
        while index < end {
            let (head, next) = self.around(index);
            // This value's own reference, which stays, and the new one's.
            let ours = ManuallyDrop::new(FolioRef::from_parts(self.zone, head, index, self.site));
            mem::forget(FolioRef::clone(&ours));
            index = next;
        }
        Self { index: first, frames: frames.end - frames.start, site: Site::here(), ..*self }
    }

    /// Returns the number of frames of all folios that have a frame here: those that are pinned.
    pub fn pinned_frames(&self) -> u32 {
        let (first, next) = self.around(self.index);
        let last = self.index + self.frames - 1;
        let end = if last < next { next } else { self.around(last).1 };
        end - first
    }

    /// Counts all references as taken by the caller from now on (feature `track`; without it, does
    /// nothing).
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn taken_here(&mut self) {
        let here = Site::here();
        if Site::IS_TRACKED {
            let mut index = self.index;
            while index < self.index + self.frames {
                let (head, next) = self.around(index);
                self.site.moved(here, self.zone.place(head));
                index = next;
            }
        }
        self.site = here;
    }

    /// Returns the bytes of all frames.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: as in `FolioRef::as_slice`, for each folio: mapped, initialised, and not written
        // while there is a reference. The direct map of a zone is one object, in which
        // neighbouring frames are neighbours.
        unsafe {
            slice::from_raw_parts(self.zone.address(self.index), self.frames as usize * FRAME_SIZE)
        }
    }

    /// Returns the start of the folio that has this frame, and of the one behind it. A pinned folio
    /// stays what it is.
    #[inline]
    fn around(&self, index: u32) -> (u32, u32) {
        let (head, shape) = self.zone.head_of(index).expect("a frame of a pinned folio");
        (head, head + shape.order.frames())
    }
}

impl<P: Platform> From<FolioRef<P>> for Adjacent<P> {
    /// Covers the frames from the one on that it was looked up by.
    fn from(folio: FolioRef<P>) -> Self {
        let at = folio.at();
        let frames = folio.index() + folio.order().frames() - at;
        let (zone, _, site) = folio.into_parts();
        Self { zone, index: at, frames, site }
    }
}

impl<P: Platform> Clone for Adjacent<P> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        self.part(0..self.frames)
    }
}

impl<P: Platform> Drop for Adjacent<P> {
    fn drop(&mut self) {
        let end = self.index + self.frames;
        while self.index < end {
            // Before the put: afterwards the frame may be reused.
            let (head, next) = self.around(self.index);
            self.index = next;
            self.site.ended(self.zone.place(head), 1);
            put(self.zone, head, 1);
        }
    }
}

impl<P: Platform> fmt::Debug for Adjacent<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folios of {} frames from {:?} on", self.frames, self.pfn())
    }
}

/// Returns the bytes of references, in their order. Neighbouring folios are one slice.
///
/// ```
/// use folio_frames::{Arena, FrozenFolio, Order, UserSpace, joined};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let block = arena.zone().alloc_frozen(Order::new(1).unwrap())?;
/// let pair: Vec<_> = block.split(Order::ZERO).map(FrozenFolio::init).collect();
/// assert_eq!(joined(&pair).map(<[u8]>::len).collect::<Vec<_>>(), [8192]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn joined<'f, P: Platform>(
    folios: impl IntoIterator<Item = &'f FolioRef<P>>,
) -> impl Iterator<Item = &'f [u8]> {
    let folios =
        folios.into_iter().map(|folio| (folio.zone(), folio.index(), folio.order().frames()));
    neighbours(folios).map(|(zone, index, frames)| {
        sync::read(zone.address(index), frames as usize * FRAME_SIZE);
        // SAFETY: as in `Adjacent::as_slice`, for each folio: the references are borrowed for as
        // long as the slice.
        unsafe { slice::from_raw_parts(zone.address(index), frames as usize * FRAME_SIZE) }
    })
}

/// Returns the bytes of exclusive handles for writing, in their order. Neighbouring folios are one
/// slice.
pub fn joined_mut<'f, P: Platform>(
    folios: impl IntoIterator<Item = &'f mut FrozenFolio<P>>,
) -> impl Iterator<Item = &'f mut [u8]> {
    let folios =
        folios.into_iter().map(|folio| (folio.zone(), folio.index(), folio.order().frames()));
    neighbours(folios).map(|(zone, index, frames)| {
        // Release: as in `FrozenFolio::as_mut_slice`.
        fence(Ordering::Release);
        // SAFETY: as in `FrozenFolio::as_mut_slice`, for each folio: the handles are exclusive, and
        // borrowed for as long as the slice. The direct map of a zone is one object, in which
        // neighbouring frames are neighbours.
        let bytes =
            unsafe { slice::from_raw_parts_mut(zone.address(index), frames as usize * FRAME_SIZE) };
        sync::written(bytes);
        bytes
    })
}

/// Merges the frames of neighbouring folios. Each item is a zone, a first frame, and a number of
/// frames.
fn neighbours<P: Platform>(
    folios: impl Iterator<Item = (&'static Zone<P>, u32, u32)>,
) -> impl Iterator<Item = (&'static Zone<P>, u32, u32)> {
    let mut folios = folios.peekable();
    iter::from_fn(move || {
        let (zone, index, mut frames) = folios.next()?;
        while let Some((_, _, more)) =
            folios.next_if(|&(other, next, _)| ptr::eq(other, zone) && next == index + frames)
        {
            frames += more;
        }
        Some((zone, index, frames))
    })
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::vec::Vec;

    use crate::{Arena, FRAME_SIZE, Order, UserSpace};

    use super::*;

    #[test]
    fn neighbours_are_one_slice_and_others_are_refused() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let zone = arena.zone();
        // A block split into pieces of 2, 1 and 1 frames.
        let block = zone.alloc_frozen(Order::new(2).unwrap()).unwrap();
        let mut halves = block.split(Order::new(1).unwrap());
        let pieces = halves.next().into_iter().chain(halves.next().unwrap().split(Order::ZERO));
        let mut pieces: Vec<_> = (1..)
            .zip(pieces)
            .map(|(n, mut piece)| {
                piece.as_mut_slice().fill(n);
                piece.init()
            })
            .collect();
        let (last, middle) = (pieces.pop().unwrap(), pieces.pop().unwrap());
        let mut joined = Adjacent::from(pieces.pop().unwrap());
        let last = joined.join(last).expect_err("the middle is missing");
        joined.join(middle).unwrap();
        let again = joined.join(last.clone()).map(|()| last).unwrap();
        joined.join(again).expect_err("it is in already");
        let expected = [[1; FRAME_SIZE], [1; FRAME_SIZE], [2; FRAME_SIZE], [3; FRAME_SIZE]];
        assert_eq!((joined.as_slice(), joined.frames()), (expected.as_flattened(), 4));

        assert_eq!(
            std::format!("{joined:?}"),
            std::format!("folios of 4 frames from {:?} on", joined.pfn())
        );

        // The clone pins all of them after the first value is dropped.
        let clone = joined.clone();
        drop(joined);
        assert_eq!(clone.as_slice(), expected.as_flattened());
        assert_eq!(zone.stats().free_frames, zone.stats().online_frames - 4);
        drop(clone);
        zone.drain();
        zone.assert_sound();
        assert_eq!(zone.stats().free_frames, zone.stats().online_frames);
    }

    #[test]
    fn a_part_pins_its_folios_and_skipped_ones_are_free() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let zone = arena.zone();
        let used = || {
            zone.drain();
            zone.stats().online_frames - zone.stats().free_frames
        };
        // Four folios of two frames.
        let block = zone.alloc_frozen(Order::new(3).unwrap()).unwrap();
        let mut folios = block.split(Order::new(1).unwrap()).map(crate::FrozenFolio::init);
        let mut joined = Adjacent::from(folios.next().unwrap());
        folios.for_each(|folio| joined.join(folio).unwrap());
        let address = joined.as_slice().as_ptr();
        let part = joined.part(3..5);
        assert_eq!((part.frames(), part.pinned_frames(), joined.pinned_frames()), (2, 4, 8));
        assert_eq!(part.as_slice().as_ptr().addr(), address.addr() + 3 * FRAME_SIZE);
        // Frame 1 lies in the first folio, which stays.
        joined.skip(1);
        assert_eq!((joined.frames(), joined.pinned_frames(), used()), (7, 8, 8));
        joined.skip(1);
        assert_eq!((joined.frames(), joined.pinned_frames(), used()), (6, 6, 6));
        // The part has the second and the third.
        joined.skip(5);
        assert_eq!((joined.frames(), joined.pinned_frames(), used()), (1, 2, 6));
        assert_eq!(joined.as_slice().as_ptr().addr(), address.addr() + 7 * FRAME_SIZE);
        drop(joined);
        assert_eq!(used(), 4);
        drop(part);
        assert_eq!(used(), 0);
        zone.assert_sound();
    }

    #[test]
    fn neighbours_are_written_and_read_as_one_slice() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let block = arena.zone().alloc_frozen(Order::new(2).unwrap()).unwrap();
        let mut pieces: Vec<_> = block.split(Order::ZERO).collect();
        pieces.swap(2, 3);
        let slices: Vec<_> = joined_mut(&mut pieces).collect();
        let lengths: Vec<_> = slices.iter().map(|slice| slice.len()).collect();
        assert_eq!(lengths, [2 * FRAME_SIZE, FRAME_SIZE, FRAME_SIZE], "the last two are swapped");
        for (n, slice) in (1..).zip(slices) {
            slice.fill(n);
        }
        let seen: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.as_slice()[0], piece.as_slice()[FRAME_SIZE - 1]))
            .collect();
        assert_eq!(seen, [(1, 1), (1, 1), (2, 2), (3, 3)]);
        assert_eq!(joined_mut(&mut [] as &mut [FrozenFolio<UserSpace>]).count(), 0);

        let pieces: Vec<_> = pieces.into_iter().map(FrozenFolio::init).collect();
        let slices: Vec<_> =
            joined(&pieces).map(|slice| (slice.len(), slice[0], slice[slice.len() - 1])).collect();
        assert_eq!(slices, [(2 * FRAME_SIZE, 1, 1), (FRAME_SIZE, 2, 2), (FRAME_SIZE, 3, 3)]);
    }
}
