//! A mapping: the cached pages of one file, shared by all its opens.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use folio_ref::Scheme;
use once_cell::race::OnceBox;

use crate::backing::{Backing, FileId, Version};
use crate::rt::shim::{Length, Mutex};
use crate::state::dirty::Dirty;
use crate::state::error_cursor::WritebackErrors;
use crate::state::frames::{Mapped, Zone};
use crate::state::health::Health;
use crate::state::index::Index;
use crate::state::looked::Looked;
use crate::state::readahead::Readahead;
use crate::state::remote::Remote;
use crate::state::shared::Shared;
use crate::state::single_flight::SingleFlight;
use crate::state::stats::{CacheStats, Count, Counters};
use crate::state::sync_group::SyncGroup;
use crate::state::unsynced::Unsynced;

/// The cached pages of one backing in one cache.
///
/// | field | written |
/// | --- | --- |
/// | `len`, `truncate_seq` | under the lock `length`; read anywhere |
/// | `backed` | by the thread that queried or changed the backing: a hint |
/// | `index` | by the rules of slots |
/// | `dirty` | under the page lock |
/// | `swept` | by a thread that wrote pages to make room: a hint |
/// | `writer` | by the first open that may write |
///
/// Lock order: `grow`, `changing`, `length`, then page locks. **Invariant:** a thread that holds a
/// page lock takes none of these three locks and waits for no slot.
pub(crate) struct Mapping<S: Scheme> {
    pub(crate) index: Index<S>,
    /// The zone of `shared`, copied so that a hit touches only this cache line.
    pub(crate) zone: &'static Zone<S>,
    pub(crate) mapped: Mapped<S>,
    /// The length of the file, as last seen or made. **Invariant:** no page that begins at or past
    /// it stays in the index. The cached page that contains it has zeroes from there on, or data
    /// past it.
    pub(crate) len: Length,
    /// Counts the truncations. A reader with a reference loads count and length before the lookup
    /// of the page, and again after it ([`Mapping::is_untruncated`]). So it never returns a page
    /// that was read again after a truncation, with zeroes where the reader's length had bytes. The
    /// count alone is not enough: the thread that reads the page may know the shorter length before
    /// the truncation is counted.
    pub(crate) truncate_seq: Length,
    pub(crate) id: u32,
    pub(crate) file_id: FileId,
    pub(crate) backing: Arc<dyn Backing>,
    /// The backing that dirty pages are written to.
    pub(crate) writer: OnceLock<Arc<dyn Backing>>,
    /// The length of the backing, as last seen or made: a fill that ends before it queries the
    /// length again.
    pub(crate) backed: Length,
    /// Up to here the file is in order: the pages past it are written in the order of the file.
    pub(crate) ordered: AtomicU64,
    pub(crate) dirty: Dirty,
    /// The pages of fills of several pages that are in flight.
    pub(crate) filling: AtomicUsize,
    /// The end of the last write that was made to free memory: a hint.
    pub(crate) swept: AtomicU64,
    pub(crate) errors: WritebackErrors,
    /// Looks at the length of the backing.
    pub(crate) looks: SingleFlight<Looked>,
    pub(crate) revalidations: SingleFlight<io::Result<bool>>,
    pub(crate) health: Health,
    /// Rounds that write everything dirty. Each returns the number of the next sync.
    pub(crate) writes: SingleFlight<(io::Result<()>, u64)>,
    pub(crate) syncs: SyncGroup,
    pub(crate) unsynced: Unsynced,
    /// The number of open files. The last close writes the dirty pages.
    pub(crate) opens: AtomicUsize,
    /// The right to extend or truncate the file in several steps.
    pub(crate) grow: Mutex<()>,
    /// The right to change the backing, with its version after our last change or query.
    pub(crate) changing: Mutex<Version>,
    /// The right to change `len` and `truncate_seq`.
    pub(crate) length: Mutex<()>,
    pub(crate) readahead: Readahead,
    pub(crate) shared: Arc<Shared<S>>,
    /// The counters of this file alone, once a caller wants them.
    pub(crate) counters: OnceBox<Counters>,
    /// The further fields of a mapping of a distant object.
    pub(crate) remote: Option<Box<Remote<S>>>,
}

