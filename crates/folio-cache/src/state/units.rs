//! Units: pages, offsets, and the owner data of a folio.

use std::io;
use std::ops::Range;

use crate::backing::error::error;
use crate::state::frames::FolioRef;

use folio_frames::{FRAME_SIZE, Kind};

/// The kind of a folio that holds pages of a cache, for code that inspects its frames
/// ([`CacheFrames::zone`](crate::CacheFrames::zone)).
///
/// The owner data of such a frame ([`Peek::owner_data`](folio_frames::Peek)) has a number of the
/// file in the high half and the page in the low half.
pub const CACHED: Kind = Kind::owner(0);

/// The maximum number of pages in one request: 1 MiB. Larger requests are no faster on any disk.
pub(crate) const MOST_PAGES: u32 = 256;

/// A page and the range of its requested bytes, or `None` past the end of the file.
pub(crate) type Found<S> = Option<(FolioRef<S>, Range<usize>)>;

/// Splits owner data into the number of the mapping and the page.
pub(crate) fn split_owner_data(owner_data: u64) -> (u32, u32) {
    ((owner_data >> 32) as u32, owner_data as u32)
}

/// Returns the page that contains an offset.
///
/// # Errors
///
/// `FileTooLarge` from 16 TiB on, where page numbers end.
#[inline]
pub(crate) fn page_of(offset: u64) -> io::Result<u32> {
    u32::try_from(offset / FRAME_SIZE as u64).map_err(|_| past_all_pages(offset))
}

#[cold]
fn past_all_pages(offset: u64) -> io::Error {
    let message =
        format!("offset {offset} exceeds 16 TiB, the maximum that can be cached of a file");
    error(io::ErrorKind::FileTooLarge, message)
}

/// Where page numbers end, and with them what can be cached of a file: 16 TiB.
pub(crate) const MOST_BYTES: u64 = (FRAME_SIZE as u64) << u32::BITS;

/// Refuses a call that would have to cache what lies at `end` of a file, and before it.
///
/// # Errors
///
/// `FileTooLarge` past 16 TiB, where page numbers end.
pub(crate) fn check_end(end: u64) -> io::Result<()> {
    if end <= MOST_BYTES {
        return Ok(());
    }
    let message =
        format!("a length of {end} exceeds 16 TiB, the maximum that can be cached of a file");
    Err(error(io::ErrorKind::FileTooLarge, message))
}

/// Returns the number of pages that contain `len` bytes at `offset`.
pub(crate) fn pages_of(offset: u64, len: usize) -> u32 {
    let end = (offset % FRAME_SIZE as u64).saturating_add(len as u64);
    u32::try_from(end.div_ceil(FRAME_SIZE as u64)).unwrap_or(u32::MAX)
}

/// Checks that a file can have an offset.
///
/// # Errors
///
/// `InvalidInput` if the offset exceeds the maximum file offset.
pub(crate) fn check_offset(offset: u64) -> io::Result<()> {
    if i64::try_from(offset).is_ok() {
        return Ok(());
    }
    let message = format!("offset {offset} exceeds the maximum file offset {}", i64::MAX);
    Err(error(io::ErrorKind::InvalidInput, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_page_and_the_last_offset_are_allowed() {
        assert_eq!(page_of(MOST_BYTES - 1).unwrap(), u32::MAX);
        let error = page_of(MOST_BYTES).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(check_end(MOST_BYTES).is_ok());
        assert_eq!(check_end(MOST_BYTES + 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(check_offset(i64::MAX as u64).is_ok());
        let error = check_offset(i64::MAX as u64 + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn pages_are_counted_from_the_one_of_the_first_byte() {
        let ranges = [(0, 0), (0, 1), (4095, 1), (4095, 2), (4096, 4096), (8191, 4098), (1, 4096)];
        assert_eq!(ranges.map(|(offset, len)| pages_of(offset, len)), [0, 1, 1, 2, 1, 3, 2]);
        assert_eq!(split_owner_data(7 << 32 | 9), (7, 9));
    }
}
