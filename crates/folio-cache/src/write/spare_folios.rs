//! Folios for the pages that a write adds, allocated before it locks a page.

use folio_ref::Scheme;

use crate::rt::in_flight::InFlight;
use crate::state::frames::FrozenFolio;
use crate::state::mapping::Mapping;
use crate::state::units::CACHED;

/// Folios for the pages that a call adds, the next one last. Unused folios are freed on drop. Those
/// for neighbours lie in one piece of memory where there is one, as in an extent.
///
/// They are in flight: a thread that has some must not wait for memory, nor for a thread that may.
/// A folio that is taken counts as such until all are freed.
pub(crate) struct SpareFolios<'m, S: Scheme> {
    folios: Vec<FrozenFolio<S>>,
    in_flight: InFlight<'m, Mapping<S>>,
}

impl<'m, S: Scheme> SpareFolios<'m, S> {
    #[inline]
    pub(crate) fn new(mapping: &'m Mapping<S>) -> Self {
        Self { folios: Vec::new(), in_flight: InFlight::none(mapping) }
    }

    /// Adds folios for the pages that follow each other.
    pub(crate) fn add(&mut self, folios: Vec<FrozenFolio<S>>) {
        self.folios.extend(folios.into_iter().rev());
        self.in_flight.set(self.folios.len());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.folios.is_empty()
    }

    /// Returns the next folio, as that of a page.
    pub(crate) fn take(&mut self, owner_data: u64) -> Option<FrozenFolio<S>> {
        let mut folio = self.folios.pop()?;
        folio.set_owner(CACHED, owner_data);
        Some(folio)
    }

    /// Puts back the folio that was taken last.
    pub(crate) fn put_back(&mut self, folio: FrozenFolio<S>) {
        self.folios.push(folio);
    }

    /// Frees all. Call before anything that may wait for memory.
    #[inline(never)]
    pub(crate) fn free_all(&mut self) {
        // That of the last page first: the free lists then have them in their old order.
        self.folios.drain(..).for_each(FrozenFolio::free);
        self.in_flight.set(0);
    }
}

impl<S: Scheme> Drop for SpareFolios<'_, S> {
    /// Frees all. Costs two comparisons if none was ever added, as for a write to cached pages.
    #[inline]
    fn drop(&mut self) {
        if self.folios.capacity() > 0 || self.in_flight.pages() > 0 {
            self.free_all();
        }
    }
}
