//! Contiguous allocation (Linux `alloc_contig_range`): any number of adjacent frames at any
//! alignment. Their contents are moved away first if need be.
//!
//! A [`Contig`] consists of blocks, each aligned and as large as possible, with an exclusive handle
//! of its own. So it can be kept as one range, or passed on block by block.

use core::fmt;
use core::ops::Range;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, Order, Pfn, PfnRange};
use crate::base::platform::Platform;
use crate::memmap::memmap::Kind;
use crate::moving::evacuate::{Isolated, Left};
use crate::moving::migrate::Owner;
use crate::zone::buddy::Reach;
use crate::zone::folio::FrozenFolio;
use crate::zone::zone::Zone;

/// Adjacent frames, all frozen: the exclusive handle of all of them.
///
/// Dropping it by mistake leaks its frames; with [`CHECKS`] that panics.
///
/// ```
/// use folio_frames::{Arena, Contig, FrozenFolio, Order, Owner, Pfn, Slot, UserSpace};
///
/// struct NoOwner;
/// impl Owner<UserSpace> for NoOwner {
///     fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
///         false
///     }
/// }
///
/// let arena = Arena::<UserSpace>::new(4 << 20, &[])?;
/// let contig: Contig<UserSpace> = arena.zone().alloc_contig(5, Order::ZERO, &NoOwner)?;
/// assert_eq!(contig.pfns().frames(), 5);
///
/// // Five frames at the start of a zone are a block of order 2 and one of order 0.
/// let folios: Vec<FrozenFolio<UserSpace>> = contig.into_folios().collect();
/// assert_eq!(folios.len(), 2);
/// folios.into_iter().for_each(FrozenFolio::free);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a Contig leaks its frames: free it, or take its folios"]
pub struct Contig<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** frozen blocks of kind [`Kind::PLAIN`] cover this range, and this value is
    /// their exclusive handle.
    left: Range<u32>,
}

impl<P: Platform> Contig<P> {
    /// Returns the range of frame numbers.
    pub fn pfns(&self) -> PfnRange {
        PfnRange { start: self.zone.pfn(self.left.start), end: self.zone.pfn(self.left.end) }
    }

    /// Returns the exclusive handles of its blocks, from the first frame on. The blocks that are
    /// not taken from the iterator are leaked when it is dropped; with [`CHECKS`] that panics.
    pub fn into_folios(mut self) -> impl Iterator<Item = FrozenFolio<P>> {
        core::iter::from_fn(move || {
            let head = self.left.start;
            (!self.left.is_empty()).then(|| {
                self.left.start += self.zone.descriptor(head).shape().order.frames();
                FrozenFolio::from_index(self.zone, head)
            })
        })
    }

    /// Returns all its frames to the allocator.
    pub fn free(self) {
        for folio in self.into_folios() {
            folio.free();
        }
    }
}

impl<P: Platform> Drop for Contig<P> {
    fn drop(&mut self) {
        let is_empty = self.left.is_empty();
        assert!(
            !CHECKS || is_empty || P::unwinding(),
            "an exclusive handle was dropped, which leaks its frames: {self:?}"
        );
    }
}

impl<P: Platform> fmt::Debug for Contig<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frozen frames from {:?}", self.left.len(), self.pfns().start)
    }
}

/// The reason why a contiguous allocation failed. Folios that were migrated on the way stay
/// migrated; nothing else changed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContigError {
    /// The range has no frame, or ends before its start.
    Empty,
    /// The range is not all within the zone, or is larger than the zone.
    Unknown,
    /// A block of the range is offline, or another call is emptying it, or a frame is a hole of the
    /// memory map, or the zone's arena is gone.
    NotOnline,
    /// Frames of the range are in use and could not be moved.
    Busy {
        /// The number of these frames.
        frames: u32,
        /// The first of these frames.
        first: Pfn,
    },
    /// There are no free frames elsewhere for the contents of the range.
    OutOfFrames,
    /// Each place of that size and alignment has frames that cannot move.
    NoPlace,
}

impl fmt::Display for ContigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the range has no frame"),
            Self::Unknown => f.write_str("the range is not all within the zone"),
            Self::NotOnline => f.write_str(
                "a block of the range is not online, or a frame of it is not in the memory map",
            ),
            Self::Busy { frames, first } => {
                write!(
                    f,
                    "{frames} frames of the range are in use and could not be moved, the first is \
                     {first:?}"
                )
            }
            Self::OutOfFrames => {
                f.write_str("no free frames elsewhere to move the range's contents to")
            }
            Self::NoPlace => {
                f.write_str("each place of that size and alignment has frames that cannot move")
            }
        }
    }
}

