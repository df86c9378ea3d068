//! Allocating the frames of pages: free ones, otherwise those that reclaim frees.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::{BLOCK_ORDER, FRAME_SIZE, Level, MAX_ORDER, MigrateType, Order, Pfn};
use folio_ref::Scheme;

use crate::memory::capacity;
use crate::memory::large_folio::FreeOnDrop;
use crate::memory::out_of_memory;
use crate::memory::reclaim;
use crate::memory::sweep::FIRST_VISITS;
use crate::memory::wait::{Next, Wait};
use crate::rt::shim::yield_now;
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;
use crate::state::units::CACHED;
use crate::writeback::throttle;

/// Frames that a round visits if the policy names no victim. The last round visits all.
const VISITS: u32 = 2048;

/// The pages that a miss of one page evicts at once: for itself and the next ones of its thread.
const MISS_BATCH: usize = 16;

/// The share of the memory that a miss evicts at once, up to [`MISS_BATCH`] pages: many of a small
/// cache would be missed.
const BATCH_SHARE: usize = 128;

/// A miss evicts if fewer frames are free than one part in this many of the low watermark. Free
/// frames that lie about keep 2 MiB blocks sparse, and no list takes frames of those.
const RESERVE_SHARE: u32 = 4;

/// A request of at least this number of pages looks for frames behind those of the page before it:
/// at multiples of this number, as its folios would be small otherwise.
const MIN_ADJACENT: usize = 16;

/// A request of at least this number of pages takes frames behind others anywhere: few of its
/// folios become smaller.
const MIN_UNALIGNED: usize = 256;

/// A request of at least this number of pages is slower in many pieces than in one.
const MIN_CONTIGUOUS: usize = 64;

/// Returns a frozen frame, by reclaim if there is no free one.
///
/// # Errors
///
/// `OutOfMemory`, with the number of bytes pinned, dirty and in flight, when there was nothing to
/// reclaim in all rounds of [`Wait`], and nothing that could be waited for.
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
    (shared.capacity() / FRAME_SIZE / BATCH_SHARE).clamp(1, MISS_BATCH)
}

/// Returns the number of free frames below which a miss evicts.
fn reserve<S: Scheme>(shared: &Shared<S>) -> usize {
    (shared.zone().watermarks().low / RESERVE_SHARE).max(1) as usize
}

/// Evicts up to `wanted` pages if few frames are free, so that this thread's next misses find
/// frames in its own lists. If the policy names too few, because the others are pinned or dirty,
/// notifies the reclaimer. Never waits.
fn evict_if_low<S: Scheme>(shared: &Shared<S>, wanted: usize) {
    // Relaxed: a hint. More misses would only keep the thread that gives memory back from its
    // processor, while a neighbour takes what is left.
    if shared.capacity.is_giving_back.load(Ordering::Relaxed) {
        yield_now();
    }
    pay_for_growth(shared);
    let zone = shared.zone();
    // Frames in the lists of other threads count as well, but less: these threads will use them.
    if (zone.free_frames() as usize) < reserve(shared)
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

/// Returns up to `frames` frozen frames for the pages from a page on, as [`allocate_some`] does.
/// They lie behind the frame of the page before, if enough frames are free there: a later reader of
/// all these pages finds one piece.
pub(crate) fn allocate_from<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
    frames: usize,
) -> Vec<FrozenFolio<S>> {
    if frames < MIN_ADJACENT {
        return allocate_some(&mapping.shared, frames);
    }
    let remote = mapping.remote();
    let behind = remote.and_then(|remote| remote.frame_before(page.into())).or_else(|| {
        let slot = mapping.index.get(page.checked_sub(1)?)?;
        slot.pfn(mapping.zone())
    });
    let folios = allocate_behind(&mapping.shared, frames, behind);
    if let Some(remote) = remote
        && let Some(last) = folios.last()
    {
        remote.took_frame(u64::from(page) + folios.len() as u64, last.pfn());
    }
    folios
}

/// Returns up to `frames` frozen frames, as many as there are without waiting: for pages that need
/// not be read. They are as contiguous as free memory allows, because a request into one piece is
/// faster than one into many.
pub(crate) fn allocate_some<S: Scheme>(shared: &Shared<S>, frames: usize) -> Vec<FrozenFolio<S>> {
    allocate_behind(shared, frames, None)
}

