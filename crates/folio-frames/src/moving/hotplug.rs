//! Offline and online: takes blocks of 2 MiB out of the allocator and brings them back (picture:
//! `blocks.rs`).
//!
//! A block goes offline after it was emptied (`evacuate.rs`). Its metadata stays (R7): a late put
//! finds its word, frozen. The block's bytes may then be returned to the system. Its metadata may
//! only be returned under the conditions of `Arena::return_metadata`.

use core::fmt;
use core::ops::Range;

use crate::base::ids::{BLOCK_ORDER, Pfn};
use crate::base::platform::Platform;
use crate::moving::evacuate::{Isolated, Left};
use crate::moving::migrate::Owner;
use crate::zone::buddy::Reach;
use crate::zone::zone::Zone;

/// The right to bring an offline block back. While it exists, the block's bytes have no owner.
///
/// Dropping it leaves the block offline for the life of the zone.
///
/// ```
/// use folio_frames::{Arena, Offline, Owner, Pfn, Slot, UserSpace};
///
/// struct NoOwner;
/// impl Owner<UserSpace> for NoOwner {
///     fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
///         false
///     }
/// }
///
/// let arena = Arena::<UserSpace>::new(4 << 20, &[])?;
/// let offline: Offline<UserSpace> = arena.offline(1, &NoOwner)?;
/// assert_eq!((offline.block(), arena.online_blocks()), (1, 1));
///
/// arena.online(offline);
/// assert_eq!(arena.online_blocks(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "without it the block cannot come back: pass it to online"]
pub struct Offline<P: Platform> {
    zone: &'static Zone<P>,
    block: usize,
}

impl<P: Platform> Offline<P> {
    /// Returns the number of the block in its zone.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Panics unless the block belongs to `zone`.
    pub(crate) fn assert_of(&self, zone: &Zone<P>) {
        assert!(
            core::ptr::eq(zone, self.zone),
            "an offline block of another zone was passed: pass it to its own zone or arena"
        );
    }
}

impl<P: Platform> fmt::Debug for Offline<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offline block {} ({:?})", self.block, self.zone.block_range(self.block))
    }
}

/// The reason why a block stayed online. Its contents are where they were, or were migrated.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineError {
    /// There is no such block, or it is offline already, or another call is emptying it, or the
    /// zone's arena is gone.
    NotOnline,
    /// Frames of the block are in use and could not be moved.
    Busy {
        /// The number of these frames.
        frames: u32,
        /// The first of these frames.
        first: Pfn,
    },
    /// There are no free frames elsewhere for the contents of the block.
    OutOfFrames,
}

impl fmt::Display for OfflineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnline => f.write_str("the zone has no such block, or it is not online"),
            Self::Busy { frames, first } => {
                write!(
                    f,
                    "{frames} frames of the block are in use and could not be moved, the first is \
                     {first:?}"
                )
            }
            Self::OutOfFrames => {
                f.write_str("no free frames elsewhere to move the block's contents to")
            }
        }
    }
}

impl core::error::Error for OfflineError {}

impl<P: Platform> Zone<P> {
    /// Takes a block out of the allocator. Folios in it move elsewhere, found through `owner`.
    /// Returns the right to bring the block back.
    ///
    /// # Errors
    ///
    /// [`OfflineError::NotOnline`] if there is no such block or it is not online,
    /// [`OfflineError::Busy`] or [`OfflineError::OutOfFrames`] if it cannot be emptied.
    pub fn offline(
        &'static self,
        block: usize,
        owner: &dyn Owner<P>,
    ) -> Result<Offline<P>, OfflineError> {
        let first = self.block_start(block).ok_or(OfflineError::NotOnline)?;
        let isolated = Isolated::new(self, block..block + 1).ok_or(OfflineError::NotOnline)?;
        let frames = first..first + BLOCK_ORDER.frames();
        self.finish_offline(isolated, block, |isolated| {
            isolated.evacuate(frames, owner, Reach::Any)
        })
    }

