//! The cache: its opens, and what is done to all of its pages.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};

use crate::api::file::File;
use crate::backing::Backing;
use crate::memory::capacity;
use crate::memory::reclaim;
use crate::memory::relief;
use crate::state::shared::Shared;
use crate::state::stats::CacheStats;
use crate::state::units::CACHED;
use crate::writeback::dirty_pages;
use crate::writeback::sync;

/// The time that [`Cache::quiesce`] waits for requests to distant stores.
const DISTANT_QUIESCE: Duration = Duration::from_secs(1);

/// Files cached in a bounded amount of memory. A clone is another handle on the same cache.
///
/// The memory is freed when the last clone, the last [`File`] and the last handle are dropped.
///
/// # Examples
///
/// ```
/// use folio_cache::Cache;
///
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data");
/// let cache = Cache::new(64 << 20)?; // 64 MiB
/// let file = cache.create(&path)?;
/// file.append(b"some bytes")?;
/// assert_eq!(cache.open(&path)?.len(), 10); // visible at once through this cache
/// cache.flush()?; // and now to other programs
/// assert_eq!(std::fs::read(&path)?, b"some bytes");
/// # Ok(())
/// # }
/// ```
pub struct Cache<S: Scheme = DefaultScheme> {
    pub(crate) shared: Arc<Shared<S>>,
}

impl<S: Scheme> Cache<S> {
    /// Opens what any [`Backing`] provides. Backings with the same file id share their pages.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if an object of a distant store with this key is in memory.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of [`Backing::version`].
    pub fn open_backing(&self, backing: Arc<dyn Backing>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        File::new(&self.shared, backing, false, None)
    }

