//! Offline and online: blocks of 2 MiB that leave the allocator and come back.
//!
//! ```text
//! offline ──online_block──▶ online ──isolate──▶ isolated ──all frames captured──▶ offline
//!                             ▲                     │
//!                             └──── back out ───────┘
//! ```
//!
//! Going offline: the block is isolated (frames freed in it are held back), the free ones are captured, the
//! per-CPU lists are drained, and what is in use is migrated. The metadata stays (R7): a late put finds
//! its word, frozen. Only the block's bytes may then be given back to the system.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use page_ref::CHECKS;

use crate::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::memmap::{Kind, MemmapMemory, Shape};
use crate::migrate::{MigrateError, Owner, migrate};
use crate::platform::Platform;
use crate::zone::Zone;

const OFFLINE: u8 = 0;
const ONLINE: u8 = 1;
const ISOLATED: u8 = 2;

/// Rounds of migration before a block is reported busy.
const ROUNDS: usize = 4;

/// State of one block. Zeroed memory says offline.
pub(crate) struct Block {
    /// Written under the zone's lock; read anywhere.
    state: AtomicU8,
    /// Frames held back while isolated. Only under the zone's lock.
    captured: AtomicU16,
}

/// The block table of a zone.
pub(crate) struct Blocks {
    /// **Invariant:** points to `len` initialised blocks, never unmapped.
    table: NonNull<Block>,
    len: u32,
}

// SAFETY: a shared slice of atomics.
unsafe impl Send for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}

impl Blocks {
    /// # Safety
    ///
    /// `table` has room for `len` blocks, is theirs alone for ever, and holds what `holds` says.
    pub(crate) unsafe fn new(table: NonNull<Block>, len: u32, holds: MemmapMemory) -> Self {
        if holds == MemmapMemory::Garbage {
            for n in 0..len as usize {
                // SAFETY: in bounds.
                let block = unsafe { table.add(n) };
                // SAFETY: aligned, in bounds, nobody else's.
                unsafe { block.write(Block { state: AtomicU8::new(OFFLINE), captured: AtomicU16::new(0) }) };
            }
        }
        Self { table, len }
    }

    fn all(&self) -> &[Block] {
        // SAFETY: the invariant on `table`; atomics need shared access only.
        unsafe { core::slice::from_raw_parts(self.table.as_ptr(), self.len as usize) }
    }

    fn of(&self, index: u32) -> &Block {
        &self.all()[(index / BLOCK_ORDER.frames()) as usize]
    }

    /// Relaxed: exact under the zone's lock; elsewhere a lock taken by both sides gives the edge.
    pub(crate) fn is_online(&self, index: u32) -> bool {
        self.of(index).state.load(Ordering::Relaxed) == ONLINE
    }

    pub(crate) fn capture(&self, index: u32, order: Order) {
        let block = self.of(index);
        assert!(!CHECKS || block.state.load(Ordering::Relaxed) == ISOLATED, "a frame of an offline block was freed");
        // Under the zone's lock: no read-modify-write is needed.
        block.captured.store(block.captured.load(Ordering::Relaxed) + order.frames() as u16, Ordering::Relaxed);
    }

    /// Blocks that are not offline, and frames captured in them.
    pub(crate) fn count(&self) -> (u32, u32) {
        self.all()
            .iter()
            .filter(|block| block.state.load(Ordering::Relaxed) != OFFLINE)
            .fold((0, 0), |(blocks, captured), block| {
                (blocks + 1, captured + u32::from(block.captured.load(Ordering::Relaxed)))
            })
    }
}

/// A block that is offline: the right to bring it back. While this exists its bytes are nobody's.
#[must_use = "without it the block can not come back: Zone::online"]
pub struct Offline<P: Platform> {
    zone: &'static Zone<P>,
    block: usize,
    /// Which bytes of the zone it was taken from: a token that outlives them is refused.
    epoch: u32,
}

impl<P: Platform> Offline<P> {
    /// Which block.
    pub fn block(&self) -> usize {
        self.block
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
    /// There is no such block, it is offline already, or somebody else is taking it offline.
    NotOnline,
    /// Frames in it are in use and could not be moved.
    Busy {
        /// How many.
        frames: u32,
    },
    /// There is no room elsewhere for what is in it.
    OutOfFrames,
}

impl fmt::Display for OfflineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOnline => f.write_str("the block is not online"),
            Self::Busy { frames } => write!(f, "{frames} frames of the block are in use and could not be moved"),
            Self::OutOfFrames => f.write_str("no free frames elsewhere to move the block's contents to"),
        }
    }
}

impl core::error::Error for OfflineError {}

impl<P: Platform> Zone<P> {
    /// Takes a block out of the allocator, migrating what is in it.
    pub fn offline(&'static self, block: usize, owner: &dyn Owner<P>) -> Result<Offline<P>, OfflineError> {
        let first = self.isolate(block)?;
        let mut last_error = None;
        for _ in 0..ROUNDS {
            self.drain();
            last_error = self.evacuate(first, owner);
            self.drain();
            if self.finish_offline(first) {
                return Ok(Offline { zone: self, block, epoch: self.epoch() });
            }
            if last_error == Some(MigrateError::OutOfFrames) {
                break;
            }
        }
        let in_use = self.back_out(first);
        Err(match last_error {
            Some(MigrateError::OutOfFrames) => OfflineError::OutOfFrames,
            _ => OfflineError::Busy { frames: in_use },
        })
    }

