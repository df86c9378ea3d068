//! The buddy allocator: free blocks by mobility and order, in lists threaded through their heads'
//! descriptors.
//!
//! (Knuth, TAOCP 2.5; Linux `mm/page_alloc.c`.) Everything here runs under the zone's lock. Only
//! heads are written: freeing or allocating 2 MiB touches a handful of descriptors.
//!
//! Of the blocks that would do, one that lies low is taken: so the high ones empty, and some are
//! free as a whole in the end. And a 2 MiB block of which half is free is *roomy*: what is free in
//! it is in lists of its own, which are asked last, wherever it lies. Each list is nearly in order,
//! as what is freed goes to the nearer end of it (`Buddy::beside`).
//!
//! Measured by looking in at every 50 000th step of 10 traces of 20 million, in whole blocks of 128
//! while 90 % are in use: 10.95; in strict order and without CPUs' lists 10.98. First fit by
//! address leaves 10.94, best fit 10.92, and what was here before, the fullest of the first four of
//! each list, 10.74. Where one in eight stays it is 9.6, and 9.1 without roomy ones. The best there
//! can be is 12, as what is in use fills 115.2. Tried as well: of the holes the one with the fewest
//! free frames around it, 10.8 to 10.9; roomy from 1/8 or 1/4 on, or in steps, 7 to 10.9; small
//! ones from below and large ones from above, 9.9 to 11. To ask for the fullest block before the
//! order that fits best leaves none at all: it cuts up every larger hole.
//!
//! Above the orders that halves merge into, a zone may have one huge order (1 GiB, say). Such a
//! block is formed only when one is asked for, from free blocks of the largest order that lie
//! together, and then stays whole, free or not, until nothing else is left. Merging up to it at
//! every free would cost each free, and every small allocation would break what nobody had asked to
//! keep.

use folio_ref::{CHECKS, Scheme};

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::migrate_type::MigrateType;
use crate::memmap::blocks::{self, Block, Blocks, GROUPS};
use crate::memmap::memmap::{Kind, Memmap, Shape};

const ORDERS: usize = MAX_ORDER.as_u8() as usize + 1;

/// Why there is no block. A value: the caller reclaims, compacts or goes without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No frame is free.
    OutOfFrames,
    /// Frames are free, but no block of the order asked for.
    Fragmented {
        /// The largest order that is free.
        largest: Order,
    },
    /// No block of the zone is online.
    Offline,
    /// The zone has no such order at all.
    TooLarge {
        /// The largest order it has.
        most: Order,
    },
}

impl core::fmt::Display for AllocError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no frame is free"),
            Self::Fragmented { largest } => {
                write!(f, "too fragmented: the largest free block has {largest:?}")
            }
            Self::Offline => f.write_str("no block of the zone is online"),
            Self::TooLarge { most } => {
                write!(f, "the zone has no such order: {most:?} is the largest")
            }
        }
    }
}

impl core::error::Error for AllocError {}

/// What the lists are about. All of it is written under the zone's lock while a block is free.
#[derive(Clone, Copy)]
pub(crate) struct Map<'a, S: Scheme> {
    pub(crate) memmap: &'a Memmap<S>,
    pub(crate) blocks: &'a Blocks,
    /// The huge order, if the zone has one.
    pub(crate) huge: Option<Order>,
}

/// Which free blocks may be taken, or cut up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All.
    Any,
    /// Those of one's own mobility below 2 MiB: for compaction, which must not cut up what it is to
    /// make.
    Holes,
}

/// Index + 1 of the first block and of the last, 0 for none, so that a zeroed list is empty.
#[derive(Clone, Copy, Default)]
struct List {
    first: u32,
    last: u32,
    blocks: u32,
}

/// What the buddy did. Written under the zone's lock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BuddyCounters {
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
    /// Blocks of 2 MiB that changed their mobility.
    pub(crate) claimed: u64,
    /// Blocks taken from another mobility that kept its 2 MiB.
    pub(crate) borrowed: u64,
}

/// **Invariant:** a free block is in the list of its 2 MiB block's group: its mobility, and whether
/// it is roomy (the first one's, where it spans two, which then agree).
#[derive(Default)]
pub(crate) struct Buddy {
    lists: [[List; ORDERS]; GROUPS],
    /// By group, a bit for each order that has a block.
    some: [u16; GROUPS],
    huge: List,
    frames: u32,
    pub(crate) counters: BuddyCounters,
    /// The zone is closed (`retire.rs`): the lists stay empty.
    pub(crate) is_closed: bool,
}

fn links(owner_data: u64) -> (u32, u32) {
    ((owner_data >> 32) as u32, owner_data as u32)
}

