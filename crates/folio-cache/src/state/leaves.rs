//! The memory of all indexes of a cache, which of their leaves are open, and the memory of the
//! state of files.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use folio_frames::{FRAME_SIZE, UserSpace};
use folio_ref::Scheme;

use crate::state::range_set::RANGE_BYTES;
use crate::state::unsynced::Room;

type SlotSpace<S> = folio_frames::SlotSpace<UserSpace<S>>;
type SlotRange<S> = folio_frames::SlotRange<UserSpace<S>>;

/// The number of slots in a leaf.
pub(crate) const LEAF: usize = folio_frames::SlotRange::<UserSpace>::LEAF;

/// The memory of an open leaf.
pub(crate) const LEAF_BYTES: usize = FRAME_SIZE;

/// The pages for which a leaf has slots: [`LEAF`] of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafOwner {
    /// The number of the mapping.
    pub(crate) mapping: u32,
    pub(crate) first: u32,
}

impl LeafOwner {
    pub(crate) fn to_tag(self) -> u64 {
        u64::from(self.mapping) << 32 | u64::from(self.first)
    }

    fn from_tag(tag: u64) -> Self {
        Self { mapping: (tag >> 32) as u32, first: tag as u32 }
    }
}

/// The leaves of all indexes of a cache.
pub(crate) struct Leaves<S: Scheme> {
    space: SlotSpace<S>,
    /// The memory of indexes beside their leaves.
    others: AtomicUsize,
    /// The memory of the state of open files beside their indexes.
    files: AtomicUsize,
    /// The ranges of unsynced bytes of all files.
    ranges: AtomicUsize,
    /// The bytes for which the pages leave room.
    fitted: AtomicUsize,
    /// Where the next search for a leaf to close begins.
    hand: AtomicUsize,
    /// A slot that had a page lately, of leaves by the low bits of their numbers: a hint.
    used: [AtomicU16; USED],
}

/// The share of the capacity that ranges of unsynced bytes may have.
const UNSYNCED_SHARE: usize = 16;

/// The number of leaves of which a used slot is remembered.
const USED: usize = 4096;

impl<S: Scheme> Default for Leaves<S> {
    fn default() -> Self {
        let [others, files, ranges, fitted, hand] = [0; 5].map(AtomicUsize::new);
        let used = [const { AtomicU16::new(0) }; USED];
        Self { space: SlotSpace::<S>::new(), others, files, ranges, fitted, hand, used }
    }
}

// Relaxed, in all functions: only reports, limits and hints depend on the numbers.
impl<S: Scheme> Leaves<S> {
    /// Reserves addresses for slots. Returns `None` if there are not as many.
    pub(crate) fn reserve(&self, slots: usize) -> Option<SlotRange<S>> {
        self.space.reserve(slots).ok()
    }

    /// Counts memory of an index beside its leaves.
    pub(crate) fn count(&self, bytes: usize) {
        self.others.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts memory of an index that is about to be freed.
    pub(crate) fn uncount(&self, bytes: usize) {
        self.others.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts memory of the state of a file beside its index.
    pub(crate) fn count_file(&self, bytes: usize) {
        self.files.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts memory of the state of a file that is about to be freed.
    pub(crate) fn uncount_file(&self, bytes: usize) {
        self.files.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the memory of the state of all files beside their indexes, in bytes.
    pub(crate) fn file_bytes(&self) -> usize {
        self.files.load(Ordering::Relaxed) + self.ranges.load(Ordering::Relaxed) * RANGE_BYTES
    }

    /// Returns the room for ranges of unsynced bytes.
    pub(crate) fn unsynced_room(&self, capacity: usize) -> Room<'_> {
        Room { ranges: &self.ranges, most: capacity / UNSYNCED_SHARE / RANGE_BYTES }
    }

    /// Returns the bytes by which this memory has grown since pages last left for it.
    pub(crate) fn growth(&self) -> usize {
        // Relaxed: a hint, here and below.
        let fitted = self.fitted.load(Ordering::Relaxed);
        (self.bytes() + self.file_bytes()).saturating_sub(fitted)
    }

    /// Notes that the pages leave room for so many bytes.
    pub(crate) fn set_fitted(&self, bytes: usize) {
        self.fitted.store(bytes, Ordering::Relaxed);
    }

    /// Returns the memory of all indexes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.space.resident_bytes() + self.others.load(Ordering::Relaxed)
    }

    /// Returns the slot of a leaf that had a page lately, or that of another leaf.
    pub(crate) fn used_slot(&self, leaf: LeafOwner) -> usize {
        usize::from(self.used_slot_of(leaf).load(Ordering::Relaxed)) % LEAF
    }

    /// Notes a slot of a leaf that has a page.
    pub(crate) fn set_used_slot(&self, leaf: LeafOwner, slot: usize) {
        self.used_slot_of(leaf).store(slot as u16, Ordering::Relaxed);
    }

    fn used_slot_of(&self, leaf: LeafOwner) -> &AtomicU16 {
        // Leaves of one file lie apart, and so do the first leaves of files.
        let number = leaf.mapping.wrapping_mul(0x9e37_79b1).wrapping_add(leaf.first / LEAF as u32);
        &self.used[number as usize % USED]
    }

    /// Returns `true` if a leaf, and the page of the system's tables that it may need, keep all
    /// indexes below a limit.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        let others = self.others.load(Ordering::Relaxed);
        self.space.max_resident_bytes() + others + 2 * LEAF_BYTES <= limit
    }

    /// Returns the next open leaf, in a round through all. Returns `None` if none is open.
    pub(crate) fn next_open(&self) -> Option<LeafOwner> {
        let hand = self.hand.load(Ordering::Relaxed);
        let (leaf, tag) = self.space.next_open(hand).or_else(|| self.space.next_open(0))?;
        self.hand.store(leaf + 1, Ordering::Relaxed);
        Some(LeafOwner::from_tag(tag))
    }
}
