//! Prefetching: the pages that readahead names are locked and requested in the background.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::memory::alloc;
use crate::memory::room;
use crate::policy::Advice;
use crate::read::extent::Extent;
use crate::read::plan;
use crate::read::request::{self, How};
use crate::rt::io_pool::FilledBy;
use crate::state::frames::Slot;
use crate::state::lone_misses::Miss;
use crate::state::mapping::Mapping;
use crate::state::stats::Count;
use crate::state::streams::{Bounds, Window};
use crate::state::units::MOST_PAGES;

/// The share of a cache's memory that all windows together may take, and that half of the windows
/// of one reader may. A policy may keep a small share of the memory for new pages (`HotCold` 1/20),
/// and evicts the oldest of them, used or not. Each stream has two windows.
const WINDOWS_SHARE: usize = 48;
const WINDOW_SHARE: usize = 96;

/// The share of a cache's memory that one window of a distant object may take.
const DISTANT_SHARE: u32 = 16;

/// The number of equal steps of a reader of a distant object for each piece that is requested
/// ahead: what is fetched for nothing is at most one in so many.
const DISTANT_STEPS: u32 = 64;

/// The share of a cache's memory that one call may request in the background.
const PREFETCH_SHARE: usize = 4;

/// A reader misses `pages` pages from `page` on: requests what the reader may want next.
pub(crate) fn read_ahead_after_miss<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
    pages: u32,
    advice: Advice,
) {
    if page == 0 && mapping.len() <= u64::from(pages) * FRAME_SIZE as u64 {
        // The reader reads all there is: there is no state to keep for it.
        return;
    }
    let bounds = bounds(mapping);
    let count = count(mapping);
    let window = match advice {
        Advice::Random | Advice::Once => None,
        Advice::Sequential => mapping.readahead.begun(page, pages, bounds, count),
        Advice::Normal => match u8::try_from(pages) {
            Ok(pages) => {
                let miss = Miss { file: mapping.id, first: page, pages };
                let lone_misses = &mapping.shared.lone_misses;
                mapping.readahead.missed_unless_lone(lone_misses, miss, bounds, count)
            }
            Err(_) => mapping.readahead.missed(page, pages, MOST_PAGES, bounds, count),
        },
    };
    if let Some(window) = window {
        record_stream(mapping, pages, &window);
        request_window(mapping, window);
    }
}

/// Returns what counts the memory of a file's readahead.
fn count<S: Scheme>(mapping: &Mapping<S>) -> impl FnOnce(usize) {
    |bytes| mapping.shared.leaves.count_file(bytes)
}

/// A reader reached a readahead marker: requests the next window.
#[cold]
pub(crate) fn read_ahead_at_marker<S: Scheme>(mapping: &Mapping<S>, page: u32) {
    if mapping.shared.is_inherited() {
        return;
    }
    let bounds = match mapping.remote() {
        Some(_) => distant_bounds(mapping),
        None => bounds(mapping),
    };
    let Some(window) = mapping.readahead.passed(page, bounds) else { return };
    if mapping.remote().is_some() {
        if let Some(mapping) = mapping.shared.registry.by_id(mapping.id) {
            request_distant(&mapping, &window, How::default());
        }
        return;
    }
    record_stream(mapping, 0, &window);
    request_window(mapping, window);
}

/// Records that a stream requests a window, or misses some pages: it is live.
fn record_stream<S: Scheme>(mapping: &Mapping<S>, missed: u32, window: &Window) {
    let shared = &mapping.shared;
    let pages = window.pages * window.pieces + i64::from(missed);
    let frames = (shared.capacity() / FRAME_SIZE) as u64;
    shared.live.record(mapping.id, window.stream, pages.max(0).cast_unsigned(), frames);
}

/// A reader of a distant object misses `pages` pages from `page` on: requests what it may want
/// next.
pub(crate) fn read_ahead_distant<S: Scheme>(
    mapping: &Arc<Mapping<S>>,
    page: u32,
    pages: u32,
    how: How,
) {
    let (bounds, count) = (distant_bounds(mapping), count(mapping));
    let window = match how.advice {
        Advice::Random | Advice::Once => None,
        Advice::Sequential => mapping.readahead.begun(page, pages, bounds, count),
        Advice::Normal => mapping.readahead.missed(page, pages, pages, bounds, count),
    };
    if let Some(window) = window {
        request_distant(mapping, &window, how);
    }
}

