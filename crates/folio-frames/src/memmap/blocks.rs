//! The table of 2 MiB blocks: the state of each, its migrate type, and its number of free frames.
//!
//! ```text
//! offline ──online──▶ online ──isolate──▶ isolated ──all captured──▶ offline
//!                       ▲                     │
//!                       └──── back out ───────┘
//! online, or isolated ──close──▶ closed ──all captured──▶ offline
//! ```
//!
//! No frame of an isolated block is handed out, and a frame that is freed in it is held back:
//! *captured*. That is how a block is emptied, for any purpose (`evacuate.rs`). A closed block
//! stays isolated forever, as its zone is closed (`retire.rs`).

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::migrate_type::{MIGRATE_TYPES, MigrateType};
use crate::base::seeded_bugs::table_not_asked;
use crate::base::sync::{AtomicU8, AtomicU16};
use crate::memmap::memmap::MemmapMemory;

/// With more free frames than this, a 2 MiB block may soon be free as a whole, if no frame of it is
/// allocated.
const SPARSE: u32 = BLOCK_ORDER.frames() / 128;

/// With more free frames than this a 2 MiB block becomes roomy: allocations prefer other blocks.
const ROOMY: u32 = BLOCK_ORDER.frames() / 2;

/// With fewer free frames than this a roomy block ceases to be roomy. In between it stays what it
/// is, so that its free blocks do not change lists at each turn.
const CROWDED: u32 = BLOCK_ORDER.frames() * 3 / 8;

/// The number of groups of the buddy's lists: a migrate type, in roomy blocks or in the others.
pub(crate) const GROUPS: usize = 2 * MIGRATE_TYPES;

/// Returns the group of a block with this migrate type.
pub(crate) fn group(migrate_type: MigrateType, is_roomy: bool) -> usize {
    migrate_type as usize * 2 + usize::from(is_roomy)
}

/// The state of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Its frames have no owner; their bytes may be unmapped.
    Offline = 0,
    /// In the allocator.
    Online = 1,
    /// Being emptied.
    Isolated = 2,
    /// In a closed zone: its freed frames are captured, and none is handed out again.
    Closed = 3,
}

/// One block. Zeroed memory says offline, movable, not roomy, and without holes.
pub(crate) struct Block {
    /// The state in the low two bits, then a bit for roomy, then the migrate type: a free needs one
    /// load. Written under the zone's lock; read anywhere.
    status: AtomicU8,
    /// Frames in the buddy's lists. Written under the zone's lock; a hint elsewhere.
    free: AtomicU16,
    /// Frames held back while isolated. Written under the zone's lock; a hint elsewhere.
    captured: AtomicU16,
    /// Frames that do not exist. If that is all, the block has no metadata. Written before the zone
    /// is shared.
    holes: u16,
}

// All accesses are Relaxed: exact under the zone's lock; elsewhere hints, or ordered by a lock that
// both sides take.
impl Block {
    pub(crate) fn state(&self) -> State {
        match self.status.load(Ordering::Relaxed) & 3 {
            0 => State::Offline,
            1 => State::Online,
            2 => State::Isolated,
            _ => State::Closed,
        }
    }

    pub(crate) fn set_state(&self, state: State) {
        self.status
            .store(self.status.load(Ordering::Relaxed) & !3 | state as u8, Ordering::Relaxed);
    }

    pub(crate) fn migrate_type(&self) -> MigrateType {
        MigrateType::from_bits(self.status.load(Ordering::Relaxed) >> 3)
    }

    /// Returns the group of the buddy's lists that its free blocks are in.
    pub(crate) fn group(&self) -> usize {
        // The bits above are 0. So the compiler knows that it is a group.
        usize::from(self.status.load(Ordering::Relaxed) >> 2).min(GROUPS - 1)
    }

    pub(crate) fn is_roomy(&self) -> bool {
        self.status.load(Ordering::Relaxed) & 4 != 0
    }

    pub(crate) fn set_roomy(&self, is_roomy: bool) {
        self.status.store(
            self.status.load(Ordering::Relaxed) & !4 | u8::from(is_roomy) << 2,
            Ordering::Relaxed,
        );
    }

