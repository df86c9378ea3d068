//! The cache: a budget of frames, and what is done to all of them.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use folio_frames::{
    Compacted, Contig, ContigError, FRAME_SIZE, MigrateError, OfflineError, Order, Pfn, UserSpace,
    migrate,
};
use folio_ref::{DefaultScheme, Scheme};
use folio_uring::Process;

use crate::api::file::File;
use crate::backing::{Backing, LocalFile};
use crate::memory::capacity;
use crate::memory::evict;
use crate::memory::limits;
use crate::memory::watermarks::set_watermarks;
use crate::policy::{HotCold, Policy};
use crate::rt::io_pool::IoPool;
use crate::rt::shim::Mutex;
use crate::rt::worker::Worker;
use crate::state::frames::{Arena, Offline, Zone};
use crate::state::registry::Registry;
use crate::state::requests::Requests;
use crate::state::shared::{Capacity, Shared};
use crate::state::stats::{CacheStats, Counters};
use crate::state::units::CACHED;
use crate::writeback::dirty_pages;
use crate::writeback::flush_pool::FlushPool;
use crate::writeback::sync;

/// Files cached in a fixed amount of memory. Cloning it gives another handle on the same cache.
#[derive(Clone)]
pub struct Cache<S: Scheme = DefaultScheme> {
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S: Scheme> Cache<S> {
    /// A cache that holds `capacity` bytes of files, rounded down to 2 MiB. Memory is taken as
    /// pages are read.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the budget is less than 2 MiB or more than the memory of the machine.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Self::with_policy(capacity, |frames| Box::new(HotCold::new(frames)))
    }

    /// A cache that may grow later: it begins with `capacity`, and
    /// [`set_capacity`](Self::set_capacity) may give it up to `most_bytes`.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new) for either; `InvalidInput` when the first is more than the second.
    pub fn growable(capacity: usize, most_bytes: usize) -> io::Result<Self> {
        let cache = Self::new(most_bytes)?;
        cache.set_capacity(capacity)?;
        Ok(cache)
    }

    /// A cache with a quarter of the memory that there is for this process: the machine's, or what
    /// its control groups allow, of either version.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), where a quarter is less than 2 MiB.
    pub fn with_default_capacity() -> io::Result<Self> {
        Self::new(limits::default_capacity())
    }

    /// As [`new`](Self::new), with another choice of what is reclaimed: `make` is given the number
    /// of frames.
    ///
    /// # Errors
    ///
    /// As `new`.
    pub fn with_policy(
        capacity: usize,
        make: impl FnOnce(u32) -> Box<dyn Policy>,
    ) -> io::Result<Self> {
        let capacity = capacity::check_new(capacity)?;
        let arena = Arena::new(capacity, Shared::<S>::KINDS)?;
        let frames = arena.zone().pfns().frames() as u32;
        let mut policy = make(frames);
        policy.resize(set_watermarks(arena.zone(), frames));
        let shared = Arc::new_cyclic(|me| Shared {
            arena: Arc::new(arena),
            registry: Registry::default(),
            counters: Counters::default(),
            policy: Mutex::new(policy),
            dirty_pages: AtomicU64::new(0),
            sick_pages: AtomicU64::new(0),
            unwritten: Mutex::default(),
            flush_pool: FlushPool::default(),
            requests: Requests::default(),
            flusher: Worker::new(const { &Shared::FLUSHER }, Weak::clone(me)),
            reclaimer: Worker::new(const { &Shared::RECLAIMER }, Weak::clone(me)),
            io_pool: IoPool::default(),
            capacity: Capacity::new(capacity),
            process: Process::current(),
        });
        Ok(Self { shared })
    }

