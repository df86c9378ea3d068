//! The requests that the I/O pool is given: extents, and the misses of futures.

use std::any::Any;
use std::ops::Range;

/// Neighbouring pages of one mapping that wait to be filled. Dropping it releases them unfilled.
pub(crate) trait Extent: Send {
    /// Returns the pages.
    fn pages(&self) -> Pages;

    /// Fills the pages and publishes them. Errors are dropped: a reader that needs the pages looks
    /// them up again.
    fn fill(self: Box<Self>);
}

/// The miss of a future. The future and the pool share it: once the pool holds the only reference,
/// no future waits for it.
pub(crate) trait Fetch: Send + Sync {
    /// Returns the pages that it reads: none if the fetch starts at or past the end of the file.
    fn pages(&self) -> &Pages;

    /// Returns `true` if one call may fill it with other fetches of the mapping.
    fn is_together(&self) -> bool;

    /// Returns the maximum number of pages that one call may fill for its mapping.
    fn max_together(&self) -> u64;

    /// Ends the fetch with the bytes that are cached now. Returns `false`, and does nothing, if its
    /// page is not cached.
    fn end_at_once(&self) -> bool;

    /// Fetches and ends. Blocks.
    fn work(&self);

    /// Fills pages of its mapping, all requested at once. Returns a value that keeps them in the
    /// cache until it is dropped.
    fn fill_together(&self, wanted: &[Range<u64>]) -> Box<dyn Any>;
}

/// Pages of a mapping, which is given by its number.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) mapping: u32,
    pub(crate) pages: Range<u64>,
}

impl Pages {
    /// Returns `true` if a page of a mapping is among them.
    pub(super) fn cover(&self, mapping: u32, page: u64) -> bool {
        self.mapping == mapping && self.pages.contains(&page)
    }
}

/// A fetch of its own call, for tests: its work is a closure.
#[cfg(test)]
pub(super) struct Alone<W>(pub(super) Pages, pub(super) W);

#[cfg(test)]
impl<W: Fn() + Send + Sync> Fetch for Alone<W> {
    fn pages(&self) -> &Pages {
        &self.0
    }

    fn is_together(&self) -> bool {
        false
    }

    fn max_together(&self) -> u64 {
        1
    }

    fn end_at_once(&self) -> bool {
        false
    }

    fn work(&self) {
        self.1();
    }

    fn fill_together(&self, _: &[Range<u64>]) -> Box<dyn Any> {
        Box::new(())
    }
}
