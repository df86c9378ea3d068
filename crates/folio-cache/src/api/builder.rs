//! Builds a cache: capacity, policy, threads and name.

use std::fmt;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;
use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};
use folio_uring::Process;
use rustix::io::Errno;

use crate::api::cache::Cache;
use crate::backing::error::{error, numbered};
use crate::backing::remote::Spawn;
use crate::memory::capacity;
use crate::memory::limits;
use crate::memory::relief;
use crate::memory::watermarks::set_watermarks;
use crate::policy::{HotCold, Policy};
use crate::pressure::Pressure;
use crate::read::request::IN_FLIGHT_SHARE;
use crate::rt::batches::Batches;
use crate::rt::drive::Drive;
use crate::rt::flush_pool::FlushPool;
use crate::rt::in_flight::MemoryWait;
use crate::rt::io_pool::IoPool;
use crate::rt::permits::Permits;
use crate::rt::recorder::{Recorder, USES_ONE_IN};
use crate::rt::searches::Searches;
use crate::rt::shim::Mutex;
use crate::rt::watcher::Descriptors;
use crate::rt::worker::Worker;
use crate::state::calls::Calls;
use crate::state::fill_waiters::FillWaiters;
use crate::state::frames::Arena;
use crate::state::groups::Groups;
use crate::state::kept::Kept;
use crate::state::leaves::Leaves;
use crate::state::live::Live;
use crate::state::lone_misses::LoneMisses;
use crate::state::registry::Registry;
use crate::state::requests::Requests;
use crate::state::shared::{Capacity, Chooser, Opened, Shared, Watched};
use crate::state::shown::Shown;

/// The default of [`CacheBuilder::requests`].
const REQUESTS: usize = 1024;

type MakePolicy = Box<dyn FnOnce(u32) -> Box<dyn Policy>>;

/// Configures a [`Cache`]. [`Cache::builder`] returns one.
///
/// The scheme of the reference counts is the type parameter: [`CacheBuilder::with_scheme`] selects
/// another one than the default.
///
/// # Examples
///
/// A cache that can grow, with another policy and without threads:
///
/// ```
/// use folio_cache::Cache;
/// use folio_cache::policy::S3Fifo;
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::builder()
///     .capacity(4 << 20)
///     .max_capacity(16 << 20)
///     .policy(|frames| Box::new(S3Fifo::new(frames)))
///     .io_threads(0)
///     .name("thumbnails")
///     .build()?;
/// assert_eq!(cache.capacity(), 4 << 20);
/// cache.set_capacity(16 << 20)?;
/// # Ok(())
/// # }
/// ```
///
/// A cache with another scheme:
///
/// ```
/// use folio_cache::{CacheBuilder, schemes::LiveBitHigh};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = CacheBuilder::<LiveBitHigh>::with_scheme().capacity(4 << 20).build()?;
/// # drop(cache);
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder makes no cache until `build` is called"]
pub struct CacheBuilder<S: Scheme = DefaultScheme> {
    capacity: Option<usize>,
    max_capacity: Option<usize>,
    policy: Option<MakePolicy>,
    io_threads: Option<usize>,
    requests: usize,
    spawner: Option<Box<dyn Spawn>>,
    huge_pages: bool,
    scrub: bool,
    pressure: Option<Pressure>,
    recording: Option<(Box<dyn Write + Send>, u32)>,
    name: String,
    scheme: PhantomData<fn() -> S>,
}

impl Cache {
    /// Builds a cache that holds up to `capacity` bytes of files, rounded down to 2 MiB. Memory is
    /// taken as pages are read. [`Cache::builder`] has more options.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the capacity is less than 2 MiB or more than the memory of the machine.
    /// - `OutOfMemory` if the address space has no room.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Self::builder().capacity(capacity).build()
    }

    /// Returns a builder with all defaults. Its scheme is the default scheme;
    /// [`CacheBuilder::with_scheme`] selects another one.
    pub fn builder() -> CacheBuilder {
        CacheBuilder::with_scheme()
    }
}

