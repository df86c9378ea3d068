//! The buddy allocator: free blocks by migrate type and order.
//!
//! (Knuth, TAOCP 2.5; Linux `mm/page_alloc.c`.) Everything here runs under the zone's lock. Only
//! heads are written: freeing or allocating 2 MiB touches a handful of descriptors.
//!
//! Of the blocks that fit, one at a low address is taken. So the high ones empty, and some of them
//! become free as a whole. A 2 MiB block of which half is free is *roomy*: its free blocks are in
//! lists of their own, which are searched last, at any address (`free_lists.rs`).
//!
//! Measured at every 50 000th step of 10 traces of 20 million, in whole blocks out of 128 with 90 %
//! in use: 10.95. In strict order and without CPUs' lists: 10.98. First fit by address leaves
//! 10.94, best fit 10.92, and the fullest of the first four blocks of each list 10.74. Where one
//! allocation in eight stays, it is 9.6, and 9.1 without roomy blocks. The optimum is 12, as the
//! frames in use fill 115.2. Other choices were worse. The hole with the fewest free frames around
//! it: 10.8 to 10.9. Roomy from 1/8 or 1/4 on, or in steps: 7 to 10.9. Small blocks from below and
//! large ones from above: 9.9 to 11. The fullest block before the order that fits best: none, as
//! that splits every larger hole.
//!
//! Above the orders that halves merge into, a zone may have one huge order (1 GiB, for example).
//! Such a block is formed only on request, from free blocks of the largest order that lie together.
//! It then stays whole, free or not, until no other block is left. Merging up to it at every free
//! would cost each free, and every small allocation would split a block that was just merged.

use core::ops::{Deref, DerefMut};

use folio_ref::Scheme;
use lock_api::MutexGuard;

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::memmap::blocks;
use crate::memmap::memmap::{Kind, Shape};
use crate::zone::alloc_error::AllocError;
use crate::zone::free_lists::{FreeLists, Map, order};
use crate::zone::gauge::Gauge;

/// The free blocks that may be taken, or split.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All.
    Any,
    /// Those of the own migrate type below 2 MiB: for compaction, which must not split the whole
    /// blocks that it makes.
    Holes,
}

/// Counts of the buddy's actions. Written under the zone's lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BuddyCounters {
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
    /// 2 MiB blocks that changed their migrate type.
    pub(crate) claimed: u64,
    /// Blocks taken from a 2 MiB block of another migrate type, which it kept.
    pub(crate) borrowed: u64,
}

/// The allocator of a zone.
#[derive(Default)]
pub(crate) struct Buddy {
    pub(crate) lists: FreeLists,
    pub(crate) counters: BuddyCounters,
    /// Frames held back in all blocks that are isolated or closed.
    pub(crate) captured: u32,
    /// The zone is closed (`retire.rs`): the lists stay empty.
    pub(crate) is_closed: bool,
}

/// The guard of the zone's lock. Dropping it publishes the number of free frames.
pub(crate) struct BuddyGuard<'z, P: Platform> {
    gauge: &'z Gauge,
    buddy: MutexGuard<'z, P::Lock, Buddy>,
}

impl<'z, P: Platform> BuddyGuard<'z, P> {
    pub(crate) fn new(gauge: &'z Gauge, buddy: MutexGuard<'z, P::Lock, Buddy>) -> Self {
        Self { gauge, buddy }
    }
}

impl<P: Platform> Deref for BuddyGuard<'_, P> {
    type Target = Buddy;
    fn deref(&self) -> &Buddy {
        &self.buddy
    }
}

impl<P: Platform> DerefMut for BuddyGuard<'_, P> {
    fn deref_mut(&mut self) -> &mut Buddy {
        &mut self.buddy
    }
}

impl<P: Platform> Drop for BuddyGuard<'_, P> {
    fn drop(&mut self) {
        self.gauge.publish_free(self.buddy.lists.frames());
    }
}

