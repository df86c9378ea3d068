//! tantivy over folio's page cache: [`FolioDirectory`] is a [`Directory`] over a [`Cache`].
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::io::{self, BufWriter, ErrorKind, IoSliceMut, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use folio_cache::frames::{FRAME_SIZE, PinnedBytes};
use folio_cache::{Buf, Cache, File};
use tantivy::HasLen;
use tantivy::directory::error::{
    DeleteError, LockError, OpenDirectoryError, OpenReadError, OpenWriteError,
};
use tantivy::directory::{
    AntiCallToken, Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, OwnedBytes,
    TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
};

/// A directory of the local file system. Its files are read and written through a [`Cache`].
///
/// Names, locks, atomic writes and the watch are those of [`MmapDirectory`], which maps no file
/// here. So either can open an index after the other or beside it, in any process.
#[derive(Clone, Debug)]
pub struct FolioDirectory {
    cache: Cache,
    root: PathBuf,
    names: MmapDirectory,
}

impl FolioDirectory {
    /// Opens a directory that exists.
    ///
    /// # Errors
    ///
    /// Returns those of [`MmapDirectory::open`].
    pub fn open(cache: &Cache, root: impl Into<PathBuf>) -> Result<Self, OpenDirectoryError> {
        let root = root.into();
        let names = MmapDirectory::open(&root)?;
        match root.canonicalize() {
            Ok(root) => Ok(Self { cache: cache.clone(), root, names }),
            Err(error) => Err(OpenDirectoryError::wrap_io_error(error, root)),
        }
    }
}

impl Directory for FolioDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let file = self.cache.open(self.root.join(path)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
            _ => OpenReadError::wrap_io_error(error, path.to_owned()),
        })?;
        Ok(Arc::new(Handle { len: file.len() as usize, file, bypasses: AtomicU32::new(0) }))
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let file =
            self.cache.create_new(self.root.join(path)).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => OpenWriteError::FileAlreadyExists(path.to_owned()),
                _ => OpenWriteError::wrap_io_error(error, path.to_owned()),
            })?;
        Ok(BufWriter::with_capacity(64 << 10, Box::new(Writer(file))))
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.names.delete(path)
    }
    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.names.exists(path)
    }
    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.names.atomic_read(path)
    }
    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.names.atomic_write(path, data)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.names.sync_directory()
    }
    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        self.names.acquire_lock(lock)
    }
    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.names.watch(callback)
    }
}

/// The reads of a file that bypass the cache after one found no memory: it waited 85 ms for some.
const BYPASSES: u32 = 1000;

/// A file that is written once. Its bytes stay readable after it was deleted.
#[derive(Debug)]
struct Handle {
    file: File,
    len: usize,
    /// The next reads that bypass the cache. A hint: accesses are relaxed.
    bypasses: AtomicU32,
}

impl HasLen for Handle {
    fn len(&self) -> usize {
        self.len
    }
}

impl FileHandle for Handle {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        let bypasses = self.bypasses.load(Relaxed);
        if bypasses > 0 {
            self.bypasses.store(bypasses - 1, Relaxed);
            return self.read_past_the_cache(&range);
        }
        match self.pin(&range) {
            Ok(bytes) if bytes.len() == range.len() => Ok(bytes),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            // All pages are pinned, by readers of segments for example.
            Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                self.bypasses.store(BYPASSES, Relaxed);
                self.read_past_the_cache(&range)
            }
            Err(error) => Err(error),
        }
    }
}

impl Handle {
    /// Pins the pages of a range if they are adjacent in memory, as a single page always is.
    /// Otherwise copies the bytes. Returns fewer if the file ends before.
    fn pin(&self, range: &Range<usize>) -> io::Result<OwnedBytes> {
        if range.start / FRAME_SIZE == range.end.saturating_sub(1) / FRAME_SIZE {
            let page = self.file.page(range.start as u64)?.map(PinnedBytes::from);
            return Ok(page.map_or_else(OwnedBytes::empty, |page| {
                let len = range.len().min(page.len());
                OwnedBytes::new(page).slice(0..len)
            }));
        }
        match self.file.range(range.start as u64, range.len())?.into_one_piece() {
            Ok(bytes) => Ok(OwnedBytes::new(bytes)),
            Err(mut pieces) => {
                let mut copy = vec![0; pieces.len()];
                pieces.copy_to_slice(&mut copy);
                Ok(OwnedBytes::new(copy))
            }
        }
    }

    fn read_past_the_cache(&self, range: &Range<usize>) -> io::Result<OwnedBytes> {
        let mut copy = vec![0; range.len()];
        let mut buffers = [IoSliceMut::new(&mut copy)];
        let read = self.file.backing().fill(range.start as u64, &mut buffers)?;
        let is_whole = read == copy.len();
        is_whole.then(|| OwnedBytes::new(copy)).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

/// Appends to a new file. `terminate` makes it durable.
struct Writer(File);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes).map(|_| bytes.len())
    }

    /// Does nothing: written bytes are visible to all readers through the cache.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TerminatingWrite for Writer {
    fn terminate_ref(&mut self, _: AntiCallToken) -> io::Result<()> {
        self.0.sync_data()
    }
}