    /// Returns `true` if it has so many free frames that it should be roomy. In between it stays
    /// what it is.
    pub(crate) fn would_be_roomy(&self) -> bool {
        match self.free() {
            free if free > ROOMY => true,
            free if free < CROWDED => false,
            _ => self.is_roomy(),
        }
    }

    pub(crate) fn set_migrate_type(&self, migrate_type: MigrateType) {
        self.status.store(
            self.status.load(Ordering::Relaxed) & 7 | (migrate_type as u8) << 3,
            Ordering::Relaxed,
        );
    }

    /// Returns the migrate type, or `None` if the block is not online.
    #[inline]
    pub(crate) fn migrate_type_if_online(&self) -> Option<MigrateType> {
        let status = self.status.load(Ordering::Relaxed);
        (status & 3 == State::Online as u8).then(|| MigrateType::from_bits(status >> 3))
    }

    /// Returns the number of its frames that exist.
    #[inline]
    pub(crate) fn frames(&self) -> u32 {
        BLOCK_ORDER.frames() - u32::from(self.holes)
    }

    /// Returns `true` if all its frames exist.
    pub(crate) fn is_whole(&self) -> bool {
        self.holes == 0
    }

    /// Returns `true` if a frame of it exists: then all its frames have metadata.
    #[inline(always)]
    pub(crate) fn has_metadata(&self) -> bool {
        u32::from(self.holes) < BLOCK_ORDER.frames()
    }

    pub(crate) fn free(&self) -> u32 {
        u32::from(self.free.load(Ordering::Relaxed))
    }

    /// Returns `true` if it is worth waiting until the whole block is free.
    #[inline]
    pub(crate) fn is_sparse(&self) -> bool {
        self.free() > SPARSE
    }

    pub(crate) fn captured(&self) -> u32 {
        u32::from(self.captured.load(Ordering::Relaxed))
    }

    /// Counts frames as captured.
    pub(crate) fn capture(&self, order: Order) {
        assert!(
            !CHECKS || matches!(self.state(), State::Isolated | State::Closed),
            "a frame of a block that is {:?} was freed",
            self.state()
        );
        // Under the zone's lock: no read-modify-write is needed.
        self.captured.store(
            self.captured.load(Ordering::Relaxed) + order.frames() as u16,
            Ordering::Relaxed,
        );
    }

    /// Takes frames out of the captured ones.
    pub(crate) fn release(&self, order: Order) {
        self.captured.store(
            self.captured.load(Ordering::Relaxed) - order.frames() as u16,
            Ordering::Relaxed,
        );
    }

    /// Resets the number of captured frames. Returns the old number.
    pub(crate) fn take_captured(&self) -> u32 {
        let captured = self.captured();
        self.captured.store(0, Ordering::Relaxed);
        captured
    }
}

