//! Allocating and freeing: this CPU's lists first, then the buddy.

use core::cell::Cell;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::base::seeded_bugs::lists_published_late;
use crate::base::trace::Event;
use crate::memmap::memmap::Kind;
use crate::memmap::seeded_bugs;
use crate::zone::alloc_error::AllocError;
use crate::zone::buddy::{Buddy, BuddyGuard, Reach};
use crate::zone::deferred;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::free_lists::Map;
use crate::zone::pcp::{self, Pcp, PerCpu};
use crate::zone::zone::Zone;

/// The number of times that an allocation empties the lists of all CPUs. Other threads may take
/// what it found there.
const MAX_DRAINS: usize = 4;

impl<P: Platform> Zone<P> {
    /// Allocates a block of [`MigrateType::Unmovable`]. Returns its exclusive handle: frozen, of
    /// kind [`Kind::PLAIN`]. Its bytes keep their old contents.
    ///
    /// # Errors
    ///
    /// An [`AllocError`] if no block of the order is free, the lists of all CPUs included.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`], panics if a free frame is not frozen: other code broke R1 or R2.
    #[inline]
    pub fn alloc_frozen(&'static self, order: Order) -> Result<FrozenFolio<P>, AllocError> {
        self.alloc_frozen_as(order, MigrateType::Unmovable)
    }

    /// Allocates a block. Returns its exclusive handle: frozen, of kind [`Kind::PLAIN`]. Its bytes
    /// keep their old contents. The migrate type only decides where the block lies: see
    /// [`MigrateType`].
    ///
    /// # Errors
    ///
    /// An [`AllocError`] if no block of the order is free, the lists of all CPUs included: reclaim,
    /// compact, or do without.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`], panics if a free frame is not frozen: other code broke R1 or R2.
    #[inline]
    pub fn alloc_frozen_as(
        &'static self,
        order: Order,
        migrate_type: MigrateType,
    ) -> Result<FrozenFolio<P>, AllocError> {
        let index = match order {
            _ if order <= pcp::MAX_LISTED => self.alloc_per_cpu(order, migrate_type),
            BLOCK_ORDER => self.alloc_whole_per_cpu(migrate_type),
            _ => None,
        };
        let index = match index {
            Some(index) => index,
            None => self.alloc_from_buddy(order, migrate_type)?,
        };
        Ok(self.hand_out(index, order))
    }

    /// Allocates a single frame that lies in this CPU's lists already. Returns its exclusive
    /// handle, or `None` if there is none: the lists are not refilled. For a caller that frees
    /// frames itself before it takes those of the zone.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`], panics if a free frame is not frozen: other code broke R1 or R2.
    #[inline]
    pub fn alloc_frozen_listed(&'static self, migrate_type: MigrateType) -> Option<FrozenFolio<P>> {
        let cpu = self.this_cpu();
        if cpu.frames() == 0 {
            return None;
        }
        let index = self.pop_listed(cpu, &mut *cpu.try_lock()?, Order::ZERO, migrate_type)?;
        Some(self.hand_out(index, Order::ZERO))
    }

    /// Allocates a block of order `max`, or else of the largest order below that is free: for a
    /// caller that takes many frames in as few blocks as possible. It is at most of [`MAX_ORDER`].
    /// Returns its exclusive handle.
    ///
    /// # Errors
    ///
    /// An [`AllocError`] if not a single frame is free.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`], panics if a free frame is not frozen: other code broke R1 or R2.
    pub fn alloc_frozen_up_to(
        &'static self,
        max: Order,
        migrate_type: MigrateType,
    ) -> Result<FrozenFolio<P>, AllocError> {
        if max > Order::ZERO {
            let mut buddy = self.lock();
            let largest = |buddy: &Buddy| {
                buddy.lists.largest_up_to(max.min(MAX_ORDER)).unwrap_or(Order::ZERO)
            };
            let mut order = largest(&buddy);
            // Deferred blocks are free as well, and not in the lists yet.
            while order < max.min(MAX_ORDER) && !self.deferred.blocks().is_empty() {
                drop(buddy);
                self.init_deferred(deferred::STEP);
                buddy = self.lock();
                order = largest(&buddy);
            }
            // Frames in the lists of CPUs stay there, as they are small blocks, unless a list may
            // have a whole 2 MiB block.
            if order < max.min(BLOCK_ORDER)
                && self.per_cpu.iter().any(|cpu| cpu.frames() >= BLOCK_ORDER.frames())
            {
                drop(buddy);
                self.drain();
                buddy = self.lock();
                order = largest(&buddy);
            }
            if order > Order::ZERO {
                let index = buddy.alloc(self.map(), order, migrate_type, Reach::Any)?;
                drop(buddy);
                return Ok(self.hand_out(index, order));
            }
        }
        self.alloc_frozen_as(Order::ZERO, migrate_type)
    }

