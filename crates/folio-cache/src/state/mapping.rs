//! A mapping: one file's pages, however many times it is open.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use folio_frames::UserSpace;
use folio_ref::Scheme;

use crate::backing::{Backing, FileId, Version};
use crate::rt::shim::{Length, Mutex};
use crate::state::dirty::Dirty;
use crate::state::error_cursor::WritebackErrors;
use crate::state::frames::{Mapped, Zone};
use crate::state::index::Index;
use crate::state::readahead::Readahead;
use crate::state::shared::Shared;
use crate::state::sync_group::SyncGroup;

/// The pages of one backing in one cache.
///
/// | field | who writes it |
/// | --- | --- |
/// | `len`, `truncate_seq` | under the lock `length`; read anywhere |
/// | `backed` | who looked at the backing or changed it: a hint |
/// | `index` | by the rules of slots |
/// | `dirty` | under the claim of the page |
/// | `swept` | who wrote for want of room: a hint |
/// | `writer` | by the first open that may write |
///
/// Lock order: `grow`, `changing`, `length`, then claims on slots. **Invariant:** nobody takes one
/// of the three, or waits for a slot, while holding a claim.
pub(crate) struct Mapping<S: Scheme> {
    pub(crate) index: Index<UserSpace<S>>,
    /// The zone of `shared`, without the way through it: a hit needs no more than this line.
    pub(crate) zone: &'static Zone<S>,
    pub(crate) mapped: Mapped<S>,
    /// The file's length as far as it was looked at. **Invariant:** no page that begins at or past
    /// it stays in the index, and what is cached of the page it lies in ends there with
    /// zeroes, or reaches past it.
    pub(crate) len: Length,
    /// Counts how often the length was cut. A reader with a reference looks at count and length
    /// before it looks the page up, and after ([`Mapping::is_untruncated`]), so that it has no page
    /// that was read again after a cut, with zeroes where its length had bytes. The count
    /// alone would not do: who reads the page may know the shorter length before the cut is
    /// counted.
    pub(crate) truncate_seq: Length,
    pub(crate) id: u32,
    pub(crate) file_id: FileId,
    pub(crate) backing: Arc<dyn Backing>,
    /// What dirty pages are written to.
    pub(crate) writer: OnceLock<Arc<dyn Backing>>,
    /// The length of the backing, as it was last seen or made: a fill that ends before it asks
    /// again.
    pub(crate) backed: AtomicU64,
    pub(crate) dirty: Dirty,
    /// Where the last request ended that was made for want of room: a hint.
    pub(crate) swept: AtomicU64,
    pub(crate) errors: WritebackErrors,
    pub(crate) syncs: SyncGroup,
    /// Open files: the last to be closed writes what is dirty.
    pub(crate) opens: AtomicUsize,
    /// The right to make the file longer, or to cut it, in several steps.
    pub(crate) grow: Mutex<()>,
    /// The right to change the backing, with the version that it had after our last change or
    /// look.
    pub(crate) changing: Mutex<Version>,
    /// The right to change `len` and `truncate_seq`.
    pub(crate) length: Mutex<()>,
    pub(crate) readahead: Readahead,
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S: Scheme> Mapping<S> {
    /// Returns the mapping of a backing that no other mapping of the cache has.
    pub(crate) fn new(
        shared: &Arc<Shared<S>>,
        id: u32,
        backing: Arc<dyn Backing>,
        version: Version,
    ) -> Self {
        Self {
            index: Index::new(version.len, Arc::clone(&shared.registry.index_bytes)),
            zone: shared.zone(),
            mapped: Mapped::new(&shared.arena),
            len: Length::new(version.len),
            truncate_seq: Length::new(0),
            id,
            file_id: backing.file_id(),
            backing,
            writer: OnceLock::new(),
            backed: AtomicU64::new(version.len),
            dirty: Dirty::default(),
            swept: AtomicU64::new(0),
            errors: WritebackErrors::default(),
            syncs: SyncGroup::default(),
            opens: AtomicUsize::new(0),
            grow: Mutex::new(()),
            changing: Mutex::new(version),
            length: Mutex::new(()),
            readahead: Readahead::default(),
            shared: Arc::clone(shared),
        }
    }

    /// Acquire: pairs with Release in `set_len`. A reader that sees a larger length sees the slot
    /// of the old last page emptied before it.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Acquire: pairs with Release in `set_len`. Who sees a cut's count sees its length; and who
    /// sees a page that was filled after the cut, which took the slot's emptying from it, sees
    /// its count.
    #[inline(always)]
    pub(crate) fn truncate_seq(&self) -> u64 {
        self.truncate_seq.load(Ordering::Acquire)
    }

    /// Whether the file still is as long as it was, and was not shorter between
    /// (models/length.pml). The length first: who sees it long again after a cut sees that cut
    /// counted.
    #[inline(always)]
    pub(crate) fn is_untruncated(&self, len: u64, truncate_seq: u64) -> bool {
        self.len() >= len && self.truncate_seq() == truncate_seq
    }

    pub(crate) fn opened(&self) {
        // Relaxed: who opens has the mapping already.
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns `true` if there is one open, or none.
    pub(crate) fn is_last_open(&self) -> bool {
        // Relaxed: a hint.
        self.opens.load(Ordering::Relaxed) <= 1
    }

    pub(crate) fn is_open(&self) -> bool {
        // Acquire: pairs with AcqRel in closed.
        self.opens.load(Ordering::Acquire) > 0
    }

    /// What is noted in the descriptor of a page's folio, for those who come by frame number.
    pub(crate) fn owner_data(&self, page: u32) -> u64 {
        u64::from(self.id) << 32 | u64::from(page)
    }
}
