//! The sweep: visits frames in the order of their numbers, and evicts what can be evicted.
//!
//! A policy visits a bounded number of pinned pages, and may name no victim although there is one.
//! The sweep finds it: a lap visits each frame once, and reads little more than its descriptor. It
//! continues where the last one ended.

use std::sync::atomic::Ordering;

use folio_frames::{BLOCK_ORDER, Pfn, PfnRange};
use folio_ref::Scheme;

use crate::memory::evict::Evictor;
use crate::memory::frames_view::{self, Victim, pfn};
use crate::state::frames::Zone;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::units::CACHED;

/// Frames that the first round of an allocation visits if a sweep found some the last time. A sweep
/// that visits so many and finds none is taken as a sign that all are pinned.
pub(crate) const FIRST_VISITS: u32 = 1 << 16;

/// Evicts `wanted` pages, in no particular order, until so many frames were visited. May evict some
/// more that lie in the same folio. Returns the number of pages evicted.
pub(crate) fn sweep<S: Scheme>(shared: &Shared<S>, wanted: usize, visits: u32) -> usize {
    let zone = shared.zone();
    let count = zone.pfns().frames() as u32;
    // Relaxed, here and below: where to begin. Two sweeps at once may visit the same frames.
    let mut at = shared.sweep.load(Ordering::Relaxed);
    let (mut freed, mut left) = (0, visits.min(count));
    let mut evictor = Evictor::new(shared);
    while left > 0 && freed < wanted {
        at = if at < count { at } else { 0 };
        let end = count.min(at.saturating_add(left));
        let range = PfnRange { start: pfn(zone, at), end: pfn(zone, end) };
        let most = wanted.saturating_add(wanted / 2).saturating_sub(freed);
        let (pages, passed) = visit(&mut evictor, zone, &range, most, frames_view::are_cold);
        freed += pages;
        (at, left) = (at.saturating_add(passed), left.saturating_sub(passed));
    }
    evictor.finish(0, &[]);
    shared.sweep.store(at, Ordering::Relaxed);
    freed
}

/// Evicts all pages of a range of frames that can be evicted, hot ones among them.
pub(crate) fn evict_range<S: Scheme>(shared: &Shared<S>, range: &PfnRange) {
    let mut evictor = Evictor::new(shared);
    let mut left = range.clone();
    while left.frames() > 0 {
        let most = BLOCK_ORDER.frames() as usize;
        let (_, passed) = visit(&mut evictor, shared.zone(), &left, most, |_, _| true);
        left.start = Pfn::new(left.start.as_u64() + u64::from(passed)).min(left.end);
    }
    evictor.finish(0, &[]);
}

/// Tries to evict the first page of a range that seems to be evictable, with at most `most` pages
/// of its folio. Returns the number of pages evicted, and that of the frames that were passed.
fn visit<S: Scheme>(
    evictor: &mut Evictor<'_, S>,
    zone: &Zone<S>,
    range: &PfnRange,
    most: usize,
    is_cold: impl FnOnce(&Mapping<S>, PfnRange) -> bool,
) -> (usize, u32) {
    let Some(found) = zone.find_unpinned(CACHED, range) else {
        return (0, range.frames() as u32);
    };
    let order = zone.peek(found).order;
    let pfn = evictor.first_there(found, order);
    evictor.find(&[Victim { pfn, is_folio_cold: false }]);
    let pages = evictor.evict(0, most, is_cold).map_or(0, |gone| gone.0);
    if evictor.is_full() {
        evictor.finish(0, &[]);
    }
    // A folio may have been split: its other pages are visited alone.
    let is_whole = pages == 0 && zone.peek(found).order == order;
    let step = if is_whole { order.frames() } else { 1 };
    (pages, (found.as_u64() - range.start.as_u64()) as u32 + step)
}