    /// Allocates a block for a folio to move to. Returns `None` if there is none within `reach`.
    pub(crate) fn alloc_target(
        &'static self,
        order: Order,
        reach: Reach,
    ) -> Option<FrozenFolio<P>> {
        if reach == Reach::Any {
            return self.alloc_frozen_as(order, MigrateType::Movable).ok();
        }
        // Not through the CPU's list: it may have the rest of a whole block.
        let hole = if order < BLOCK_ORDER {
            self.lock().alloc(self.map(), order, MigrateType::Movable, reach)
        } else {
            return None;
        };
        Some(self.hand_out(hole.ok()?, order))
    }

    /// Allocates a block of [`MigrateType::Unmovable`] with this kind and owner data. Returns its
    /// only reference.
    ///
    /// # Errors
    ///
    /// An [`AllocError`] if no block of the order is free, the lists of all CPUs included.
    ///
    /// # Panics
    ///
    /// Panics if `kind` is one of the allocator's own free kinds.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn alloc(
        &'static self,
        order: Order,
        kind: Kind,
        owner_data: u64,
    ) -> Result<FolioRef<P>, AllocError> {
        // Before the allocation, so that a panic leaks no frame.
        kind.assert_allocated();
        let mut folio = self.alloc_frozen(order)?;
        folio.set_owner(kind, owner_data);
        Ok(folio.init())
    }

    /// Moves all frames of the per-CPU lists into the buddy. Returns the number of frames.
    pub fn drain(&self) -> u32 {
        let some = self.per_cpu.iter().filter(|cpu| cpu.frames() > 0);
        some.map(|cpu| self.drain_one(cpu)).sum()
    }

    /// Moves all frames of this CPU's lists into the buddy: a thread that has freed many lets other
    /// threads find them. Takes nothing from other CPUs. Returns the number of frames.
    pub fn drain_this_cpu(&self) -> u32 {
        self.drain_one(self.this_cpu())
    }

    /// Moves all frames of one CPU's lists into the buddy. Returns the number of frames.
    pub(crate) fn drain_one(&self, cpu: &PerCpu<P>) -> u32 {
        let mut drained = 0;
        let mut lists = cpu.lock();
        let mut buddy = self.lock();
        while let Some((index, order)) = lists.pop_any(&self.memmap) {
            self.free_locked(&mut buddy, index, order);
            drained += order.frames();
        }
        cpu.publish(&lists);
        drained
    }

    /// Makes the exclusive handle of a block that left the free lists.
    #[inline]
    pub(crate) fn hand_out(&'static self, index: u32, order: Order) -> FrozenFolio<P> {
        let head = self.descriptor(index);
        assert!(
            !CHECKS || head.word.snapshot().is_frozen(),
            "a free frame is {:?} (R1)",
            head.word
        );
        self.memmap.clear_referenced(index);
        head.set_shape(Kind::PLAIN, order);
        P::trace(Event::Allocated, || self.pfn(index));
        seeded_bugs::open_tail(&self.memmap, index, order);
        FrozenFolio::from_index(self, index)
    }

    /// Takes a block from this CPU's lists. Returns `None` if the buddy must be asked.
    #[inline]
    fn alloc_per_cpu(&self, order: Order, migrate_type: MigrateType) -> Option<u32> {
        let cpu = self.this_cpu();
        let mut lists = cpu.try_lock()?;
        if lists.is_empty(migrate_type, order) {
            self.refill(cpu, &mut lists, order, migrate_type);
        }
        self.pop_listed(cpu, &mut lists, order, migrate_type)
    }

    /// Takes a block from a CPU's lists, which are locked.
    #[inline(always)]
    fn pop_listed(
        &self,
        cpu: &PerCpu<P>,
        lists: &mut Pcp,
        order: Order,
        migrate_type: MigrateType,
    ) -> Option<u32> {
        let index = lists.pop(&self.memmap, migrate_type, order)?;
        lists.counters.allocated += 1;
        cpu.publish(lists);
        Some(index)
    }

    /// Takes a whole 2 MiB block from this CPU's lists. Returns `None` if the buddy must be asked.
    /// A function of its own, so that smaller orders do not pay for the choice of the list.
    #[inline(never)]
    fn alloc_whole_per_cpu(&self, migrate_type: MigrateType) -> Option<u32> {
        self.alloc_per_cpu(BLOCK_ORDER, migrate_type)
    }

    #[cold]
    fn refill(&self, cpu: &PerCpu<P>, lists: &mut Pcp, order: Order, migrate_type: MigrateType) {
        self.adapt(lists);
        if lists.batch(order) == 0 {
            return;
        }
        let mut buddy = self.lock();
        for _ in 0..lists.batch(order) {
            let Ok(index) = buddy.alloc(self.map(), order, migrate_type, Reach::Any) else { break };
            lists.push(&self.memmap, migrate_type, order, index);
        }
        if !lists_published_late() {
            cpu.publish(lists);
        }
    }

    fn alloc_from_buddy(&self, order: Order, migrate_type: MigrateType) -> Result<u32, AllocError> {
        if order > MAX_ORDER {
            return self.alloc_huge(order);
        }
        let alloc = || self.lock().alloc(self.map(), order, migrate_type, Reach::Any);
        let mut taken = alloc();
        while taken.is_err() && self.init_deferred(deferred::STEP) {
            taken = alloc();
        }
        for _ in 0..MAX_DRAINS {
            if taken.is_ok() || self.online_frames() == 0 {
                break;
            }
            // Frames in the lists of other CPUs are free as well. One try even if there are none:
            // another thread may have initialised the last deferred blocks since the try before.
            let drained = self.drain();
            taken = alloc();
            if drained == 0 {
                break;
            }
        }
        match taken {
            Err(_) if self.online_frames() == 0 => Err(AllocError::Offline),
            taken => taken,
        }
    }

    /// Returns a frozen block to the allocator.
    #[inline]
    pub(crate) fn free_index(&'static self, index: u32, order: Order) {
        assert!(
            !CHECKS || self.descriptor(index).word.snapshot().is_frozen(),
            "a frame that is {:?} was freed (R1)",
            self.descriptor(index).word
        );
        assert!(
            !CHECKS || self.descriptor(index).shape().kind.is_allocated(),
            "a frame that is {:?} was freed again",
            self.descriptor(index).shape().kind
        );
        // Before it is free: afterwards other threads may trace what they do to it.
        P::trace(Event::Freed, || self.pfn(index));
        seeded_bugs::freeze_tail(&self.memmap, index, order);
        let is_listed = match order {
            _ if order <= pcp::MAX_LISTED => self.free_listed(index, order),
            BLOCK_ORDER => self.free_whole_listed(index),
            _ => false,
        };
        if is_listed {
            return;
        }
        if let Some(free) = self.outer {
            return self.free_outer(free, index, order);
        }
        let mut buddy = self.lock();
        self.free_locked(&mut buddy, index, order);
    }

    /// Puts a block into this CPU's lists. Returns `false` if it must go to the buddy.
    #[inline(always)]
    fn free_listed(&self, index: u32, order: Order) -> bool {
        let cpu = self.this_cpu();
        let Some(mut lists) = cpu.try_lock() else { return false };
        let is_listed = self.free_per_cpu(cpu, &mut lists, index, order, false);
        if is_listed {
            cpu.publish(&lists);
        }
        is_listed
    }

    /// Puts a whole 2 MiB block into this CPU's lists. Returns `false` if it must go to the buddy.
    /// A function of its own, as `alloc_whole_per_cpu` is.
    #[inline(never)]
    fn free_whole_listed(&self, index: u32) -> bool {
        self.free_listed(index, BLOCK_ORDER)
    }

    /// Returns frozen blocks to the allocator: under one lock as far as this CPU's lists have room,
    /// and the others under one lock of the zone. Changes the order of `heads`. `for_reuse`: the
    /// lists also keep frames of sparse blocks.
    pub(crate) fn free_batch(&'static self, heads: &mut [u32], for_reuse: bool) {
        let cpu = self.this_cpu();
        let mut lists = cpu.try_lock();
        // The heads that are not listed move to the front.
        let heads = Cell::from_mut(heads).as_slice_of_cells();
        let (mut places, mut unlisted) = (heads.iter(), 0);
        for index in heads.iter().map(Cell::get) {
            let shape = self.descriptor(index).shape();
            assert!(
                !CHECKS || shape.kind.is_allocated(),
                "a frame that is {:?} was freed again",
                shape.kind
            );
            P::trace(Event::Freed, || self.pfn(index));
            let is_listed = shape.order <= pcp::MAX_LISTED
                && lists.as_mut().is_some_and(|lists| {
                    self.free_per_cpu(cpu, lists, index, shape.order, for_reuse)
                });
            if !is_listed && let Some(place) = places.next() {
                place.set(index);
                unlisted += 1;
            }
        }
        if let Some(lists) = lists {
            cpu.publish(&lists);
        }
        let unlisted = heads.iter().map(Cell::get).take(unlisted);
        if let Some(free) = self.outer {
            for index in unlisted {
                self.free_outer(free, index, self.descriptor(index).shape().order);
            }
        } else if unlisted.len() > 0 {
            let mut buddy = self.lock();
            for index in unlisted {
                self.free_locked(&mut buddy, index, self.descriptor(index).shape().order);
            }
        }
    }

    /// Puts a block into this CPU's lists, which are locked. Returns `false` if it must go to the
    /// buddy.
    #[inline(always)]
    fn free_per_cpu(
        &self,
        cpu: &PerCpu<P>,
        lists: &mut Pcp,
        index: u32,
        order: Order,
        for_reuse: bool,
    ) -> bool {
        // Under the lists' lock: after a block is isolated these lists are drained, so a frame
        // that saw its block online is found by that drain.
        let block = self.blocks.of(index);
        let Some(migrate_type) = block.migrate_type_if_online() else { return false };
        if lists.are_short() {
            if order > Order::ZERO {
                self.spill(cpu, lists, order, migrate_type);
                return false;
            }
            if block.is_sparse() && !for_reuse {
                self.adapt(lists);
                return false;
            }
        }
        if lists.is_full(migrate_type, order) {
            self.spill(cpu, lists, order, migrate_type);
        }
        lists.push(&self.memmap, migrate_type, order, index);
        lists.counters.freed += 1;
        true
    }

    /// Adapts the capacity of the lists to the free memory, each time the buddy is asked.
    #[cold]
    fn adapt(&self, lists: &mut Pcp) {
        lists.adapt(self.free_frames(), self.online_frames());
    }

    #[cold]
    fn spill(&self, cpu: &PerCpu<P>, lists: &mut Pcp, order: Order, migrate_type: MigrateType) {
        self.adapt(lists);
        if lists.is_empty(migrate_type, order) {
            return;
        }
        let mut buddy = self.lock();
        while lists.blocks(migrate_type, order) > lists.batch(order) {
            let Some(index) = lists.pop(&self.memmap, migrate_type, order) else { break };
            self.free_locked(&mut buddy, index, order);
        }
        cpu.publish(lists);
    }

    /// Frees a block under the zone's lock: to the buddy, or captured if its 2 MiB block is
    /// isolated.
    pub(crate) fn free_locked(&self, buddy: &mut Buddy, index: u32, order: Order) {
        if order > BLOCK_ORDER
            && self
                .blocks
                .under(index, order)
                .iter()
                .any(|block| block.migrate_type_if_online().is_none())
        {
            for piece in (index..index + order.frames()).step_by(BLOCK_ORDER.frames() as usize) {
                self.descriptor(piece).set_shape(Kind::INTERIOR, Order::ZERO);
                self.free_locked(buddy, piece, BLOCK_ORDER);
            }
        } else if self.blocks.of(index).migrate_type_if_online().is_none() {
            self.descriptor(index).set_shape(Kind::ISOLATED, order);
            self.blocks.of(index).capture(order);
            buddy.captured += order.frames();
        } else {
            self.descriptor(index).set_shape(Kind::INTERIOR, Order::ZERO);
            buddy.free(self.map(), index, order);
        }
    }

    /// Locks the zone.
    pub(crate) fn lock(&self) -> BuddyGuard<'_, P> {
        BuddyGuard::new(&self.gauge, self.buddy.lock())
    }

    /// Returns the metadata that the buddy's lists are threaded through.
    pub(crate) fn map(&self) -> Map<'_, P::Scheme> {
        Map { memmap: &self.memmap, blocks: &self.blocks, huge: self.huge_order() }
    }

    pub(crate) fn this_cpu(&self) -> &PerCpu<P> {
        &self.per_cpu[P::cpu() % pcp::CPUS]
    }
}
