//! Allocating the frames of pages: free ones, otherwise those that reclaim frees.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::{BLOCK_ORDER, FRAME_SIZE, Level, MAX_ORDER, MigrateType, Order};
use folio_ref::Scheme;

use crate::memory::capacity;
use crate::memory::frames_view::BATCH;
use crate::memory::out_of_memory;
use crate::memory::reclaim;
use crate::memory::sweep::FIRST_VISITS;
use crate::memory::wait::{Next, Wait};
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;
use crate::state::units::CACHED;
use crate::writeback::throttle;

/// Frames that a round visits if the policy names no victim. The last round visits all.
const VISITS: u32 = 2048;

/// The share of the memory that a miss frees at once, up to [`BATCH`] pages: many of a small cache
/// would be missed.
const BATCH_SHARE: usize = 128;

/// A miss evicts if fewer frames are free than one part in this many of the low watermark. Free
/// frames that lie about keep 2 MiB blocks sparse, and no list takes frames of those.
const RESERVE_SHARE: u32 = 4;

/// A request of at least this number of pages is slower in many pieces than in one.
const MIN_CONTIGUOUS: usize = 64;

/// Returns a frozen frame, by reclaim if there is no free one.
///
/// # Errors
///
/// `OutOfMemory`, with the number of bytes pinned, dirty and in flight, when there was nothing to
/// reclaim for about 100 ms, and nothing that could be waited for.
#[inline]
pub(crate) fn allocate<S: Scheme>(shared: &Shared<S>) -> io::Result<FrozenFolio<S>> {
    match shared.zone().alloc_frozen_listed(MigrateType::Movable) {
        Some(folio) => Ok(folio),
        None => allocate_unlisted(shared),
    }
}

/// Returns a frozen frame if the lists of this thread have none: one of a batch that is evicted, if
/// few are free.
#[inline(never)]
fn allocate_unlisted<S: Scheme>(shared: &Shared<S>) -> io::Result<FrozenFolio<S>> {
    evict_if_low(shared, batch(shared));
    shared
        .zone()
        .alloc_frozen_as(Order::ZERO, MigrateType::Movable)
        .or_else(|_| allocate_by_reclaim(shared))
}

/// Returns the number of pages that a miss frees at once.
fn batch<S: Scheme>(shared: &Shared<S>) -> usize {
    (shared.capacity() / FRAME_SIZE / BATCH_SHARE).clamp(1, BATCH)
}

/// Evicts up to `wanted` pages if few frames are free, so that this thread's next misses find
/// frames in its own lists. If the policy names too few, because the others are pinned or dirty,
/// notifies the reclaimer. Never waits.
fn evict_if_low<S: Scheme>(shared: &Shared<S>, wanted: usize) {
    pay_for_growth(shared);
    let zone = shared.zone();
    // Frames in the lists of other threads count as well, but less: these threads will use them.
    if zone.free_frames() < (zone.watermarks().low / RESERVE_SHARE).max(1)
        && !zone.is_at_least(Level::Enough)
        && reclaim::reclaim_some(shared, wanted, 0) < wanted
    {
        shared.reclaimer.notify_now();
    }
}

/// Has pages leave if memory is short and the indexes and the state of files have grown: the
/// reclaimer does it. If that does not keep up, or has no thread, this thread does.
fn pay_for_growth<S: Scheme>(shared: &Shared<S>) {
    let growth = shared.leaves.growth();
    if growth < BLOCK_ORDER.bytes() || shared.zone().is_at_least(Level::Enough) {
        return;
    }
    if growth < 2 * BLOCK_ORDER.bytes() {
        shared.reclaimer.notify_now();
    } else {
        capacity::fit(shared);
    }
}

/// Counts an allocation that has to evict.
fn count_direct_reclaim<S: Scheme>(shared: &Shared<S>) {
    shared.groups.first().counters.add(Count::DirectReclaims, 1);
}

/// Frees frames for an allocation that found none, not even in the lists of other threads. Some may
/// be free by now. Visits so many frames if the policy names no victim. Returns the number of
/// frames freed.
fn free_some<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    match shared.zone().free_frames() {
        0 => reclaim::reclaim_some(shared, wanted, visits),
        free => free as usize,
    }
}

#[cold]
fn allocate_by_reclaim<S: Scheme>(shared: &Shared<S>) -> io::Result<FrozenFolio<S>> {
    count_direct_reclaim(shared);
    capacity::fit(shared);
    let mut wait = Wait::new(shared);
    // Relaxed: a hint.
    let is_pinned = shared.is_pinned.load(Ordering::Relaxed);
    let mut visits = if is_pinned { VISITS } else { FIRST_VISITS };
    loop {
        let found =
            free_some(shared, batch(shared), visits) > 0 || throttle::write_back_some(shared);
        if let Ok(folio) = shared.zone().alloc_frozen_as(Order::ZERO, MigrateType::Movable) {
            return Ok(folio);
        }
        visits = VISITS;
        match wait.wait(found) {
            Next::Look => {}
            Next::LookAtAll => visits = u32::MAX,
            Next::Fail => return Err(out_of_memory::out_of_memory(shared)),
        }
    }
}

/// Returns up to `frames` frozen frames, as many as there are without waiting: for pages that need
/// not be read. They are as contiguous as free memory allows, because a request into one piece is
/// faster than one into many.
pub(crate) fn allocate_some<S: Scheme>(shared: &Shared<S>, frames: usize) -> Vec<FrozenFolio<S>> {
    evict_if_low(shared, frames);
    let mut folios = Vec::with_capacity(frames);
    // Other threads may take what is freed here: this frees no more than it wants.
    let mut batches = frames.div_ceil(BATCH);
    // That of the smallest block that has them all: they lie together then, and the rest of the
    // block is freed at once. If they take several blocks, the next one may lie behind the first.
    let whole = order_of(frames.next_power_of_two().max(1));
    while folios.len() < frames {
        let left = frames - folios.len();
        let order = order_of(left);
        match shared.zone().alloc_frozen_up_to(whole, MigrateType::Movable) {
            // This frees at once what the reclaimer would free in a moment: it may be contiguous.
            Ok(block)
                if block.order() < order
                    && left >= MIN_CONTIGUOUS
                    && batches > 0
                    && !shared.zone().is_at_least(Level::Enough) =>
            {
                block.free();
                let freed = reclaim::reclaim_some(shared, BATCH, VISITS);
                batches = if freed > 0 { batches - 1 } else { 0 };
                shared.zone().drain();
            }
            Ok(block) => {
                let mut frames = block.split(Order::ZERO);
                folios.extend(frames.by_ref().take(left));
                frames.for_each(FrozenFolio::free);
            }
            Err(_) if batches > 0 => {
                batches = 0;
                count_direct_reclaim(shared);
                free_some(shared, left, VISITS);
            }
            Err(_) => break,
        }
    }
    folios
}

/// Returns the largest order of a block of at most so many frames.
fn order_of(frames: usize) -> Order {
    Order::new(frames.ilog2() as u8).map_or(MAX_ORDER, |order| order.min(MAX_ORDER))
}

/// Returns a frozen frame if there is one without waiting.
pub(crate) fn allocate_at_once<S: Scheme>(shared: &Shared<S>) -> Option<FrozenFolio<S>> {
    evict_if_low(shared, batch(shared));
    let free = shared.zone().alloc_frozen_as(Order::ZERO, MigrateType::Movable).ok();
    free.or_else(|| allocate_some(shared, 1).pop())
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
