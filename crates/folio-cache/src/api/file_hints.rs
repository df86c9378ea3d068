//! Hints for any open file: how its reads use its pages, which ranges will be needed, and which no
//! longer; and what is known about it without a request.

use std::ops::Range;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::api::file::File;
use crate::backing::remote::{Key, Priority, RemoteVersion};
use crate::coherence::drop_pages;
use crate::policy::Advice;
use crate::read::prefetch;

impl<S: Scheme> File<S> {
    /// Returns a clone of the file of which the reads have other advice. Reads through other clones
    /// are not affected by it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use folio_cache::{Advice, Cache, testing::Distant};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let cache = Cache::new(4 << 20)?;
    /// let file = cache.open_async(Arc::new(Distant::new(&[7; 100_000])))?;
    /// let scan = file.with_advice(Advice::Once);
    /// assert_eq!(scan.bytes(0, 50_000)?.len(), 50_000);
    /// assert!(file.try_bytes(0, 10).is_none()); // its pages were not kept
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_advice(&self, advice: Advice) -> Self {
        Self { advice, ..self.clone() }
    }

    /// Requests what is missing of some ranges in the background: they will be needed. Returns at
    /// once. Requests at most a quarter of the capacity. Errors are not reported: the reader gets
    /// its own.
    ///
    /// Without threads of the cache, an object of a distant store needs a spawner
    /// ([`CacheBuilder::spawner`](crate::CacheBuilder::spawner)): otherwise nothing is requested.
    /// Of any other file, this call then reads the first request itself, at most 1 MiB, and no
    /// more.
    pub fn prefetch(&self, ranges: &[Range<u64>]) {
        prefetch::prefetch(&self.opened.mapping, ranges, self.how());
    }

    /// Drops the cached pages that lie wholly in a range of the file, except dirty ones: they are
    /// not needed any more. Handles keep theirs. Pages in progress stay. Does nothing in a child
    /// forked after the cache was built.
    pub fn evict(&self, range: Range<u64>) {
        if self.opened.mapping.shared.is_inherited() {
            return;
        }
        let page = FRAME_SIZE as u64;
        let is_end = self.known_len().is_some_and(|len| range.end >= len);
        let end = if is_end { range.end.div_ceil(page) } else { range.end / page };
        let first = range.start.div_ceil(page);
        drop_pages::evict_clean(
            &self.opened.mapping,
            first..end.max(first),
            drop_pages::Keep::Nothing,
        );
    }

    /// Returns a clone of the file of which the reads have another priority. It decides which of
    /// the requests to distant stores that wait for their turn is sent next. Reads through other
    /// clones are not affected by it.
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        Self { priority, ..self.clone() }
    }

    /// Returns the key of the file.
    pub fn key(&self) -> Key {
        self.opened.mapping.key()
    }

    /// Returns the version of an object of a distant store, if it is known. Makes no request.
    pub fn known_version(&self) -> Option<RemoteVersion> {
        self.opened.mapping.known_version()
    }

    /// Returns the length in bytes if it is known. That of an object of a distant store is not,
    /// until the first answer. Makes no request.
    pub fn known_len(&self) -> Option<u64> {
        self.opened.mapping.known_len()
    }
}
