//! The ranges of a first request, for an object of which not even the length is known.

use std::ops::Range;

/// The length of a page of the cache.
pub(crate) const PAGE: u64 = 4096;

/// The maximum number of requests that are sent before the length is known.
const MOST: usize = 64;

/// Returns the requests for these ranges: whole pages, sorted, joined over gaps of at most `gap`
/// bytes. Each has at most `most` bytes, and there are at most 64. The rest is left out: a request
/// that begins behind the end of the object would fail.
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
    for range in &mut joined {
        range.end = range.end.min(range.start.saturating_add(most));
    }
    joined.truncate(MOST);
    joined
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
    fn neighbours_are_joined_and_long_ranges_cut() {
        let planned = requests(&[50 * K..51 * K, 1..2, 5 * K..9 * K], 0, 8 * K);
        assert_eq!(planned, [0..8 * K, 48 * K..52 * K]);
        assert_eq!(requests(&[50 * K..51 * K, 1..2], 44 * K, 1 << 20), vec![0..52 * K]);
        assert_eq!(requests(&[50 * K..51 * K, 1..2], 43 * K, 1 << 20).len(), 2);
        assert_eq!(requests(&[], 0, 1), []);
        let many: Vec<_> = (0..100).map(|i| 8 * i * K..8 * i * K + 1).collect();
        assert_eq!(requests(&many, 0, 1 << 20).len(), MOST);
    }

    #[test]
    fn ranges_near_the_largest_offset_do_not_overflow() {
        let planned = requests(&[u64::MAX - 1..u64::MAX, 0..u64::MAX], u64::MAX, u64::MAX);
        assert_eq!(planned, vec![0..u64::MAX]);
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
