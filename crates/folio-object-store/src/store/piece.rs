//! The range that a get asks for, and which ranges are read before the get returns.

use std::ops::Range;

use super::os::GetOptions;

/// Ranges up to this length are read before the get returns, so that they are one piece.
pub(super) const ONE_PIECE: u64 = 8 << 20;

/// Whole objects up to this length are too.
const ONE_OBJECT: u64 = 1 << 20;

/// Returns the range of an object of this size, or `None` if it has none.
pub(super) fn range_of(options: &GetOptions, size: u64) -> Option<Range<u64>> {
    match &options.range {
        None => Some(0..size),
        Some(range) => range.as_range(size).ok(),
    }
}

/// Returns `true` if a range is read before its get returns.
pub(super) fn is_one_piece(options: &GetOptions, range: &Range<u64>) -> bool {
    let most = if options.range.is_some() { ONE_PIECE } else { ONE_OBJECT };
    range.end - range.start <= most
}
