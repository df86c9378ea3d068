//! Groups of files: a share of the capacity, a priority, counters, and what is done to all files of
//! a group.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use folio_ref::{DefaultScheme, Scheme};

use crate::api::cache::Cache;
use crate::api::distant;
use crate::api::file::File;
use crate::api::options::OpenOptions;
use crate::backing::Backing;
use crate::backing::remote::{AsyncBacking, Priority, RemoteVersion};
use crate::coherence::version;
use crate::memory::{file_room, frames_view, resident};
use crate::policy::{HotCold, Policy};
use crate::state::groups::{GroupState, group_of};
use crate::state::memory_use::MemoryUse;
use crate::state::shared::Shared;
use crate::state::stats::{CacheStats, Counters};

type MakePolicy = Box<dyn FnOnce(u32) -> Box<dyn Policy>>;

/// A group of files of a cache. A clone is another handle on the same group.
///
/// A file belongs to the group of its first open for as long as it is in memory: while it is open,
/// or an object of a distant store has pages. An open that names no group takes the file as it is,
/// and an open that names another group fails. A file that is opened without a group is in the
/// group "", which has no share.
///
/// # Shares
///
/// A group with a share has at most this part of the memory for pages, and keeps what it has of it:
///
/// - A miss or a write that would exceed the share evicts pages of the group first. If all are
///   pinned or dirty, reads go on without the cache, and writes exceed the share.
/// - When memory is short, files without a share lose pages first. A group with a share loses pages
///   only if those have none that can be evicted.
///
/// So a scan in one group, or without a group, does not displace what another group has of its
/// share. All shares together are at most the whole. A group without a share competes with all
/// other files that have none.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Cache, Priority, testing::Distant};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::new(4 << 20)?;
/// let footers = cache.group("footers").share(0.25).priority(Priority::High).create()?;
/// let file = footers.open_async(Arc::new(Distant::new(&[7; 10_000])))?;
/// file.bytes(9000, 1000)?;
/// assert_eq!(footers.stats().misses, 1);
/// footers.invalidate();
/// assert_eq!(footers.memory_use().cached_bytes, 0);
/// # Ok(())
/// # }
/// ```
pub struct Group<S: Scheme = DefaultScheme> {
    pub(crate) shared: Arc<Shared<S>>,
    pub(crate) state: Arc<GroupState>,
}

/// Configures a group of files. [`Cache::group`] returns one.
#[must_use = "no group is made until `create` is called"]
pub struct GroupBuilder<S: Scheme = DefaultScheme> {
    shared: Arc<Shared<S>>,
    name: String,
    share: Option<f64>,
    priority: Priority,
    policy: Option<MakePolicy>,
}

impl<S: Scheme> GroupBuilder<S> {
    /// Sets the part of the memory for pages that the files of the group may have, and keep: more
    /// than 0, and at most 1 for all groups together. See [`Group`].
    ///
    /// The default is no share.
    pub fn share(mut self, share: f64) -> Self {
        self.share = Some(share);
        self
    }

    /// Sets the priority of requests to distant stores for files of the group.
    /// [`File::with_priority`] sets another one.
    ///
    /// The default is [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the eviction policy inside a share. `make` gets the number of frames of the cache. Has
    /// no effect without a share.
    ///
    /// The default is [`HotCold`].
    pub fn policy(mut self, make: impl FnOnce(u32) -> Box<dyn Policy> + 'static) -> Self {
        self.policy = Some(Box::new(make));
        self
    }

    /// Creates the group. It stays as long as the cache.
    ///
    /// # Errors
    ///
    /// - `AlreadyExists` if the cache has a group of this name.
    /// - `InvalidInput` if the share is not more than 0 and at most 1, or if all shares together
    ///   are more than 1.
    /// - `OutOfMemory` if the cache has 127 groups.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn create(self) -> io::Result<Group<S>> {
        let shared = self.shared;
        shared.check_process()?;
        let frames = shared.zone().pfns().frames() as u32;
        let policy = self.share.map(|_| match self.policy {
            Some(make) => make(frames),
            None => Box::new(HotCold::new(frames)),
        });
        let created = |group: &Arc<GroupState>| {
            if let Some(policy) = policy {
                frames_view::add_policy(&shared, group.number, policy);
            }
        };
        let state = shared.groups.create(&self.name, self.priority, self.share, created)?;
        Ok(Group { shared, state })
    }
}

impl<S: Scheme> fmt::Debug for GroupBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("name", &self.name)
            .field("share", &self.share)
            .field("priority", &self.priority)
            .finish_non_exhaustive()
    }
}

impl<S: Scheme> Cache<S> {
    /// Returns a builder for a new group of files. See [`Group`].
    pub fn group(&self, name: impl Into<String>) -> GroupBuilder<S> {
        GroupBuilder {
            shared: Arc::clone(&self.shared),
            name: name.into(),
            share: None,
            priority: Priority::Normal,
            policy: None,
        }
    }

    /// Returns the group with a name if it exists. The files without a group are in the group "".
    pub fn find_group(&self, name: &str) -> Option<Group<S>> {
        self.groups().into_iter().find(|group| group.name() == name)
    }

    /// Returns all groups. That of the files without a group, "", comes first.
    pub fn groups(&self) -> Vec<Group<S>> {
        let groups = self.shared.groups.all().map(Arc::clone);
        groups.map(|state| Group { shared: Arc::clone(&self.shared), state }).collect()
    }

