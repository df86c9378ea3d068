//! A mapping: the cached pages of one file, shared by all its opens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use folio_ref::Scheme;
use once_cell::race::OnceBox;

use crate::backing::{Backing, FileId, Version};
use crate::rt::in_flight::{Holder, MemoryWait};
use crate::rt::recorder;
use crate::rt::shim::{Length, Mutex};
use crate::state::frames::{Mapped, Zone};
use crate::state::index::Index;
use crate::state::kept;
use crate::state::known::Known;
use crate::state::readahead::Readahead;
use crate::state::remote::Remote;
use crate::state::shared::Shared;
use crate::state::stats::{CacheStats, Count, Counters};
use crate::state::writing::Writing;

/// The cached pages of one backing in one cache.
///
/// A file of one page that was only read has all of its state here: see [`BYTES`](Self::BYTES).
///
/// | field | written |
/// | --- | --- |
/// | `len`, `truncate_seq` | under the lock `length`; read anywhere |
/// | `backed` | by the thread that queried or changed the backing: a hint |
/// | `index` | by the rules of slots |
///
/// Lock order: `grow`, `changing`, `length`, then page locks. **Invariant:** a thread that holds a
/// page lock takes none of these three locks and waits for no slot.
// In this order: a hit reads the first 64 bytes.
#[repr(C)]
pub(crate) struct Mapping<S: Scheme> {
    pub(crate) index: Index<S>,
    /// The memory of `shared`, so that a hit need not load it from there.
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
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) source: Source<S>,
    /// The length of the backing, as last seen or made: a fill that ends before it queries the
    /// length again.
    pub(crate) backed: Length,
    /// The fields that only writers need.
    writing: OnceBox<Writing>,
    /// The counters of this file alone, once a caller wants them.
    pub(crate) counters: OnceBox<Counters>,
    pub(crate) readahead: Readahead,
    pub(crate) id: u32,
    /// The number of open files. The last close writes the dirty pages.
    pub(crate) opens: AtomicU32,
    /// The number of clones of the open that has no state of its own.
    pub(crate) readers: AtomicU32,
    /// The right to change `len` and `truncate_seq`.
    pub(crate) length: Mutex<()>,
}

/// The place where the bytes of a mapping come from.
pub(crate) enum Source<S: Scheme> {
    /// A backing that blocks.
    Near {
        backing: Arc<dyn Backing>,
        /// The right to change the backing, with its version after our last change or query.
        changing: Mutex<Known>,
    },
    /// A store that answers late.
    Distant(Remote<S>),
}

impl<S: Scheme> Mapping<S> {
    /// The bytes of a mapping and of what finds it: the counts of its `Arc`, what an allocator adds
    /// to an allocation, and its share of the registry.
    pub(crate) const BYTES: usize = size_of::<Self>() + 2 * size_of::<usize>() + 8 + 24;

    /// Returns the mapping of a backing that no other mapping of the cache has.
    pub(crate) fn new(
        shared: &Arc<Shared<S>>,
        id: u32,
        backing: Arc<dyn Backing>,
        version: Version,
    ) -> Self {
        let changing = Mutex::new(Known::new(version));
        Self::of(shared, id, version.len, Source::Near { backing, changing })
    }

    /// Returns the mapping of a distant object that no other mapping of the cache has.
    pub(crate) fn distant(shared: &Arc<Shared<S>>, id: u32, remote: Remote<S>) -> Self {
        Self::of(shared, id, 0, Source::Distant(remote))
    }

    fn of(shared: &Arc<Shared<S>>, id: u32, len: u64, source: Source<S>) -> Self {
        let mapping = Self {
            index: Index::default(),
            mapped: Mapped::new(&shared.arena),
            len: Length::new(len),
            truncate_seq: Length::new(0),
            shared: Arc::clone(shared),
            source,
            backed: Length::new(len),
            writing: OnceBox::new(),
            counters: OnceBox::new(),
            readahead: Readahead::default(),
            id,
            opens: AtomicU32::new(0),
            readers: AtomicU32::new(0),
            length: Mutex::new(()),
        };
        shared.leaves.count_file(mapping.own_bytes());
        if let Some(recorder) = &shared.recorder {
            recorder.opened(id);
        }
        mapping
    }

