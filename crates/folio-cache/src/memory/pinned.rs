//! How much of the memory is pinned: held by others than the index.

use folio_frames::{FRAME_SIZE, Owner, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};

use crate::state::shared::Shared;
use crate::state::units::CACHED;

impl<S: Scheme> Shared<S> {
    /// Pages that are held by others than the index, or only by others, in bytes. Racy.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.held_frames(self.zone().pfns()) * FRAME_SIZE
    }

    /// As above, of some frames.
    pub(crate) fn held_frames(&self, frames: PfnRange) -> usize {
        let zone = self.zone();
        let held = |pfn: Pfn| {
            let seen = zone.peek(pfn);
            if seen.kind != CACHED {
                return 0;
            }
            let frames = seen.order.frames();
            let mut indexed = 0;
            for pfn in (pfn.as_u64()..).map(Pfn::new).take(frames as usize) {
                let owner_data = zone.peek(pfn).owner_data;
                self.with_slot(pfn, owner_data, &mut |slot| {
                    indexed += u32::from(slot.pfn(zone) == Some(pfn))
                });
            }
            let is_held = indexed == 0 || seen.snapshot != Snapshot::Live(indexed);
            if is_held { frames as usize } else { 0 }
        };
        frames.map(held).sum()
    }
}
