//! The memory that files have now, by a look at all frames.

use folio_frames::FRAME_SIZE;
use folio_ref::{Scheme, Snapshot};

use crate::memory::pinned::{Mappings, cached};
use crate::state::memory_use::MemoryUse;
use crate::state::shared::Shared;
use crate::state::units::split_owner_data;

/// Returns the memory of the files with such numbers. Racy.
pub(crate) fn memory_use<S: Scheme>(
    shared: &Shared<S>,
    is_counted: impl Fn(u32) -> bool,
) -> MemoryUse {
    let mut sum = MemoryUse::default();
    if shared.is_inherited() {
        return sum;
    }
    let mut mappings = Mappings::new(shared);
    for (pfn, seen) in cached(shared, &shared.zone().pfns()) {
        if !is_counted(split_owner_data(seen.owner_data).0) {
            continue;
        }
        let frames = seen.order.frames();
        sum += match seen.snapshot {
            frozen if frozen.is_frozen() => {
                MemoryUse { in_flight_bytes: bytes(frames), ..MemoryUse::default() }
            }
            live => {
                let indexed = mappings.indexed(pfn, &seen);
                let is_pinned = !matches!(live, Snapshot::Live(n) if n == indexed);
                MemoryUse {
                    cached_bytes: bytes(indexed),
                    detached_bytes: bytes(frames - indexed),
                    pinned_bytes: if is_pinned { bytes(frames) } else { 0 },
                    ..MemoryUse::default()
                }
            }
        };
    }
    for mapping in shared.registry.all().iter().filter(|mapping| is_counted(mapping.id)) {
        sum.index_bytes += mapping.index.bytes() as u64;
        sum.dirty_bytes += mapping.dirty_count() * FRAME_SIZE as u64;
    }
    sum
}

fn bytes(frames: u32) -> u64 {
    u64::from(frames) * FRAME_SIZE as u64
}
