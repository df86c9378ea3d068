//! Prefetching: the pages that readahead names are locked and requested in the background.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::memory::alloc;
use crate::memory::in_flight;
use crate::read::extent::Extent;
use crate::state::frames::Slot;
use crate::state::mapping::Mapping;
use crate::state::readahead::Window;
use crate::state::units::MOST_PAGES;

/// The share of a cache's memory that one window may take. A policy may keep a small share of the
/// memory for new pages (`HotCold` 1/20), and evicts the oldest of them, used or not. Two windows
/// fit into that share, with the frames that are kept free and those in per-CPU lists.
const WINDOW_SHARE: usize = 96;

/// A reader misses `pages` pages from `page` on: requests what the reader may want next.
pub(crate) fn read_ahead_after_miss<S: Scheme>(mapping: &Mapping<S>, page: u32, pages: u32) {
    if mapping.len() <= FRAME_SIZE as u64 {
        // There is no other page, and no state to keep for them.
        return;
    }
    if let Some(window) = mapping.readahead.missed(page, pages, max_window(mapping)) {
        request_window(mapping, window);
    }
}

/// A reader reached a readahead marker: requests the next window.
#[cold]
pub(crate) fn read_ahead_at_marker<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    if mapping.shared.is_inherited() {
        return;
    }
    if let Some(window) = mapping.readahead.passed(page, max_window(mapping)) {
        request_window(mapping, window);
    }
}

fn max_window<S: Scheme>(mapping: &Mapping<S>) -> u32 {
    (mapping.shared.capacity() / FRAME_SIZE / WINDOW_SHARE) as u32
}

fn request_window<S: Scheme>(mapping: &Mapping<S>, window: Window) {
    let Some(mapping) = mapping.shared.registry.by_id(mapping.id) else { return };
    let end = i64::try_from(mapping.len().div_ceil(FRAME_SIZE as u64)).unwrap_or(i64::MAX);
    for piece in 0..window.pieces {
        let first = window.first + piece * window.step;
        let range = first.max(0)..(first + window.pages).min(end);
        let mut requests: Vec<_> = split_into_requests(range).collect();
        // For a backward reader from the end of the window: what is needed first is requested
        // first.
        if window.step < 0 {
            requests.reverse();
        }
        for pages in requests {
            if !request_missing(&mapping, pages.start, pages.end, window.marker) {
                return;
            }
        }
    }
}

/// Requests the missing ones of some pages. Returns `false` if there is no memory for them, or too
/// much is under way.
fn request_missing<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    first: i64,
    end: i64,
    marker: Option<i64>,
) -> bool {
    let is_missing = |page: i64| {
        let page = u32::try_from(page).ok()?;
        Some(mapping.index.get(page).is_none_or(Slot::is_empty))
    };
    let mut page = first;
    while page < end {
        if is_missing(page) != Some(true) {
            page += 1;
            continue;
        }
        let mut last = page + 1;
        while last < end && is_missing(last) == Some(true) {
            last += 1;
        }
        let wanted = (last - page) as usize;
        if in_flight::admit_at_once(mapping, wanted) < wanted {
            return false;
        }
        let folios = alloc::allocate_some(&mapping.shared, wanted);
        let enough = folios.len() == wanted;
        let mut extent = Extent::lock(mapping, page as u32, folios);
        if extent.len() > 0 {
            extent.set_readahead(0, marker);
            mapping.shared.counters.ahead.add(extent.len() as u64);
            if !mapping.shared.io_pool.push(Box::new(extent.suspend(Arc::clone(mapping)))) {
                return false;
            }
        }
        if !enough {
            return false;
        }
        page = last;
    }
    true
}

/// Splits pages into requests. If it takes several, they end at multiples of the largest request.
fn split_into_requests(pages: Range<i64>) -> impl Iterator<Item = Range<i64>> {
    let max = i64::from(MOST_PAGES);
    let fits = pages.end - pages.start <= max;
    let mut begins = pages.start;
    iter::from_fn(move || {
        let request_end = if fits { pages.end } else { begins - begins % max + max };
        let request = begins..request_end.min(pages.end);
        begins = request.end;
        (!request.is_empty()).then_some(request)
    })
}
