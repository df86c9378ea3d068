//! A handle: bytes of one page, held without a copy.

use std::fmt;
use std::ops::Deref;

use crate::state::frames::FolioRef;

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};

/// Bytes of one page of a file, as they were when the handle was made. They never change under it:
/// who changes a page that is held puts another page in its place.
///
/// A handle pins its frame: reclaim and migration pass it by, and its block can not go offline. It
/// may outlive the file and the cache; the cache's memory is unmapped after its last handle.
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

    /// It is the caller's from now on, to who asks who holds its frame.
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

impl<S: Scheme> From<PageHandle<S>> for Bytes {
    /// No copy: the bytes keep the page.
    fn from(handle: PageHandle<S>) -> Self {
        Self::from_owner(handle)
    }
}

impl<S: Scheme> fmt::Debug for PageHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{} of the {:?}", self.start, self.end, self.folio)
    }
}
