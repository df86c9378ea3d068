//! From a frame to its slot, for migration and other operations that come by frame number.

use folio_frames::{Order, Owner, Pfn, UserSpace};
use folio_ref::Scheme;

use crate::memory::frames_view::{self, BATCH};
use crate::memory::large_folio;
use crate::memory::reclaim;
use crate::state::frames::Slot;
use crate::state::shared::Shared;
use crate::state::units::split_owner_data;

impl<S: Scheme> Owner<UserSpace<S>> for Shared<S> {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<S>)) -> bool {
        let (id, page) = split_owner_data(owner_data);
        // No lock is held any more when the mapping, perhaps its last reference, is dropped here.
        let Some(mapping) = self.registry.by_id(id) else { return false };
        let Some(slot) = mapping.index.get(page) else { return false };
        visit(slot);
        true
    }

    fn split(&self, pfn: Pfn, order: Order, owner_data: u64) -> bool {
        let (id, page) = split_owner_data(owner_data);
        self.registry
            .by_id(id)
            .is_some_and(|mapping| large_folio::split_folio(&mapping, pfn, order, page))
    }

    fn make_room(&self, order: Order) -> bool {
        reclaim::reclaim(self, (order.frames() as usize).max(BATCH)) > 0
    }

    fn moved(&self, from: Pfn, to: Pfn) {
        frames_view::moved(self, from, to);
    }
}
