//! Pages in flight: their frames are taken, and come back soon, as pages or free.
//!
//! An allocation waits for them instead of failing. **Invariant:** a thread that holds pages in
//! flight never waits for memory.

use std::mem;

use folio_ref::Scheme;

use crate::state::shared::Shared;

/// Counts pages as in flight until it is dropped.
pub(crate) struct InFlight<'m, S: Scheme> {
    shared: &'m Shared<S>,
    pages: usize,
}

impl<'m, S: Scheme> InFlight<'m, S> {
    /// Counts no pages yet. Touches nothing that is shared.
    #[inline]
    pub(crate) fn none(shared: &'m Shared<S>) -> Self {
        Self { shared, pages: 0 }
    }

    /// Returns the number of pages.
    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Counts pages that begin to be in flight.
    pub(crate) fn begin(shared: &'m Shared<S>, pages: usize) -> Self {
        shared.room.begin(pages);
        Self { shared, pages }
    }

    /// Changes the number of pages.
    pub(crate) fn set(&mut self, pages: usize) {
        let before = mem::replace(&mut self.pages, pages);
        if pages > before {
            self.shared.room.begin(pages - before);
        } else if pages < before {
            self.shared.room.end(before - pages);
        }
    }

    /// Keeps the pages counted, for [`resume`](Self::resume).
    pub(crate) fn suspend(mut self) {
        self.pages = 0;
    }

    /// Continues with pages that are counted already.
    pub(crate) fn resume(shared: &'m Shared<S>, pages: usize) -> Self {
        Self { shared, pages }
    }
}

impl<S: Scheme> Drop for InFlight<'_, S> {
    #[inline]
    fn drop(&mut self) {
        if self.pages > 0 {
            self.shared.room.end(self.pages);
        }
    }
}
