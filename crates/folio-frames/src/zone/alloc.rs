//! Allocating and freeing: this CPU's lists first, then the buddy.

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::memmap::Kind;
use crate::zone::alloc_error::AllocError;
use crate::zone::buddy::{Buddy, BuddyGuard, Reach};
use crate::zone::deferred;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::free_lists::Map;
use crate::zone::pcp::{self, Pcp, PerCpu};
use crate::zone::seeded_bugs;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// A free block that will not move, as a token: frozen, of kind [`Kind::PLAIN`], its bytes
    /// whatever they were.
    ///
    /// # Errors
    ///
    /// As [`Zone::alloc_frozen_as`].
    ///
    /// # Panics
    ///
    /// As [`Zone::alloc_frozen_as`].
    #[inline]
    pub fn alloc_frozen(&'static self, order: Order) -> Result<FrozenFolio<P>, AllocError> {
        self.alloc_frozen_as(order, MigrateType::Unmovable)
    }

    /// A free block as a token: frozen, of kind [`Kind::PLAIN`], its bytes whatever they were. What
    /// it is allocated for decides where it lies, nothing else: see [`MigrateType`].
    ///
    /// # Errors
    ///
    /// When no block of the order is free, in no CPU's list either: reclaim, compact, or go
    /// without.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`], when a free frame is not frozen: somebody broke R1 or R2.
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

    /// A free block of `most`, or of the largest order below that is free: for who takes many
    /// frames, wants few pieces, and does without.
    ///
    /// # Errors
    ///
    /// As [`Zone::alloc_frozen_as`], when not a single frame is free.
    ///
    /// # Panics
    ///
    /// As [`Zone::alloc_frozen_as`].
    pub fn alloc_frozen_up_to(
        &'static self,
        most: Order,
        migrate_type: MigrateType,
    ) -> Result<FrozenFolio<P>, AllocError> {
        if most > Order::ZERO {
            let mut buddy = self.lock();
            let largest = |buddy: &Buddy| {
                buddy.lists.largest_up_to(most.min(MAX_ORDER)).unwrap_or(Order::ZERO)
            };
            let mut order = largest(&buddy);
            // What lies in the lists of CPUs stays there, small pieces that they are; but for whole
            // blocks.
            if order < most.min(BLOCK_ORDER)
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

    /// Where something moves to.
    pub(crate) fn alloc_target(
        &'static self,
        order: Order,
        reach: Reach,
    ) -> Option<FrozenFolio<P>> {
        if reach == Reach::Any {
            return self.alloc_frozen_as(order, MigrateType::Movable).ok();
        }
        // Not through the CPU's list: it may hold the rest of a whole block.
        let hole = if order < BLOCK_ORDER {
            self.lock().alloc(self.map(), order, MigrateType::Movable, reach)
        } else {
            return None;
        };
        Some(self.hand_out(hole.ok()?, order))
    }

    /// A block with one reference, the caller's. It counts as unmovable.
    ///
    /// # Errors
    ///
    /// As [`Zone::alloc_frozen_as`].
    #[cfg_attr(feature = "track", track_caller)]
    pub fn alloc(
        &'static self,
        order: Order,
        kind: Kind,
        owner_data: u64,
    ) -> Result<FolioRef<P>, AllocError> {
        let mut folio = self.alloc_frozen(order)?;
        folio.set_owner(kind, owner_data);
        Ok(folio.init())
    }

    /// Moves what the per-CPU lists hold into the buddy. How many frames that were.
    pub fn drain(&self) -> u32 {
        let some = self.per_cpu.iter().filter(|cpu| cpu.frames() > 0);
        some.map(|cpu| self.drain_one(cpu)).sum()
    }

    /// Moves what the lists of one CPU hold into the buddy. Returns the number of frames.
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

    /// What left the free lists becomes a token.
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
        seeded_bugs::open_tail(self, index, order);
        FrozenFolio::from_index(self, index)
    }

    /// Takes a block from this CPU's lists; `None`: go to the buddy.
    #[inline]
    fn alloc_per_cpu(&self, order: Order, migrate_type: MigrateType) -> Option<u32> {
        let cpu = self.this_cpu();
        let mut lists = cpu.try_lock()?;
        if lists.is_empty(migrate_type, order) {
            self.refill(&mut lists, order, migrate_type);
        }
        let index = lists.pop(&self.memmap, migrate_type, order)?;
        lists.counters.allocated += 1;
        cpu.publish(&lists);
        Some(index)
    }

    /// The same for a whole block. Apart, so that for the others it costs nothing to ask where its
    /// list stands.
    #[inline(never)]
    fn alloc_whole_per_cpu(&self, migrate_type: MigrateType) -> Option<u32> {
        self.alloc_per_cpu(BLOCK_ORDER, migrate_type)
    }

    #[cold]
    fn refill(&self, lists: &mut Pcp, order: Order, migrate_type: MigrateType) {
        self.adapt(lists);
        if lists.batch(order) == 0 {
            return;
        }
        let mut buddy = self.lock();
        for _ in 0..lists.batch(order) {
            let Ok(index) = buddy.alloc(self.map(), order, migrate_type, Reach::Any) else { break };
            lists.push(&self.memmap, migrate_type, order, index);
        }
    }

    fn alloc_from_buddy(&self, order: Order, migrate_type: MigrateType) -> Result<u32, AllocError> {
        if order > MAX_ORDER {
            return self.alloc_huge(order);
        }
        let mut first_try = self.lock().alloc(self.map(), order, migrate_type, Reach::Any);
        while first_try.is_err() && self.bring_in(deferred::STEP) {
            first_try = self.lock().alloc(self.map(), order, migrate_type, Reach::Any);
        }
        match first_try {
            Ok(index) => Ok(index),
            Err(_) if self.online_frames() == 0 => Err(AllocError::Offline),
            // What lies in the lists of other CPUs is free as well.
            Err(_) if self.drain() > 0 => {
                self.lock().alloc(self.map(), order, migrate_type, Reach::Any)
            }
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn alloc_huge(&self, order: Order) -> Result<u32, AllocError> {
        let huge = self.huge_order();
        if huge != Some(order) {
            return Err(AllocError::TooLarge { most: huge.unwrap_or(MAX_ORDER) });
        }
        let taken = self.lock().alloc_huge(self.map(), order);
        if let Some(index) = taken {
            return Ok(index);
        }
        // As much as one block can need, wherever its alignment lies.
        self.bring_in(2 * order.frames() / BLOCK_ORDER.frames());
        self.drain();
        let last = self.frames().saturating_sub(order.frames() - 1);
        for first in (0..last).step_by(order.frames() as usize) {
            // One at a time, so that the lock is not held for the whole zone.
            let mut buddy = self.lock();
            if buddy.form_huge(self.map(), first, order) {
                return Ok(buddy.alloc_huge(self.map(), order).expect("it was just formed"));
            }
        }
        let largest = self.lock().lists.largest(huge);
        Err(largest.map_or(AllocError::OutOfFrames, |largest| AllocError::Fragmented { largest }))
    }

    /// Gives a block that rests frozen back to the allocator.
    #[inline]
    pub(crate) fn free_index(&self, index: u32, order: Order) {
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
        // Before it is so: afterwards others may be told of what they do to it.
        P::trace(Event::Freed, || self.pfn(index));
        seeded_bugs::freeze_tail(self, index, order);
        let is_listed = match order {
            _ if order <= pcp::MAX_LISTED => self.free_listed(index, order),
            BLOCK_ORDER => self.free_whole_listed(index),
            _ => false,
        };
        if is_listed {
            return;
        }
        let mut buddy = self.lock();
        self.free_locked(&mut buddy, index, order);
    }

    /// Gives a block back to this CPU's lists; `false`: it goes to the buddy.
    #[inline]
    fn free_listed(&self, index: u32, order: Order) -> bool {
        let cpu = self.this_cpu();
        let Some(mut lists) = cpu.try_lock() else { return false };
        let is_listed = self.free_per_cpu(&mut lists, index, order);
        if is_listed {
            cpu.publish(&lists);
        }
        is_listed
    }

    /// The same for a whole block, apart as in `alloc_whole_per_cpu`.
    #[inline(never)]
    fn free_whole_listed(&self, index: u32) -> bool {
        self.free_listed(index, BLOCK_ORDER)
    }

    /// Gives blocks that rest frozen back, under one lock as far as this CPU's lists go.
    pub(crate) fn free_batch(&self, heads: &[u32]) {
        let cpu = self.this_cpu();
        let mut lists = cpu.try_lock();
        for &index in heads {
            let shape = self.descriptor(index).shape();
            assert!(
                !CHECKS || shape.kind.is_allocated(),
                "a frame that is {:?} was freed again",
                shape.kind
            );
            P::trace(Event::Freed, || self.pfn(index));
            let is_listed = shape.order <= pcp::MAX_LISTED
                && lists.as_mut().is_some_and(|lists| self.free_per_cpu(lists, index, shape.order));
            if !is_listed {
                self.free_locked(&mut self.lock(), index, shape.order);
            }
        }
        if let Some(lists) = lists {
            cpu.publish(&lists);
        }
    }

    /// Puts a block into this CPU's lists; `false`: it goes to the buddy.
    #[inline]
    fn free_per_cpu(&self, lists: &mut Pcp, index: u32, order: Order) -> bool {
        // Under the lists' lock: whoever isolates the block drains these lists afterwards, so a
        // frame that saw its block online is found by that drain.
        let block = self.blocks.of(index);
        let Some(migrate_type) = block.migrate_type_if_online() else { return false };
        if lists.are_short() {
            if order > Order::ZERO {
                self.spill(lists, order, migrate_type);
                return false;
            }
            if block.is_sparse() {
                self.adapt(lists);
                return false;
            }
        }
        if lists.is_full(migrate_type, order) {
            self.spill(lists, order, migrate_type);
        }
        lists.push(&self.memmap, migrate_type, order, index);
        lists.counters.freed += 1;
        true
    }

    /// Whenever the buddy is asked anyway.
    #[cold]
    fn adapt(&self, lists: &mut Pcp) {
        lists.adapt(self.free_frames(), self.online_frames());
    }

    #[cold]
    fn spill(&self, lists: &mut Pcp, order: Order, migrate_type: MigrateType) {
        self.adapt(lists);
        if lists.is_empty(migrate_type, order) {
            return;
        }
        let mut buddy = self.lock();
        while lists.blocks(migrate_type, order) > lists.batch(order) {
            let Some(index) = lists.pop(&self.memmap, migrate_type, order) else { break };
            self.free_locked(&mut buddy, index, order);
        }
    }

    /// Frees under the zone's lock: into the buddy, or held back where the block is isolated.
    pub(crate) fn free_locked(&self, buddy: &mut Buddy, index: u32, order: Order) {
        if order > BLOCK_ORDER
            && self
                .blocks
                .under(index, order)
                .iter()
                .any(|block| block.migrate_type_if_online().is_none())
        {
            for part in (index..index + order.frames()).step_by(BLOCK_ORDER.frames() as usize) {
                self.descriptor(part).set_shape(Kind::INTERIOR, Order::ZERO);
                self.free_locked(buddy, part, BLOCK_ORDER);
            }
        } else if self.blocks.of(index).migrate_type_if_online().is_none() {
            self.descriptor(index).set_shape(Kind::ISOLATED, order);
            self.blocks.of(index).capture(order);
        } else {
            self.descriptor(index).set_shape(Kind::INTERIOR, Order::ZERO);
            buddy.free(self.map(), index, order);
        }
    }

    /// Takes the zone's lock.
    pub(crate) fn lock(&self) -> BuddyGuard<'_, P> {
        BuddyGuard::new(&self.gauge, self.buddy.lock())
    }

    /// What the buddy's lists are about.
    pub(crate) fn map(&self) -> Map<'_, P::Scheme> {
        Map { memmap: &self.memmap, blocks: &self.blocks, huge: self.huge_order() }
    }

    fn this_cpu(&self) -> &PerCpu<P> {
        &self.per_cpu[P::cpu() % pcp::CPUS]
    }
}
