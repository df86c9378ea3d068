//! The buddy's free lists, by migrate type and order: threaded through the descriptors of the free
//! blocks' heads.
//!
//! Each list is nearly in the order of addresses: a block that is freed goes to the nearer end of
//! its list ([`FreeLists::beside`]). One of the largest order goes beside the one before it in
//! time, if that is its place: so those of memory that is freed in a row are taken in a row again.

use core::mem;

use folio_ref::{CHECKS, Scheme};

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::migrate_type::MigrateType;
use crate::memmap::blocks::{self, Block, Blocks, GROUPS};
use crate::memmap::memmap::{Kind, Memmap, Shape};

const ORDERS: usize = MAX_ORDER.as_u8() as usize + 1;

/// The metadata that the lists are threaded through. Written under the zone's lock while a block is
/// free.
#[derive(Clone, Copy)]
pub(crate) struct Map<'a, S: Scheme> {
    pub(crate) memmap: &'a Memmap<S>,
    pub(crate) blocks: &'a Blocks,
    /// The huge order, if the zone has one.
    pub(crate) huge: Option<Order>,
}

impl<S: Scheme> Map<'_, S> {
    /// Returns the shape of a frame that may be of any block: none where there is no metadata.
    pub(crate) fn shape(&self, index: u32) -> Shape {
        if !self.blocks.has_metadata(index) {
            return Shape::INTERIOR;
        }
        self.memmap.get(index).shape()
    }
}

/// A list: index + 1 of its first block and of its last, 0 for none. A zeroed list is empty.
#[derive(Clone, Copy, Default)]
struct List {
    first: u32,
    last: u32,
    blocks: u32,
}

/// **Invariant:** a free block is in the list of its 2 MiB block's group: its migrate type, and
/// whether it is roomy (the first one's, where it spans two, which then agree).
#[derive(Default)]
pub(crate) struct FreeLists {
    lists: [[List; ORDERS]; GROUPS],
    /// By group, a bit for each order that has a block.
    some: [u16; GROUPS],
    /// By group, index + 1 of the block of the largest order that was inserted last, if it is still
    /// there.
    latest: [u32; GROUPS],
    huge: List,
    frames: u32,
}

fn links(owner_data: u64) -> (u32, u32) {
    ((owner_data >> 32) as u32, owner_data as u32)
}

fn to_owner_data(previous: u32, next: u32) -> u64 {
    u64::from(previous) << 32 | u64::from(next)
}

pub(crate) fn order(n: usize) -> Order {
    Order::new(n as u8).expect("an index into the lists is an order")
}

impl FreeLists {
    /// Returns the number of frames in all lists.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Returns the largest order that has a block.
    pub(crate) fn largest(&self, huge: Option<Order>) -> Option<Order> {
        if self.huge.blocks > 0 {
            return huge;
        }
        let some = self.some.iter().fold(0, |all, some| all | some);
        (some != 0).then(|| order(some.ilog2() as usize))
    }

    /// Returns the largest order up to `max`, at most [`MAX_ORDER`], that a free block has or can
    /// be split to.
    pub(crate) fn largest_up_to(&self, max: Order) -> Option<Order> {
        let some = self.some.iter().fold(0, |all, some| all | some);
        if self.huge.blocks > 0 || some >> max.as_u8() != 0 {
            return Some(max);
        }
        (some != 0).then(|| order(some.ilog2() as usize))
    }

    /// Returns the number of free blocks of an order, of any migrate type. An order above the
    /// largest is the huge order.
    pub(crate) fn count(&self, size: Order) -> u32 {
        match usize::from(size.as_u8()) {
            n if n < ORDERS => self.lists.iter().map(|lists| lists[n].blocks).sum(),
            _ => self.huge.blocks,
        }
    }

    /// Returns the orders that have a block in a group, a bit for each.
    pub(crate) fn orders(&self, group: usize) -> u16 {
        self.some[group]
    }

    /// Returns the first block of an order in a group, if there is one.
    pub(crate) fn first(&self, group: usize, n: u32) -> Option<(u32, Order)> {
        let list = self.lists[group].get(n as usize)?;
        Some((list.first.checked_sub(1)?, Order::new(n as u8)?))
    }

    /// Returns the first free block of the huge order, if there is one.
    pub(crate) fn first_huge(&self) -> Option<u32> {
        self.huge.first.checked_sub(1)
    }

