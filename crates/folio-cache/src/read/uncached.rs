//! Reading a page without the cache, if there is no room for its slot: the reader gets a folio of
//! its own, which is freed with its last reference.

use std::io::{self, IoSliceMut};
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::memory::alloc;
use crate::memory::large_folio::FreeOnDrop;
use crate::read::fill::Filled;
use crate::rt::shim::Mutex;
use crate::state::mapping::Mapping;
use crate::state::stats::Count;

/// Reads a page into a folio that is in no slot. Call with no page locked.
///
/// The page is not locked. If the file may be written, the lock `changing` keeps writeback from the
/// backing meanwhile, so that the bytes are those of one moment. A truncation is noticed by the
/// reader ([`Mapping::is_untruncated`]).
///
/// # Errors
///
/// `OutOfMemory` if no page can be freed, otherwise what the backing returns.
pub(crate) fn fill_uncached<S: Scheme>(mapping: &Mapping<S>, page: u32) -> io::Result<Filled<S>> {
    let mut folio = FreeOnDrop(Some(alloc::allocate_for(mapping, page)?));
    let bytes = folio.0.as_mut().expect("it was just put there").as_mut_slice();
    let offset = u64::from(page) * FRAME_SIZE as u64;
    mapping.count(Count::Misses, 1);
    mapping.count(Count::Requests, 1);
    mapping.count(Count::Uncached, 1);
    let changing = mapping.writing().and_then(|_| mapping.changing()).map(Mutex::lock);
    let read = mapping.backing().fill(offset, &mut [IoSliceMut::new(bytes)])?.min(FRAME_SIZE);
    // After the read, as in `Extent::publish`.
    let in_page = |len: u64| len.saturating_sub(offset).min(FRAME_SIZE as u64) as usize;
    let expected = in_page(mapping.len());
    let backed = in_page(mapping.backed.load(Ordering::Acquire));
    drop(changing);
    mapping.count(Count::FilledBytes, read as u64);
    mapping.count(Count::WantedBytes, read as u64);
    if expected == 0 || read < expected.min(backed) {
        return Ok(Filled::Short { at: offset + read as u64 });
    }
    bytes[read..].fill(0);
    let folio = folio.take().expect("it is still there");
    Ok(Filled::Page(folio.init()))
}