impl<S: Scheme> CacheBuilder<S> {
    /// Returns a builder for a cache with the scheme `S`.
    pub fn with_scheme() -> Self {
        Self {
            capacity: None,
            max_capacity: None,
            policy: None,
            io_threads: None,
            requests: REQUESTS,
            spawner: None,
            huge_pages: true,
            scrub: false,
            pressure: None,
            recording: None,
            name: "folio".to_owned(),
            scheme: PhantomData,
        }
    }

    /// Sets the maximum memory for pages of files, for the indexes that find them, and for the
    /// state of open files, in bytes, rounded down to 2 MiB.
    ///
    /// The default is a quarter of the memory that this process may use: that of the machine, or
    /// the limit of its control groups, version 1 or 2.
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Sets the largest capacity that [`Cache::set_capacity`] accepts later, rounded down to 2 MiB.
    ///
    /// The default is the capacity. The difference costs addresses and a few bytes for each page,
    /// and no memory for pages.
    pub fn max_capacity(mut self, bytes: usize) -> Self {
        self.max_capacity = Some(bytes);
        self
    }

    /// Sets the eviction policy. `make` gets the number of frames at the maximum capacity.
    ///
    /// The default is [`HotCold`]. [`policy`](crate::policy) has an example of an own one.
    pub fn policy(mut self, make: impl FnOnce(u32) -> Box<dyn Policy> + 'static) -> Self {
        self.policy = Some(Box::new(make));
        self
    }