    /// Returns a block of the smallest of these orders, in a roomy 2 MiB block only if no other 2
    /// MiB block has one.
    pub(crate) fn smallest(&self, migrate_type: MigrateType, fits: u16) -> Option<(u32, Order)> {
        [false, true].into_iter().find_map(|is_roomy| {
            let group = blocks::group(migrate_type, is_roomy);
            let some = self.some[group] & fits;
            (some != 0).then(|| self.first(group, some.trailing_zeros())).flatten()
        })
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

    /// Takes one known block out of its list. Its head has no shape then.
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

    /// Changes the migrate type of a 2 MiB block, or of both under a larger one: its free blocks
    /// change lists.
    pub(crate) fn change_type<S: Scheme>(
        &mut self,
        map: Map<'_, S>,
        index: u32,
        size: Order,
        migrate_type: MigrateType,
    ) {
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

    /// Updates if a 2 MiB block is roomy, by its number of free frames.
    pub(crate) fn regroup_by_room<S: Scheme>(&mut self, map: Map<'_, S>, index: u32) {
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
                // Only free blocks are certain to stay what they are: all others may change
                // meanwhile.
                at += if is_free { shape.order.frames() } else { 1 };
            }
        };
        free_heads(&mut |at, size| self.unlink(map, at, size));
        change(map.blocks.of(first));
        free_heads(&mut |at, size| self.link(map, at, size));
    }

    fn list<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) -> &mut List {
        match usize::from(size.as_u8()) {
            n if n < ORDERS => &mut self.lists[map.blocks.of(index).group()][n],
            _ => &mut self.huge,
        }
    }

    /// Returns the neighbours in the list of a block at this address: beside the `latest`, if that
    /// is its place; otherwise at the nearer end, or next to the block there. So the first is the
    /// lowest of those that were inserted at this end. It reads one or two descriptors, one of
    /// which linking the block reads anyway.
    fn beside<S: Scheme>(map: Map<'_, S>, list: List, latest: u32, at: u32) -> (u32, u32) {
        let links = |of: u32| links(map.memmap.get(of - 1).owner_data());
        let List { first, last, .. } = list;
        if latest != 0 {
            let (before, behind) = links(latest);
            if latest < at && (behind == 0 || at < behind) {
                return (latest, behind);
            }
            if at < latest && before < at {
                return (before, latest);
            }
        }
        match (at.saturating_sub(first), last.saturating_sub(at)) {
            (0, _) => (0, first),
            // Also for an empty list: both its ends are 0.
            (_, 0) => (last, 0),
            (from_first, to_last) if from_first <= to_last => (first, links(first).1),
            _ => (links(last).0, last),
        }
    }

    fn link<S: Scheme>(&mut self, map: Map<'_, S>, index: u32, size: Order) {
        let mut before = 0;
        if size == MAX_ORDER {
            before = mem::replace(&mut self.latest[map.blocks.of(index).group()], index + 1);
        }
        let (previous, next) = Self::beside(map, *self.list(map, index, size), before, index + 1);
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
        if size == MAX_ORDER {
            let latest = &mut self.latest[map.blocks.of(index).group()];
            *latest = if *latest == index + 1 { 0 } else { *latest };
        }
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

    /// Checks that the lists agree with the descriptors, for tests.
    ///
    /// # Panics
    ///
    /// Panics if they do not.
    pub(crate) fn assert_sound<S: Scheme>(&self, map: Map<'_, S>) {
        let mut listed = 0;
        let mut follow = |list: List, size: Order, group: Option<usize>| {
            let (mut at, mut previous, mut blocks) = (list.first, 0, 0);
            let latest = group.filter(|_| size == MAX_ORDER).map_or(0, |group| self.latest[group]);
            let mut has_latest = latest == 0;
            while at != 0 {
                has_latest |= at == latest;
                let head = map.memmap.get(at - 1);
                assert!(
                    head.shape() == (Shape { kind: Kind::FREE, order: size }),
                    "frame {} is in a list, but not free",
                    at - 1
                );
                assert_eq!(
                    links(head.owner_data()).0,
                    previous,
                    "the link back from frame {}",
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
            assert!(has_latest, "the latest block of {size:?} is not in the list");
        };
        for (group, (lists, some)) in self.lists.iter().zip(self.some).enumerate() {
            for (n, &list) in lists.iter().enumerate() {
                follow(list, order(n), Some(group));
                assert_eq!(list.first != 0, some >> n & 1 == 1, "group {group}, {:?}", order(n));
            }
        }
        follow(self.huge, map.huge.unwrap_or(MAX_ORDER), None);
        assert_eq!(listed, self.frames);
        let free: u32 = map.blocks.all().iter().map(Block::free).sum();
        assert_eq!(free, self.frames, "free frames by 2 MiB block");
    }
}