impl<S: Scheme> Mapping<S> {
    /// Returns the mapping of a backing that no other mapping of the cache has.
    pub(crate) fn new(
        shared: &Arc<Shared<S>>,
        id: u32,
        file_id: FileId,
        backing: Arc<dyn Backing>,
        version: Version,
    ) -> Self {
        Self {
            index: Index::new(id, &shared.leaves),
            zone: shared.zone(),
            mapped: Mapped::new(&shared.arena),
            len: Length::new(version.len),
            truncate_seq: Length::new(0),
            id,
            file_id,
            backing,
            writer: OnceLock::new(),
            backed: Length::new(version.len),
            ordered: AtomicU64::new(version.len),
            dirty: Dirty::default(),
            filling: AtomicUsize::new(0),
            swept: AtomicU64::new(0),
            errors: WritebackErrors::default(),
            looks: SingleFlight::default(),
            revalidations: SingleFlight::default(),
            health: Health::default(),
            writes: SingleFlight::default(),
            syncs: SyncGroup::default(),
            unsynced: Unsynced::default(),
            opens: AtomicUsize::new(0),
            grow: Mutex::new(()),
            changing: Mutex::new(version),
            length: Mutex::new(()),
            readahead: Readahead::default(),
            shared: Arc::clone(shared),
            counters: OnceBox::new(),
            remote: None,
        }
    }

    /// Returns the mapping of a distant object that no other mapping of the cache has. `backing`
    /// reads from it too, and blocks.
    pub(crate) fn distant(
        shared: &Arc<Shared<S>>,
        id: u32,
        file_id: FileId,
        backing: Arc<dyn Backing>,
        remote: Remote<S>,
    ) -> Self {
        let unknown = Version { len: 0, change_token: [0; 4] };
        let mut mapping = Self::new(shared, id, file_id, backing, unknown);
        mapping.remote = Some(Box::new(remote));
        mapping
    }

    /// Returns the length.
    ///
    /// Acquire: pairs with Release where it is stored. A thread that sees a length sees what was
    /// done before: the slot of the old last page emptied, the bytes of an append in their page. A
    /// lookup would see these by its `try_get`, an optimistic read by its fence.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Returns the number of truncations.
    ///
    /// Acquire: pairs with Release in `set_len`. A reader that sees the count of a truncation sees
    /// its length. A fill after the truncation acquires the slot that the truncation emptied: so a
    /// reader that sees the filled page sees the count.
    #[inline(always)]
    pub(crate) fn truncate_seq(&self) -> u64 {
        self.truncate_seq.load(Ordering::Acquire)
    }

    /// Returns `true` if the file is at least `len` bytes long, and was not shorter since
    /// `truncate_seq` was loaded (models/length.pml). Loads the length first: a reader that sees it
    /// long again after a truncation sees that truncation counted.
    #[inline(always)]
    pub(crate) fn is_untruncated(&self, len: u64, truncate_seq: u64) -> bool {
        self.len() >= len && self.truncate_seq() == truncate_seq
    }

    /// Counts an open file.
    pub(crate) fn opened(&self) {
        // Relaxed: the caller has the mapping already.
        self.opens.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns `true` if there is one open, or none.
    pub(crate) fn is_last_open(&self) -> bool {
        // Relaxed: a hint.
        self.opens.load(Ordering::Relaxed) <= 1
    }

    /// Returns `true` while the file is open.
    pub(crate) fn is_open(&self) -> bool {
        // Acquire: pairs with AcqRel in closed.
        self.opens.load(Ordering::Acquire) > 0
    }

    /// Adds `n` to a counter of the file's group.
    #[inline]
    pub(crate) fn count(&self, count: Count, n: u64) {
        self.shared.groups.of(self.id).counters.add(count, n);
        if let Some(own) = self.counters.get() {
            own.add(count, n);
        }
    }

    /// Counts pages that were found.
    #[inline(always)]
    pub(crate) fn hit(&self, pages: u64) {
        if CacheStats::COUNTS_HITS {
            self.count(Count::Hits, pages);
        }
    }

    /// Counts pages that came to the index.
    #[inline]
    pub(crate) fn came(&self, pages: usize) {
        self.shared.groups.of(self.id).counters.add(Count::Cached, pages as u64);
    }

    /// Counts pages that begin to be in flight, or with a negative number end to be.
    #[inline]
    pub(crate) fn in_flight(&self, pages: u64) {
        self.shared.groups.of(self.id).counters.add(Count::InFlight, pages);
    }

    /// Returns the owner data of a page, for its descriptor: it leads from a frame number to the
    /// page.
    pub(crate) fn owner_data(&self, page: u32) -> u64 {
        u64::from(self.id) << 32 | u64::from(page)
    }
}
