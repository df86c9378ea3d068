//! The further fields of a mapping of a distant object: its key, its version, and the requests in
//! flight.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use folio_frames::Pfn;
use folio_ref::{Scheme, broken};
use once_cell::race::OnceBox;

use crate::backing::Backing;
use crate::backing::blocking::Blocking;
use crate::backing::remote::{AsyncBacking, Key, RemoteVersion, Validator};
use crate::rt::flight::{Flight, Waiter};
use crate::rt::permits::Permits;
use crate::rt::rank::Rank;
use crate::rt::shim::{Mutex, MutexGuard};
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// The further fields of a mapping with a backing that answers late.
///
/// Lock order: `Mapping::length`, then `state`.
pub(crate) struct Remote<S: Scheme> {
    /// The backing of the latest open.
    backing: Mutex<Arc<dyn AsyncBacking>>,
    pub(crate) object: Box<RemoteObject<S>>,
}

/// The object of a mapping with a backing that answers late.
pub(crate) struct RemoteObject<S: Scheme> {
    pub(crate) key: Key,
    /// The backing as one that blocks, made at its first use.
    blocking: OnceBox<Arc<dyn Backing>>,
    state: Mutex<RemoteState<S>>,
    /// The number of pages in the index.
    pub(crate) pages: AtomicU32,
    /// The version is known, and `Mapping::len` is its length.
    is_known: AtomicBool,
}

struct RemoteState<S: Scheme> {
    /// The validator of the pages. Written under the lock `length` of the mapping.
    /// **Invariant:** while it is known, `Mapping::len` is the length of its version.
    validator: Option<Validator>,
    /// The requests in flight. `None` if there are none: most objects are idle.
    active: Option<Box<Active<S>>>,
}

/// The requests of an object that are in flight.
pub(crate) struct Active<S: Scheme> {
    pub(crate) table: Table<S>,
    /// A request for the version without bytes.
    pub(crate) learning: Weak<Flight<Learned>>,
    /// The requests of this backing that may be in flight.
    pub(crate) permits: Arc<Permits>,
    /// The page behind those of the last request that took frames, and the frame of its last page:
    /// a hint, as the frame is in no slot while the request is in flight, and may be free later.
    last_frame: Option<(u64, Pfn)>,
}

/// The result of a request for the version: with it, the number of changes and invalidations before
/// the request.
pub(crate) type Learned = Result<(RemoteVersion, u64), Arc<io::Error>>;

impl<S: Scheme> Active<S> {
    fn new(in_flight: usize) -> Self {
        Self {
            table: Table { next: 0, in_flight: BTreeMap::new() },
            learning: Weak::new(),
            permits: Permits::of_one(in_flight),
            last_frame: None,
        }
    }

    /// Returns `true` if no request is in flight, not even one that has left the table.
    fn is_idle(&self) -> bool {
        self.table.in_flight.is_empty()
            && self.learning.strong_count() == 0
            && (broken!("table-freed-in-use") || Arc::strong_count(&self.permits) == 1)
    }
}

impl<S: Scheme> Remote<S> {
    /// The bytes of the fields that are not in the mapping itself, with what an allocator adds.
    const BYTES: usize = size_of::<RemoteObject<S>>() + 8;

    /// Returns the bytes of an object with this key beside its mapping: the name may be long.
    pub(crate) fn bytes_of(key: &Key) -> usize {
        Self::BYTES + key.name().map_or(0, <[u8]>::len)
    }

    /// Returns all bytes that are counted now. Those of the validator are counted as it changes.
    pub(super) fn counted_bytes(&self) -> usize {
        let validator = &self.object.state.lock().validator;
        Self::bytes_of(&self.object.key) + validator.as_ref().map_or(0, len_of)
    }

    pub(crate) fn new(key: Key, backing: Arc<dyn AsyncBacking>) -> Self {
        let object = RemoteObject {
            key,
            blocking: OnceBox::new(),
            state: Mutex::new(RemoteState { validator: None, active: None }),
            pages: AtomicU32::new(0),
            is_known: AtomicBool::new(false),
        };
        Self { backing: Mutex::new(backing), object: Box::new(object) }
    }

    pub(crate) fn backing(&self) -> Arc<dyn AsyncBacking> {
        Arc::clone(&self.backing.lock())
    }

    pub(crate) fn set_backing(&self, backing: Arc<dyn AsyncBacking>) {
        let before = std::mem::replace(&mut *self.backing.lock(), backing);
        // Not under the lock: it is a value of the user.
        drop(before);
    }

    /// Forgets the length, and takes no lock: for a child process, which learns no other.
    pub(crate) fn forget_length(&self) {
        // Relaxed: a reader without a length asks for it, and gets an error.
        self.object.is_known.store(false, Ordering::Relaxed);
    }

