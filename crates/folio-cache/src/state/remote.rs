//! The further fields of a mapping of a distant object: its key, its version, and the requests in
//! flight.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use folio_ref::Scheme;

use crate::backing::remote::{AsyncBacking, Key, RemoteVersion};
use crate::rt::flight::{Flight, Waiter};
use crate::rt::permits::Permits;
use crate::rt::shim::Mutex;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;

/// The further fields of a mapping with a backing that answers late.
///
/// Lock order: `Mapping::length`, then `version` or `requests`, never both.
pub(crate) struct Remote<S: Scheme> {
    pub(crate) key: Key,
    /// The backing of the latest open.
    backing: Mutex<Arc<dyn AsyncBacking>>,
    /// The length and the validator of the pages. Written under the lock `length` of the mapping.
    pub(crate) version: Mutex<Option<RemoteVersion>>,
    /// `version` is known, and `Mapping::len` is its length.
    pub(crate) is_known: AtomicBool,
    pub(crate) requests: Mutex<Table<S>>,
    /// A request for the version without bytes.
    pub(crate) learning: Mutex<Weak<Flight<Learned>>>,
    /// The requests of this backing that may be in flight.
    pub(crate) permits: Arc<Permits>,
    /// The number of pages in the index.
    pub(crate) pages: AtomicUsize,
}

/// The result of a request for the version.
pub(crate) type Learned = Result<RemoteVersion, Arc<io::Error>>;

impl<S: Scheme> Remote<S> {
    pub(crate) fn new(key: Key, backing: Arc<dyn AsyncBacking>) -> Self {
        let permits = Permits::new(backing.preferences().in_flight, usize::MAX);
        Self {
            key,
            backing: Mutex::new(backing),
            version: Mutex::new(None),
            is_known: AtomicBool::new(false),
            requests: Mutex::new(Table { next: 0, in_flight: BTreeMap::new() }),
            learning: Mutex::new(Weak::new()),
            permits,
            pages: AtomicUsize::new(0),
        }
    }

    pub(crate) fn backing(&self) -> Arc<dyn AsyncBacking> {
        Arc::clone(&self.backing.lock())
    }

    pub(crate) fn set_backing(&self, backing: Arc<dyn AsyncBacking>) {
        let before = std::mem::replace(&mut *self.backing.lock(), backing);
        // Not under the lock: it is a value of the user.
        drop(before);
    }
}

impl<S: Scheme> Mapping<S> {
    /// Returns the length if it is known. That of a blocking backing always is.
    pub(crate) fn known_len(&self) -> Option<u64> {
        let is_known = match &self.remote {
            // Acquire: pairs with Release where the version is set, after the length.
            Some(remote) => remote.is_known.load(Ordering::Acquire),
            None => true,
        };
        is_known.then(|| self.len())
    }

    /// Returns the key of the mapping.
    pub(crate) fn key(&self) -> Key {
        match &self.remote {
            Some(remote) => remote.key.clone(),
            None => self.file_id.into(),
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
}

impl<S: Scheme> Table<S> {
    /// Returns the request that has a page: its pages and the flight. Returns the first one behind
    /// the page otherwise.
    pub(crate) fn at_or_behind(&self, page: u64) -> Option<(Range<u64>, WeakFlight<S>)> {
        let before = self.in_flight.range(..=page).next_back().filter(|(_, it)| it.end > page);
        let (&first, entry) = before.or_else(|| self.in_flight.range(page..).next())?;
        Some((first..entry.end, Weak::clone(&entry.flight)))
    }

    /// Returns a number for a new request.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn insert(&mut self, id: u64, pages: &Range<u64>, waiter: &Waiter<Outcome<S>>) {
        let entry = Entry { id, end: pages.end, flight: Arc::downgrade(waiter.flight()) };
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
    /// Its pages are in the cache, as far as the object has them.
    Done(Published<S>),
    /// The mapping was invalidated meanwhile: look again.
    Again,
    Failed(Arc<io::Error>),
}

/// References to the pages of a request, until its waiters have them.
pub(crate) struct Published<S: Scheme> {
    shared: Arc<Shared<S>>,
    /// The folios, each with its first page, in order. Empty if too many wait to be taken.
    folios: Vec<(u64, FolioRef<S>)>,
    pages: usize,
}

/// The share of a cache's memory that results may pin until their waiters take them.
const UNTAKEN_SHARE: usize = 4;

impl<S: Scheme> Published<S> {
    pub(crate) fn new(shared: &Arc<Shared<S>>, folios: Vec<(u64, FolioRef<S>)>) -> Self {
        let pages = folios.iter().map(|(_, folio)| folio.order().frames() as usize).sum();
        let most = shared.capacity() / folio_frames::FRAME_SIZE / UNTAKEN_SHARE;
        let shared = Arc::clone(shared);
        if shared.room.keep_unpolled(pages, most) {
            Self { shared, folios, pages }
        } else {
            Self { shared, folios: Vec::new(), pages: 0 }
        }
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
        self.shared.room.polled(self.pages);
    }
}
