//! Files of distant stores: how they are opened, found again and forgotten, and how bytes are read
//! from them.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use folio_ref::Scheme;

use crate::api::cache::Cache;
use crate::api::file::File;
use crate::api::open::Open;
use crate::backing::error::error;
use crate::backing::remote::{AsyncBacking, Key, RemoteVersion};
use crate::coherence::version;
use crate::memory::file_room;
use crate::read::collect::{Sink, gather};
use crate::read::copy;
use crate::read::learn;
use crate::read::request::How;
use crate::rt::block_on::block_on;
use crate::rt::coop;
use crate::state::frames::FolioRef;
use crate::state::groups::GroupState;
use crate::state::mapping::Mapping;
use crate::state::registry::Found;
use crate::state::remote::Remote;
use crate::state::shared::Shared;

impl<S: Scheme> Cache<S> {
    /// Opens an object of a store that answers late. Makes no request: the first answer tells the
    /// length. Opens with equal keys share their pages, and requests go to the backing of the
    /// latest open.
    ///
    /// Pages stay cached after the last close, as long as there is memory and a clone of the
    /// cache. The file is read-only.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use folio_cache::{Cache, testing::Distant};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let cache = Cache::new(4 << 20)?;
    /// let file = cache.open_async(Arc::new(Distant::new(&[7; 10_000])))?;
    /// # pollster::block_on(async {
    /// let bytes = file.bytes_async(9000, 5000).await?;
    /// assert_eq!(bytes.len(), 1000);
    /// assert_eq!(file.known_len(), Some(10_000));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if a blocking backing with this key is open.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn open_async(&self, backing: Arc<dyn AsyncBacking>) -> io::Result<File<S>> {
        open(&self.shared, backing, None)
    }

    /// Opens an object like [`open_async`](Self::open_async). Its length and validator are known
    /// already, from a listing for example. If pages of another version are cached, they leave, or
    /// the open fails, as the backing chooses.
    ///
    /// # Errors
    ///
    /// - `StaleNetworkFileHandle` if another version is cached and the backing wants that to fail.
    /// - `InvalidInput` if a blocking backing with this key is open.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    pub fn open_async_with(
        &self,
        backing: Arc<dyn AsyncBacking>,
        version: &RemoteVersion,
    ) -> io::Result<File<S>> {
        open_with(&self.shared, backing, version, None)
    }

    /// Returns the file with a key if it is open, or its pages are cached. Makes no request and no
    /// call of a backing.
    pub fn get(&self, key: &Key) -> Option<File<S>> {
        if self.shared.is_inherited() {
            return None;
        }
        self.shared.registry.by_key(key).map(File::of_mapping)
    }

    /// Drops the cached pages of the file with a key, except dirty ones. Of an object of a distant
    /// store, forgets the version too: the next answer tells it anew. Returns `true` if the file
    /// was in memory. Handles keep their pages.
    pub fn invalidate(&self, key: &Key) -> bool {
        if self.shared.is_inherited() {
            return false;
        }
        let mapping = self.shared.registry.by_key(key);
        mapping.as_deref().map(version::invalidate).is_some()
    }
}

/// Opens an object of a store that answers late, in a group or in any.
pub(crate) fn open<S: Scheme>(
    shared: &Arc<Shared<S>>,
    backing: Arc<dyn AsyncBacking>,
    group: Option<&Arc<GroupState>>,
) -> io::Result<File<S>> {
    shared.check_process()?;
    shared.watch_pressure();
    let key = backing.key();
    file_room::check(shared, Mapping::<S>::BYTES + Remote::<S>::bytes_of(&key))?;
    let remote = Remote::new(key.clone(), Arc::clone(&backing));
    // No call of the backing: the lock of all files is held.
    let make = |id| Mapping::distant(shared, id, remote);
    let to_open = shared.groups.to_open(group)?;
    let removals = shared.registry.removals();
    let (mapping, found) = shared.registry.get_or_insert(&key, to_open, removals, make)?;
    shared.groups.check_file(mapping.id, group)?;
    let Some(remote) = mapping.remote() else {
        let message = format!("a blocking backing with the key {key:?} is open");
        return Err(error(io::ErrorKind::InvalidInput, message));
    };
    if found == Found::Open {
        remote.set_backing(backing);
    } else {
        file_room::grown(shared);
    }
    Ok(File::of(Open::distant(mapping)))
}