    /// Opens a regular file for reading. Opens of one file, by whatever name, share its pages; an
    /// open looks whether the file changed and drops what is stale.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is no regular file (it never waits for the other end of a FIFO), else
    /// what the system says.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        self.open_backing(Arc::new(LocalFile::open(path)?))
    }

    /// Opens a regular file for reading and writing. What is written goes to the file after about a
    /// second, when it is synced, or when the last open of the file is dropped: see [`File`].
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_rw(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        self.open_backing(Arc::new(LocalFile::open_rw(path)?))
    }

    /// As [`open_rw`](Self::open_rw); the file is made if it is not there. What is in it stays.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn create(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        self.open_backing(Arc::new(LocalFile::create(path)?))
    }

    /// Writes the dirty pages of all files to their backings, which may keep them in memory for a
    /// while.
    ///
    /// # Errors
    ///
    /// The first one; each is told to those who have the file open as well.
    pub fn flush(&self) -> io::Result<()> {
        self.shared.check_process()?;
        sync::write_back_all(&self.shared)
    }

    /// Opens what any [`Backing`] gives. Backings of one identity share their pages, as opens of
    /// one file do.
    ///
    /// # Errors
    ///
    /// What the backing says when it is asked for its version.
    pub fn open_backing(&self, backing: Arc<dyn Backing>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        File::new(&self.shared, backing)
    }

    /// Frees `frames` pages that nobody holds, those not used lately first, and some more where
    /// they lie in one folio, about half as many at the most. How many it freed: fewer when the
    /// rest is held.
    pub fn reclaim(&self, frames: usize) -> usize {
        if self.shared.is_inherited() { 0 } else { evict::reclaim(&self.shared, frames) }
    }

    /// Moves the page in one frame to another frame, and says which. Readers meanwhile sleep.
    pub fn migrate(&self, pfn: Pfn) -> Result<Pfn, MigrateError> {
        if self.shared.is_inherited() {
            return Err(MigrateError::NotMovable);
        }
        migrate(self.zone(), pfn, &*self.shared)
    }

    /// Takes 2 MiB out of the cache: their pages move elsewhere and the memory goes back to the
    /// system.
    pub fn offline(&self, block: usize) -> Result<Offline<S>, OfflineError> {
        if self.shared.is_inherited() {
            return Err(OfflineError::NotOnline);
        }
        self.shared.arena.offline(block, &*self.shared)
    }

    /// Gives a block back to the cache.
    pub fn online(&self, offline: Offline<S>) {
        if !self.shared.is_inherited() {
            self.shared.arena.online(offline);
        }
    }

    /// Waits until no pages are being read ahead, or written by the flusher. What a reader that
    /// just left had requested is under way for a while, and keeps its file open.
    pub fn quiesce(&self) {
        if self.shared.is_inherited() {
            return;
        }
        self.shared.io_pool.quiesce();
        self.shared.flusher.quiesce();
        self.shared.flush_pool.quiesce(&self.shared.requests);
        self.shared.reclaimer.quiesce();
    }

    /// Sets how many pages or runs of neighbouring pages are read in the background at once at the
    /// most, each by a thread of the cache: what is read ahead, and what futures miss. 16
    /// unless it is set; more pay where a backing takes long to answer.
    ///
    /// With 0 the cache starts no thread at all: what would be read ahead is read by who asks for
    /// it, a future reads when it is polled, who finds no free page frees some, and what is
    /// dirty is written when it is synced or flushed, by the last close, and by writers past a
    /// quarter of the budget. Threads that are there end after what they do.
    pub fn set_io_threads(&self, threads: usize) {
        if self.shared.is_inherited() {
            return;
        }
        self.shared.io_pool.set_io_threads(threads);
        self.shared.flusher.set_may_start(threads > 0);
        self.shared.flush_pool.set_may_start(threads > 0);
        self.shared.reclaimer.set_may_start(threads > 0);
        if threads > 0 && dirty_pages::count(&self.shared) > 0 {
            // Who made it dirty found no flusher.
            self.shared.flusher.notify_soon();
        }
    }

    /// Rebuilds up to `blocks` whole blocks of 2 MiB by moving pages together.
    pub fn compact(&self, blocks: u32) -> Compacted {
        if self.shared.is_inherited() {
            return Compacted::default();
        }
        self.zone().compact(blocks, &*self.shared)
    }

    /// Frames of the cache that lie together, for the caller: pages in them move elsewhere.
    pub fn alloc_contig(
        &self,
        frames: u32,
        align: Order,
    ) -> Result<Contig<UserSpace<S>>, ContigError> {
        if self.shared.is_inherited() {
            return Err(ContigError::NotOnline);
        }
        self.zone().alloc_contig(frames, align, &*self.shared)
    }

    /// Gives memory back to the system until this many blocks of 2 MiB are online; pages in the
    /// others move together. It does not reclaim: who wants more room than is free does so
    /// before.
    pub fn shrink_to(&self, blocks: usize) -> Result<(), OfflineError> {
        if self.shared.is_inherited() {
            return Err(OfflineError::NotOnline);
        }
        self.shared.arena.shrink_to(blocks, &*self.shared)
    }

    /// Takes memory again that [`Cache::shrink_to`] gave back, until this many blocks are online.
    /// How many are.
    pub fn grow_to(&self, blocks: usize) -> usize {
        if self.shared.is_inherited() {
            return self.shared.arena.online_blocks();
        }
        self.shared.arena.grow_to(blocks)
    }

    /// The frames of the cache: to walk them, or to look at them.
    pub fn zone(&self) -> &'static Zone<S> {
        self.shared.zone()
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn shared(&self) -> &Shared<S> {
        &self.shared
    }

    /// What it did so far.
    pub fn stats(&self) -> CacheStats {
        self.shared.counters.read()
    }

    /// The memory of the indexes that find the pages of open files, or what the budget has paid for
    /// them, in whole blocks of 2 MiB, if that is more: it comes back after the last close.
    pub fn index_bytes(&self) -> usize {
        let spare =
            if self.shared.is_inherited() { 0 } else { capacity::spare_bytes(&self.shared) };
        self.shared.registry.index_bytes().max(spare)
    }

    /// Makes the budget another one, rounded down to 2 MiB, while the cache is read. Memory beyond
    /// it goes back to the system; the pages in it move, or are reclaimed.
    ///
    /// # Errors
    ///
    /// - `InvalidInput`, when it is less than 2 MiB or more than the cache was made for
    ///   ([`new`](Self::new), [`growable`](Self::growable)). Nothing changed.
    /// - `ResourceBusy`, when so much is pinned that there are not enough blocks of 2 MiB to give
    ///   back. Those that could be given back are; [`capacity`](Self::capacity) says what
    ///   was reached.
    pub fn set_capacity(&self, capacity: usize) -> io::Result<()> {
        self.shared.check_process()?;
        let before = self.capacity();
        let done = capacity::set_capacity(&self.shared, capacity);
        tracing::info!(before, wanted = capacity, now = self.capacity(), "the capacity was set");
        done
    }

    /// The bytes of memory that it uses at the most for pages of files and for the index that finds
    /// them.
    pub fn capacity(&self) -> usize {
        self.shared.capacity()
    }
}