    /// Returns the memory that pages and indexes of all files have now. Returns zeros in a child
    /// forked after the cache was built.
    pub fn memory_use(&self) -> MemoryUse {
        if self.shared.is_inherited() {
            // A thread of the parent may have held the locks of the zone.
            return MemoryUse::default();
        }
        let index_bytes = self.shared.leaves.bytes() as u64;
        let free = u64::from(self.shared.zone().stats().free_frames);
        let free_bytes = free * folio_frames::FRAME_SIZE as u64;
        MemoryUse { index_bytes, free_bytes, ..resident::memory_use(&self.shared, |_| true) }
    }
}

impl<S: Scheme> Group<S> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Returns the maximum number of bytes of its pages: its share of the memory that the cache has
    /// for pages now. Returns `None` without a share.
    pub fn limit(&self) -> Option<usize> {
        let frames = self.shared.groups.limit(&self.state)?;
        Some(frames as usize * folio_frames::FRAME_SIZE)
    }

    /// Returns the priority of requests for its files.
    pub fn priority(&self) -> Priority {
        self.state.priority
    }

    /// Returns the counters of its files since the group was created.
    pub fn stats(&self) -> CacheStats {
        self.state.counters.read()
    }

    /// Returns the memory that pages and indexes of its files have now. Returns zeros in a child
    /// forked after the cache was built.
    pub fn memory_use(&self) -> MemoryUse {
        resident::memory_use(&self.shared, |id| group_of(id) == self.state.number)
    }

    /// Drops the cached pages of all its files, open or kept, except dirty ones. Of objects of
    /// distant stores, forgets the versions too: the next answers tell them anew. Handles keep
    /// their pages. Does nothing in a child forked after the cache was built.
    pub fn invalidate(&self) {
        if self.shared.is_inherited() {
            return;
        }
        let files = self.shared.registry.all().into_iter();
        for mapping in files.filter(|mapping| group_of(mapping.id) == self.state.number) {
            version::invalidate(&mapping);
        }
    }

    /// Opens a regular file for reading, in this group. [`OpenOptions::group`] does so with other
    /// options.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the file is in another group, or the path leads to something other than
    ///   a regular file with a stable size.
    /// - `OutOfMemory` if the group has 16777216 files in memory, or if so many files are open that
    ///   their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the system call.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        let backing = OpenOptions::new().read(true).open_local(path)?;
        self.open_backing(Arc::new(backing))
    }

    /// Opens what any [`Backing`] provides, in this group. Backings with the same file id share
    /// their pages.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the file is in another group, or an object of a distant store with this
    ///   key is in memory.
    /// - `OutOfMemory` if the group has 16777216 files in memory, or if so many files are open that
    ///   their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of [`Backing::version`].
    pub fn open_backing(&self, backing: Arc<dyn Backing>) -> io::Result<File<S>> {
        self.shared.check_process()?;
        File::new(&self.shared, backing, false, Some(&self.state))
    }

    /// Opens an object of a store that answers late, in this group. See [`Cache::open_async`].
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the object is in another group, or a blocking backing with this key is
    ///   open.
    /// - `OutOfMemory` if the group has 16777216 files in memory, or if so many files are open that
    ///   their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn open_async(&self, backing: Arc<dyn AsyncBacking>) -> io::Result<File<S>> {
        distant::open(&self.shared, backing, Some(&self.state))
    }

    /// Opens an object of which the version is known, in this group. See
    /// [`Cache::open_async_with`].
    ///
    /// # Errors
    ///
    /// - `StaleNetworkFileHandle` if another version is cached and the backing wants that to fail.
    /// - `InvalidInput` if the object is in another group, or a blocking backing with this key is
    ///   open.
    /// - `OutOfMemory` if the group has 16777216 files in memory, or if so many files are open that
    ///   their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn open_async_with(
        &self,
        backing: Arc<dyn AsyncBacking>,
        version: &RemoteVersion,
    ) -> io::Result<File<S>> {
        distant::open_with(&self.shared, backing, version, Some(&self.state))
    }
}

impl<S: Scheme> Clone for Group<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), state: Arc::clone(&self.state) }
    }
}

impl<S: Scheme> fmt::Debug for Group<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name())
            .field("share", &self.state.share)
            .field("priority", &self.priority())
            .finish_non_exhaustive()
    }
}

impl<S: Scheme> File<S> {
    /// Returns the group of the file.
    pub fn group(&self) -> Group<S> {
        let shared = Arc::clone(&self.opened.mapping.shared);
        let state = Arc::clone(shared.groups.of(self.opened.mapping.id));
        Group { shared, state }
    }

    /// Returns the counters of the file. The first call returns zeros and begins to count: counters
    /// take 4 KiB of the capacity for a file, as each thread counts in memory of its own. If there
    /// is no room for these, as very many files are open, each call returns zeros. Hits are counted
    /// as those of a cache, with the feature `hits`.
    ///
    /// Counted for a file is what its reads and writes do. Direct reclaims, and the bytes that
    /// ranges show and pin, are counted for a cache alone.
    pub fn stats(&self) -> CacheStats {
        let mapping = &self.opened.mapping;
        if mapping.counters.get().is_none() && !mapping.shared.is_inherited() {
            if file_room::check(&mapping.shared, size_of::<Counters>()).is_err() {
                return CacheStats::default();
            }
            mapping.make_counters();
            file_room::grown(&mapping.shared);
        }
        mapping.counters.get().map_or_else(CacheStats::default, Counters::read)
    }

    /// Returns the memory that pages and index of the file have now. Returns zeros in a child
    /// forked after the cache was built.
    pub fn memory_use(&self) -> MemoryUse {
        resident::memory_use(&self.opened.mapping.shared, |id| id == self.opened.mapping.id)
    }
}
