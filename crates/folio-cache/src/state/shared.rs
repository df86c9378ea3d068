//! The state that the clones of a cache and its mappings share.

use std::collections::HashMap;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use std::time::Instant;

use crossbeam_utils::CachePadded;
use folio_frames::{KindOps, UserSpace};
use folio_ref::Scheme;
use folio_uring::Process;

use crate::backing::remote::{BoxFuture, Spawn};
use crate::policy::Policy;
use crate::pressure::Sensors;
use crate::rt::batches::{Batches, Taker};
use crate::rt::drive::Drive;
use crate::rt::flight::When;
use crate::rt::flush_pool::FlushPool;
use crate::rt::in_flight::{HeldBy, MemoryWait};
use crate::rt::io_pool::IoPool;
use crate::rt::permits::Permits;
use crate::rt::recorder::Recorder;
use crate::rt::searches::Searches;
use crate::rt::shim::Mutex;
use crate::rt::watcher::{Descriptors, Watcher, Work};
use crate::rt::worker::Worker;
use crate::state::calls::Calls;
use crate::state::fill_waiters::FillWaiters;
use crate::state::frames::{Arena, FrozenFolio, Offline, Zone};
use crate::state::groups::Groups;
use crate::state::kept::Kept;
use crate::state::leaves::Leaves;
use crate::state::live::Live;
use crate::state::lone_misses::LoneMisses;
use crate::state::looked::Looked;
use crate::state::mapping::Mapping;
use crate::state::registry::Registry;
use crate::state::requests::Requests;
use crate::state::shown::Shown;
use crate::state::units::CACHED;
use crate::state::unsynced::{Left, Room};

/// The pages in flight that an allocation can wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Awaited {
    Nothing,
    /// In writes to files, and in requests to distant stores that a thread can drive.
    Slow,
    /// In fills too.
    Fills,
}

/// The state that the clones of a cache and its mappings share.
pub(crate) struct Shared<S: Scheme> {
    pub(crate) arena: Arc<Arena<S>>,
    pub(crate) registry: Registry<S>,
    /// The leaves of all indexes, and the memory of the state of files.
    pub(crate) leaves: Leaves<S>,
    pub(crate) recorder: Option<Box<Recorder>>,
    /// The readers that move in order.
    pub(crate) live: Live,
    pub(crate) lone_misses: LoneMisses,
    pub(crate) groups: Groups,
    pub(crate) shown: &'static Shown,
    /// Choose the pages to evict. Nothing is done to a page under this lock. On a cache line of
    /// its own: each miss and each writer reads fields that would lie beside it.
    pub(crate) policy: CachePadded<Mutex<Chooser>>,
    /// New pages that no policy is informed of yet: their frames, and their owner data.
    pub(crate) arrivals: Batches,
    /// The frame at which the next sweep begins.
    pub(crate) sweep: AtomicU32,
    /// The last sweep that visited all frames found none to evict: a hint.
    pub(crate) is_pinned: AtomicBool,
    pub(crate) memory_wait: MemoryWait,
    /// The last looks of allocations that found nothing.
    pub(crate) searches: Searches,
    /// The number of dirty pages of all files.
    pub(crate) dirty_pages: AtomicU64,
    /// The number of dirty pages of sick files.
    pub(crate) sick_pages: AtomicU64,
    /// Closed files with dirty pages that could not be written yet.
    pub(crate) unwritten: Mutex<HashMap<u32, Arc<Mapping<S>>>>,
    /// The bytes of closed files that are not durable yet.
    pub(crate) left_unsynced: Mutex<Left>,
    pub(crate) flusher: Worker<Self>,
    pub(crate) flush_pool: FlushPool<Mapping<S>>,
    pub(crate) requests: Requests,
    /// Queries of the lengths of backings.
    pub(crate) length_queries: Calls<Looked>,
    pub(crate) revalidations: Calls<io::Result<bool>>,
    pub(crate) fill_waiters: Arc<FillWaiters>,
    pub(crate) reclaimer: Worker<Self>,
    pub(crate) io_pool: IoPool,
    /// The requests to distant stores that may be in flight, with their pages as weight.
    pub(crate) remote_permits: Arc<Permits>,
    /// Drives the requests that no reader waits for, unless there is a spawner.
    pub(crate) drive: Drive,
    pub(crate) spawner: Option<Box<dyn Spawn>>,
    /// Mappings of distant stores that are closed and have pages.
    pub(crate) kept: Kept<S>,
    pub(crate) capacity: Capacity<S>,
    /// The sources of memory pressure, if it is followed.
    pub(crate) pressure: Option<Watched<Self>>,
    /// The process that made the cache: its threads and dirty pages exist in no other.
    pub(crate) process: Process,
    /// For reports, and the first part of the names of its threads.
    pub(crate) name: Box<str>,
}

impl<S: Scheme> Shared<S> {
    /// The kinds of folios. `destroy` only frees: a folio left its index before its last put.
    pub(crate) const KINDS: &'static [KindOps<UserSpace<S>>] =
        &[KindOps { kind: CACHED, name: "cached", destroy: FrozenFolio::free }];