    /// Returns the bytes that are counted from its beginning on, and those of the validator.
    fn own_bytes(&self) -> usize {
        Self::BYTES + self.remote().map_or(0, Remote::counted_bytes)
    }

    /// Subtracts all bytes that were counted for the mapping. Call when it is dropped.
    pub(crate) fn uncount(&self) {
        let writing = self.writing().map_or(0, |_| size_of::<Writing>());
        let counters = self.counters.get().map_or(0, |_| size_of::<Counters>());
        let bytes = self.own_bytes() + writing + counters + self.readahead.counted_bytes();
        self.shared.leaves.uncount_file(bytes);
        self.shared.leaves.uncount(self.index.counted_bytes());
    }

    /// Returns the zone of all frames.
    #[inline(always)]
    pub(crate) fn zone(&self) -> &'static Zone<S> {
        self.mapped.zone()
    }

    /// Returns the further fields of a mapping of a distant object.
    #[inline(always)]
    pub(crate) fn remote(&self) -> Option<&Remote<S>> {
        match &self.source {
            Source::Near { .. } => None,
            Source::Distant(remote) => Some(remote),
        }
    }

    /// Returns the backing. That of a distant object blocks until the store answers.
    #[inline]
    pub(crate) fn backing(&self) -> &Arc<dyn Backing> {
        match &self.source {
            Source::Near { backing, .. } => backing,
            Source::Distant(remote) => remote.blocking(),
        }
    }

    /// Returns the right to change the backing, with its version after our last change or query.
    /// `None`: it is a distant object, which has no writers.
    #[inline]
    pub(crate) fn changing(&self) -> Option<&Mutex<Known>> {
        match &self.source {
            Source::Near { changing, .. } => Some(changing),
            Source::Distant(_) => None,
        }
    }

    /// Returns the file id of the backing.
    pub(crate) fn file_id(&self) -> FileId {
        self.backing().file_id()
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

    /// Counts pages that left the index. Without pages, a closed distant object leaves memory.
    #[inline]
    pub(crate) fn left(&self, pages: usize) {
        self.shared.groups.of(self.id).counters.subtract(Count::Cached, pages as u64);
        if let Some(remote) = self.remote() {
            kept::left(self, remote, pages as u32);
        }
    }

    /// Closes the leaf of a page if it has no page any more.
    pub(crate) fn give_back_leaf(&self, page: u32) {
        self.index.give_back(&self.shared.leaves, self.id, page);
    }

    /// Returns the owner data of a page, for its descriptor: it leads from a frame number to the
    /// page.
    pub(crate) fn owner_data(&self, page: u32) -> u64 {
        u64::from(self.id) << 32 | u64::from(page)
    }

    /// Returns `true` if the cache records uses.
    #[inline(always)]
    pub(crate) fn is_recorded(&self) -> bool {
        recorder::is_any() && self.shared.recorder.is_some()
    }

    /// Records the use of a page, if the cache records uses.
    #[inline(always)]
    pub(crate) fn record(&self, page: u32) {
        if recorder::is_any()
            && let Some(recorder) = &self.shared.recorder
        {
            recorder.record(self.id, page);
        }
    }

    /// Takes back the use of a page that this thread recorded last: it looks the page up again.
    pub(crate) fn take_back_use(&self, page: u32) {
        if let Some(recorder) = &self.shared.recorder {
            recorder.take_back(self.id, page);
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

    /// Makes the counters of this file alone.
    pub(crate) fn make_counters(&self) {
        if self.counters.set(Box::default()).is_ok() {
            self.shared.leaves.count_file(size_of::<Counters>());
        }
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
            writing.unsynced.evict(page, || self.shared.unsynced_room());
        }
    }
}

impl<S: Scheme> Holder for Mapping<S> {
    #[inline]
    fn memory_wait(&self) -> &MemoryWait {
        &self.shared.memory_wait
    }

    #[inline]
    fn filling(&self) -> &AtomicU32 {
        &self.readahead.filling
    }

    #[inline]
    fn count_in_flight(&self, pages: u64) {
        self.shared.groups.of(self.id).counters.add(Count::InFlight, pages);
    }
}
