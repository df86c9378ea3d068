//! The buddy allocator: free blocks by order, in lists threaded through their heads' descriptors.
//!
//! (Knuth, TAOCP 2.5; Linux `mm/page_alloc.c`.) Everything here runs under the zone's lock. Only heads are
//! written: freeing or allocating 2 MiB touches a handful of descriptors.

use page_ref::{CHECKS, Scheme};

use crate::ids::{MAX_ORDER, Order};
use crate::memmap::{Kind, Memmap, Shape};

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
}

impl core::fmt::Display for AllocError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no frame is free"),
            Self::Fragmented { largest } => write!(f, "too fragmented: the largest free block has {largest:?}"),
        }
    }
}

impl core::error::Error for AllocError {}

/// Index + 1 of a head, 0 for none, so that a zeroed list is empty.
#[derive(Default)]
pub(crate) struct Buddy {
    heads: [u32; ORDERS],
    blocks: [u32; ORDERS],
    frames: u32,
}

fn links(private: u64) -> (u32, u32) {
    ((private >> 32) as u32, private as u32)
}

fn to_private(previous: u32, next: u32) -> u64 {
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
    pub(crate) fn largest(&self) -> Option<Order> {
        self.blocks.iter().rposition(|&blocks| blocks > 0).map(order)
    }

    /// Takes a block of `want`, splitting a larger one where needed. Its head is left without a shape.
    pub(crate) fn alloc<S: Scheme>(&mut self, memmap: &Memmap<S>, want: Order) -> Result<u32, AllocError> {
        let first = want.as_u8() as usize;
        let Some(found) = (first..ORDERS).find(|&n| self.heads[n] != 0) else {
            return Err(self.largest().map_or(AllocError::OutOfFrames, |largest| AllocError::Fragmented { largest }));
        };
        let index = self.heads[found] - 1;
        self.remove(memmap, index, order(found));
        for n in (first..found).rev() {
            self.push(memmap, index + (1 << n), order(n));
        }
        Ok(index)
    }

    /// Gives a block back and merges it with its free buddies.
    pub(crate) fn free<S: Scheme>(&mut self, memmap: &Memmap<S>, mut index: u32, mut size: Order) {
        while size < MAX_ORDER {
            let buddy = index ^ size.frames();
            if buddy >= memmap.frames() || memmap.get(buddy).shape() != (Shape { kind: Kind::FREE, order: size }) {
                break;
            }
            self.remove(memmap, buddy, size);
            index = index.min(buddy);
            size = order(size.as_u8() as usize + 1);
        }
        self.push(memmap, index, size);
    }

    fn push<S: Scheme>(&mut self, memmap: &Memmap<S>, index: u32, size: Order) {
        let n = size.as_u8() as usize;
        let next = self.heads[n];
        if next != 0 {
            let head = memmap.get(next - 1);
            head.set_private(to_private(index + 1, links(head.private()).1));
        }
        let head = memmap.get(index);
        head.set_private(to_private(0, next));
        head.set_shape(Kind::FREE, size);
        self.heads[n] = index + 1;
        self.blocks[n] += 1;
        self.frames += size.frames();
    }

    /// Takes one known block out of its list; its head is left without a shape.
    pub(crate) fn remove<S: Scheme>(&mut self, memmap: &Memmap<S>, index: u32, size: Order) {
        let n = size.as_u8() as usize;
        let head = memmap.get(index);
        assert!(!CHECKS || head.shape() == Shape { kind: Kind::FREE, order: size }, "frame {index} is no free block");
        let (previous, next) = links(head.private());
        if next != 0 {
            let after = memmap.get(next - 1);
            after.set_private(to_private(previous, links(after.private()).1));
        }
        if previous == 0 {
            self.heads[n] = next;
        } else {
            let before = memmap.get(previous - 1);
            before.set_private(to_private(links(before.private()).0, next));
        }
        head.set_shape(Kind::INTERIOR, Order::ZERO);
        self.blocks[n] -= 1;
        self.frames -= size.frames();
    }

    /// Puts a block into its list without merging: the half that stays when its other half is isolated.
    pub(crate) fn push_apart<S: Scheme>(&mut self, memmap: &Memmap<S>, index: u32, size: Order) {
        self.push(memmap, index, size);
    }
}