    /// Returns the zone of all frames.
    pub(crate) fn zone(&self) -> &'static Zone<S> {
        self.arena.zone()
    }

    /// Runs a future in the background. It is dropped if there is no spawner and no thread.
    pub(crate) fn spawn(&self, future: BoxFuture<'static, ()>) {
        match &self.spawner {
            // A spawner of a runtime that has ended may panic.
            Some(spawner) => {
                let spawn = AssertUnwindSafe(|| spawner.spawn(future));
                if panic::catch_unwind(spawn).is_err() {
                    tracing::warn!("the spawner panicked: a request in the background is dropped");
                }
            }
            None => {
                self.drive.spawn(future);
            }
        }
    }

    /// Returns the room for ranges of unsynced bytes.
    pub(crate) fn unsynced_room(&self) -> Room<'_> {
        self.leaves.unsynced_room(self.capacity())
    }

    /// Drives the requests to distant stores that are stuck, in the background.
    pub(crate) fn drive_stuck(&self) {
        for driver in self.remote_permits.drivers(When::Stuck) {
            self.spawn(driver);
        }
    }

    /// Returns which pages in flight come back while a thread waits. Racy.
    pub(crate) fn awaited(&self) -> Awaited {
        let [fills, requests, writes] =
            [HeldBy::Fill, HeldBy::Request, HeldBy::Write].map(|by| self.memory_wait.held(by));
        // In a child the threads are those of the parent.
        let are_driven = || requests > 0 && !self.is_inherited() && self.drive.may_sleep();
        match fills {
            0 if writes == 0 && !are_driven() => Awaited::Nothing,
            0 => Awaited::Slow,
            _ => Awaited::Fills,
        }
    }

    /// Starts the thread that waits for memory pressure, if that is followed: called when a file is
    /// opened.
    pub(crate) fn watch_pressure(&self) {
        if let Some(watched) = &self.pressure {
            watched.watcher.start();
        }
    }

    /// Returns the capacity in bytes.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity.bytes()
    }
}

/// The sources of memory pressure, and the thread that waits for them.
pub(crate) struct Watched<T: Send + Sync + 'static> {
    /// Taken before the lock of the capacity.
    pub(crate) sensors: Mutex<Sensors>,
    pub(crate) watcher: Watcher<T>,
}

impl<T: Send + Sync + 'static> Watched<T> {
    /// Returns the sources, with a thread that is not started yet. `prefix` begins its name.
    pub(crate) fn new(opened: Opened, work: Work<T>, prefix: &str, target: Weak<T>) -> Self {
        let (sensors, descriptors) = opened;
        let watcher = Watcher::new(work, format!("{prefix}-pressure"), descriptors, target);
        Self { sensors: Mutex::new(sensors), watcher }
    }
}

/// The sources of memory pressure, and the descriptors to wait for.
pub(crate) type Opened = (Sensors, Descriptors);

/// The policies, and the right to take what waits for them.
pub(crate) struct Chooser {
    /// By number: that of all files without a share first, then those of groups with a share.
    pub(crate) policies: Vec<Option<Box<dyn Policy>>>,
    pub(crate) taker: Taker,
    /// The frames that it named last: memory that each choice uses again.
    pub(crate) named: Vec<u32>,
    /// The pages that came since the time of uses last advanced for them.
    pub(crate) arrived: u32,
}

impl<S: Scheme> Drop for Shared<S> {
    fn drop(&mut self) {
        self.shown.give_back();
    }
}

/// The capacity, and the memory that is offline.
pub(crate) struct Capacity<S: Scheme> {
    /// The capacity in bytes. Written under the lock of `offline`.
    pub(crate) bytes: AtomicUsize,
    /// The capacity that the user set: memory pressure never raises it above that. Written under
    /// the lock of `offline`.
    pub(crate) wanted: AtomicUsize,
    /// Memory pressure is being followed: misses let that go first.
    pub(crate) is_giving_back: AtomicBool,
    /// Blocks beyond the budget.
    pub(crate) offline: Mutex<OfflineBlocks<S>>,
}

/// Blocks beyond the capacity.
pub(crate) struct OfflineBlocks<S: Scheme> {
    pub(crate) blocks: Vec<Offline<S>>,
    /// When the capacity was last missed, until it is reached.
    pub(crate) failed: Option<Instant>,
}

impl<S: Scheme> Capacity<S> {
    /// Returns a capacity of `bytes`, all of it online.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(bytes),
            wanted: AtomicUsize::new(bytes),
            is_giving_back: AtomicBool::new(false),
            offline: Mutex::new(OfflineBlocks { blocks: Vec::new(), failed: None }),
        }
    }

    /// Returns the capacity in bytes.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: only reports depend on it.
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns the capacity that the user set, in bytes.
    pub(crate) fn wanted(&self) -> usize {
        // Relaxed: a reader decides under the lock, or decides again.
        self.wanted.load(Ordering::Relaxed)
    }
}
