//! redb over folio's page cache: [`FolioBackend`] is a [`StorageBackend`] over a [`File`].
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::io;
use std::ops::Bound;
use std::path::Path;

use folio_cache::{Cache, File, OpenOptions};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// A database file that is read and written through a [`Cache`].
///
/// The file has the format and the locks of redb's own [`FileBackend`]: either can open it after
/// the other, and each refuses it while the other has it open. The modes in which several processes
/// share a database ([`redb::ConcurrencyMode`]) fail with `Unsupported`: pages that another process
/// writes are not seen by a cache.
#[derive(Debug)]
pub struct FolioBackend {
    file: File,
    /// Another descriptor of the file. It takes redb's locks, and neither reads nor writes.
    locks: FileBackend,
}

impl FolioBackend {
    /// Opens a database file for reading and writing, and creates it if it is missing.
    ///
    /// # Errors
    ///
    /// Returns those of [`OpenOptions::open`].
    pub fn open(cache: &Cache, path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(cache, path, OpenOptions::new().read(true).write(true).create(true))
    }

    /// Opens a database file with options such as [`OpenOptions::direct`]. They must grant read and
    /// write access.
    ///
    /// # Errors
    ///
    /// Returns those of [`OpenOptions::open`].
    pub fn open_with(
        cache: &Cache,
        path: impl AsRef<Path>,
        options: &OpenOptions,
    ) -> io::Result<Self> {
        let file = options.open(cache, &path)?;
        let locks = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, locks: FileBackend::new(locks).map_err(io::Error::other)? })
    }

    /// Drops the pages that another process made stale before it released its lock.
    fn locked(&self, is_locked: bool) -> Result<bool, BackendError> {
        if is_locked {
            self.file.revalidate().map_err(BackendError::Io)?;
        }
        Ok(is_locked)
    }
}

impl StorageBackend for FolioBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Writes what is dirty, then releases the locks, even if the write failed.
    fn close(&self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.locks.close().and(flushed)
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locked(self.locks.try_lock_range(start, end)?)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.locked(self.locks.try_lock_shared_range(start, end)?)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.locks.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.locks.query_lock_range(start, end)
    }
}