/// All blocks of a zone.
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
    pub(crate) fn layout(blocks: usize) -> Layout {
        Layout::array::<Block>(blocks).expect("a block table fits an address space")
    }

    /// # Safety
    ///
    /// `table` has room for `len` blocks, belongs to this value alone forever, and contains what
    /// `holds` says.
    pub(crate) unsafe fn new(table: NonNull<Block>, len: u32, holds: MemmapMemory) -> Self {
        if holds == MemmapMemory::Garbage {
            for n in 0..len as usize {
                // SAFETY: in bounds.
                let block = unsafe { table.add(n) };
                let empty = Block {
                    status: AtomicU8::new(0),
                    free: AtomicU16::new(0),
                    captured: AtomicU16::new(0),
                    holes: 0,
                };
                // SAFETY: aligned, in bounds, and not shared yet.
                unsafe { block.write(empty) };
            }
        }
        Self { table, len }
    }

    /// Returns the same table, unchanged, for the successor of a zone that retired.
    #[cfg(feature = "std")]
    pub(crate) fn inherit(&self) -> Self {
        Self { ..*self }
    }

    pub(crate) fn all(&self) -> &[Block] {
        // SAFETY: the invariant on `table`; atomics need shared access only.
        unsafe { core::slice::from_raw_parts(self.table.as_ptr(), self.len as usize) }
    }

    /// Returns the block of a frame.
    #[inline]
    pub(crate) fn of(&self, index: u32) -> &Block {
        let block = index / BLOCK_ORDER.frames();
        assert!(!CHECKS || block < self.len, "block {block} of a table of {}", self.len);
        // SAFETY: every index inside this crate is one of the memmap's, see `Memmap::get`, and the
        // table has a block for each of its frames.
        let block = unsafe { self.table.add(block as usize) };
        // SAFETY: the invariant on `table`; atomics need shared access only.
        unsafe { block.as_ref() }
    }

    /// Returns `true` if the block of a frame has metadata. Asked before a descriptor is read that
    /// may be of another block than the last.
    #[inline(always)]
    pub(crate) fn has_metadata(&self, index: u32) -> bool {
        self.of(index).has_metadata() || table_not_asked()
    }

    /// Counts frames of a block as not existing, before the zone is shared.
    pub(crate) fn add_holes(&mut self, index: u32, frames: u32) {
        let block = index / BLOCK_ORDER.frames();
        assert!(block < self.len, "block {block} of a table of {}", self.len);
        // SAFETY: in bounds.
        let mut entry = unsafe { self.table.add(block as usize) };
        // SAFETY: the invariant on `table`. Nothing else has it, as the zone is not shared yet.
        unsafe { entry.as_mut() }.holes += frames as u16;
    }

    /// Returns the 2 MiB blocks that a free or allocated block touches: one, or several where it is
    /// larger.
    pub(crate) fn under(&self, index: u32, order: Order) -> &[Block] {
        let first = index / BLOCK_ORDER.frames();
        let blocks = order.frames().div_ceil(BLOCK_ORDER.frames());
        assert!(
            !CHECKS || first + blocks <= self.len,
            "block {first} and {blocks} more of a table of {}",
            self.len
        );
        // SAFETY: as in `of`: a block of frames that is free, or was handed out, lies in the zone.
        let table = unsafe { self.table.add(first as usize) };
        // SAFETY: as above, and the invariant on `table`.
        unsafe { core::slice::from_raw_parts(table.as_ptr(), blocks as usize) }
    }

    /// Counts a block into the buddy's lists.
    pub(crate) fn count_in(&self, index: u32, order: Order) {
        let frames = order.frames().min(BLOCK_ORDER.frames()) as u16;
        for block in self.under(index, order) {
            // Under the zone's lock: no read-modify-write is needed.
            block.free.store(block.free.load(Ordering::Relaxed) + frames, Ordering::Relaxed);
        }
    }

    /// Counts a block out of the buddy's lists.
    pub(crate) fn count_out(&self, index: u32, order: Order) {
        let frames = order.frames().min(BLOCK_ORDER.frames()) as u16;
        for block in self.under(index, order) {
            block.free.store(block.free.load(Ordering::Relaxed) - frames, Ordering::Relaxed);
        }
    }

    /// Returns the number of frames that are not offline, and of those that are captured.
    pub(crate) fn count(&self) -> (u32, u32) {
        let there = self.all().iter().filter(|block| block.state() != State::Offline);
        there.fold((0, 0), |(frames, captured), block| {
            (frames + block.frames(), captured + block.captured())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        Block {
            status: AtomicU8::new(0),
            free: AtomicU16::new(0),
            captured: AtomicU16::new(0),
            holes: 0,
        }
    }

    #[test]
    fn a_block_is_roomy_from_a_half_down_to_three_eighths() {
        let block = block();
        let becomes = |free| {
            block.free.store(free, Ordering::Relaxed);
            block.set_roomy(block.would_be_roomy());
            block.is_roomy()
        };
        assert!([0, 191, 192, 256].into_iter().all(|free| !becomes(free)), "on the way up");
        assert!([257, 512, 256, 192].into_iter().all(becomes), "up, and down again");
        assert!([191, 192, 256].into_iter().all(|free| !becomes(free)), "and up again");
        assert!([257, 193].into_iter().all(becomes));
        assert!(!becomes(0));
    }

    #[test]
    fn a_block_with_more_than_4_free_frames_is_sparse() {
        let block = block();
        for free in 0..=512 {
            block.free.store(free, Ordering::Relaxed);
            assert_eq!(block.is_sparse(), free > 4, "{free}");
        }
    }
}
