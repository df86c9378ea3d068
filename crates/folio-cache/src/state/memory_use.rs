//! The memory that a cache, a group of files or a file has now.

use std::ops::AddAssign;

/// The memory that a cache, a group of files or a file has now.
///
/// It is counted when it is asked for, by a look at each frame of the cache: about a millisecond
/// for each GiB. What changes meanwhile may be counted twice or not at all.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Cache, testing::Memory};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::builder().capacity(4 << 20).io_threads(0).build()?;
/// let file = cache.open_backing(Arc::new(Memory::new(&[7; 8192])))?;
/// let page = file.page(0)?; // one page is read
/// let now = file.memory_use();
/// assert_eq!((now.cached_bytes, now.pinned_bytes, now.dirty_bytes), (4096, 4096, 0));
/// assert_eq!(now.resident_bytes(), 4096 + now.index_bytes);
/// # drop(page);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryUse {
    /// Pages that reads find.
    pub cached_bytes: u64,
    /// Pages that only handles have: they left the cache, or are copies for a handle.
    pub detached_bytes: u64,
    /// Pages that a request fills now.
    pub in_flight_bytes: u64,
    /// The slots of the index, which find the pages. That of a cache includes the page tables of
    /// the system for them.
    pub index_bytes: u64,
    /// Frames that are free, of a cache alone: those that had a page before are resident too.
    pub free_bytes: u64,
    /// Of the pages, those that handles pin, with the folios around them.
    pub pinned_bytes: u64,
    /// Of the cached pages, those that are newer than their backing.
    pub dirty_bytes: u64,
}

impl MemoryUse {
    /// Returns all memory in use: what is cached, detached, in flight, and the index.
    pub fn resident_bytes(&self) -> u64 {
        self.cached_bytes + self.detached_bytes + self.in_flight_bytes + self.index_bytes
    }
}

impl AddAssign for MemoryUse {
    fn add_assign(&mut self, other: Self) {
        self.cached_bytes += other.cached_bytes;
        self.detached_bytes += other.detached_bytes;
        self.in_flight_bytes += other.in_flight_bytes;
        self.index_bytes += other.index_bytes;
        self.free_bytes += other.free_bytes;
        self.pinned_bytes += other.pinned_bytes;
        self.dirty_bytes += other.dirty_bytes;
    }
}