    /// Returns the backing of some open as one that blocks, and reads from it too.
    pub(crate) fn blocking(&self) -> &Arc<dyn Backing> {
        self.object.blocking.get_or_init(|| Box::new(Arc::new(Blocking(self.backing()))))
    }

    /// Returns the frame of the page before this one, if that is the last page of the last request
    /// that took frames.
    pub(crate) fn frame_before(&self, page: u64) -> Option<Pfn> {
        let state = self.object.state.lock();
        let (next, frame) = state.active.as_ref()?.last_frame?;
        (next == page).then_some(frame)
    }

    /// Notes that a request in flight took a frame for the page before this one, its last.
    pub(crate) fn took_frame(&self, page: u64, frame: Pfn) {
        if let Some(active) = &mut self.object.state.lock().active {
            active.last_frame = Some((page, frame));
        }
    }

    /// Calls `change` with the requests in flight, under their lock. If there were none, at most
    /// `in_flight` may be from now on.
    pub(crate) fn with_active<R>(
        &self,
        in_flight: usize,
        change: impl FnOnce(&mut Active<S>) -> R,
    ) -> R {
        let mut state = self.object.state.lock();
        let active = state.active.get_or_insert_with(|| Box::new(Active::new(in_flight)));
        let result = change(active);
        free_if_idle(state);
        result
    }

    /// Calls `change` with the requests in flight, under their lock. Returns `None` if there are
    /// none.
    pub(crate) fn with_any_active<R>(&self, change: impl FnOnce(&mut Active<S>) -> R) -> Option<R> {
        let mut state = self.object.state.lock();
        let result = change(state.active.as_deref_mut()?);
        free_if_idle(state);
        Some(result)
    }
}

/// Returns the bytes of a validator, which may be long.
fn len_of(validator: &Validator) -> usize {
    validator.as_bytes().len()
}

/// Frees the memory for requests if none is in flight.
fn free_if_idle<S: Scheme>(mut state: MutexGuard<'_, RemoteState<S>>) {
    let unneeded = state.active.take_if(|active| active.is_idle());
    drop(state);
    drop(unneeded);
}

impl<S: Scheme> Mapping<S> {
    /// Returns the length if it is known. That of a blocking backing always is, unless a child
    /// process has invalidated the file.
    pub(crate) fn known_len(&self) -> Option<u64> {
        if let Some(remote) = self.remote() {
            // Acquire: pairs with Release where the version is set, after the length.
            return remote.object.is_known.load(Ordering::Acquire).then(|| self.len());
        }
        let len = self.len();
        (len > 0 || !self.shared.is_inherited()).then_some(len)
    }

    /// Returns the version of a distant object if it is known.
    pub(crate) fn known_version(&self) -> Option<RemoteVersion> {
        let state = &self.remote()?.object.state;
        // In a child process the lock may be held for ever.
        let state = if self.shared.is_inherited() { state.try_lock()? } else { state.lock() };
        let validator = state.validator.clone()?;
        // Under the lock: see the invariant.
        Some(RemoteVersion { len: self.len(), validator })
    }

    /// Sets the version of a distant object: none is known. Call under the lock `length`.
    pub(crate) fn set_version(&self, remote: &Remote<S>, reported: &RemoteVersion) {
        // Release, both: pair with Acquire in `len` and `known_len`.
        self.len.store(reported.len, Ordering::Release);
        self.backed.store(reported.len, Ordering::Release);
        self.set_validator(remote, Some(reported.validator.clone()));
        remote.object.is_known.store(true, Ordering::Release);
    }

    /// Forgets the version of a distant object. Call under the lock `length`.
    pub(crate) fn forget_version(&self, remote: &Remote<S>) {
        // Release: pairs with Acquire in `known_len`.
        remote.object.is_known.store(false, Ordering::Release);
        self.set_validator(remote, None);
    }

    fn set_validator(&self, remote: &Remote<S>, validator: Option<Validator>) {
        self.shared.leaves.count_file(validator.as_ref().map_or(0, len_of));
        let before = std::mem::replace(&mut remote.object.state.lock().validator, validator);
        self.shared.leaves.uncount_file(before.as_ref().map_or(0, len_of));
    }

    /// Returns the key of the mapping.
    pub(crate) fn key(&self) -> Key {
        match self.remote() {
            Some(remote) => remote.object.key.clone(),
            None => self.file_id().into(),
        }
    }
}

/// A request in flight, as long as it has waiters.
type WeakFlight<S> = Weak<Flight<Outcome<S>>>;

/// The requests of a mapping that are in flight. No two of them have a page in common.
pub(crate) struct Table<S: Scheme> {
    next: u64,
    /// By the first page.
    in_flight: BTreeMap<u64, Entry<S>>,
}

struct Entry<S: Scheme> {
    id: u64,
    end: u64,
    flight: WeakFlight<S>,
    rank: Arc<Rank>,
    /// The version was known when it was requested.
    is_versioned: bool,
}

