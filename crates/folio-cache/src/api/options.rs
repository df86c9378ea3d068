//! Opens local files: the options, as std's `OpenOptions`, and the methods of a cache.

use std::io;
use std::path::Path;
use std::sync::Arc;

use folio_ref::Scheme;
use rustix::fs::OFlags;

use crate::api::cache::Cache;
use crate::api::file::File;
use crate::api::group::Group;
use crate::backing::LocalFile;
use crate::backing::error::error;
use crate::state::groups::GroupState;

/// Options for opening a local file through a cache. They follow [`std::fs::OpenOptions`].
///
/// A file that is opened for writing can be read too: to write a part of a page, the cache reads
/// the rest.
///
/// # Examples
///
/// ```
/// use std::io::Write;
/// use folio_cache::{Cache, OpenOptions};
///
/// # fn main() -> std::io::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// let cache = Cache::new(4 << 20)?;
/// let log = OpenOptions::new().append(true).create(true).open(&cache, &path)?;
/// log.cursor().write_all(b"one line\n")?;
/// log.cursor().write_all(b"another line\n")?;
/// log.sync_data()?;
/// assert_eq!(std::fs::read(&path)?, b"one line\nanother line\n");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own, as std's")]
pub struct OpenOptions {
    read: bool,
    write: bool,
    append: bool,
    truncate: bool,
    create: bool,
    create_new: bool,
    direct: bool,
    mode: u32,
    group: Option<Arc<GroupState>>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// Returns options that grant no access yet. All are off, and the mode is `0o666`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            read: false,
            write: false,
            append: false,
            truncate: false,
            create: false,
            create_new: false,
            direct: false,
            mode: 0o666,
            group: None,
        }
    }

    /// Sets read access.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.read = read;
        self
    }

    /// Sets write access.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.write = write;
        self
    }

    /// Sets write access, and makes the writes of a [`FileCursor`](crate::FileCursor) append.
    ///
    /// [`File::write_at`] still writes at its offset.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.append = append;
        self
    }

    /// Sets whether the file is truncated to 0 bytes. That needs write access.
    ///
    /// Dirty pages of other opens of the file through this cache are dropped with its bytes.
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.truncate = truncate;
        self
    }

    /// Sets whether a missing file is created. That needs write or append access.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    /// Sets whether the file must be created by this open. That needs write or append access, and
    /// overrides `create` and `truncate`.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.create_new = create_new;
        self
    }

    /// Sets whether whole pages bypass the kernel's page cache (`O_DIRECT`), where the file system
    /// allows it. See [`LocalFile::direct`].
    pub fn direct(&mut self, direct: bool) -> &mut Self {
        self.direct = direct;
        self
    }

    /// Sets the permission bits of a file that is created. The umask of the process is subtracted.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Sets the group of the file. A file already in memory must belong to this group. Without this
    /// call it keeps its group.
    pub fn group<S: Scheme>(&mut self, group: &Group<S>) -> &mut Self {
        self.group = Some(Arc::clone(&group.state));
        self
    }

    /// Opens a regular file through `cache`. Opens of one file share its pages, whatever its name.
    ///
    /// An open checks whether another program changed the file, and drops stale pages.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the options grant no access, or contradict each other, or the path leads
    ///   to something other than a regular file. An open never waits for the peer of a FIFO.
    /// - `InvalidInput` if the file has no stable size, as under `/proc` and `/sys`: read it with
    ///   `std::fs`.
    /// - `InvalidInput` if the group belongs to another cache, or the file is in another group.
    /// - `AlreadyExists` if `create_new` is set and the file exists.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the system call.
    pub fn open<S: Scheme>(&self, cache: &Cache<S>, path: impl AsRef<Path>) -> io::Result<File<S>> {
        cache.shared.check_process()?;
        let backing = self.open_local(path)?;
        let file = File::new(&cache.shared, Arc::new(backing), self.append, self.group.as_ref())?;
        // Through the cache: another open of the file may have dirty pages.
        if self.truncate && !self.create_new && !file.is_empty() {
            file.set_len(0)?;
        }
        Ok(file)
    }

    /// Opens a regular file as a [`LocalFile`], for [`Cache::open_backing`] or to wrap it in
    /// another backing. `append` only grants write access here, and `truncate` does nothing.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the options grant no access, or contradict each other, or the path leads
    ///   to something other than a regular file.
    /// - `InvalidInput` if the file has no stable size, as under `/proc` and `/sys`.
    /// - `AlreadyExists` if `create_new` is set and the file exists.
    /// - Otherwise the error of the system call.
    pub fn open_local(&self, path: impl AsRef<Path>) -> io::Result<LocalFile> {
        let file = LocalFile::open_with(path.as_ref(), self.flags()?, self.mode)?;
        Ok(if self.direct { file.direct() } else { file })
    }

    fn flags(&self) -> io::Result<OFlags> {
        let writes = self.write || self.append;
        let refused = if !self.read && !writes {
            Some("no access: set read, write or append")
        } else if !writes && (self.truncate || self.create || self.create_new) {
            Some("truncate, create and create_new need write or append")
        } else if self.append && self.truncate && !self.create_new {
            Some("append excludes truncate")
        } else {
            None
        };
        if let Some(message) = refused {
            return Err(error(io::ErrorKind::InvalidInput, message));
        }
        let access = if writes { OFlags::RDWR } else { OFlags::RDONLY };
        let create = match (self.create, self.create_new) {
            (_, true) => OFlags::CREATE | OFlags::EXCL,
            (true, false) => OFlags::CREATE,
            (false, false) => OFlags::empty(),
        };
        Ok(access | create)
    }
}

impl<S: Scheme> Cache<S> {
    /// Opens a regular file for reading. Opens of one file share its pages, whatever its name.
    ///
    /// An open checks whether another program changed the file, and drops stale pages.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the path leads to something other than a regular file. An open never
    ///   waits for the peer of a FIFO.
    /// - `InvalidInput` if the file has no stable size, as under `/proc` and `/sys`: read it with
    ///   `std::fs`.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the system call.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        OpenOptions::new().read(true).open(self, path)
    }

    /// Opens a regular file for reading and writing. Creates it if it is missing, and truncates it
    /// otherwise. See [`File`] for the time at which written bytes reach the file.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the path leads to something other than a regular file, or the file has
    ///   no stable size, as under `/proc` and `/sys`.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the system call.
    pub fn create(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self, path)
    }

    /// Creates a regular file, and opens it for reading and writing.
    ///
    /// # Errors
    ///
    /// - `AlreadyExists` if something has this path already.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the system call.
    pub fn create_new(&self, path: impl AsRef<Path>) -> io::Result<File<S>> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self, path)
    }

    /// Opens a regular file with options. It is [`OpenOptions::open`] with its arguments swapped.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the options grant no access, or contradict each other, or the path leads
    ///   to something other than a regular file.
    /// - `InvalidInput` if the file has no stable size, as under `/proc` and `/sys`.
    /// - `InvalidInput` if the group belongs to another cache, or the file is in another group.
    /// - `AlreadyExists` if `create_new` is set and the file exists.
    /// - `OutOfMemory` if so many files are open that their state has 13/16 of the capacity.
    /// - `Unsupported` in a child forked after the cache was built.
    /// - Otherwise the error of the system call.
    pub fn open_with(&self, path: impl AsRef<Path>, options: &OpenOptions) -> io::Result<File<S>> {
        options.open(self, path)
    }
}
