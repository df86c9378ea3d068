//! Per-CPU lists of small blocks in front of the buddy.
//!
//! (Linux `struct per_cpu_pages`, whose lists also go up to order 3.) A list is threaded through
//! the descriptors of its blocks, which whoever takes or frees one writes anyway: so a CPU's lists
//! are some numbers, and the last block freed, warm in the cache, is the first handed out.
//!
//! What speeds up a zone with room harms one that is nearly full: a list gives what was freed last
//! to whoever comes next, so no 2 MiB block that is nearly empty ever gets quite empty. So while
//! less than an eighth is free, a CPU holds a few single frames back and nothing else, and none of
//! a block in which more than a few are free.
//!
//! Whole blocks have lists of their own, of one block each: who frees one often allocates the next.
//! (Linux `NR_PCP_THP`.) A second one goes through the buddy as before. While memory is short a CPU
//! keeps none.

use core::sync::atomic::{AtomicU32, Ordering};

use folio_ref::Scheme;
use lock_api::{Mutex, MutexGuard};

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::migrate_type::{MIGRATE_TYPES, MigrateType};
use crate::base::platform::Platform;
use crate::memmap::memmap::{Kind, Memmap};

/// The largest order of several blocks in a list. (Linux `PAGE_ALLOC_COSTLY_ORDER`.)
pub(crate) const MAX_LISTED: Order = Order::new(3).expect("an order");

/// How many frames a list holds at the most; half of it moves to or from the buddy at once.
const CAPACITY: u32 = 64;

/// The same while memory is short, of single frames; nothing else is held then.
const CAPACITY_SHORT: u32 = 16;

/// Lists a zone has; a CPU uses those of its number modulo this.
pub(crate) const CPUS: usize = 16;

const ORDERS: usize = MAX_LISTED.as_u8() as usize + 1;

/// What was done through the lists of one CPU. Written under their lock: no writes that CPUs share.
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

/// Free blocks of one CPU, by mobility and order.
#[derive(Default)]
pub(crate) struct Pcp {
    lists: [[List; ORDERS]; MIGRATE_TYPES],
    /// Of [`BLOCK_ORDER`].
    whole: [List; MIGRATE_TYPES],
    frames: u32,
    /// What a list may hold, as of the last time that anything went past the lists; 0 before the
    /// first.
    capacity: u32,
    pub(crate) counters: PcpCounters,
}

impl Pcp {
    /// In all lists.
    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// Blocks of 2 MiB in all lists.
    pub(crate) fn whole_blocks(&self) -> u32 {
        self.whole.iter().map(|list| list.blocks).sum()
    }

    /// Is told how much of the zone is free.
    pub(crate) fn adapt(&mut self, free: u32, online: u32) {
        self.capacity = if free < online / 8 { CAPACITY_SHORT } else { CAPACITY };
    }

    /// Whether they hold less, as memory is short: only single frames, and of those none that is
    /// freed in a sparse 2 MiB block.
    #[inline]
    pub(crate) fn are_short(&self) -> bool {
        self.capacity != CAPACITY
    }

    /// Blocks that move to or from the buddy at once; 0: none stays behind.
    pub(crate) fn batch(&self, order: Order) -> u32 {
        let holds_none = self.are_short() && order > Order::ZERO;
        if holds_none { 0 } else { (self.capacity / 2) >> order.as_u8() }
    }

    pub(crate) fn is_empty(&self, migrate_type: MigrateType, order: Order) -> bool {
        self.blocks(migrate_type, order) == 0
    }

    /// Whether some go to the buddy before one more comes; of whole blocks all that are there.
    pub(crate) fn is_full(&self, migrate_type: MigrateType, order: Order) -> bool {
        self.blocks(migrate_type, order) >= self.capacity >> order.as_u8()
    }

    pub(crate) fn blocks(&self, migrate_type: MigrateType, order: Order) -> u32 {
        let lists = &self.lists[migrate_type as usize];
        lists.get(usize::from(order.as_u8())).unwrap_or(&self.whole[migrate_type as usize]).blocks
    }

    /// Where the order is known to the compiler, or only that it is a small one, there is no
    /// branch.
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
        self.frames -= order.frames();
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
        self.frames += order.frames();
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
    /// Frames in the lists: a hint if their lock is worth taking. Written under it.
    frames: AtomicU32,
    lists: Mutex<P::Lock, Pcp>,
}

impl<P: Platform> Default for PerCpu<P> {
    fn default() -> Self {
        Self { frames: AtomicU32::new(0), lists: Mutex::new(Pcp::default()) }
    }
}

impl<P: Platform> PerCpu<P> {
    /// Returns the number of frames in the lists. Racy.
    pub(crate) fn frames(&self) -> u32 {
        // Relaxed: a hint, except under the lock or after one that both sides took.
        self.frames.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, P::Lock, Pcp>> {
        self.lists.try_lock()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, P::Lock, Pcp> {
        self.lists.lock()
    }

    /// Publishes the number of frames that are left in the lists, under their lock.
    #[inline]
    pub(crate) fn publish(&self, lists: &Pcp) {
        // Relaxed: as in frames.
        self.frames.store(lists.frames(), Ordering::Relaxed);
    }
}
