//! A handle: pinned bytes of one page.

use std::fmt;
use std::ops::Deref;

use crate::state::frames::FolioRef;

use bytes::Bytes;
use folio_frames::{FRAME_SIZE, PinnedBytes, UserSpace};
use folio_ref::{DefaultScheme, Scheme};

/// Bytes of one page of a file, as they were when the handle was made. They never change: a write
/// to a pinned page puts another page in its place.
///
/// A handle pins its frame: the page is neither evicted nor moved, and the 2 MiB of memory around
/// it cannot be given back. A handle may outlive the file and the cache. The cache's memory is
/// unmapped after its last handle is dropped.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Bytes, Cache, testing::Memory};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.open_backing(Arc::new(Memory::new(b"hello from a page")))?;
/// let handle = file.page(6)?.expect("offset 6 is inside the file");
/// file.write_all_at(b"FROM", 6)?;
/// assert_eq!(&*handle, b"from a page"); // a snapshot
/// let bytes = Bytes::from(handle); // for network code, without a copy
/// assert_eq!(bytes.slice(7..), "page");
/// # Ok(())
/// # }
/// ```
pub struct PageHandle<S: Scheme = DefaultScheme> {
    folio: FolioRef<S>,
    /// **Invariant:** `start <= end <= FRAME_SIZE`.
    start: usize,
    end: usize,
}

impl<S: Scheme> PageHandle<S> {
    #[inline(always)]
    pub(crate) fn new(folio: FolioRef<S>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= FRAME_SIZE, "bytes {start}..{end} of a page");
        Self { folio, start, end }
    }

    /// Makes the caller's line of code the pin owner of the frame.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn taken_here(mut self) -> Self {
        self.folio.taken_here();
        self
    }
}

impl<S: Scheme> Clone for PageHandle<S> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        Self { folio: self.folio.clone(), ..*self }
    }
}

impl<S: Scheme> Deref for PageHandle<S> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.folio.frame()[self.start..self.end]
    }
}

impl<S: Scheme> AsRef<[u8]> for PageHandle<S> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<S: Scheme> From<PageHandle<S>> for PinnedBytes<UserSpace<S>> {
    /// Takes the handle apart: the same bytes at the same address. With the feature
    /// `stable_deref_trait` the result implements `StableDeref`.
    fn from(handle: PageHandle<S>) -> Self {
        Self::new(handle.folio, handle.start..handle.end)
    }
}

impl<S: Scheme> From<PageHandle<S>> for Bytes {
    /// Wraps the handle: the bytes pin the page, without a copy.
    fn from(handle: PageHandle<S>) -> Self {
        Self::from_owner(handle)
    }
}

impl<S: Scheme> fmt::Debug for PageHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{} of the {:?}", self.start, self.end, self.folio)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use folio_frames::{PinnedBytes, UserSpace};

    use crate::Cache;
    use crate::testing::Memory;

    #[test]
    fn pinned_bytes_keep_the_address_and_outlive_the_cache() {
        let cache = Cache::new(4 << 20).unwrap();
        let file = cache.open_backing(Arc::new(Memory::new(b"hello from a page"))).unwrap();
        let handle = file.page(6).unwrap().unwrap();
        let address = handle.as_ptr();
        let bytes: PinnedBytes<UserSpace> = handle.into();
        let moved = Box::new(bytes.clone());
        drop((file, cache, bytes));
        assert_eq!((moved.as_ptr(), &**moved), (address, &b"from a page"[..]));
    }
}
