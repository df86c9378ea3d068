//! The amount of memory that is pinned: referenced by others than the index.

use std::iter;
use std::sync::Arc;

use folio_frames::{FRAME_SIZE, Peek, Pfn, PfnRange};
use folio_ref::{Scheme, Snapshot};

use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::{CACHED, split_owner_data};

/// Returns the bytes of pages that others than the index reference, or only others. Racy.
pub(crate) fn pinned_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    pinned_frames(shared, &shared.zone().pfns()) * FRAME_SIZE
}

/// Returns the number of pinned frames in a range. Racy.
pub(crate) fn pinned_frames<S: Scheme>(shared: &Shared<S>, frames: &PfnRange) -> usize {
    let mut count = 0;
    let mut mappings = Mappings::new(shared);
    for (pfn, seen) in cached(shared, frames) {
        let is_pinned = match seen.snapshot {
            // A folio that is being filled is in flight.
            frozen if frozen.is_frozen() => false,
            Snapshot::Live(n) if n <= seen.order.frames() => n != mappings.indexed(pfn, &seen),
            _ => true,
        };
        count += if is_pinned { seen.order.frames() as usize } else { 0 };
    }
    count
}

/// Returns `true` if no frame in a range seems to be pinned or in flight, by a look at its
/// descriptor alone. Ends at the first that does. Racy.
pub(crate) fn seem_movable<S: Scheme>(shared: &Shared<S>, frames: &PfnRange) -> bool {
    cached(shared, frames)
        .all(|(_, seen)| matches!(seen.snapshot, Snapshot::Live(n) if n <= seen.order.frames()))
}

/// Returns the cached folios of which the head lies in a range.
pub(super) fn cached<S: Scheme>(
    shared: &Shared<S>,
    frames: &PfnRange,
) -> impl Iterator<Item = (Pfn, Peek)> {
    let (mut at, end) = (frames.start.as_u64(), frames.end.as_u64());
    let folios = iter::from_fn(move || {
        let pfn = (at < end).then(|| Pfn::new(at))?;
        let seen = shared.zone().peek(pfn);
        // A tail that is seen alone counts as one frame.
        at += u64::from(seen.order.frames());
        Some((pfn, seen))
    });
    folios.filter(|(_, seen)| seen.kind == CACHED)
}

/// The mappings of frames, of which neighbours often have the same.
pub(super) struct Mappings<'c, S: Scheme> {
    shared: &'c Shared<S>,
    last: Option<(u32, Option<Arc<Mapping<S>>>)>,
}

impl<'c, S: Scheme> Mappings<'c, S> {
    pub(super) fn new(shared: &'c Shared<S>) -> Self {
        Self { shared, last: None }
    }

    /// Returns the number of slots that have a frame of a folio.
    pub(super) fn indexed(&mut self, head: Pfn, seen: &Peek) -> u32 {
        let zone = self.shared.zone();
        let mut indexed = 0;
        for n in 0..seen.order.frames() {
            let pfn = Pfn::new(head.as_u64() + u64::from(n));
            let owner_data = if n == 0 { seen.owner_data } else { zone.peek(pfn).owner_data };
            let (id, page) = split_owner_data(owner_data);
            if self.last.as_ref().is_none_or(|last| last.0 != id) {
                // No lock is held when the one before is dropped here, perhaps the last reference.
                self.last = Some((id, self.shared.registry.by_id(id)));
            }
            let mapping = self.last.as_ref().and_then(|last| last.1.as_deref());
            let slot = mapping.and_then(|mapping| mapping.index.get(page));
            indexed += u32::from(slot.is_some_and(|slot| slot.pfn(zone) == Some(pfn)));
        }
        indexed
    }
}
