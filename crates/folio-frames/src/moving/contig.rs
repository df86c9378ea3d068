//! Contiguous allocation: frames that lie together, of any number and alignment, emptied for the
//! purpose if need be.
//!
//! (Linux `alloc_contig_range`.) A [`Contig`] is made of blocks, each with its own token: aligned,
//! and as large as can be. So it can be kept as one range or be handed on in parts.

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

/// Frames that lie together: the token of all of them.
///
/// Dropping it by mistake leaks its frames; with [`CHECKS`] that panics.
#[must_use = "a token that nobody uses leaks its frames: free it, or take its folios"]
pub struct Contig<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** covered by frozen blocks of kind [`Kind::PLAIN`], whose tokens this value
    /// is.
    left: Range<u32>,
}

impl<P: Platform> Contig<P> {
    /// Where it lies.
    pub fn pfns(&self) -> PfnRange {
        PfnRange { start: self.zone.pfn(self.left.start), end: self.zone.pfn(self.left.end) }
    }

    /// The tokens of its blocks, from the first frame on. Those that nobody takes are leaked, as
    /// when it is dropped.
    pub fn into_folios(mut self) -> impl Iterator<Item = FrozenFolio<P>> {
        core::iter::from_fn(move || {
            let head = self.left.start;
            (!self.left.is_empty()).then(|| {
                self.left.start += self.zone.descriptor(head).shape().order.frames();
                FrozenFolio::from_index(self.zone, head)
            })
        })
    }

    /// Returns all of it to the allocator.
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

/// Why there is no such range. What was migrated on the way stays migrated; nothing else changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContigError {
    /// The range has no frame, or its end lies before its start.
    Empty,
    /// It is not all within the zone, or larger than the zone.
    Unknown,
    /// A block of it is offline, another call is emptying it, or the zone's arena is gone.
    NotOnline,
    /// Frames in it are in use and could not be moved.
    Busy {
        /// How many.
        frames: u32,
        /// The first of them.
        first: Pfn,
    },
    /// There is no room elsewhere for what is in it.
    OutOfFrames,
    /// In every place of that size and alignment there is something that stays.
    NoPlace,
}

impl fmt::Display for ContigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the range has no frame"),
            Self::Unknown => f.write_str("the range is not all within the zone"),
            Self::NotOnline => f.write_str("a block of the range is not online"),
            Self::Busy { frames, first } => {
                write!(
                    f,
                    "{frames} frames of the range are in use and could not be moved, the first is {first:?}"
                )
            }
            Self::OutOfFrames => {
                f.write_str("no free frames elsewhere to move the range's contents to")
            }
            Self::NoPlace => f.write_str(
                "in every place of that size and alignment there is something that stays",
            ),
        }
    }
}

impl core::error::Error for ContigError {}

impl<P: Platform> Zone<P> {
    /// Allocates these very frames, moving away what is in them.
    ///
    /// # Errors
    ///
    /// When the range is none, or can not be emptied.
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
        let (Some(start), Some(last)) = (self.index(range.start), self.index(last)) else {
            return Err(ContigError::Unknown);
        };
        self.take_range(start..last + 1, owner)
    }

    /// Allocates `frames` frames that lie together, the first aligned to `align`, moving away what
    /// is in them.
    ///
    /// # Errors
    ///
    /// When there is no such place; of the places that could not be emptied, the error of the last.
    pub fn alloc_contig(
        &'static self,
        frames: u32,
        align: Order,
        owner: &dyn Owner<P>,
    ) -> Result<Contig<P>, ContigError> {
        if frames == 0 {
            return Err(ContigError::Empty);
        }
        // Indices are as aligned as frame numbers are up to the alignment of the zone's first
        // frame.
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
            if self.looks_movable(range.clone()) {
                match self.take_range(range, owner) {
                    Ok(contig) => return Ok(contig),
                    Err(why) => error = why,
                }
                // Not to a place that shares most of what could not be moved.
                n += frames.div_ceil(align.frames());
            } else {
                n += 1;
            }
        }
        Err(error)
    }

    fn take_range(
        &'static self,
        frames: Range<u32>,
        owner: &dyn Owner<P>,
    ) -> Result<Contig<P>, ContigError> {
        let block = |index: u32| (index / BLOCK_ORDER.frames()) as usize;
        let blocks = block(frames.start)..block(frames.end - 1) + 1;
        let isolated = Isolated::new(self, blocks).ok_or(ContigError::NotOnline)?;
        isolated.evacuate(frames.clone(), owner, Reach::Any).map_err(|left| match left {
            Left { out_of_frames: true, .. } => ContigError::OutOfFrames,
            Left { frames, first, .. } => ContigError::Busy { frames, first },
        })?;
        let is_taken = isolated.take(frames.clone(), |head, order| {
            self.memmap.clear_referenced(head);
            self.descriptor(head).set_shape(Kind::PLAIN, order);
        });
        if !is_taken {
            return Err(ContigError::NotOnline);
        }
        Ok(Contig { zone: self, left: frames })
    }
}
