//! Per-CPU lists of small blocks in front of the buddy.
//!
//! (Linux `struct per_cpu_pages`, with lists up to order 3 as well.) A list is threaded through
//! the descriptors of its blocks, which an allocation or a free writes anyway. So a CPU's lists are
//! a few numbers, and the block freed last, warm in the cache, is handed out first.
//!
//! Lists speed up a zone with room, and harm one that is nearly full. A list hands out the frame
//! that was freed last, so a 2 MiB block that is nearly empty never becomes quite empty. Therefore,
//! while less than an eighth is free, a CPU keeps a few single frames and nothing else, and none
//! from a 2 MiB block in which more than a few are free. (A thread that frees frames to allocate as
//! many next keeps those as well.)
//!
//! Whole 2 MiB blocks have lists of their own: code that frees one often allocates the next. (Linux
//! `NR_PCP_THP`.) A list has at most an eighth of the zone, and 8 blocks. While memory is short a
//! CPU keeps none.

use core::sync::atomic::{AtomicU32, Ordering};

use folio_ref::Scheme;
use lock_api::{Mutex, MutexGuard};

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::migrate_type::{MIGRATE_TYPES, MigrateType};
use crate::base::platform::Platform;
use crate::memmap::memmap::{Kind, Memmap};

/// The largest order with several blocks in a list. (Linux `PAGE_ALLOC_COSTLY_ORDER`.)
pub(crate) const MAX_LISTED: Order = Order::new(3).expect("an order");

/// The maximum number of frames in a list. Half of it moves to or from the buddy at once.
const CAPACITY: u32 = 64;

/// The maximum number of single frames in a list while memory is short. No other block is kept
/// then.
const CAPACITY_SHORT: u32 = 16;

/// The maximum number of whole 2 MiB blocks in a list: 16 in a row take the zone's lock 4 times.
const MAX_WHOLE: u32 = 8;

/// A list of whole blocks has at most one part in this many of the zone.
const WHOLE_SHARE: u32 = 8;

/// The number of CPUs with lists of their own. A CPU uses those of its number modulo this.
pub(crate) const CPUS: usize = 16;

const ORDERS: usize = MAX_LISTED.as_u8() as usize + 1;

/// Counts of the actions on the lists of one CPU. Written under their lock: CPUs share no write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PcpCounters {
    pub(crate) allocated: u64,
    pub(crate) freed: u64,
}

#[derive(Clone, Copy, Default)]
struct List {
    /// Index + 1 of the first, 0 for none.
    first: u32,
    blocks: u32,
}

/// The frames in the lists of one CPU, and in the high half how many of their blocks are whole 2
/// MiB blocks. One number, so that it is published by one store.
#[derive(Clone, Copy, Default)]
struct Held(u32);

impl Held {
    /// Returns what a block of this order adds. It has no branch where the compiler knows that the
    /// order is small.
    #[inline(always)]
    fn of(order: Order) -> Self {
        Self(order.frames() | u32::from(order == BLOCK_ORDER) << 16)
    }

    fn frames(self) -> u32 {
        self.0 & 0xFFFF
    }

    fn whole_blocks(self) -> u32 {
        self.0 >> 16
    }
}

/// The free blocks of one CPU, by migrate type and order.
#[derive(Default)]
pub(crate) struct Pcp {
    lists: [[List; ORDERS]; MIGRATE_TYPES],
    /// Blocks of [`BLOCK_ORDER`].
    whole: [List; MIGRATE_TYPES],
    held: Held,
    /// The capacity of a list in frames, as of the last time that a block bypassed the lists; 0
    /// before the first.
    capacity: u32,
    /// The capacity of a list of whole 2 MiB blocks, in blocks, as of the same time.
    whole_capacity: u32,
    pub(crate) counters: PcpCounters,
}

impl Pcp {
    /// Adapts the capacity to the zone's free memory.
    pub(crate) fn adapt(&mut self, free: u32, online: u32) {
        self.capacity = if free < online / 8 { CAPACITY_SHORT } else { CAPACITY };
        self.whole_capacity = (online / (WHOLE_SHARE * BLOCK_ORDER.frames())).clamp(1, MAX_WHOLE);
    }

    /// Returns `true` if memory is short: the lists keep only single frames, and none that is freed
    /// in a sparse 2 MiB block.
    #[inline]
    pub(crate) fn are_short(&self) -> bool {
        self.capacity != CAPACITY
    }

