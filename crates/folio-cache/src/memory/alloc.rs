//! Where the frames of pages come from: free ones, else what reclaim frees.

use std::io;
use std::time::Duration;

use folio_frames::{Level, MAX_ORDER, MigrateType, Order};
use folio_ref::Scheme;

use crate::memory::capacity;
use crate::memory::evict::{self, BATCH};
use crate::memory::out_of_memory;
use crate::rt::shim::{rest, yield_now};
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::CACHED;
use crate::writeback::write_back;

/// Tries of an allocation before it fails. Reclaim may find nothing for a moment: somebody takes a
/// block offline or closes a large file, and what they hold comes back.
const MAX_ROUNDS: usize = 200;

/// Rounds that only yield; the later ones sleep for [`PAUSE`].
const YIELD_ROUNDS: usize = 16;

const PAUSE: Duration = Duration::from_millis(1);

/// Pages from which on a request that is cut into many pieces is slower.
const MIN_CONTIGUOUS: usize = 64;

/// A frozen frame, by reclaim if there is no free one.
///
/// # WritebackErrors
///
/// `OutOfMemory`, with how much is pinned, when for about 200 ms there was nothing to reclaim.
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

/// Frees frames for who found none. Some may be free already, in the lists of other threads.
/// How many it freed.
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
    // If its thread could not be started, it may be now.
    shared.reclaimer.notify_soon();
    capacity::fit(shared);
    for round in 0..MAX_ROUNDS {
        if free_some(shared, BATCH) == 0 {
            write_back::write_back_some(shared);
        }
        if let Ok(folio) = zone.alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
            return Ok(folio);
        }
        if round < YIELD_ROUNDS {
            yield_now();
        } else {
            rest(PAUSE);
        }
    }
    Err(out_of_memory::out_of_memory(shared))
}

/// Up to `frames` frozen frames, as many as there are without waiting: for what need not be
/// read. They lie one behind the other where memory does, in as few pieces as there are: a
/// request into one piece is faster than into many.
pub(crate) fn allocate_some<S: Scheme>(shared: &Shared<S>, frames: usize) -> Vec<FrozenFolio<S>> {
    notify_reclaimer_if_low(shared);
    let mut folios = Vec::with_capacity(frames);
    // Of what others free in the meantime they may be quicker: it frees no more than it wants.
    let mut batches = frames.div_ceil(BATCH);
    while folios.len() < frames {
        let left = frames - folios.len();
        let order = Order::new(left.ilog2() as u8).map_or(MAX_ORDER, |order| order.min(MAX_ORDER));
        match shared.zone().alloc_frozen_up_to(order, MigrateType::Movable) {
            // What the reclaimer would free in a moment is freed here: it may be in one piece.
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

/// A folio for a page, in no slot yet. With no lock held but `grow`.
pub(crate) fn allocate_for<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
) -> io::Result<FrozenFolio<S>> {
    let mut folio = allocate(&mapping.shared)?;
    folio.set_owner(CACHED, mapping.owner_data(page));
    Ok(folio)
}
