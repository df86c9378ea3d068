//! Units: pages, offsets, and the owner data of a folio.

use std::io;
use std::ops::Range;

use crate::state::frames::FolioRef;

use folio_frames::{FRAME_SIZE, Kind};

/// What a folio of a cache is, to who looks at its frames ([`Cache::zone`]). Its private note
/// ([`Peek::owner_data`](folio_frames::Peek)): a number of the file in the high half, the page in the
/// low one.
pub const CACHED: Kind = Kind::owner(0);

/// The most pages of one request: 1 MiB, from where on larger ones are no faster on any disk.
pub(crate) const MOST_PAGES: u32 = 256;

/// A page, and its bytes that were asked for. `None`: the file ends before it.
pub(crate) type Found<S> = Option<(FolioRef<S>, Range<usize>)>;

/// The mapping's number and the page, from what is noted in a descriptor.
pub(crate) fn split_owner_data(owner_data: u64) -> (u32, u32) {
    ((owner_data >> 32) as u32, owner_data as u32)
}

/// The page that an offset lies in.
///
/// # WritebackErrors
///
/// `FileTooLarge` from 16 TiB on, where page numbers end.
#[inline]
pub(crate) fn page_of(offset: u64) -> io::Result<u32> {
    u32::try_from(offset / FRAME_SIZE as u64).map_err(|_| {
        let message = format!("offset {offset} lies past 16 TiB, up to which a file can be cached");
        io::Error::new(io::ErrorKind::FileTooLarge, message)
    })
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
    let message = format!("a file is cached up to 16 TiB: {end} bytes are more");
    Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
}

/// The pages that some bytes lie in.
pub(crate) fn pages_of(offset: u64, len: usize) -> u32 {
    let end = (offset % FRAME_SIZE as u64).saturating_add(len as u64);
    u32::try_from(end.div_ceil(FRAME_SIZE as u64)).unwrap_or(u32::MAX)
}

pub(crate) fn check_offset(offset: u64) -> io::Result<()> {
    if i64::try_from(offset).is_ok() {
        return Ok(());
    }
    let message = format!("offset {offset} is more than any file's, {} at the most", i64::MAX);
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
