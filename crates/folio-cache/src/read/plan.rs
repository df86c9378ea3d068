//! From missing pages to requests: as few and as large as the backing prefers.

use std::ops::Range;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::backing::remote::AsyncBacking;
use crate::state::mapping::Mapping;

/// While memory is short, gaps up to one part in this many of the longest are read through: their
/// pages are not kept then.
const SHORT_GAP: u64 = 4;

/// Memory is short if less than one part in this many is free: a run of pages that left makes room
/// for a moment.
const FREE_SHARE: u32 = 16;

/// Returns what limits the requests of a backing.
pub(crate) fn limits<S: Scheme>(mapping: &Mapping<S>, backing: &dyn AsyncBacking) -> Limits {
    let preferences = backing.preferences();
    let zone = mapping.shared.zone();
    let is_short = zone.free_frames() < zone.online_frames() / FREE_SHARE;
    let gap_bytes = preferences.gap_bytes / if is_short { SHORT_GAP } else { 1 };
    // Two requests fit into the memory for those in flight.
    let most = mapping.shared.remote_permits.half_of_one() as u64;
    Limits {
        request: preferences.request_bytes.div_ceil(FRAME_SIZE as u64).clamp(1, most),
        gap: gap_bytes / FRAME_SIZE as u64,
    }
}

/// The limits of the requests, in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The maximum length of a request, at least 1.
    pub(crate) request: u64,
    /// The largest gap between two missing ranges that is read through.
    pub(crate) gap: u64,
}

/// The pages of a request.
pub(super) struct Asked {
    pub(super) pages: Range<u64>,
    /// Those that were asked for, in order. Between them are gaps, which are read through.
    pub(super) wanted: SmallVec<[Range<u64>; 1]>,
}

impl Asked {
    /// Returns the number of pages that were not asked for.
    pub(super) fn gaps(&self) -> u64 {
        let wanted = self.wanted.iter().map(|range| range.end - range.start);
        self.pages.end - self.pages.start - wanted.sum::<u64>()
    }

    /// Returns `true` if a page was asked for.
    pub(super) fn has(&self, page: u64) -> bool {
        let behind = self.wanted.partition_point(|range| range.end <= page);
        self.wanted.get(behind).is_some_and(|range| range.contains(&page))
    }
}

/// Requests begin at multiples of this number of pages within what is missing, where there are
/// several: pages that one request fills form folios of up to so many.
const ALIGN: u64 = 16;

/// Sorts ranges of pages, and merges those that overlap or touch. Drops empty ones.
pub(crate) fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Returns the requests for missing pages, which are sorted and apart. `is_blocked` tells if a gap
/// must not be read through.
pub(crate) fn requests(
    missing: &[Range<u64>],
    limits: Limits,
    is_blocked: impl Fn(&Range<u64>) -> bool,
) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(missing.len());
    for range in missing {
        match joined.last_mut() {
            Some(last)
                if range.start - last.end <= limits.gap
                    && range.end - last.start <= limits.request
                    && !is_blocked(&(last.end..range.start)) =>
            {
                last.end = range.end;
            }
            _ => joined.push(range.clone()),
        }
    }
    joined.iter().flat_map(|range| split(range, limits.request)).collect()
}

/// Returns the parts of some missing ranges, which are sorted and apart, that lie in a request.
pub(crate) fn within(pages: &Range<u64>, missing: &[Range<u64>]) -> SmallVec<[Range<u64>; 1]> {
    let before = missing.partition_point(|range| range.end <= pages.start);
    let within = missing[before..].iter().take_while(|range| range.start < pages.end);
    within.map(|range| range.start.max(pages.start)..range.end.min(pages.end)).collect()
}

/// Splits a range into as few parts of at most `most` pages as possible, about equally long.
fn split(range: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let pages = range.end - range.start;
    let even = pages.div_ceil(pages.div_ceil(most).max(1));
    let part = even.next_multiple_of(ALIGN).min(most).max(1);
    let (first, end) = (range.start, range.end);
    (first..end)
        .step_by(usize::try_from(part).unwrap_or(usize::MAX))
        .map(move |at| at..(at + part).min(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_where_they_touch() {
        assert_eq!(merge(vec![5..7, 0..2, 2..3, 6..9, 4..4]), [0..3, 5..9]);
    }

    #[test]
    fn gaps_are_read_through_up_to_the_limit() {
        let limits = Limits { request: 100, gap: 3 };
        let free = |_: &Range<u64>| false;
        assert_eq!(requests(&[0..2, 5..6, 10..11], limits, free), [0..6, 10..11]);
        assert_eq!(requests(&[0..2, 5..6], limits, |_| true), [0..2, 5..6]);
        let limits = Limits { request: 4, gap: 3 };
        assert_eq!(requests(&[0..2, 4..6], limits, free), [0..2, 4..6], "not for a longer request");
    }

    #[test]
    fn long_ranges_become_equal_requests() {
        let free = |_: &Range<u64>| false;
        let limits = Limits { request: 64, gap: 0 };
        let of = |pages: u64| requests(std::slice::from_ref(&(7..7 + pages)), limits, free);
        assert_eq!(of(64), std::slice::from_ref(&(7..71)));
        assert_eq!(of(65), [7..55, 55..72]);
        assert_eq!(of(130).len(), 3);
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut at, mut missing) = (0, Vec::new());
            for _ in 0..random.usize(1..20) {
                let first = at + random.u64(1..50);
                at = first + random.u64(1..200);
                missing.push(first..at);
            }
            let limits = Limits { request: random.u64(1..100), gap: random.u64(..20) };
            let requests = requests(&missing, limits, free);
            assert!(requests.iter().all(|it| (1..=limits.request).contains(&(it.end - it.start))));
            assert!(requests.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let has = |page: u64| requests.iter().any(|request| request.contains(&page));
            assert!(missing.iter().cloned().flatten().all(has), "seed {seed}");
            // Nothing but what is missing, and gaps.
            let near = |page: u64| {
                missing.iter().any(|it| it.start <= page + limits.gap && page < it.end + limits.gap)
            };
            assert!(requests.iter().cloned().flatten().all(near), "seed {seed}");
        }
    }
}
