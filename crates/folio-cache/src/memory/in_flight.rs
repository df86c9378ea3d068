//! Pages in flight: their frames are taken, and come back soon, as pages or free.
//!
//! An allocation waits for them instead of failing. **Invariant:** a thread that holds pages in
//! flight never waits for memory.
//!
//! Requests of several pages leave half of the memory that is not in flight to other files: a file
//! of which all fills hang holds at most half of the cache, a second one a quarter. Requests of one
//! page are not counted: each has a thread that waits for it.

use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::state::mapping::Mapping;

/// A file may have one part in this many of the capacity in flight, whatever the others have.
const RESERVE_SHARE: usize = 8;

/// The pause of a reader of a file with too many pages in flight, unless some end before.
const PAUSE: Duration = Duration::from_millis(20);

/// The number of these pauses in a row without an end, 1 s, after which it reads a single page.
const PATIENCE: u32 = 50;

/// Returns the number of pages, of `pages` and at least one, that a request of a file may have.
pub(crate) fn admit_at_once<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let (shared, capacity) = (&mapping.shared, mapping.shared.capacity() / FRAME_SIZE);
    // Relaxed: a count.
    let own = mapping.readahead.filling.load(Ordering::Relaxed) as usize;
    if pages < 2 || own + pages <= capacity / RESERVE_SHARE {
        return pages;
    }
    let in_flight = usize::try_from(shared.memory_wait.in_flight()).unwrap_or(usize::MAX);
    pages.min(capacity.saturating_sub(in_flight).saturating_sub(own)).max(1)
}

/// Returns the number of pages, of `pages` and at least one, that a request of a file may have.
/// Waits until there may be several, for about a second. Call with no page in flight.
pub(crate) fn admit<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let admitted = admit_at_once(mapping, pages);
    if pages < 2 || admitted > 1 { admitted } else { wait_for_several(mapping, pages) }
}

#[cold]
fn wait_for_several<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let mut look = mapping.shared.memory_wait.look();
    let (mut admitted, mut fruitless) = (admit_at_once(mapping, pages), 0);
    while admitted < 2 && fruitless < PATIENCE {
        fruitless = if look.wait(PAUSE) { 0 } else { fruitless + 1 };
        admitted = admit_at_once(mapping, pages);
    }
    admitted
}

/// Counts pages as in flight until it is dropped.
pub(crate) struct InFlight<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    pages: usize,
    /// The count of the file, for a fill of several pages.
    filling: Option<&'m AtomicU32>,
}

impl<'m, S: Scheme> InFlight<'m, S> {
    /// Counts no pages yet. Touches nothing that is shared.
    #[inline]
    pub(crate) fn none(mapping: &'m Mapping<S>) -> Self {
        Self { mapping, pages: 0, filling: None }
    }

    /// Returns the number of pages.
    #[inline]
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Counts pages of a file that are about to be filled.
    pub(crate) fn begin_fill(mapping: &'m Mapping<S>, pages: usize) -> Self {
        let filling = (pages > 1).then_some(&mapping.readahead.filling);
        // Relaxed, here and below: a count.
        filling.map(|filling| filling.fetch_add(pages as u32, Ordering::Relaxed));
        begin(mapping, pages);
        Self { mapping, pages, filling }
    }

    /// Changes the number of pages.
    pub(crate) fn set(&mut self, pages: usize) {
        let before = mem::replace(&mut self.pages, pages);
        let more = pages.wrapping_sub(before) as u32;
        self.filling.map(|filling| filling.fetch_add(more, Ordering::Relaxed));
        if pages > before {
            begin(self.mapping, pages - before);
        } else if pages < before {
            end(self.mapping, before - pages);
        }
    }

    /// Keeps the pages counted. Returns `true` if their file counts them, for
    /// [`resume`](Self::resume).
    pub(crate) fn suspend(mut self) -> bool {
        self.pages = 0;
        self.filling.is_some()
    }

    /// Continues with pages of a fill that are counted already, `in_file` says if by the file too.
    pub(crate) fn resume(mapping: &'m Mapping<S>, pages: usize, in_file: bool) -> Self {
        let filling = in_file.then_some(&mapping.readahead.filling);
        Self { mapping, pages, filling }
    }
}

fn begin<S: Scheme>(mapping: &Mapping<S>, pages: usize) {
    mapping.shared.memory_wait.begin(pages);
    mapping.in_flight(pages as u64);
}

fn end<S: Scheme>(mapping: &Mapping<S>, pages: usize) {
    mapping.in_flight((pages as u64).wrapping_neg());
    mapping.shared.memory_wait.end(pages);
}

impl<S: Scheme> Drop for InFlight<'_, S> {
    #[inline]
    fn drop(&mut self) {
        if self.pages > 0 {
            self.filling.map(|filling| filling.fetch_sub(self.pages as u32, Ordering::Relaxed));
            end(self.mapping, self.pages);
        }
    }
}
