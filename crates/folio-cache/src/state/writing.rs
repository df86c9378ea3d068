//! The fields of a mapping that only writers need, made when the first of them comes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use folio_ref::Scheme;

use crate::backing::Backing;
use crate::rt::shim::Mutex;
use crate::state::dirty::Dirty;
use crate::state::error_cursor::{ErrorCursor, WritebackErrors};
use crate::state::health::Health;
use crate::state::mapping::Mapping;
use crate::state::single_flight::SingleFlight;
use crate::state::sync_group::SyncGroup;
use crate::state::unsynced::Unsynced;

/// The fields of a mapping that only writers need.
///
/// | field | written |
/// | --- | --- |
/// | `backing` | by the first open that may write |
/// | `dirty` | under the page lock |
/// | `swept` | by a thread that wrote pages to make room: a hint |
pub(crate) struct Writing {
    /// The backing that dirty pages are written to.
    pub(crate) backing: OnceLock<Arc<dyn Backing>>,
    /// Up to here the file is in order: the pages past it are written in the order of the file.
    pub(crate) ordered: AtomicU64,
    pub(crate) dirty: Dirty,
    /// The end of the last write that was made to free memory: a hint.
    pub(crate) swept: AtomicU64,
    pub(crate) errors: WritebackErrors,
    /// The errors that were reported to the open without a state of its own.
    pub(crate) reader: ErrorCursor,
    pub(crate) health: Health,
    /// Rounds that write everything dirty. Each returns the number of the next sync.
    pub(crate) writes: SingleFlight<(io::Result<()>, u64)>,
    pub(crate) syncs: SyncGroup,
    pub(crate) unsynced: Unsynced,
    /// The right to extend or truncate the file in several steps.
    pub(crate) grow: Mutex<()>,
}

impl Writing {
    fn new(ordered: u64) -> Self {
        Self {
            backing: OnceLock::new(),
            ordered: AtomicU64::new(ordered),
            dirty: Dirty::default(),
            swept: AtomicU64::new(0),
            errors: WritebackErrors::default(),
            reader: ErrorCursor::default(),
            health: Health::default(),
            writes: SingleFlight::default(),
            syncs: SyncGroup::default(),
            unsynced: Unsynced::default(),
            grow: Mutex::new(()),
        }
    }
}

impl<S: Scheme> Mapping<S> {
    /// Returns the fields for writers if the file was ever written or synced.
    #[inline(always)]
    pub(crate) fn writing(&self) -> Option<&Writing> {
        self.writing.get()
    }

    /// Returns the fields for writers. Makes them at the first call.
    #[inline(always)]
    pub(crate) fn make_writing(&self) -> &Writing {
        match self.writing.get() {
            Some(writing) => writing,
            None => self.make_writing_now(),
        }
    }

    #[cold]
    fn make_writing_now(&self) -> &Writing {
        // While no page is dirty, all that the backing has is in order. Relaxed: a refresh may
        // change it meanwhile. The first write past the end refreshes it again.
        let ordered = self.backed.load(Ordering::Relaxed);
        if self.writing.set(Box::new(Writing::new(ordered))).is_ok() {
            self.shared.leaves.count_file(size_of::<Writing>());
        }
        self.writing.get().expect("it was just set, and stays")
    }

    /// Returns the end of the last dirty page in bytes, or 0 if there is none.
    pub(crate) fn dirty_end(&self) -> u64 {
        self.writing().map_or(0, |writing| writing.dirty.end())
    }

    /// Returns the number of dirty pages.
    pub(crate) fn dirty_count(&self) -> u64 {
        self.writing().map_or(0, |writing| writing.dirty.count())
    }

    /// Returns `true` if a page is dirty.
    pub(crate) fn is_dirty(&self) -> bool {
        self.writing().is_some_and(|writing| !writing.dirty.is_empty())
    }

    /// Returns `true` if the file is sick: its pages do not count against the limits of others.
    pub(crate) fn is_sick(&self) -> bool {
        self.writing().is_some_and(|writing| writing.dirty.is_sick())
    }

    /// Notes that a clean page leaves the cache. Call while the page is locked.
    #[inline]
    pub(crate) fn evicts(&self, page: u32) {
        if let Some(writing) = self.writing() {
            writing.unsynced.evict(page);
        }
    }
}