/// Returns frames as [`allocate_some`] does, behind a frame if enough are free there.
fn allocate_behind<S: Scheme>(
    shared: &Shared<S>,
    frames: usize,
    mut behind: Option<Pfn>,
) -> Vec<FrozenFolio<S>> {
    // What this thread has is no use to the policy: it would count as a frame with a page.
    if frames == 1
        && let Some(folio) = shared.zone().alloc_frozen_listed(MigrateType::Movable)
    {
        return vec![folio];
    }
    if frames < MIN_CONTIGUOUS || shared.zone().is_at_least(Level::Enough) {
        evict_if_low(shared, frames);
    } else {
        // What is evicted together often lies together: all at once, and merged with what is free.
        pay_for_growth(shared);
        reclaim::reclaim_some(shared, frames, VISITS);
        shared.zone().drain();
    }
    // The policy, which is asked again for the rest, may panic.
    let mut folios = FreeOnDrop(Vec::with_capacity(frames));
    let mut may_reclaim = true;
    // That of the smallest block that has them all: they lie together then. If they take several
    // blocks, the next one lies behind the first if it can.
    let whole = Order::new(frames.next_power_of_two().max(1).ilog2() as u8);
    let whole = whole.map_or(MAX_ORDER, |order| order.min(MAX_ORDER));
    while folios.0.len() < frames {
        let wanted = frames - folios.0.len();
        if let Some(block) = behind.take().and_then(|it| block_behind(shared, it, wanted, whole)) {
            take_first(block, wanted, &mut folios.0);
            behind = folios.0.last().map(FrozenFolio::pfn);
            continue;
        }
        match shared.zone().alloc_frozen_up_to(whole, MigrateType::Movable) {
            Ok(block) => {
                let is_whole = block.order() == whole;
                take_first(block, wanted, &mut folios.0);
                behind = folios.0.last().filter(|_| is_whole).map(FrozenFolio::pfn);
            }
            Err(_) if may_reclaim => {
                may_reclaim = false;
                count_direct_reclaim(shared);
                free_some(shared, wanted, VISITS);
            }
            Err(_) => break,
        }
    }
    folios.take()
}

/// Returns a block behind a frame if all of the wanted frames are free there.
fn block_behind<S: Scheme>(
    shared: &Shared<S>,
    frame: Pfn,
    wanted: usize,
    whole: Order,
) -> Option<FrozenFolio<S>> {
    let first = Pfn::new(frame.as_u64() + 1);
    if wanted < MIN_UNALIGNED && !first.as_u64().is_multiple_of(MIN_ADJACENT as u64) {
        return None;
    }
    let wanted = u32::try_from(wanted).ok()?;
    shared.zone().alloc_frozen_at(first, wanted, whole, MigrateType::Movable)
}

/// Takes the first frames of a block, up to `wanted`. Frees the others, in blocks as large as
/// possible.
fn take_first<S: Scheme>(
    mut block: FrozenFolio<S>,
    mut wanted: usize,
    taken: &mut Vec<FrozenFolio<S>>,
) {
    while wanted > 0 {
        let Some(half) = block.order().as_u8().checked_sub(1).and_then(Order::new) else {
            return taken.push(block);
        };
        if block.order().frames() as usize <= wanted {
            return taken.extend(block.split(Order::ZERO));
        }
        let mut halves = block.split(half);
        let (Some(first), Some(second)) = (halves.next(), halves.next()) else { return };
        if half.frames() as usize <= wanted {
            wanted -= half.frames() as usize;
            taken.extend(first.split(Order::ZERO));
            block = second;
        } else {
            second.free();
            block = first;
        }
    }
    block.free();
}

/// Returns a frozen frame if there is one without waiting.
pub(crate) fn allocate_at_once<S: Scheme>(shared: &Shared<S>) -> Option<FrozenFolio<S>> {
    // What this thread has needs no eviction, as in `allocate`.
    if let Some(folio) = shared.zone().alloc_frozen_listed(MigrateType::Movable) {
        return Some(folio);
    }
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
