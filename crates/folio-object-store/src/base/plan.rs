//! The ranges of a first request, for an object of which not even the length is known.

use std::ops::Range;

/// The length of a page of the cache.
const PAGE: u64 = 4096;

/// The maximum number of requests that are sent before the length is known.
const MOST: usize = 64;

/// Returns the requests for these ranges: whole pages, sorted, joined over gaps of at most `gap`
/// bytes, each at most `most` bytes long. What does not fit in 64 of them is left out.
pub(crate) fn requests(ranges: &[Range<u64>], gap: u64, most: u64) -> Vec<Range<u64>> {
    let mut pages: Vec<_> = ranges
        .iter()
        .filter(|range| range.start < range.end)
        .map(|range| page_of(range.start)..range.end.div_ceil(PAGE).saturating_mul(PAGE))
        .collect();
    pages.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(pages.len());
    for range in pages {
        match joined.last_mut() {
            Some(last) if range.start.saturating_sub(last.end) <= gap => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    let most = most.div_ceil(PAGE).max(1).saturating_mul(PAGE);
    let mut requests = Vec::new();
    for range in joined {
        let mut start = range.start;
        while start < range.end && requests.len() < MOST {
            let end = start.saturating_add(most).min(range.end);
            requests.push(start..end);
            start = end;
        }
    }
    requests
}

/// Returns the offset of the page that holds this byte.
pub(crate) fn page_of(offset: u64) -> u64 {
    offset / PAGE * PAGE
}

/// Returns the number of bytes before the end that hold all pages of the last `bytes` bytes.
pub(crate) fn suffix(bytes: u64) -> u64 {
    if bytes == 0 { 0 } else { bytes.saturating_add(PAGE - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1024;

    #[test]
    fn neighbours_are_joined_and_long_ranges_split() {
        let planned = requests(&[50 * K..51 * K, 1..2, 5 * K..9 * K], 0, 8 * K);
        assert_eq!(planned, [0..8 * K, 8 * K..12 * K, 48 * K..52 * K]);
        assert_eq!(requests(&[50 * K..51 * K, 1..2], 44 * K, 1 << 20), vec![0..52 * K]);
        assert_eq!(requests(&[50 * K..51 * K, 1..2], 43 * K, 1 << 20).len(), 2);
        assert_eq!(requests(&[], 0, 1), []);
    }

    #[test]
    fn ranges_near_the_largest_offset_do_not_overflow() {
        let planned = requests(&[u64::MAX - 1..u64::MAX, 0..u64::MAX], u64::MAX, u64::MAX / 2);
        assert_eq!(planned.first().map(|range| range.start), Some(0));
        assert!(planned.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn a_suffix_reaches_the_beginning_of_its_first_page() {
        for (len, bytes) in [(10_000, 1), (10_000, 5000), (8192, 4096), (5, 100)] {
            let start = len - bytes.min(len);
            assert!(len - suffix(bytes).min(len) <= page_of(start));
        }
        assert_eq!(suffix(0), 0);
    }
}
