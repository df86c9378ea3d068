//! Statistics of a zone: its frames, and counts of its actions. None costs the fast path a write
//! that CPUs share.

use core::fmt;

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::platform::Platform;
use crate::memmap::memmap::{Kind, Shape};
use crate::zone::buddy::Buddy;
use crate::zone::zone::Zone;

/// The frames of a zone. Racy while the zone is in use: each figure is right, their sum may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZoneStats {
    /// Frames that are not offline.
    pub online_frames: u32,
    /// Frames that are free: in the buddy, in per-CPU lists, isolated, or in deferred blocks.
    pub free_frames: u32,
    /// The largest order of a free block. Of the blocks in per-CPU lists those below 2 MiB count as
    /// single frames.
    pub largest_free_order: Option<Order>,
    /// 2 MiB blocks that are free as a whole, alone or as part of a larger free block.
    pub whole_blocks: u32,
}

/// Counts of a zone's actions since it was made, summed over its CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZoneCounters {
    /// Blocks handed out of per-CPU lists.
    pub per_cpu_allocated: u64,
    /// Blocks freed into per-CPU lists.
    pub per_cpu_freed: u64,
    /// Blocks that left the buddy, those for per-CPU lists included.
    pub buddy_allocated: u64,
    /// Blocks that returned to the buddy, those from per-CPU lists included.
    pub buddy_freed: u64,
    /// 2 MiB blocks that changed their migrate type.
    pub blocks_claimed: u64,
    /// Blocks that were allocated in a 2 MiB block of another migrate type.
    pub blocks_borrowed: u64,
}

impl<P: Platform> Zone<P> {
    /// Returns the zone's statistics. Takes the zone's lock and adds up counts: the number of steps
    /// does not depend on the size of the zone. Hot paths call [`Zone::level`] instead.
    pub fn stats(&self) -> ZoneStats {
        // Frames move between the lists of a CPU and the buddy under this lock, which publishes
        // the lists' counts: none is counted twice, or not at all.
        let buddy = self.lock();
        let per_cpu: u32 = self.per_cpu.iter().map(|cpu| cpu.frames()).sum();
        let listed: u32 = self.per_cpu.iter().map(|cpu| cpu.whole_blocks()).sum();
        let (deferred, deferred_blocks) = (self.deferred.frames(), self.deferred.whole_blocks());
        ZoneStats {
            online_frames: self.gauge.online(),
            free_frames: buddy.lists.frames() + buddy.captured + per_cpu + deferred,
            largest_free_order: buddy
                .lists
                .largest(self.huge_order())
                .max((listed + deferred_blocks > 0).then_some(BLOCK_ORDER))
                .max((per_cpu + deferred > 0).then_some(Order::ZERO)),
            whole_blocks: self.whole_in_buddy(&buddy) + listed + deferred_blocks,
        }
    }

    /// Returns the number of 2 MiB blocks that are free as a whole in the buddy.
    pub(crate) fn whole_in_buddy(&self, buddy: &Buddy) -> u32 {
        let in_huge = self
            .huge_order()
            .map_or(0, |huge| buddy.lists.count(huge) * (huge.frames() / BLOCK_ORDER.frames()));
        buddy.lists.count(BLOCK_ORDER) + 2 * buddy.lists.count(MAX_ORDER) + in_huge
    }

    /// Returns the counts of the zone's actions. Takes each lock in turn.
    pub fn counters(&self) -> ZoneCounters {
        let mut sum = ZoneCounters::default();
        for cpu in &self.per_cpu {
            let counters = cpu.lock().counters;
            sum.per_cpu_allocated += counters.allocated;
            sum.per_cpu_freed += counters.freed;
        }
        let counters = self.lock().counters;
        ZoneCounters {
            buddy_allocated: counters.allocated,
            buddy_freed: counters.freed,
            blocks_claimed: counters.claimed,
            blocks_borrowed: counters.borrowed,
            ..sum
        }
    }

    /// Compares the allocator's lists with the descriptors, for tests. Slow, under the zone's lock.
    ///
    /// # Panics
    ///
    /// Panics if they disagree: other code wrote to the metadata of a free frame.
    #[doc(hidden)]
    pub fn assert_sound(&self) {
        let buddy = self.lock();
        // The descriptors of a retired zone belong to its successor.
        if self.is_retired() {
            return;
        }
        buddy.lists.assert_sound(self.map());
        let (online, captured) = self.blocks.count();
        assert_eq!(captured, buddy.captured, "captured frames by 2 MiB block");
        assert_eq!(
            online + self.deferred.frames(),
            self.gauge.online(),
            "online frames by 2 MiB block"
        );
        self.assert_holes_sound();
    }

    /// Returns the number of frames of folios of this kind. Racy, and slow: it reads every
    /// descriptor.
    pub fn count_kind(&self, kind: Kind) -> usize {
        let shapes = self.shapes().filter(|shape| shape.kind == kind);
        shapes.map(|shape| shape.order.frames() as usize).sum()
    }

    /// Returns the shape of every frame that has metadata.
    fn shapes(&self) -> impl Iterator<Item = Shape> {
        // The descriptors of a retired zone belong to its successor.
        let frames = (!self.is_retired()).then(|| self.with_metadata());
        frames.into_iter().flatten().map(|index| self.descriptor(index).shape())
    }
}

impl<P: Platform> fmt::Debug for Zone<P> {
    /// `{:#?}` also describes the memmap and counts its blocks, which reads every descriptor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = self.stats();
        write!(
            f,
            "zone of {} frames from {:?}: {} online, {} free, ",
            self.frames(),
            self.pfns().start,
            stats.online_frames,
            stats.free_frames
        )?;
        match stats.largest_free_order {
            Some(order) => write!(f, "largest free block {order:?}")?,
            None => f.write_str("no free block")?,
        }
        if !f.alternate() {
            return Ok(());
        }
        let (free, used) =
            self.shapes().map(|shape| shape.kind).fold((0, 0), |(free, used), kind| {
                (free + usize::from(kind.is_free()), used + usize::from(kind.is_allocated()))
            });
        write!(f, "; {:?}: {free} head free blocks, {used} blocks in use", self.memmap)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use crate::{Arena, UserSpace};

    #[test]
    fn a_write_to_a_free_frames_metadata_is_found() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let zone = arena.zone();
        zone.assert_sound();
        zone.descriptor(0).set_owner_data(1 << 32);
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| zone.assert_sound()))
            .unwrap_err();
        zone.descriptor(0).set_owner_data(0);
        let text = found.downcast_ref::<std::string::String>().unwrap();
        assert!(text.contains("the link back from frame 0"), "{text}");
        zone.assert_sound();
    }
}