    /// Writes the dirty pages of all files to their backings, which may keep them in memory for a
    /// while.
    ///
    /// A `File` in a `static` is never dropped: call this before `main` returns.
    ///
    /// Many files are written at a time, so a slow or hung one does not delay the others.
    ///
    /// # Errors
    ///
    /// - The first error of a backing. It is also reported to each open of that file.
    /// - `TimedOut` if a call of a backing has not ended for 30 seconds. All other files are
    ///   written then. Beside a thousand files that hang, those without a thread are given up too.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn flush(&self) -> io::Result<()> {
        self.shared.check_process()?;
        sync::write_back_all(&self.shared)
    }

    /// Evicts at least `pages` unpinned clean pages, coldest first, and further pages of the same
    /// folios: at most about half as many again. Returns the number of pages evicted, which is less
    /// than `pages` if the rest is pinned or dirty.
    pub fn reclaim(&self, pages: usize) -> usize {
        if self.shared.is_inherited() { 0 } else { reclaim::reclaim(&self.shared, pages) }
    }

    /// Waits until no page is being read ahead, or written by the flusher. Requests of a reader
    /// that was just dropped continue for a while, and keep its file open. Waits for slow requests,
    /// not for hung ones: beside files in use it may take long. See [`File::quiesce`] for one file.
    /// Waits at most a second for requests to distant stores, and does not know of those that a
    /// spawner drives.
    pub fn quiesce(&self) {
        if self.shared.is_inherited() {
            return;
        }
        self.shared.io_pool.quiesce();
        self.shared.flusher.quiesce();
        self.shared.flush_pool.quiesce(|time| self.shared.requests.longer_than(time));
        self.shared.reclaimer.quiesce();
        self.shared.drive.quiesce(DISTANT_QUIESCE);
    }

    /// Sets the maximum number of background I/O threads for one file. 0 disables all threads of
    /// the cache.
    ///
    /// All files together have at most twice as many and one more. Each file leaves half of those
    /// that are free to the others, so that one with slow or hung reads does not hold up the rest.
    /// A thread with a read of more than 100 ms does not count against other files. One with a read
    /// of more than a second does not count at all, up to 256 threads.
    ///
    /// These threads read ahead, and fetch the misses of futures: each handles one page or one
    /// extent of adjacent pages at a time. The default is 16. More help if a backing is slow to
    /// answer. The flusher has threads of its own: one for each file that it writes at a time, at
    /// most 64 that began less than 100 ms ago, 256 that do not hang, and 1024 in all.
    ///
    /// With 0, a reader reads its own pages, a future reads when it is polled, and a miss that
    /// finds no free page evicts some. Dirty pages are written by syncs and flushes, by the last
    /// close, and by writers past a quarter of the capacity. Existing threads end after their
    /// current work. Nothing is prefetched from distant stores unless there is a spawner. Memory
    /// pressure is followed by [`relieve`](Self::relieve) only.
    pub fn set_io_threads(&self, threads: usize) {
        if self.shared.is_inherited() {
            return;
        }
        self.shared.io_pool.set_io_threads(threads);
        self.shared.flusher.set_may_start(threads > 0);
        self.shared.flush_pool.set_may_start(threads > 0);
        self.shared.reclaimer.set_may_start(threads > 0);
        self.shared.drive.set_may_start(threads > 0);
        if let Some(watched) = &self.shared.pressure {
            watched.watcher.set_may_start(threads > 0);
        }
        if threads > 0 && !self.shared.registry.all().is_empty() {
            self.shared.watch_pressure();
        }
        if threads > 0 && dirty_pages::count(&self.shared) > 0 {
            // There was no flusher when they became dirty.
            self.shared.flusher.notify_soon();
        }
    }

    /// Reads the sources of memory pressure, and gives back the memory that they ask for, or takes
    /// some again. Returns the bytes given back.
    ///
    /// A cache with threads does this by itself from the first open on
    /// ([`CacheBuilder::pressure`](crate::CacheBuilder::pressure)). Without threads, call it as
    /// often as memory may become short. Returns 0 without sources, and in a child forked after the
    /// cache was built.
    pub fn relieve(&self) -> usize {
        if self.shared.is_inherited() { 0 } else { relief::relieve(&self.shared) }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn shared(&self) -> &Shared<S> {
        &self.shared
    }

    /// Returns the counters since the cache was built, and what its ranges show and pin now.
    pub fn stats(&self) -> CacheStats {
        let [shown_bytes, pinned_bytes] = self.shared.shown.get();
        CacheStats { shown_bytes, pinned_bytes, ..self.shared.groups.stats() }
    }

    /// Returns the memory of the indexes that find the pages of open files, in bytes. If the
    /// capacity has paid blocks of 2 MiB for them that are more, returns these. The memory is
    /// released after the last close.
    pub fn index_bytes(&self) -> usize {
        let spare =
            if self.shared.is_inherited() { 0 } else { capacity::spare_bytes(&self.shared) };
        self.shared.leaves.bytes().max(spare.saturating_sub(self.file_bytes()))
    }

    /// Returns the memory of the state of open files, in bytes. The capacity pays for it, as for
    /// indexes. The memory is released after the last close.
    ///
    /// A file of one page that was only read costs about 210 bytes, beside its backing. So a
    /// million of them fit into 256 MiB, beside 56 MiB of pages. An open fails with `OutOfMemory`
    /// if the state of open files has 13/16 of the capacity.
    pub fn file_bytes(&self) -> usize {
        self.shared.leaves.file_bytes()
    }

    /// Sets the capacity, rounded down to 2 MiB, while the cache is in use. Memory beyond it goes
    /// back to the system. Pages in that memory move elsewhere, or are evicted.
    ///
    /// Where memory pressure is followed, this is the maximum: the capacity may be less.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if `capacity` is less than 2 MiB or more than the maximum capacity
    ///   ([`CacheBuilder::max_capacity`](crate::CacheBuilder::max_capacity)). Nothing has changed
    ///   then.
    /// - `ResourceBusy` if so much is pinned that too few blocks of 2 MiB can be given back. Some
    ///   have been: [`capacity`](Self::capacity) returns what was reached.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn set_capacity(&self, capacity: usize) -> io::Result<()> {
        self.shared.check_process()?;
        let before = self.capacity();
        let done = capacity::set_capacity(&self.shared, capacity);
        tracing::info!(before, wanted = capacity, now = self.capacity(), "the capacity was set");
        done
    }

    /// Returns the maximum memory for pages of files, for the indexes that find them, and for the
    /// state of open files, in bytes.
    pub fn capacity(&self) -> usize {
        self.shared.capacity()
    }

    /// Returns the largest capacity that [`set_capacity`](Self::set_capacity) accepts, in bytes.
    pub fn max_capacity(&self) -> usize {
        capacity::most_bytes(&self.shared)
    }

    /// Returns the name that the builder was given.
    pub fn name(&self) -> &str {
        &self.shared.name
    }
}

