//! Allocating at a chosen place: behind frames that the caller has.

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order, Pfn};
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::memmap::memmap::{Kind, Shape};
use crate::zone::folio::FrozenFolio;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Allocates the free block that begins with a frame, or its first part of order `max`, if
    /// `frames` frames from there on are free: for a caller with blocks that should lie one behind
    /// the other. It is at most of [`MAX_ORDER`]. Returns its exclusive handle, or `None` if one of
    /// the frames is not free, lies in a list of a CPU, is deferred, has another migrate type, or
    /// is not in the zone. Of this CPU's lists, a 2 MiB block is found.
    ///
    /// # Panics
    ///
    /// With [`CHECKS`](folio_ref::CHECKS), panics if a free frame is not frozen: other code broke
    /// R1 or R2.
    pub fn alloc_frozen_at(
        &'static self,
        first: Pfn,
        frames: u32,
        max: Order,
        migrate_type: MigrateType,
    ) -> Option<FrozenFolio<P>> {
        let index = self.index(first)?;
        let max = max.min(MAX_ORDER);
        let alloc = || self.lock().alloc_at(self.map(), index, frames, max, migrate_type);
        let order = alloc().or_else(|taken| {
            // The rest of a larger block, most likely, which this thread has split.
            let listed = Shape { kind: Kind::FREE_PER_CPU, order: BLOCK_ORDER };
            let is_listed = taken.is_some_and(|taken| self.map().shape(taken) == listed)
                && self.this_cpu().frames() >= BLOCK_ORDER.frames();
            if is_listed && self.drain_this_cpu() > 0 { alloc() } else { Err(taken) }
        });
        Some(self.hand_out(index, order.ok()?))
    }
}