fn to_owner_data(previous: u32, next: u32) -> u64 {
    u64::from(previous) << 32 | u64::from(next)
}

fn order(n: usize) -> Order {
    Order::new(n as u8).expect("an index into the lists is an order")
}

impl Buddy {
    /// Frames in all lists.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// The largest order that has a block.
    pub(crate) fn largest(&self, huge: Option<Order>) -> Option<Order> {
        if self.huge.blocks > 0 {
            return huge;
        }
        let some = self.some.iter().fold(0, |all, some| all | some);
        (some != 0).then(|| order(some.ilog2() as usize))
    }

    /// The largest order up to `most`, at most [`MAX_ORDER`], that a free block has or can be cut
    /// to.
    pub(crate) fn largest_up_to(&self, most: Order) -> Option<Order> {
        let some = self.some.iter().fold(0, |all, some| all | some);
        if self.huge.blocks > 0 || some >> most.as_u8() != 0 {
            return Some(most);
        }
        (some != 0).then(|| order(some.ilog2() as usize))
    }

    /// Free blocks of an order, of any mobility; of the huge order where it is above the largest.
    pub(crate) fn count(&self, size: Order) -> u32 {
        match usize::from(size.as_u8()) {
            n if n < ORDERS => self.lists.iter().map(|lists| lists[n].blocks).sum(),
            _ => self.huge.blocks,
        }
    }

