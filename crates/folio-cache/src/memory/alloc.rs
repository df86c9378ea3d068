//! Allocating the frames of pages: free ones, otherwise those that reclaim frees.

use std::io;
use std::time::Duration;

use folio_frames::{Level, MAX_ORDER, MigrateType, Order};
use folio_ref::Scheme;

use crate::memory::capacity;
use crate::memory::evict::{self, BATCH};
use crate::memory::out_of_memory;
use crate::rt::shim::{back_off, yield_now};
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::CACHED;
use crate::writeback::throttle;

/// Rounds of an allocation before it fails. Reclaim may find nothing for a moment while another
/// thread takes a block offline or closes a large file, and its frames come back.
const MAX_ROUNDS: usize = 200;

/// Rounds that only yield. The later ones sleep for [`PAUSE`].
const YIELD_ROUNDS: usize = 16;

const PAUSE: Duration = Duration::from_millis(1);

/// A request of at least this number of pages is slower in many pieces than in one.
const MIN_CONTIGUOUS: usize = 64;

/// Returns a frozen frame, by reclaim if there is no free one.
///
/// # Errors
///
/// `OutOfMemory`, with the number of bytes pinned, when there was nothing to reclaim for about 200
/// ms.
pub(crate) fn allocate<S: Scheme>(shared: &Shared<S>) -> io::Result<FrozenFolio<S>> {
    notify_reclaimer_if_low(shared);
    shared
        .zone()
        .alloc_frozen_as(Order::ZERO, MigrateType::Movable)
        .or_else(|_| allocate_by_reclaim(shared))
}

/// Notifies the reclaimer if few frames are free. Never waits.
#[inline]
fn notify_reclaimer_if_low<S: Scheme>(shared: &Shared<S>) {
    if !shared.zone().is_at_least(Level::BelowHigh) {
        shared.reclaimer.notify_now();
    }
}

/// Frees frames for an allocation that found none. Some may be free already, in the lists of other
/// threads. Returns the number of frames freed.
pub(crate) fn free_some<S: Scheme>(shared: &Shared<S>, wanted: usize) -> usize {
    shared.zone().drain();
    match shared.zone().free_frames() {
        0 => evict::reclaim(shared, wanted),
        free => free as usize,
    }
}

#[cold]
fn allocate_by_reclaim<S: Scheme>(shared: &Shared<S>) -> io::Result<FrozenFolio<S>> {
    let zone = shared.zone();
    shared.counters.direct_reclaims.add(1);
    // If the thread could not be started before, it may start now.
    shared.reclaimer.notify_soon();
    capacity::fit(shared);
    for round in 0..MAX_ROUNDS {
        if free_some(shared, BATCH) == 0 {
            throttle::write_back_some(shared);
        }
        if let Ok(folio) = zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
            return Ok(folio);
        }
        if round < YIELD_ROUNDS {
            yield_now();
        } else {
            back_off(PAUSE);
        }
    }
    Err(out_of_memory::out_of_memory(shared))
}

/// Returns up to `frames` frozen frames, as many as there are without waiting: for pages that need
/// not be read. They are as contiguous as free memory allows, because a request into one piece is
/// faster than one into many.
pub(crate) fn allocate_some<S: Scheme>(shared: &Shared<S>, frames: usize) -> Vec<FrozenFolio<S>> {
    notify_reclaimer_if_low(shared);
    let mut folios = Vec::with_capacity(frames);
    // Other threads may take what is freed here: this frees no more than it wants.
    let mut batches = frames.div_ceil(BATCH);
    while folios.len() < frames {
        let left = frames - folios.len();
        let order = Order::new(left.ilog2() as u8).map_or(MAX_ORDER, |order| order.min(MAX_ORDER));
        match shared.zone().alloc_frozen_up_to(order, MigrateType::Movable) {
            // This frees at once what the reclaimer would free in a moment: it may be contiguous.
            Ok(block)
                if block.order() < order
                    && left >= MIN_CONTIGUOUS
                    && batches > 0
                    && !shared.zone().is_at_least(Level::Enough) =>
            {
                block.free();
                batches = if evict::reclaim(shared, BATCH) > 0 { batches - 1 } else { 0 };
                shared.zone().drain();
            }
            Ok(block) => folios.extend(block.split(Order::ZERO)),
            Err(_) if batches > 0 => {
                batches = 0;
                shared.counters.direct_reclaims.add(1);
                free_some(shared, left);
            }
            Err(_) => break,
        }
    }
    folios
}

/// Returns a folio for a page, in no slot yet. Call with no lock held except `grow`.
///
/// # Errors
///
/// `OutOfMemory` if no page can be freed.
pub(crate) fn allocate_for<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
) -> io::Result<FrozenFolio<S>> {
    let mut folio = allocate(&mapping.shared)?;
    folio.set_owner(CACHED, mapping.owner_data(page));
    Ok(folio)
}
