//! A file of this machine.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{pread, preadv, pwrite, pwritev};

use super::open::{check, open_regular};
use super::{Backing, Durable, Identity, Version, whole};

/// A regular file, by its descriptor. Its identity is device and inode; its stamp mtime and ctime.
#[derive(Debug)]
pub struct LocalFile {
    file: fs::File,
    identity: Identity,
    is_writable: bool,
}

impl LocalFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is no regular file (it never waits for the other end of a FIFO), else what
    /// the system says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(open_regular(path.as_ref(), OFlags::RDONLY)?)
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_rw(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(open_regular(path.as_ref(), OFlags::RDWR)?)
    }

    /// Opens a file for reading and writing, and makes it if it is not there. What is in it stays.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(open_regular(path.as_ref(), OFlags::RDWR | OFlags::CREATE)?)
    }

    /// Takes a file that is open already. It can be written to if the descriptor can.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is no regular file, or was opened to append: the system would write elsewhere than
    /// asked.
    pub fn new(file: fs::File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check(&format_args!("the descriptor"), metadata.file_type())?;
        let flags = rustix::fs::fcntl_getfl(&file)?;
        if flags.contains(OFlags::APPEND) {
            let message = "the descriptor appends: it can not write where it is asked to";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let identity = Identity { space: "file", volume: metadata.dev(), object: metadata.ino() };
        Ok(Self { file, identity, is_writable: (flags & OFlags::RWMODE) != OFlags::RDONLY })
    }
}

impl Backing for LocalFile {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn version(&self) -> io::Result<Version> {
        let metadata = self.file.metadata()?;
        let stamp = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        Ok(Version { len: metadata.len(), stamp: stamp.map(i64::cast_unsigned) })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        whole::read(offset, buffers, |offset, buffers| {
            Ok(match buffers {
                [one] => pread(&self.file, &mut **one, offset)?,
                many => preadv(&self.file, many, offset)?,
            })
        })
    }

    fn is_writable(&self) -> bool {
        self.is_writable
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        whole::write(offset, buffers, |offset, buffers| {
            Ok(match buffers {
                [one] => pwrite(&self.file, one, offset)?,
                many => pwritev(&self.file, many, offset)?,
            })
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        whole::retry(|| Ok(rustix::fs::ftruncate(&self.file, len)?))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        whole::retry(|| Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?))
    }

    fn sync(&self, what: Durable) -> io::Result<()> {
        whole::retry(|| {
            let done = match what {
                Durable::Data => rustix::fs::fdatasync(&self.file),
                Durable::All => rustix::fs::fsync(&self.file),
            };
            Ok(done?)
        })
    }
}