    /// Returns the number of blocks that move to or from the buddy at once. 0: the lists keep none.
    pub(crate) fn batch(&self, order: Order) -> u32 {
        let keeps_none = self.are_short() && order > Order::ZERO;
        if keeps_none { 0 } else { self.most(order) / 2 }
    }

    /// Returns the maximum number of blocks in a list of an order.
    #[inline(always)]
    fn most(&self, order: Order) -> u32 {
        if order == BLOCK_ORDER { self.whole_capacity } else { self.capacity >> order.as_u8() }
    }

    pub(crate) fn is_empty(&self, migrate_type: MigrateType, order: Order) -> bool {
        self.blocks(migrate_type, order) == 0
    }

    /// Returns `true` if blocks must move to the buddy before one more is inserted.
    pub(crate) fn is_full(&self, migrate_type: MigrateType, order: Order) -> bool {
        self.blocks(migrate_type, order) >= self.most(order)
    }

    pub(crate) fn blocks(&self, migrate_type: MigrateType, order: Order) -> u32 {
        let lists = &self.lists[migrate_type as usize];
        lists.get(usize::from(order.as_u8())).unwrap_or(&self.whole[migrate_type as usize]).blocks
    }

    /// Returns the list of an order. It has no branch where the compiler knows that the order is
    /// small.
    #[inline(always)]
    fn list(&mut self, migrate_type: MigrateType, order: Order) -> &mut List {
        let lists = &mut self.lists[migrate_type as usize];
        lists.get_mut(usize::from(order.as_u8())).unwrap_or(&mut self.whole[migrate_type as usize])
    }

    #[inline]
    pub(crate) fn pop<S: Scheme>(
        &mut self,
        memmap: &Memmap<S>,
        migrate_type: MigrateType,
        order: Order,
    ) -> Option<u32> {
        let list = self.list(migrate_type, order);
        let index = list.first.checked_sub(1)?;
        list.first = memmap.get(index).owner_data() as u32;
        list.blocks -= 1;
        self.held.0 -= Held::of(order).0;
        Some(index)
    }

    #[inline]
    pub(crate) fn push<S: Scheme>(
        &mut self,
        memmap: &Memmap<S>,
        migrate_type: MigrateType,
        order: Order,
        index: u32,
    ) {
        let list = self.list(migrate_type, order);
        let head = memmap.get(index);
        head.set_owner_data(u64::from(list.first));
        head.set_shape(Kind::FREE_PER_CPU, order);
        list.first = index + 1;
        list.blocks += 1;
        self.held.0 += Held::of(order).0;
    }

    /// Takes any block out, to empty the lists.
    pub(crate) fn pop_any<S: Scheme>(&mut self, memmap: &Memmap<S>) -> Option<(u32, Order)> {
        for migrate_type in MigrateType::ALL {
            for order in (0..=MAX_LISTED.as_u8()).filter_map(Order::new).chain([BLOCK_ORDER]) {
                if let Some(index) = self.pop(memmap, migrate_type, order) {
                    return Some((index, order));
                }
            }
        }
        None
    }
}

/// The lists of one CPU.
pub(crate) struct PerCpu<P: Platform> {
    /// The content of the lists ([`Held`]): a hint if their lock is worth taking. Written under it.
    held: AtomicU32,
    lists: Mutex<P::Lock, Pcp>,
}

impl<P: Platform> Default for PerCpu<P> {
    fn default() -> Self {
        Self { held: AtomicU32::new(0), lists: Mutex::new(Pcp::default()) }
    }
}

impl<P: Platform> PerCpu<P> {
    /// Returns the number of frames in the lists. Racy.
    pub(crate) fn frames(&self) -> u32 {
        self.held().frames()
    }

    /// Returns the number of 2 MiB blocks in the lists. Racy.
    pub(crate) fn whole_blocks(&self) -> u32 {
        self.held().whole_blocks()
    }

    fn held(&self) -> Held {
        // Relaxed: a hint, except under the lock or after one that both sides took.
        Held(self.held.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, P::Lock, Pcp>> {
        self.lists.try_lock()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, P::Lock, Pcp> {
        self.lists.lock()
    }

    /// Publishes what is left in the lists, under their lock. After frames moved between the lists
    /// and the buddy also under the zone's lock, so that its holder counts each of them once.
    #[inline]
    pub(crate) fn publish(&self, lists: &Pcp) {
        // Relaxed: as in held.
        self.held.store(lists.held.0, Ordering::Relaxed);
    }
}