    /// Takes a block of `want`, at most [`MAX_ORDER`]. Its head is left without a shape.
    pub(crate) fn alloc<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        want: Order,
        migrate_type: MigrateType,
        reach: Reach,
    ) -> Result<u32, AllocError> {
        let mut found = self.find(map, want, migrate_type, reach);
        if found.is_none() && reach == Reach::Any && self.break_huge(map) {
            found = self.find(map, want, migrate_type, reach);
        }
        let Some((index, found)) = found else {
            let fragmented = |largest| AllocError::Fragmented { largest };
            return Err(self.largest(map.huge).map_or(AllocError::OutOfFrames, fragmented));
        };
        self.remove(map, index, found);
        for n in (want.as_u8()..found.as_u8()).rev().map(usize::from) {
            self.push(map, index + (1 << n), order(n));
        }
        // What is taken whole has nothing in a list: the next free in it finds out.
        if want < BLOCK_ORDER {
            self.quiesce(map, index);
        }
        self.counters.allocated += 1;
        Ok(index)
    }

    /// The block to take, or to cut: the smallest that fits, of our own mobility if there is one.
    fn find<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        want: Order,
        migrate_type: MigrateType,
        reach: Reach,
    ) -> Option<(u32, Order)> {
        let too_large = if reach == Reach::Any { 0 } else { u16::MAX << BLOCK_ORDER.as_u8() };
        let fits = (u16::MAX << want.as_u8()) & !too_large;
        if let Some(own) = self.smallest(migrate_type, fits) {
            return Some(own);
        }
        if reach == Reach::Holes {
            return None;
        }
        // The largest, in a roomy 2 MiB if there is one: it brings the most of its own 2 MiB with
        // it.
        let of = |other, is_roomy| self.some[blocks::group(other, is_roomy)] & fits;
        let largest = |other| (of(other, false) | of(other, true)).checked_ilog2();
        let others =
            migrate_type.fallbacks().into_iter().filter_map(|other| Some((largest(other)?, other)));
        let (n, other) = others.max_by_key(|others| others.0)?;
        let group = blocks::group(other, of(other, true) >> n & 1 == 1);
        let (index, size) = (self.lists[group][n as usize].first - 1, order(n as usize));
        // Whoever can not move makes the whole 2 MiB its own, so that the next one comes here too.
        // Whoever can, only where most of it is free: else the block would change sides for
        // one page.
        if migrate_type != MigrateType::Movable
            || map.blocks.of(index).free() >= BLOCK_ORDER.frames() / 2
        {
            self.claim_block(map, index, size, migrate_type);
            return Some((index, size));
        }
        self.counters.borrowed += 1;
        self.smallest(other, fits)
    }

    /// A block of the smallest of these orders, in a roomy 2 MiB only where no other has one.
    fn smallest(&self, migrate_type: MigrateType, fits: u16) -> Option<(u32, Order)> {
        [false, true].into_iter().find_map(|is_roomy| {
            let group = blocks::group(migrate_type, is_roomy);
            let some = self.some[group] & fits;
            let n = some.trailing_zeros() as usize;
            (some != 0).then(|| (self.lists[group][n].first - 1, order(n)))
        })
    }

    /// Makes a 2 MiB block, or both under a larger one, serve another mobility: its free blocks
    /// change lists.
    fn claim_block<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        index: u32,
        size: Order,
        migrate_type: MigrateType,
    ) {
        self.counters.claimed += 1;
        if size >= BLOCK_ORDER {
            self.unlink(map, index, size);
            map.blocks
                .under(index, size)
                .iter()
                .for_each(|block| block.set_migrate_type(migrate_type));
            self.link(map, index, size);
            return;
        }
        self.regroup(map, index, |block| block.set_migrate_type(migrate_type));
    }

    /// Whether a 2 MiB block is roomy follows how much of it is free.
    fn quiesce<S: Scheme>(&mut self, map: Map<'_, S>, index: u32) {
        let block = map.blocks.of(index);
        let is_roomy = block.would_be_roomy();
        if is_roomy != block.is_roomy() {
            self.regroup(map, index, |block| block.set_roomy(is_roomy));
        }
    }

    /// Changes a 2 MiB block's group: its free blocks change lists.
    fn regroup<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, change: impl FnOnce(&Block)) {
        let first = index & !(BLOCK_ORDER.frames() - 1);
        let free_heads = |each: &mut dyn FnMut(u32, Order)| {
            let mut left = map.blocks.of(first).free();
            let mut at = first;
            while left > 0 {
                let shape = map.memmap.get(at).shape();
                let is_free = shape.kind == Kind::FREE;
                if is_free {
                    each(at, shape.order);
                    left -= shape.order.frames();
                }
                // Only free blocks are certain to be what they seem: all else may change while we
                // look.
                at += if is_free { shape.order.frames() } else { 1 };
            }
        };
        free_heads(&mut |at, size| self.unlink(map, at, size));
        change(map.blocks.of(first));
        free_heads(&mut |at, size| self.link(map, at, size));
    }

    /// Gives a block back and merges it with its free buddies.
    pub(crate) fn free<S: Scheme>(&mut self, map: Map<'_, S>, mut index: u32, mut size: Order) {
        self.counters.freed += 1;
        while size < MAX_ORDER {
            let buddy = index ^ size.frames();
            if buddy >= map.memmap.frames()
                || map.memmap.get(buddy).shape() != (Shape { kind: Kind::FREE, order: size })
            {
                break;
            }
            self.remove(map, buddy, size);
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
        self.push(map, index, size);
        if size < BLOCK_ORDER {
            self.quiesce(map, index);
        }
    }

    /// Puts a block into its list, without merging.
    pub(crate) fn push<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) {
        map.memmap.get(index).set_shape(Kind::FREE, size);
        map.blocks.count_in(index, size);
        if size >= BLOCK_ORDER {
            map.blocks
                .under(index, size)
                .iter()
                .filter(|block| !block.is_roomy())
                .for_each(|block| block.set_roomy(true));
        }
        self.link(map, index, size);
        self.frames += size.frames();
    }

    /// Takes one known block out of its list; its head is left without a shape.
    pub(crate) fn remove<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) {
        let head = map.memmap.get(index);
        assert!(
            !CHECKS || head.shape() == Shape { kind: Kind::FREE, order: size },
            "frame {index} is no free block"
        );
        self.unlink(map, index, size);
        head.set_shape(Kind::INTERIOR, Order::ZERO);
        map.blocks.count_out(index, size);
        self.frames -= size.frames();
    }

    /// Makes one free block of the huge order from free blocks of the largest, if all of them
    /// between here and there are free. `true`: it lies in the list now.
    pub(crate) fn form_huge<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        first: u32,
        huge: Order,
    ) -> bool {
        let parts = || (first..first + huge.frames()).step_by(MAX_ORDER.frames() as usize);
        let whole = Shape { kind: Kind::FREE, order: MAX_ORDER };
        if self.is_closed || parts().any(|part| map.memmap.get(part).shape() != whole) {
            return false;
        }
        parts().for_each(|part| self.remove(map, part, MAX_ORDER));
        self.push(map, first, huge);
        true
    }

    /// Takes a free huge block. Its head is left without a shape.
    pub(crate) fn alloc_huge<S: Scheme>(&mut self, map: Map<'_, S>, huge: Order) -> Option<u32> {
        let index = self.huge.first.checked_sub(1)?;
        self.remove(map, index, huge);
        self.counters.allocated += 1;
        Some(index)
    }

    /// Cuts one free huge block into blocks of the largest order, if there is one.
    fn break_huge<S: Scheme>(&mut self, map: Map<'_, S>) -> bool {
        let (Some(index), Some(huge)) = (self.huge.first.checked_sub(1), map.huge) else {
            return false;
        };
        self.break_huge_at(map, index, huge);
        true
    }

    /// Cuts this free huge block into blocks of the largest order.
    pub(crate) fn break_huge_at<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, huge: Order) {
        self.remove(map, index, huge);
        for part in (index..index + huge.frames()).step_by(MAX_ORDER.frames() as usize) {
            let migrate_type = map.blocks.of(part).migrate_type();
            map.blocks
                .under(part, MAX_ORDER)
                .iter()
                .for_each(|block| block.set_migrate_type(migrate_type));
            self.push(map, part, MAX_ORDER);
        }
    }

    fn list<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) -> &mut List {
        match usize::from(size.as_u8()) {
            n if n < ORDERS => &mut self.lists[map.blocks.of(index).group()][n],
            _ => &mut self.huge,
        }
    }

    /// Where in a list something belongs, as it lies: at the nearer end, or next to what is there.
    /// So the first is the lowest of those that came to this end, at the cost of the one look
    /// that linking it takes anyway.
    fn beside<S: Scheme>(map: Map<'_, S>, list: List, at: u32) -> (u32, u32) {
        let links = |of: u32| links(map.memmap.get(of - 1).owner_data());
        let List { first, last, .. } = list;
        match (at.saturating_sub(first), last.saturating_sub(at)) {
            (0, _) => (0, first),
            // Also of an empty one, whose ends are 0.
            (_, 0) => (last, 0),
            (from_first, to_last) if from_first <= to_last => (first, links(first).1),
            _ => (links(last).0, last),
        }
    }

    fn link<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) {
        let (previous, next) = Self::beside(map, *self.list(map, index, size), index + 1);
        let list = self.list(map, index, size);
        list.blocks += 1;
        if previous == 0 {
            list.first = index + 1;
        }
        if next == 0 {
            list.last = index + 1;
        }
        if previous == 0 && next == 0 && size <= MAX_ORDER {
            self.some[map.blocks.of(index).group()] |= 1 << size.as_u8();
        }
        if previous != 0 {
            let before = map.memmap.get(previous - 1);
            before.set_owner_data(to_owner_data(links(before.owner_data()).0, index + 1));
        }
        if next != 0 {
            let after = map.memmap.get(next - 1);
            after.set_owner_data(to_owner_data(index + 1, links(after.owner_data()).1));
        }
        map.memmap.get(index).set_owner_data(to_owner_data(previous, next));
    }

    fn unlink<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) {
        let (previous, next) = links(map.memmap.get(index).owner_data());
        if next != 0 {
            let after = map.memmap.get(next - 1);
            after.set_owner_data(to_owner_data(previous, links(after.owner_data()).1));
        }
        if previous != 0 {
            let before = map.memmap.get(previous - 1);
            before.set_owner_data(to_owner_data(links(before.owner_data()).0, next));
        }
        let list = self.list(map, index, size);
        list.blocks -= 1;
        if previous == 0 {
            list.first = next;
        }
        if next == 0 {
            list.last = previous;
        }
        if list.blocks == 0 && size <= MAX_ORDER {
            self.some[map.blocks.of(index).group()] &= !(1 << size.as_u8());
        }
    }

    /// Whether the lists hold what the descriptors say: for tests.
    ///
    /// # Panics
    ///
    /// When they do not.
    pub(crate) fn assert_sound<S: Scheme>(&self, map: Map<'_, S>) {
        let mut listed = 0;
        let mut follow = |list: List, size: Order, group: Option<usize>| {
            let (mut at, mut previous, mut blocks) = (list.first, 0, 0);
            while at != 0 {
                let head = map.memmap.get(at - 1);
                assert!(
                    head.shape() == (Shape { kind: Kind::FREE, order: size }),
                    "frame {} is in a list",
                    at - 1
                );
                assert_eq!(
                    links(head.owner_data()).0,
                    previous,
                    "the way back from frame {}",
                    at - 1
                );
                for block in map.blocks.under(at - 1, size) {
                    assert!(
                        group.is_none_or(|group| group == block.group()),
                        "frame {}: {size:?}",
                        at - 1
                    );
                }
                (previous, at, blocks) = (at, links(head.owner_data()).1, blocks + 1);
                listed += size.frames();
            }
            assert_eq!(blocks, list.blocks, "blocks of {size:?}");
            assert_eq!(previous, list.last, "the last block of {size:?}");
        };
        for (group, (lists, some)) in self.lists.iter().zip(self.some).enumerate() {
            for (n, &list) in lists.iter().enumerate() {
                follow(list, order(n), Some(group));
                assert_eq!(list.first != 0, some >> n & 1 == 1, "group {group}, {:?}", order(n));
            }
        }
        follow(self.huge, map.huge.unwrap_or(MAX_ORDER), None);
        assert_eq!(listed, self.frames);
        let free: u32 = map.blocks.all().iter().map(crate::memmap::blocks::Block::free).sum();
        assert_eq!(free, self.frames, "free frames by 2 MiB block");
    }
}