    /// Brings an offline block back.
    ///
    /// # Panics
    ///
    /// When the block belongs to another zone, or to bytes that the zone no longer has.
    ///
    /// # Safety
    ///
    /// The block's bytes are mapped again, as [`Zone::new`] says.
    #[expect(clippy::needless_pass_by_value, reason = "the right to bring the block back is used up")]
    pub unsafe fn online(&'static self, offline: Offline<P>) {
        assert!(core::ptr::eq(self, offline.zone), "an offline block of another zone was brought online here");
        assert_eq!(self.epoch(), offline.epoch, "the bytes of {offline:?} are gone: it can not come back");
        // SAFETY: the caller's promise.
        unsafe { self.online_block(offline.block) };
    }

    /// Hands the frames of a block that was never online to the allocator: the only way memory enters.
    /// Nothing but the block's head is written.
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
        let entry = self.blocks.of(first);
        assert_eq!(entry.state.load(Ordering::Relaxed), OFFLINE, "block {block} is online already");
        entry.state.store(ONLINE, Ordering::Relaxed);
        self.gauge.came_online(BLOCK_ORDER.frames());
        buddy.free(&self.memmap, first, BLOCK_ORDER);
    }

    fn block_start(&self, block: usize) -> Option<u32> {
        (block < self.blocks()).then(|| block as u32 * BLOCK_ORDER.frames())
    }

    /// Online → isolated: no frame of the block is handed out any more, the free ones are captured.
    fn isolate(&self, block: usize) -> Result<u32, OfflineError> {
        let first = self.block_start(block).ok_or(OfflineError::NotOnline)?;
        let mut buddy = self.lock();
        let entry = self.blocks.of(first);
        if entry.state.load(Ordering::Relaxed) != ONLINE {
            return Err(OfflineError::NotOnline);
        }
        entry.state.store(ISOLATED, Ordering::Relaxed);
        // A free block of the largest order spans two of ours: cut it, and leave the other half free.
        let pair = first & !(MAX_ORDER.frames() - 1);
        if self.descriptor(pair).shape() == (Shape { kind: Kind::FREE, order: MAX_ORDER }) {
            buddy.remove(&self.memmap, pair, MAX_ORDER);
            let other = first ^ BLOCK_ORDER.frames();
            buddy.push_apart(&self.memmap, other, BLOCK_ORDER);
            self.free_locked(&mut buddy, first, BLOCK_ORDER);
            return Ok(first);
        }
        let mut index = first;
        while index < first + BLOCK_ORDER.frames() {
            let shape = self.descriptor(index).shape();
            if shape.kind == Kind::FREE {
                buddy.remove(&self.memmap, index, shape.order);
                self.free_locked(&mut buddy, index, shape.order);
            }
            index += if shape == Shape::INTERIOR { 1 } else { shape.order.frames() };
        }
        Ok(first)
    }

    /// Migrates what is in use. The last error that was met, if any.
    fn evacuate(&'static self, first: u32, owner: &dyn Owner<P>) -> Option<MigrateError> {
        let mut last_error = None;
        for index in first..first + BLOCK_ORDER.frames() {
            if self.descriptor(index).shape().kind.is_allocated()
                && let Err(error) = migrate(self, self.pfn(index), owner)
            {
                last_error = Some(error);
                if error == MigrateError::OutOfFrames {
                    break;
                }
            }
        }
        last_error
    }

    /// Isolated → offline, when every frame was captured.
    fn finish_offline(&self, first: u32) -> bool {
        let _buddy = self.lock();
        let entry = self.blocks.of(first);
        if u32::from(entry.captured.load(Ordering::Relaxed)) < BLOCK_ORDER.frames() {
            return false;
        }
        for index in first..first + BLOCK_ORDER.frames() {
            let descriptor = self.descriptor(index);
            assert!(!CHECKS || descriptor.word.snapshot().is_frozen(), "{:?} goes offline (R1)", descriptor.word);
            if descriptor.shape() != Shape::INTERIOR {
                descriptor.set_shape(Kind::INTERIOR, Order::ZERO);
            }
            #[cfg(broken = "metadata-zeroed")]
            self.memmap.zero(index);
        }
        entry.captured.store(0, Ordering::Relaxed);
        entry.state.store(OFFLINE, Ordering::Relaxed);
        self.gauge.went_offline(BLOCK_ORDER.frames());
        true
    }

    /// Isolated → online: what was captured is free again. How many frames were in use.
    fn back_out(&self, first: u32) -> u32 {
        let mut buddy = self.lock();
        let entry = self.blocks.of(first);
        let captured = u32::from(entry.captured.swap(0, Ordering::Relaxed));
        entry.state.store(ONLINE, Ordering::Relaxed);
        for index in first..first + BLOCK_ORDER.frames() {
            let shape = self.descriptor(index).shape();
            if shape.kind == Kind::ISOLATED {
                self.free_locked(&mut buddy, index, shape.order);
            }
        }
        BLOCK_ORDER.frames() - captured
    }
}