/// A request in flight.
pub(crate) struct InFlight<S: Scheme> {
    pub(crate) pages: Range<u64>,
    pub(crate) flight: WeakFlight<S>,
    pub(crate) rank: Arc<Rank>,
}

impl<S: Scheme> Table<S> {
    /// Returns the request that has a page. Returns the first one behind the page otherwise.
    pub(crate) fn at_or_behind(&self, page: u64) -> Option<InFlight<S>> {
        let before = self.in_flight.range(..=page).next_back().filter(|(_, it)| it.end > page);
        let (&first, entry) = before.or_else(|| self.in_flight.range(page..).next())?;
        let (flight, rank) = (Weak::clone(&entry.flight), Arc::clone(&entry.rank));
        Some(InFlight { pages: first..entry.end, flight, rank })
    }

    /// Returns a number for a new request.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn insert(
        &mut self,
        id: u64,
        pages: &Range<u64>,
        waiter: &Waiter<Outcome<S>>,
        (rank, is_versioned): (Arc<Rank>, bool),
    ) {
        let flight = Arc::downgrade(waiter.flight());
        let entry = Entry { id, end: pages.end, flight, rank, is_versioned };
        self.in_flight.insert(pages.start, entry);
    }

    /// Removes a request, unless another one has its place.
    pub(crate) fn remove(&mut self, id: u64, first: u64) {
        if self.in_flight.get(&first).is_some_and(|entry| entry.id == id) {
            self.in_flight.remove(&first);
        }
    }

    /// Removes the request that begins at a page: it was cancelled.
    pub(crate) fn remove_cancelled(&mut self, first: u64) {
        self.in_flight.remove(&first);
    }

    /// Forgets the requests that were made before the version was known. What they answer may be
    /// older than the version that the store told since: no reader joins them any more.
    pub(crate) fn forget_unversioned(&mut self) {
        self.in_flight.retain(|_, entry| entry.is_versioned);
    }

    /// Forgets all requests: they belong to a version that is no longer valid. Returns their
    /// flights.
    pub(crate) fn clear(&mut self) -> Vec<WeakFlight<S>> {
        std::mem::take(&mut self.in_flight).into_values().map(|entry| entry.flight).collect()
    }

    /// Returns the flights of all requests.
    pub(crate) fn flights(&self) -> Vec<WeakFlight<S>> {
        self.in_flight.values().map(|entry| Weak::clone(&entry.flight)).collect()
    }
}

/// The result of a request.
pub(crate) enum Outcome<S: Scheme> {
    /// Its pages are in the cache, as far as the object has them, unless the object changed or was
    /// invalidated meanwhile.
    Done(Published<S>),
    Failed(Arc<io::Error>),
}

/// References to the pages of a request, until its waiters have them.
pub(crate) struct Published<S: Scheme> {
    shared: Arc<Shared<S>>,
    /// The folios, each with its first page, in order. At most the first if too many wait to be
    /// taken.
    folios: Vec<(u64, FolioRef<S>)>,
    pages: usize,
    version: RemoteVersion,
}

/// The share of a cache's memory that results may pin until their waiters take them.
const UNTAKEN_SHARE: usize = 4;

impl<S: Scheme> Published<S> {
    /// Takes the folios of a request. If too many wait to be taken already, keeps none of them, or
    /// the first alone: one that is not in the cache, so that its reader gets on.
    pub(crate) fn new(
        shared: &Arc<Shared<S>>,
        folios: Vec<(u64, FolioRef<S>)>,
        version: RemoteVersion,
        keeps_first: bool,
    ) -> Self {
        let pages = folios.iter().map(|(_, folio)| folio.order().frames() as usize).sum();
        let most = shared.capacity() / folio_frames::FRAME_SIZE / UNTAKEN_SHARE;
        let shared = Arc::clone(shared);
        if shared.memory_wait.keep_unpolled(pages, most) {
            Self { shared, folios, pages, version }
        } else {
            let first = folios.into_iter().next().filter(|_| {
                // Half as much again, for those that would not get on.
                keeps_first && shared.memory_wait.keep_unpolled(1, most + most / 2)
            });
            let folios: Vec<_> = first.into_iter().collect();
            Self { shared, pages: folios.len(), folios, version }
        }
    }

    /// Returns the version that the pages are of.
    pub(crate) fn version(&self) -> &RemoteVersion {
        &self.version
    }

    /// Returns a reference to a page.
    pub(crate) fn get(&self, page: u64) -> Option<FolioRef<S>> {
        let at = self.folios.partition_point(|&(first, _)| first <= page).checked_sub(1)?;
        let (first, folio) = &self.folios[at];
        folio.frame_after(u32::try_from(page - first).ok()?)
    }
}

impl<S: Scheme> Drop for Published<S> {
    fn drop(&mut self) {
        self.shared.memory_wait.polled(self.pages);
    }
}