/// Opens an object of which the version is known, in a group or in any.
pub(crate) fn open_with<S: Scheme>(
    shared: &Arc<Shared<S>>,
    backing: Arc<dyn AsyncBacking>,
    version: &RemoteVersion,
    group: Option<&Arc<GroupState>>,
) -> io::Result<File<S>> {
    let on_change = backing.on_change();
    let file = open(shared, backing, group)?;
    if let Some(remote) = file.opened.mapping.remote() {
        let mut lock = version::lock(&file.opened.mapping, remote);
        lock.agree(version, on_change)?;
        lock.forget_unversioned();
    }
    Ok(file)
}

impl<S: Scheme> File<S> {
    /// Returns a file of a mapping that is in memory.
    pub(crate) fn of_mapping(mapping: Arc<Mapping<S>>) -> Self {
        if mapping.remote().is_some() {
            return Self::of(Open::distant(mapping));
        }
        let backing = Arc::clone(mapping.backing());
        Self::of(Open::new(mapping, backing, false))
    }

    /// Returns the length in bytes. If it is not known, asks the store for it, without blocking.
    ///
    /// # Errors
    ///
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of [`AsyncBacking::version`].
    pub async fn len_async(&self) -> io::Result<u64> {
        match self.known_len() {
            Some(len) => Ok(len),
            None => learn::len(&self.opened.mapping, false).await,
        }
    }

    /// Returns the length in bytes. If it is not known, asks the store for it and waits.
    pub(crate) fn len_or_error(&self) -> io::Result<u64> {
        match self.known_len() {
            Some(len) => Ok(len),
            None => block_on(learn::len(&self.opened.mapping, true)),
        }
    }

    /// Asks the store for the version, and drops the pages if it is another one. Returns `true`
    /// then.
    pub(crate) fn revalidate_distant(&self) -> io::Result<bool> {
        block_on(learn::revalidate(&self.opened.mapping))
    }

    /// Reads into several buffers from an offset each. Returns the result of each.
    pub(crate) async fn read_distant(&self, into: &mut [Into<'_>], how: How) -> io::Result<()> {
        let ranges: Vec<_> = into.iter().map(|it| (it.offset, it.buf.len())).collect();
        gather(&self.opened.mapping, how, &ranges, &mut Copy { into }).await
    }

    /// Reads into a buffer from an offset on.
    pub(crate) async fn read_at_distant(
        &self,
        buf: &mut [u8],
        offset: u64,
        how: How,
    ) -> io::Result<usize> {
        if let Some(read) = copy::read_cached(&self.opened.mapping, offset, buf) {
            coop::passed().await;
            return Ok(read);
        }
        let mut into = [Into::new(buf, offset)];
        self.read_distant(&mut into, how).await?;
        let [into] = into;
        into.finish()
    }
}

/// A buffer to read into, with its offset and its result.
pub(crate) struct Into<'b> {
    buf: &'b mut [u8],
    offset: u64,
    done: usize,
    error: Option<io::Error>,
}

impl<'b> Into<'b> {
    pub(crate) fn new(buf: &'b mut [u8], offset: u64) -> Self {
        Self { buf, offset, done: 0, error: None }
    }

    /// Returns the length of the buffer.
    pub(crate) fn wanted(&self) -> usize {
        self.buf.len()
    }

    /// Returns the number of bytes read, or the error if there are none.
    pub(crate) fn finish(self) -> io::Result<usize> {
        match self.error {
            // A short count: the next read returns the error.
            Some(error) if self.done == 0 => Err(error),
            _ => Ok(self.done),
        }
    }
}

struct Copy<'c, 'b> {
    into: &'c mut [Into<'b>],
}

impl<S: Scheme> Sink<S> for Copy<'_, '_> {
    fn begin(&mut self) {
        for into in &mut *self.into {
            (into.done, into.error) = (0, None);
        }
    }

    fn push(&mut self, range: usize, folio: FolioRef<S>, bytes: Range<usize>) -> io::Result<()> {
        let into = &mut self.into[range];
        let end = into.done + bytes.len();
        into.buf[into.done..end].copy_from_slice(&folio.as_slice_from_frame()[bytes]);
        into.done = end;
        Ok(())
    }

    fn failed(&mut self, range: usize, error: io::Error) -> io::Result<()> {
        self.into[range].error = Some(error);
        Ok(())
    }
}
