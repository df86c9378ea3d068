//! What the clones of a cache and its mappings share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use folio_frames::{KindOps, UserSpace};
use folio_ref::Scheme;
use folio_uring::Process;

use crate::policy::Policy;
use crate::rt::io_pool::IoPool;
use crate::rt::shim::Mutex;
use crate::rt::worker::Worker;
use crate::state::frames::{Arena, FrozenFolio, Offline, Zone};
use crate::state::mapping::Mapping;
use crate::state::registry::Registry;
use crate::state::stats::Counters;
use crate::state::units::CACHED;

/// What the clones of a cache and its mappings share.
pub(crate) struct Shared<S: Scheme> {
    pub(crate) arena: Arc<Arena<S>>,
    pub(crate) registry: Registry<S>,
    pub(crate) counters: Counters,
    /// Chooses what is reclaimed. Nothing is done to a page under this lock.
    pub(crate) policy: Mutex<Box<dyn Policy>>,
    /// Pages of all files that are dirty.
    pub(crate) dirty_pages: AtomicU64,
    /// Files that nobody has open, with pages that could not be written yet.
    pub(crate) unwritten: Mutex<HashMap<u32, Arc<Mapping<S>>>>,
    pub(crate) flusher: Worker<Self>,
    pub(crate) reclaimer: Worker<Self>,
    pub(crate) io_pool: IoPool,
    pub(crate) capacity: Capacity<S>,
    /// That which made the cache: its threads and dirty pages are in no other.
    pub(crate) process: Process,
    /// For reports, and the first part of the names of its threads.
    pub(crate) name: Box<str>,
}

impl<S: Scheme> Shared<S> {
    /// Without a `destroy` of its own: a folio that was put for the last time had left its index
    /// before.
    pub(crate) const KINDS: &'static [KindOps<UserSpace<S>>] =
        &[KindOps { kind: CACHED, name: "cached", destroy: FrozenFolio::free }];

    pub(crate) fn zone(&self) -> &'static Zone<S> {
        self.arena.zone()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity.bytes()
    }
}

/// What is online, and what is not.
pub(crate) struct Capacity<S: Scheme> {
    /// Written under the lock.
    pub(crate) bytes: AtomicUsize,
    /// Blocks beyond the budget.
    pub(crate) offline: Mutex<Vec<Offline<S>>>,
}

impl<S: Scheme> Capacity<S> {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes: AtomicUsize::new(bytes), offline: Mutex::default() }
    }

    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: for reports.
        self.bytes.load(Ordering::Relaxed)
    }
}