impl core::error::Error for ContigError {}

impl<P: Platform> Zone<P> {
    /// Allocates exactly these frames. Folios in them move elsewhere, found through `owner`.
    /// Returns the exclusive handle of all of them.
    ///
    /// # Errors
    ///
    /// [`ContigError::Empty`] or [`ContigError::Unknown`] for a range without frames or outside the
    /// zone. [`ContigError::NotOnline`], [`ContigError::Busy`] or [`ContigError::OutOfFrames`] if
    /// it cannot be emptied.
    #[expect(clippy::needless_pass_by_value, reason = "ranges are passed by value everywhere")]
    pub fn alloc_contig_range(
        &'static self,
        range: PfnRange,
        owner: &dyn Owner<P>,
    ) -> Result<Contig<P>, ContigError> {
        if range.frames() == 0 {
            return Err(ContigError::Empty);
        }
        let last = Pfn::new(range.end.as_u64() - 1);
        // Also of blocks without metadata, which are holes.
        let (start, last) = (self.index_in_span(range.start), self.index_in_span(last));
        let (Some(start), Some(last)) = (start, last) else { return Err(ContigError::Unknown) };
        self.take_range(start..last + 1, owner).map_err(|(error, _)| error)
    }

    /// Allocates `frames` adjacent frames, the first one aligned to `align`. Folios in them move
    /// elsewhere, found through `owner`. Returns the exclusive handle of all of them.
    ///
    /// # Errors
    ///
    /// [`ContigError::Empty`] for 0 frames, [`ContigError::NotOnline`] if no block of the zone is
    /// online, [`ContigError::Unknown`] if no aligned range of that size lies in the zone,
    /// [`ContigError::NoPlace`] if each one has frames that cannot move. Otherwise the error of the
    /// last place that could not be emptied.
    pub fn alloc_contig(
        &'static self,
        frames: u32,
        align: Order,
        owner: &dyn Owner<P>,
    ) -> Result<Contig<P>, ContigError> {
        if frames == 0 {
            return Err(ContigError::Empty);
        }
        if self.online_frames() == 0 {
            return Err(ContigError::NotOnline);
        }
        // Indices and frame numbers have the same alignment, up to that of the zone's first frame.
        let first = self.pfns().start.as_u64();
        let skip = (first.next_multiple_of(u64::from(align.frames())) - first) as u32;
        let place = |n: u32| -> Option<Range<u32>> {
            let start = skip.checked_add(n.checked_mul(align.frames())?)?;
            let end = start.checked_add(frames)?;
            (end <= self.frames()).then_some(start..end)
        };
        place(0).ok_or(ContigError::Unknown)?;
        let mut error = ContigError::NoPlace;
        let mut n = 0;
        while let Some(range) = place(n) {
            let last = match self.unmovable(range.clone()).last() {
                Some(last) => last,
                None => match self.take_range(range, owner) {
                    Ok(contig) => return Ok(contig),
                    Err((reason, last)) => {
                        error = reason;
                        last
                    }
                },
            };
            // Each place that begins before has this frame, too. At most every second step is
            // shorter than the range, as all behind this frame could be moved.
            n = (last + 1).saturating_sub(skip).div_ceil(align.frames()).max(n + 1);
        }
        Err(error)
    }

    /// Takes these frames. Returns the error, and the last frame that is in the way.
    fn take_range(
        &'static self,
        frames: Range<u32>,
        owner: &dyn Owner<P>,
    ) -> Result<Contig<P>, (ContigError, u32)> {
        let not_online = (ContigError::NotOnline, frames.end - 1);
        let block = |index: u32| (index / BLOCK_ORDER.frames()) as usize;
        let blocks = block(frames.start)..block(frames.end - 1) + 1;
        if !self.is_in_map(frames.clone()) {
            return Err(not_online);
        }
        let isolated = Isolated::new(self, blocks).ok_or(not_online)?;
        isolated.evacuate(frames.clone(), owner, Reach::Any).map_err(|left| match left {
            Left { out_of_frames: true, last, .. } => (ContigError::OutOfFrames, last),
            Left { frames, first, last, .. } => (ContigError::Busy { frames, first }, last),
        })?;
        let is_taken = isolated.take(frames.clone(), |head, order| {
            self.memmap.clear_referenced(head);
            self.descriptor(head).set_shape(Kind::PLAIN, order);
        });
        if !is_taken {
            return Err(not_online);
        }
        Ok(Contig { zone: self, left: frames })
    }
}