impl Buddy {
    /// Takes a block of `want`, at most [`MAX_ORDER`]. Returns its head, which has no shape then.
    pub(crate) fn alloc<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        want: Order,
        migrate_type: MigrateType,
        reach: Reach,
    ) -> Result<u32, AllocError> {
        let mut found = self.find(map, want, migrate_type, reach);
        if found.is_none() && reach == Reach::Any && self.split_huge(map) {
            found = self.find(map, want, migrate_type, reach);
        }
        let Some((index, found)) = found else {
            let fragmented = |largest| AllocError::Fragmented { largest };
            return Err(self.lists.largest(map.huge).map_or(AllocError::OutOfFrames, fragmented));
        };
        self.take(map, index, found, want);
        Ok(index)
    }

    /// Takes the free block that begins with a frame, or its first part of order `max`, at most
    /// [`MAX_ORDER`]. Returns its order. If one of the `frames` frames from there on is not free,
    /// or has another migrate type, returns that frame as an error; none if the zone ends before.
    pub(crate) fn alloc_at<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        index: u32,
        frames: u32,
        max: Order,
        migrate_type: MigrateType,
    ) -> Result<Order, Option<u32>> {
        let free_at = |at: u32| {
            let shape = map.shape(at);
            let is_ours = map.blocks.of(at).migrate_type() == migrate_type;
            (shape.kind == Kind::FREE && shape.order <= MAX_ORDER && is_ours)
                .then_some(shape.order)
                .ok_or(Some(at))
        };
        let end = index.checked_add(frames).filter(|&end| end <= map.memmap.frames());
        let end = end.ok_or(None)?;
        let found = free_at(index)?;
        let mut at = index + found.frames();
        while at < end {
            at += free_at(at)?.frames();
        }
        let want = found.min(max);
        self.take(map, index, found, want);
        Ok(want)
    }

    /// Takes a free block of order `found` out of its list, and puts all but its first part of
    /// order `want` back.
    fn take<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, found: Order, want: Order) {
        self.lists.remove(map, index, found);
        for half in (want.as_u8()..found.as_u8()).rev().filter_map(Order::new) {
            self.lists.push(map, index + half.frames(), half);
        }
        // A whole 2 MiB block has no free block in a list: its next free updates it.
        if want < BLOCK_ORDER {
            self.lists.regroup_by_room(map, index);
        }
        self.counters.allocated += 1;
    }

    /// Returns the block to take, or to split: the smallest that fits, of the own migrate type if
    /// there is one.
    fn find<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        want: Order,
        migrate_type: MigrateType,
        reach: Reach,
    ) -> Option<(u32, Order)> {
        let too_large = if reach == Reach::Any { 0 } else { u16::MAX << BLOCK_ORDER.as_u8() };
        let fits = (u16::MAX << want.as_u8()) & !too_large;
        if let Some(own) = self.lists.smallest(migrate_type, fits) {
            return Some(own);
        }
        if reach == Reach::Holes {
            return None;
        }
        // The largest, in a roomy 2 MiB block if there is one: it brings the most of its 2 MiB
        // block with it.
        let of = |other, is_roomy| self.lists.orders(blocks::group(other, is_roomy)) & fits;
        let largest = |other| (of(other, false) | of(other, true)).checked_ilog2();
        let others =
            migrate_type.fallbacks().into_iter().filter_map(|other| Some((largest(other)?, other)));
        let (n, other) = others.max_by_key(|others| others.0)?;
        let group = blocks::group(other, of(other, true) >> n & 1 == 1);
        let (index, size) = self.lists.first(group, n)?;
        // A folio that cannot move changes the type of the whole 2 MiB block, so that the next one
        // comes here too. A movable one does so only where most of the block is free: otherwise
        // the block would change its type for one page.
        if migrate_type != MigrateType::Movable
            || map.blocks.of(index).free() >= BLOCK_ORDER.frames() / 2
        {
            self.counters.claimed += 1;
            self.lists.change_type(map, index, size, migrate_type);
            return Some((index, size));
        }
        self.counters.borrowed += 1;
        self.lists.smallest(other, fits)
    }

    /// Frees a block and merges it with its free buddies.
    pub(crate) fn free<S: Scheme>(&mut self, map: Map<'_, S>, mut index: u32, mut size: Order) {
        self.counters.freed += 1;
        while size < MAX_ORDER {
            let buddy = index ^ size.frames();
            // Below 2 MiB the buddy is in the same block, which has metadata.
            if buddy >= map.memmap.frames()
                || size >= BLOCK_ORDER && !map.blocks.has_metadata(buddy)
                || map.memmap.get(buddy).shape() != (Shape { kind: Kind::FREE, order: size })
            {
                break;
            }
            self.lists.remove(map, buddy, size);
            index = index.min(buddy);
            size = order(usize::from(size.as_u8()) + 1);
        }
        if size >= BLOCK_ORDER {
            let migrate_type = map.blocks.of(index).migrate_type();
            map.blocks
                .under(index, size)
                .iter()
                .for_each(|block| block.set_migrate_type(migrate_type));
        }
        self.lists.push(map, index, size);
        if size < BLOCK_ORDER {
            self.lists.regroup_by_room(map, index);
        }
    }

    /// Forms one free block of the huge order from `first` on, if all its blocks of the largest
    /// order are free. Returns `true` if it lies in the list now.
    pub(crate) fn form_huge<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        first: u32,
        huge: Order,
    ) -> bool {
        let pieces = || (first..first + huge.frames()).step_by(MAX_ORDER.frames() as usize);
        let whole = Shape { kind: Kind::FREE, order: MAX_ORDER };
        if self.is_closed || pieces().any(|piece| map.shape(piece) != whole) {
            return false;
        }
        pieces().for_each(|piece| self.lists.remove(map, piece, MAX_ORDER));
        self.lists.push(map, first, huge);
        true
    }

    /// Takes a free huge block. Returns its head, which has no shape then.
    pub(crate) fn alloc_huge<S: Scheme>(&mut self, map: Map<'_, S>, huge: Order) -> Option<u32> {
        let index = self.lists.first_huge()?;
        self.lists.remove(map, index, huge);
        self.counters.allocated += 1;
        Some(index)
    }

    /// Splits one free huge block into blocks of the largest order. Returns `false` if there is
    /// none.
    fn split_huge<S: Scheme>(&mut self, map: Map<'_, S>) -> bool {
        let (Some(index), Some(huge)) = (self.lists.first_huge(), map.huge) else {
            return false;
        };
        self.split_huge_at(map, index, huge);
        true
    }

    /// Splits this free huge block into blocks of the largest order.
    pub(crate) fn split_huge_at<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, huge: Order) {
        self.lists.remove(map, index, huge);
        for piece in (index..index + huge.frames()).step_by(MAX_ORDER.frames() as usize) {
            let migrate_type = map.blocks.of(piece).migrate_type();
            map.blocks
                .under(piece, MAX_ORDER)
                .iter()
                .for_each(|block| block.set_migrate_type(migrate_type));
            self.lists.push(map, piece, MAX_ORDER);
        }
    }
}