impl<S: Scheme> fmt::Debug for Cache<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("name", &self.name())
            .field("capacity", &self.capacity())
            .field("cached_bytes", &(self.shared.zone().count_kind(CACHED) * FRAME_SIZE))
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<S: Scheme> Clone for Cache<S> {
    fn clone(&self) -> Self {
        self.shared.kept.cloned();
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Scheme> Drop for Cache<S> {
    fn drop(&mut self) {
        if self.shared.leak_if_inherited() {
            return;
        }
        self.shared.kept.dropped(|| self.shared.registry.all());
    }
}
#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use folio_frames::Owner;

    use super::*;
    use crate::backing::testing::{Call, Fault, Memory};
    use crate::rt::worker::{Job, Worker};

    /// A file of which every read fails.
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
    fn a_failed_fill_leaves_nothing_and_each_reader_gets_its_error() {
        let cache = Cache::new(2 << 20).unwrap();
        let file = unreadable(&cache);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let error = file.read_at(&mut [0; 8], 0).unwrap_err();
                        assert_eq!(
                            error.raw_os_error(),
                            Some(rustix::io::Errno::BADF.raw_os_error())
                        );
                    }
                });
            }
        });
        assert_eq!(file.page(4096).unwrap_err().raw_os_error(), Some(9));
        // Readers that wait for one another share a miss.
        assert!((201..=601).contains(&cache.stats().misses), "{:?}", cache.stats());
        let zone = cache.frames().zone().stats();
        assert_eq!(
            (zone.free_frames, cache.frames().zone().count_kind(CACHED)),
            (zone.online_frames, 0)
        );
    }

    /// `quiesce` waits while the worker backs off and has been notified again. It must not sleep
    /// for ever when the worker is told to end.
    #[test]
    fn quiesce_returns_when_the_worker_ends() {
        static JOB: Job<Shared<DefaultScheme>> =
            Job { name: "resting", delay: Duration::ZERO, work: |_| Duration::from_millis(300) };
        let cache = Cache::<DefaultScheme>::new(2 << 20).unwrap();
        let worker = Arc::new(Worker::new(&JOB, "test", Arc::downgrade(&cache.shared)));
        worker.notify_now();
        worker.quiesce();
        worker.notify_now();
        let (report, reported) = mpsc::channel();
        let waits = Arc::clone(&worker);
        thread::spawn(move || {
            waits.quiesce();
            report.send(())
        });
        thread::sleep(Duration::from_millis(50));
        worker.set_may_start(false);
        reported.recv_timeout(Duration::from_secs(20)).expect("it sleeps for ever");
    }

    /// The check of R8, provoked from inside: no caller can put a page into a slot of another page.
    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    fn a_lookup_that_gets_another_page_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [1; 12_288]).unwrap();
        let cache = Cache::<DefaultScheme>::new(2 << 20).unwrap();
        let file = cache.open(&path).unwrap();
        // Of these the index has a slot, and that of the page before.
        for offset in [0, 8192] {
            file.read_at(&mut [0], offset).unwrap();
        }
        let (zone, second_page) = (cache.frames().zone(), 1);
        assert!(cache.shared.with_slot(zone.pfns().start, second_page, &mut |slot| {
            let mut folio = zone.alloc_frozen(folio_frames::Order::ZERO).unwrap();
            folio.set_owner(CACHED, 77);
            slot.install(folio).unwrap().publish();
        }));
        let read = std::panic::AssertUnwindSafe(|| file.read_at(&mut [0], 4096));
        let panic = std::panic::catch_unwind(read).expect_err("no check failed");
        let message = panic.downcast_ref::<String>().expect("a message");
        assert!(message.contains("which holds another page (R8)"), "{message}");
    }
}