    /// Sets the maximum number of background I/O threads for one file. All files together have at
    /// most twice as many and one more. 0 disables all threads of the cache.
    ///
    /// The default is 16. See [`Cache::set_io_threads`].
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.io_threads = Some(threads);
        self
    }

    /// Sets what runs requests to distant stores that no reader waits for, such as those of
    /// [`File::prefetch`](crate::File::prefetch), and those of readers that block. A store that
    /// needs a runtime is then polled in that runtime only, by blocking readers too. With the
    /// feature `tokio`, a `tokio::runtime::Handle` is a spawner.
    ///
    /// It also runs requests that others wait for and that their readers have not polled for a
    /// quarter of a second or more, because their task waits for something else.
    ///
    /// Without a spawner, a thread of the cache drives what no reader waits for, or polls, and a
    /// reader that blocks polls its own requests.
    pub fn spawner(mut self, spawner: impl Spawn) -> Self {
        self.spawner = Some(Box::new(spawner));
        self
    }

    /// Sets the maximum number of requests in flight to all distant stores. 0 counts as 1.
    ///
    /// The default is 1024. Those that wait for their turn go by their
    /// [`Priority`](crate::Priority). A backing has a limit of its own
    /// ([`Preferences::in_flight`](crate::Preferences::in_flight)). From 8 on, one object leaves an
    /// eighth of them to others.
    pub fn requests(mut self, requests: usize) -> Self {
        self.requests = requests;
        self
    }

    /// Sets whether the system is advised to use huge pages for the memory (`madvise`).
    ///
    /// The default is `true`. Memory then becomes resident 2 MiB at a time.
    pub fn huge_pages(mut self, advised: bool) -> Self {
        self.huge_pages = advised;
        self
    }

    /// Sets whether the bytes of a page are zeroed as soon as its memory is free.
    ///
    /// A [`fill`](crate::Backing::fill) that looks at its buffers, or returns a count larger than
    /// the bytes it wrote, then meets zeroes and not the bytes of another file. So does a core
    /// dump. Each freed page costs the zeroing, about 100 ns for 4 KiB.
    ///
    /// The default is `false`: free memory holds the bytes of its last use. Debug builds overwrite
    /// them with `0xA5`.
    pub fn scrub(mut self, scrub: bool) -> Self {
        self.scrub = scrub;
        self
    }

    /// Sets the sources of memory pressure. The cache then gives memory back when it is short, and
    /// takes it again later, between a floor and the capacity. See [`pressure`](crate::pressure).
    ///
    /// The default is none: a capacity changes by [`Cache::set_capacity`] only, and no thread wakes
    /// up for it. [`Pressure::system`] is right for a program in a container, or beside others.
    pub fn pressure(mut self, pressure: Pressure) -> Self {
        self.pressure = Some(pressure);
        self
    }

    /// Records the pages that are read and written, for `folio policy`, which finds out the hits of
    /// each policy and size. One page in `one_in` is recorded, a power of two up to
    /// [`USES_ONE_IN`](crate::USES_ONE_IN). For a cache of `n` pages, `one_in` up to `n / 1000`
    /// estimates its hit ratio within about 1 %.
    ///
    /// Each use takes 8 bytes. A thread collects 512 of them, and then calls the writer in the
    /// middle of a read or write: a `File` is good enough. The writer must not use this cache: it
    /// would wait for itself. After an error or a panic of the writer nothing is recorded any more,
    /// and the cache logs a warning (`tracing`). The last uses are written when the cache and its
    /// files are dropped. A copy of one page takes a reference then; in a cache
    /// that records nothing it takes none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("uses.folio");
    /// let uses = std::fs::File::create(&path)?;
    /// let cache = folio_cache::Cache::builder().capacity(4 << 20).record_uses(uses, 1).build()?;
    /// let file = cache.create(dir.path().join("notes"))?;
    /// file.write_all_at(&[7; 3 * 4096], 0)?;
    /// file.read_exact_at(&mut [0; 10], 4096)?;
    /// drop((file, cache));
    /// assert_eq!(std::fs::metadata(&path)?.len(), 20 + 4 * 8); // header, 3 pages written, 1 read
    /// # Ok(())
    /// # }
    /// ```
    pub fn record_uses(mut self, to: impl Write + Send + 'static, one_in: u32) -> Self {
        self.recording = Some((Box::new(to), one_in));
        self
    }

    /// Sets the name: the prefix of the names of its threads, the label of its metrics, and a field
    /// of its `Debug` output.
    ///
    /// The default is "folio". Linux shows the first 15 bytes of a thread's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Builds the cache. Memory is taken as pages are read.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the capacity is less than 2 MiB, or more than the maximum capacity.
    /// - `InvalidInput` if the maximum capacity is more than the memory of the machine.
    /// - `InvalidInput` if the name contains a NUL.
    /// - `InvalidInput` if one page in a number is to be recorded that is no power of two, or above
    ///   [`USES_ONE_IN`](crate::USES_ONE_IN).
    /// - `InvalidInput` for a [`Pressure`] with a floor above the capacity, or a rate of 0.
    /// - `OutOfMemory` if the address space has no room.
    /// - The error of the writer that gets the recording.
    /// - The system's error if a [`Pressure`] needs a descriptor and none is free.
    pub fn build(self) -> io::Result<Cache<S>> {
        if self.name.contains('\0') {
            let message = format!("cache name {:?} contains a NUL", self.name);
            return Err(error(io::ErrorKind::InvalidInput, message));
        }
        let recorder = self.recording.map(|(to, one_in)| new_recorder(to, one_in)).transpose()?;
        let default = || limits::default_capacity().min(self.max_capacity.unwrap_or(usize::MAX));
        let wanted = self.capacity.unwrap_or_else(default);
        let most = capacity::check_new(self.max_capacity.unwrap_or(wanted))?;
        let first = capacity::check(capacity::check_new(wanted)?, most, "the maximum capacity")?;

        let arena = Arena::new(most, Shared::<S>::KINDS)?;
        if !self.huge_pages {
            arena.advise_huge_pages(false);
        }
        arena.zone().set_scrub(self.scrub);
        let frames = arena.zone().pfns().frames() as u32;
        let mut policy = match self.policy {
            Some(make) => make(frames),
            None => Box::new(HotCold::new(frames)),
        };
        let page_frames = set_watermarks(arena.zone(), frames);
        policy.resize(page_frames);
        let (name, requests) = (self.name, self.requests);
        let mut sources =
            self.pressure.map(|pressure| open_sources(pressure, first)).transpose()?;
        let (arrivals, taker) = Batches::new();
        let shared = Arc::new_cyclic(|me| Shared {
            arena: Arc::new(arena),
            registry: Registry::default(),
            leaves: Leaves::default(),
            recorder: recorder.map(Box::new),
            live: Live::default(),
            lone_misses: LoneMisses::default(),
            groups: Groups::new(page_frames),
            shown: Shown::take(),
            policy: CachePadded::new(Mutex::new(Chooser {
                policies: vec![Some(policy)],
                taker,
                named: Vec::new(),
                arrived: 0,
            })),
            arrivals,
            sweep: AtomicU32::new(0),
            is_pinned: AtomicBool::new(false),
            memory_wait: MemoryWait::default(),
            searches: Searches::default(),
            dirty_pages: AtomicU64::new(0),
            sick_pages: AtomicU64::new(0),
            unwritten: Mutex::default(),
            left_unsynced: Mutex::default(),
            flush_pool: FlushPool::new(&name),
            requests: Requests::default(),
            length_queries: Calls::default(),
            revalidations: Calls::default(),
            fill_waiters: Arc::new(FillWaiters::new()),
            flusher: Worker::new(const { &Shared::FLUSHER }, &name, Weak::clone(me)),
            reclaimer: Worker::new(const { &Shared::RECLAIMER }, &name, Weak::clone(me)),
            io_pool: IoPool::new(&name),
            remote_permits: Permits::shared(requests, first / FRAME_SIZE / IN_FLIGHT_SHARE),
            drive: Drive::new(&name),
            spawner: self.spawner,
            kept: Kept::default(),
            capacity: Capacity::new(most),
            pressure: sources
                .take()
                .map(|opened| Watched::new(opened, relief::watch, &name, Weak::clone(me))),
            process: Process::current(),
            name: name.into(),
        });
        if first < most {
            capacity::set_capacity(&shared, first)?;
        }
        let cache = Cache { shared };
        if let Some(threads) = self.io_threads {
            cache.set_io_threads(threads);
        }
        Ok(cache)
    }
}

