//! Offline and online: blocks of 2 MiB that leave the allocator and come back (picture:
//! `blocks.rs`).
//!
//! A block goes offline when it is empty (`evacuate.rs`). The metadata stays (R7): a late put finds
//! its word, frozen. The block's bytes may then be given back to the system; its metadata only as
//! `Arena::return_metadata` says.

use core::fmt;
use core::ops::Range;

use crate::base::ids::{BLOCK_ORDER, Pfn};
use crate::base::platform::Platform;
use crate::moving::evacuate::{Isolated, Left};
use crate::moving::migrate::Owner;
use crate::zone::buddy::Reach;
use crate::zone::zone::Zone;

/// A block that is offline: the right to bring it back. While this exists its bytes are nobody's.
#[must_use = "without it the block can not come back: Zone::online"]
pub struct Offline<P: Platform> {
    zone: &'static Zone<P>,
    block: usize,
}

impl<P: Platform> Offline<P> {
    /// Which block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Panics unless it belongs to this zone.
    pub(crate) fn assert_of(&self, zone: &Zone<P>) {
        assert!(
            core::ptr::eq(zone, self.zone),
            "an offline block of another zone was brought online here"
        );
    }
}

impl<P: Platform> fmt::Debug for Offline<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offline block {} ({:?})", self.block, self.zone.block_range(self.block))
    }
}

/// Why a block stayed online. Everything in it is where it was, or was migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineError {
    /// There is no such block, it is offline already, another call is taking it offline, or the
    /// zone's arena is gone.
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
}

impl fmt::Display for OfflineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnline => f.write_str("the block is not online"),
            Self::Busy { frames, first } => {
                write!(
                    f,
                    "{frames} frames of the block are in use and could not be moved, the first is {first:?}"
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
    /// Takes a block out of the allocator, migrating what is in it.
    pub fn offline(
        &'static self,
        block: usize,
        owner: &dyn Owner<P>,
    ) -> Result<Offline<P>, OfflineError> {
        let first = self.block_start(block).ok_or(OfflineError::NotOnline)?;
        let isolated = Isolated::new(self, block..block + 1).ok_or(OfflineError::NotOnline)?;
        isolated.evacuate(first..first + BLOCK_ORDER.frames(), owner, Reach::Any).map_err(
            |left| match left {
                Left { out_of_frames: true, .. } => OfflineError::OutOfFrames,
                Left { frames, first, .. } => OfflineError::Busy { frames, first },
            },
        )?;
        if !isolated.finish_offline() {
            return Err(OfflineError::NotOnline);
        }
        Ok(Offline { zone: self, block })
    }

    /// Brings an offline block back.
    ///
    /// # Panics
    ///
    /// When the block belongs to another zone.
    ///
    /// # Safety
    ///
    /// The block's bytes are mapped again, as [`Zone::new`] says.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the right to bring the block back is used up"
    )]
    pub unsafe fn online(&'static self, offline: Offline<P>) {
        offline.assert_of(self);
        // SAFETY: the caller's promise.
        unsafe { self.online_block(offline.block) };
    }

    /// Hands the frames of a block that was never online to the allocator: with
    /// [`Zone::online_range`] the only way memory enters. Nothing but the block's head is
    /// written.
    ///
    /// # Panics
    ///
    /// When there is no such block, or it is online.
    ///
    /// # Safety
    ///
    /// The block's bytes are mapped, as [`Zone::new`] says.
    pub unsafe fn online_block(&self, block: usize) {
        let first = self.block_start(block).expect("a block of this zone");
        let mut buddy = self.lock();
        assert!(!self.deferred.has(first), "block {block} was handed over already, and waits");
        self.gauge.add_online(BLOCK_ORDER.frames());
        self.put_online(&mut buddy, first);
    }

    /// Hands over a range of blocks that were never online, without touching their metadata: they
    /// are brought in when the allocator runs short.
    ///
    /// # Panics
    ///
    /// When the zone has no such blocks, or others still wait. A block of the range that is online
    /// already is noticed, by a panic, when it is brought in.
    ///
    /// # Safety
    ///
    /// The bytes of all these blocks are mapped, as [`Zone::new`] says.
    pub unsafe fn online_range(&self, blocks: Range<usize>) {
        assert!(
            blocks.start <= blocks.end && blocks.end <= self.blocks(),
            "blocks {blocks:?} of a zone with {}",
            self.blocks()
        );
        self.defer(blocks);
    }

    fn block_start(&self, block: usize) -> Option<u32> {
        (block < self.blocks()).then(|| block as u32 * BLOCK_ORDER.frames())
    }
}