/// Returns the bounds of the windows of a distant object: a store that answers late needs long
/// ones.
fn distant_bounds<S: Scheme>(mapping: &Mapping<S>) -> Bounds {
    let pages = (mapping.shared.capacity() / FRAME_SIZE) as u32;
    Bounds {
        least: MOST_PAGES.min(pages / WINDOW_SHARE as u32),
        most: pages / DISTANT_SHARE,
        steps: DISTANT_STEPS,
        end: i64::MAX,
    }
}

/// Requests a window of a distant object in the background.
fn request_distant<S: Scheme>(mapping: &Arc<Mapping<S>>, window: &Window, how: How) {
    let Some(remote) = mapping.remote() else { return };
    let len = mapping.known_len().unwrap_or(u64::MAX);
    let end = i64::try_from(len.div_ceil(FRAME_SIZE as u64)).unwrap_or(i64::MAX);
    let pieces = (0..window.pieces).map(|piece| {
        let first = window.first + piece * window.step;
        let range = first.max(0)..(first + window.pages).min(end);
        range.start as u64..range.end.max(range.start) as u64
    });
    let wanted = plan::merge(pieces.collect());
    let marker = window.marker.map(i64::cast_unsigned);
    request::prefetch(mapping, remote, &wanted, How { marker, ..how });
}

/// Requests what is missing of some ranges of a file in the background, up to a share of the
/// memory.
pub(crate) fn prefetch<S: Scheme>(mapping: &Arc<Mapping<S>>, ranges: &[Range<u64>], how: How) {
    if mapping.shared.is_inherited() {
        return;
    }
    let known = mapping.known_len();
    let page = FRAME_SIZE as u64;
    let pages_of = |range: &Range<u64>| {
        let end = range.end.min(known.unwrap_or(u64::MAX)).div_ceil(page).min(1 << u32::BITS);
        (range.start / page).min(end)..if range.is_empty() { 0 } else { end }
    };
    let mut wanted = plan::merge(ranges.iter().map(pages_of).collect());
    let mut left = (mapping.shared.capacity() / FRAME_SIZE / PREFETCH_SHARE) as u64;
    for range in &mut wanted {
        range.end = range.end.min(range.start + left);
        left -= range.end - range.start;
    }
    if let Some(remote) = mapping.remote() {
        if known.is_none() {
            // The object may end long before: the first request tells.
            let most = plan::limits(mapping, &*remote.backing()).request;
            for range in &mut wanted {
                range.end = range.end.min(range.start + most);
            }
        }
        wanted.retain(|range| !range.is_empty());
        return request::prefetch(mapping, remote, &wanted, how);
    }
    for range in wanted {
        for pages in split_into_requests(range.start.cast_signed()..range.end.cast_signed()) {
            if !request_missing(mapping, pages.start, pages.end, None, FilledBy::Thread) {
                return;
            }
        }
    }
}

/// Returns the bounds of the windows of a file that is near: the live streams share the memory.
fn bounds<S: Scheme>(mapping: &Mapping<S>) -> Bounds {
    let frames = mapping.shared.capacity() / FRAME_SIZE;
    let share = frames / WINDOWS_SHARE / mapping.shared.live.count() as usize;
    let end = i64::try_from(mapping.len().div_ceil(FRAME_SIZE as u64)).unwrap_or(i64::MAX);
    Bounds { end, ..Bounds::of(share.min(frames / WINDOW_SHARE) as u32) }
}

fn request_window<S: Scheme>(mapping: &Mapping<S>, window: Window) {
    if window.pages == 0 {
        return;
    }
    let Some(mapping) = mapping.shared.registry.by_id(mapping.id) else { return };
    let end = i64::try_from(mapping.len().div_ceil(FRAME_SIZE as u64)).unwrap_or(i64::MAX);
    let by = if mapping.readahead.is_at_once() { FilledBy::Reader } else { FilledBy::Thread };
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
            if !request_missing(&mapping, pages.start, pages.end, window.marker, by) {
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
    by: FilledBy,
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
        if room::admit_at_once(mapping, wanted) < wanted
            || room::make_room(mapping, wanted) < wanted
        {
            return false;
        }
        let folios = alloc::allocate_from(mapping, page as u32, wanted);
        let enough = folios.len() == wanted;
        let mut extent = Extent::lock(mapping, page as u32, folios);
        if extent.len() > 0 {
            extent.set_readahead(0, marker);
            mapping.count(Count::Ahead, extent.len() as u64);
            let extent = Box::new(extent.suspend(Arc::clone(mapping)));
            if !mapping.shared.io_pool.push(extent, by) {
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