/// Opens the sources of memory pressure, with the descriptors to wait for.
///
/// # Errors
///
/// - `InvalidInput` for rules that cannot hold for a cache of this capacity.
/// - The system's error if no descriptor is free.
fn open_sources(pressure: Pressure, capacity: usize) -> io::Result<Opened> {
    let sensors = pressure.open(capacity)?;
    let descriptors = Descriptors::new(sensors.descriptors()?)?;
    Ok((sensors, descriptors))
}

/// Returns a recorder of one page in `one_in`.
fn new_recorder(to: Box<dyn Write + Send>, one_in: u32) -> io::Result<Recorder> {
    if !one_in.is_power_of_two() || one_in > USES_ONE_IN {
        let message = format!(
            "one page in {one_in} cannot be recorded: give a power of two up to {USES_ONE_IN}"
        );
        return Err(error(io::ErrorKind::InvalidInput, message));
    }
    Recorder::new(to, one_in).map_err(|failed| {
        let message = format!("the recording of uses cannot be written: {failed}");
        match failed.raw_os_error() {
            Some(number) => numbered(failed.kind(), Errno::from_raw_os_error(number), message),
            None => io::Error::new(failed.kind(), message),
        }
    })
}

impl<S: Scheme> Default for CacheBuilder<S> {
    /// Returns a builder with all defaults.
    fn default() -> Self {
        Self::with_scheme()
    }
}

impl<S: Scheme> fmt::Debug for CacheBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheBuilder")
            .field("name", &self.name)
            .field("scheme", &S::NAME)
            .field("capacity", &self.capacity)
            .field("max_capacity", &self.max_capacity)
            .field("io_threads", &self.io_threads)
            .field("huge_pages", &self.huge_pages)
            .field("scrub", &self.scrub)
            .finish_non_exhaustive()
    }
}
