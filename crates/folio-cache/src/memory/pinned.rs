//! The amount of memory that is pinned: referenced by others than the index.

use folio_frames::{FRAME_SIZE, Owner, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};

use crate::state::shared::Shared;
use crate::state::units::CACHED;

/// Returns the bytes of pages that others than the index reference, or only others. Racy.
pub(crate) fn pinned_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    pinned_frames(shared, shared.zone().pfns()) * FRAME_SIZE
}

/// Returns the number of pinned frames in a range. Racy.
pub(crate) fn pinned_frames<S: Scheme>(shared: &Shared<S>, frames: PfnRange) -> usize {
    let zone = shared.zone();
    let pinned_at = |pfn: Pfn| {
        let seen = zone.peek(pfn);
        if seen.kind != CACHED {
            return 0;
        }
        let frames = seen.order.frames();
        let mut indexed = 0;
        for pfn in (pfn.as_u64()..).map(Pfn::new).take(frames as usize) {
            let owner_data = zone.peek(pfn).owner_data;
            shared.with_slot(pfn, owner_data, &mut |slot| {
                indexed += u32::from(slot.pfn(zone) == Some(pfn));
            });
        }
        let is_pinned = indexed == 0 || seen.snapshot != Snapshot::Live(indexed);
        if is_pinned { frames as usize } else { 0 }
    };
    frames.map(pinned_at).sum()
}