    /// Takes a block out of the allocator if all its frames are free. No folio is moved: for memory
    /// of guests, and for folios that devices access. Returns the right to bring the block back.
    ///
    /// ```
    /// use folio_frames::{Arena, OfflineError, Order, UserSpace};
    ///
    /// let arena = Arena::<UserSpace>::new(4 << 20, &[])?;
    /// let zone = arena.zone();
    /// let folio = zone.alloc_frozen(Order::ZERO)?;
    /// let block = ((folio.pfn().as_u64() - zone.pfns().start.as_u64()) / 512) as usize;
    ///
    /// let busy = OfflineError::Busy { frames: 1, first: folio.pfn() };
    /// assert_eq!(zone.offline_if_free(block).unwrap_err(), busy);
    /// folio.free();
    /// let offline = zone.offline_if_free(block)?;
    /// assert_eq!(offline.block(), block);
    /// # arena.online(offline);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`OfflineError::NotOnline`] if there is no such block or it is not online,
    /// [`OfflineError::Busy`] if a frame of it is in use.
    pub fn offline_if_free(&'static self, block: usize) -> Result<Offline<P>, OfflineError> {
        let first = self.block_start(block).ok_or(OfflineError::NotOnline)?;
        let isolated = Isolated::new(self, block..block + 1).ok_or(OfflineError::NotOnline)?;
        let frames = first..first + BLOCK_ORDER.frames();
        self.finish_offline(isolated, block, |isolated| isolated.capture(frames))
    }

    /// Takes an isolated block offline after `empty` has emptied it.
    fn finish_offline(
        &'static self,
        isolated: Isolated<P>,
        block: usize,
        empty: impl FnOnce(&Isolated<P>) -> Result<(), Left>,
    ) -> Result<Offline<P>, OfflineError> {
        empty(&isolated).map_err(|left| match left {
            Left { out_of_frames: true, .. } => OfflineError::OutOfFrames,
            Left { frames, first, .. } => OfflineError::Busy { frames, first },
        })?;
        if !isolated.finish_offline() {
            return Err(OfflineError::NotOnline);
        }
        Ok(Offline { zone: self, block })
    }

    /// Brings an offline block back to the allocator.
    ///
    /// # Panics
    ///
    /// Panics if the block belongs to another zone.
    ///
    /// # Safety
    ///
    /// The block's bytes are mapped again, under the conditions of [`Zone::new`].
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the right to bring the block back is used up"
    )]
    pub unsafe fn online(&'static self, offline: Offline<P>) {
        offline.assert_of(self);
        // SAFETY: the caller's promise.
        unsafe { self.online_block(offline.block) };
    }

    /// Gives the frames of a block that was never online to the allocator. Memory enters only by
    /// this function and [`Zone::online_range`]. Of a whole block only the head is written. The
    /// holes of the memory map stay out.
    ///
    /// # Panics
    ///
    /// Panics if there is no such block, or it is online, or no frame of it is in the memory map,
    /// or its first frame has its bytes at address 0, or another allocator has the frames.
    ///
    /// # Safety
    ///
    /// The block's bytes are mapped, under the conditions of [`Zone::new`].
    pub unsafe fn online_block(&self, block: usize) {
        let Some(first) = self.block_start(block) else {
            panic!("block {block} is not below {}, the number of blocks in the zone", self.blocks())
        };
        self.assert_not_at_null(&(block..block + 1));
        self.assert_has_allocator();
        let mut buddy = self.lock();
        assert!(
            !self.deferred.has(first),
            "block {block} is online already, its initialisation is deferred"
        );
        let frames = self.blocks.of(first).frames();
        assert!(frames > 0, "block {block} has no frame in the memory map");
        // First: it panics if the block is online.
        self.put_online(&mut buddy, first);
        self.gauge.add_online(frames);
    }

    /// Gives a range of blocks that were never online to the allocator, and defers their
    /// initialisation. Their metadata is not touched until the allocator runs short. Holes of the
    /// memory map stay out: the range may be the whole zone.
    ///
    /// # Panics
    ///
    /// Panics if the zone has no such blocks, or still has other deferred blocks, or if the first
    /// frame has its bytes at address 0, or another allocator has the frames. Panics with
    /// [`CHECKS`](folio_ref::CHECKS) if a block of the range is online; without them it panics
    /// later, when such a block is initialised.
    ///
    /// # Safety
    ///
    /// The bytes of all these blocks are mapped, under the conditions of [`Zone::new`].
    pub unsafe fn online_range(&self, blocks: Range<usize>) {
        assert!(
            blocks.start <= blocks.end && blocks.end <= self.blocks(),
            "blocks {blocks:?} are not within a zone of {} blocks",
            self.blocks()
        );
        self.assert_not_at_null(&blocks);
        self.assert_has_allocator();
        self.defer(blocks);
    }

    fn assert_has_allocator(&self) {
        assert!(self.outer.is_none(), "the zone has an outer allocator: its frames enter by adopt");
    }

    fn block_start(&self, block: usize) -> Option<u32> {
        (block < self.blocks()).then(|| block as u32 * BLOCK_ORDER.frames())
    }
}