impl<S: Scheme> fmt::Debug for Cache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("capacity", &self.capacity())
            .field("cached_bytes", &(self.zone().count_kind(CACHED) * FRAME_SIZE))
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<S: Scheme> Drop for Cache<S> {
    fn drop(&mut self) {
        self.shared.leak_if_inherited();
    }
}
#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use folio_frames::Owner;

    use super::*;
    use crate::backing::{Call, Fault, Memory};
    use crate::rt::worker::Job;

    /// A file whose every read fails.
    fn unreadable(cache: &Cache) -> File {
        let memory = Memory::new(&[1; 8192]);
        memory.inject(
            Call::Fill,
            0,
            u64::MAX,
            Fault::Error(rustix::io::Errno::BADF.raw_os_error()),
        );
        cache.open_backing(Arc::new(memory)).unwrap()
    }

    #[test]
    fn a_fill_that_fails_leaves_nothing_and_each_reader_gets_the_error() {
        let cache = Cache::new(2 << 20).unwrap();
        let file = unreadable(&cache);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let error = file.read_at(0, &mut [0; 8]).unwrap_err();
                        assert_eq!(
                            error.raw_os_error(),
                            Some(rustix::io::Errno::BADF.raw_os_error())
                        );
                    }
                });
            }
        });
        assert_eq!(file.page(4096).unwrap_err().raw_os_error(), Some(9));
        assert_eq!(cache.stats().misses, 601);
        let zone = cache.zone().stats();
        assert_eq!((zone.free_frames, cache.zone().count_kind(CACHED)), (zone.online_frames, 0));
    }

    /// Who settles while the worker rests, and has been notified for again, once slept for ever when it
    /// was told to end.
    #[test]
    fn who_waits_for_a_worker_is_told_that_it_will_not_come() {
        static JOB: Job<Shared<DefaultScheme>> =
            Job { name: "resting", delay: Duration::ZERO, work: |_| Duration::from_millis(300) };
        let cache = Cache::<DefaultScheme>::new(2 << 20).unwrap();
        let worker = Arc::new(Worker::new(&JOB, Arc::downgrade(&cache.shared)));
        worker.notify_now();
        worker.quiesce();
        worker.notify_now();
        let (say, said) = mpsc::channel();
        let waits = Arc::clone(&worker);
        thread::spawn(move || {
            waits.quiesce();
            say.send(())
        });
        thread::sleep(Duration::from_millis(50));
        worker.set_may_start(false);
        said.recv_timeout(Duration::from_secs(20)).expect("it sleeps for ever");
    }

    /// R8's check, provoked from inside: no caller can put a page into another's slot.
    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn a_lookup_that_gets_another_page_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 8192]).unwrap();
        let cache = Cache::<DefaultScheme>::new(2 << 20).unwrap();
        let file = cache.open(&path).unwrap();
        file.read_at(0, &mut [0]).unwrap();
        let (zone, second_page) = (cache.zone(), 1);
        assert!(cache.shared.with_slot(zone.pfns().start, second_page, &mut |slot| {
            let mut folio = zone.alloc_frozen(folio_frames::Order::ZERO).unwrap();
            folio.set_owner(CACHED, 77);
            slot.install(folio).unwrap().publish();
        }));
        let read = std::panic::AssertUnwindSafe(|| file.read_at(4096, &mut [0]));
        let panic = std::panic::catch_unwind(read).expect_err("nobody noticed");
        let said = panic.downcast_ref::<String>().expect("a message");
        assert!(said.contains("which holds another page (R8)"), "{said}");
    }
}
