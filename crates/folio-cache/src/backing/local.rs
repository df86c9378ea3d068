//! A file of this machine.

use std::fmt;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SealFlags, StatxAttributes, StatxFlags};
use rustix::io::{pread, preadv, pwrite, pwritev};

use super::direct::{self, Direct};
use super::open::{check, open_regular};
use super::pseudo::check_file;
use super::{Backing, Durable, FileId, Fill, Version, whole};

/// What is to be synced goes to the kernel's cache by so many bytes: while one piece is copied
/// there, the one before goes on to the disk. Smaller ones gain nothing.
const PIECE: usize = 1 << 20;

/// A regular file, by its descriptor. Its identity is device and inode; its stamp mtime and ctime.
///
/// A file that the kernel lets nothing write to any more (`fs-verity`, a sealed memory file) has one
/// version for ever. For any other, each change of the inode is a new version: `chmod`, `mv` and
/// `ln` change the ctime only, as a write does whose mtime is set back, and the kernel gives
/// programs no other mark of the bytes (`STATX_CHANGE_COOKIE` stays inside it).
/// [`File::change_metadata`](crate::File::change_metadata) declares a change that changes no byte.
#[derive(Debug)]
pub struct LocalFile {
    file: fs::File,
    /// The same file past the kernel's cache.
    direct: Direct,
    file_id: FileId,
    is_writable: bool,
    /// The bytes can never change, whatever else does.
    is_constant: bool,
}

impl LocalFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is no regular file (it never waits for the other end of a FIFO), or
    /// one without a stable size, as under `/proc` and `/sys`; else what the system says.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_by(path.as_ref(), OFlags::RDONLY)
    }

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_rw(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_by(path.as_ref(), OFlags::RDWR)
    }

    /// Opens a file for reading and writing, and makes it if it is not there. What is in it stays.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_by(path.as_ref(), OFlags::RDWR | OFlags::CREATE)
    }

    /// Reads and writes whole pages past the kernel's cache (`O_DIRECT`) where the file system lets
    /// one: what this cache has in memory is not there twice, a disk is read as fast as it is,
    /// and what is synced is copied once less. It is not the default, as who reads what is not
    /// in this cache any more waits for the disk then.
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.direct.wanted = true;
        self
    }

    /// Takes a file that is open already. It can be written to if the descriptor can.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when it is no regular file, or one without a stable size; when it was opened to append, as the system would
    /// write elsewhere than asked; for writing only, as who opens the file after it reads
    /// through it; or past the kernel's cache, as the last part of a page could not be written:
    /// [`direct`](Self::direct) does both.
    pub fn new(file: fs::File) -> io::Result<Self> {
        Self::named(file, &"the descriptor")
    }

    fn open_by(path: &Path, flags: OFlags) -> io::Result<Self> {
        Self::named(open_regular(path, flags)?, &path.display())
    }

    /// Takes an open file that errors call by a name.
    fn named(file: fs::File, name: &dyn fmt::Display) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check(name, metadata.file_type())?;
        let flags = rustix::fs::fcntl_getfl(&file)?;
        let refused = match flags {
            _ if flags.contains(OFlags::APPEND) => {
                Some("the descriptor appends: it can not write where it is asked to")
            }
            _ if flags & OFlags::RWMODE == OFlags::WRONLY => Some(
                "the descriptor is for writing only: who opens the file after it could not read",
            ),
            _ if flags.contains(OFlags::DIRECT) => Some(
                "the descriptor is O_DIRECT, which writes whole pages only: LocalFile::direct has another for them",
            ),
            _ => None,
        };
        if let Some(message) = refused {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        check_file(name, &file)?;
        let is_constant = is_constant(&file, &metadata);
        let file_id = FileId { space: "file", volume: metadata.dev(), object: metadata.ino() };
        Ok(Self {
            file,
            direct: Direct::default(),
            file_id,
            is_writable: (flags & OFlags::RWMODE) != OFlags::RDONLY,
            is_constant,
        })
    }

    /// Writes a part, perhaps all.
    fn write_part(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        // What can not be written so goes through the kernel's cache.
        let direct = self.direct.write(&self.file, offset, buffers)?;
        if direct > 0 {
            return Ok(direct);
        }
        Ok(match buffers {
            [one] => pwrite(&self.file, one, offset)?,
            many => pwritev(&self.file, many, offset)?,
        })
    }
}

/// Returns `true` for a file of which the kernel lets no byte change any more: one with `fs-verity`,
/// or a memory file that is sealed. Neither can be undone.
fn is_constant(file: &fs::File, metadata: &fs::Metadata) -> bool {
    let sealed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    // Only a memory file has seals, and it has no name.
    if metadata.nlink() == 0
        && rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(sealed))
    {
        return true;
    }
    let known = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::empty());
    known.is_ok_and(|known| known.stx_attributes.contains(StatxAttributes::VERITY))
}

impl Backing for LocalFile {
    fn file_id(&self) -> FileId {
        self.file_id
    }

    fn version(&self) -> io::Result<Version> {
        let metadata = self.file.metadata()?;
        if self.is_constant {
            return Ok(Version { len: metadata.len(), change_token: [0; 4] });
        }
        let change_token =
            [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        Ok(Version { len: metadata.len(), change_token: change_token.map(i64::cast_unsigned) })
    }

    fn fill(&self, offset: u64, mut buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        // What is left is at the end of the file, or can not be read so: the kernel's cache has the
        // last word.
        let direct = self.direct.read(&self.file, offset, buffers)?;
        IoSliceMut::advance_slices(&mut buffers, direct);
        let rest = whole::read(offset + direct as u64, buffers, |offset, buffers| {
            Ok(match buffers {
                [one] => pread(&self.file, &mut **one, offset)?,
                many => preadv(&self.file, many, offset)?,
            })
        })?;
        Ok(direct + rest)
    }

    fn fill_all(&self, requests: &mut [Fill<'_>]) {
        if requests.len() > 1 {
            self.direct.read_all(&self.file, requests);
        }
        for request in requests {
            let wanted = request.buffers.iter().map(|buffer| buffer.len()).sum();
            if !matches!(request.result, Ok(read) if read == wanted && wanted > 0) {
                request.result = self.fill(request.offset, &mut request.buffers);
            }
        }
    }

    fn fills_together(&self) -> bool {
        direct::has_rings()
    }

    fn is_writable(&self) -> bool {
        self.is_writable
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        whole::write(offset, buffers, |offset, buffers| self.write_part(offset, buffers))
    }

    fn write_to_sync(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        if self.direct.wanted {
            return self.write(offset, buffers);
        }
        whole::write(offset, buffers, |offset, buffers| {
            let written = self.write_part(offset, &whole::first(buffers, PIECE))?;
            if written == PIECE {
                // What fails of it, the sync says.
                let _ = folio_uring::begin_writeback(&self.file, offset, written as u64);
            }
            Ok(written)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        whole::retry(|| Ok(rustix::fs::ftruncate(&self.file, len)?))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        whole::retry(|| Ok(rustix::fs::fallocate(&self.file, flags, offset, len)?))
    }

    /// Looks at the count of names, and at the name of the descriptor: some file systems count
    /// none for any file. A memory file (`memfd_create(2)`) never had a name, and lives by its
    /// descriptors: it counts as linked.
    fn is_unlinked(&self) -> bool {
        let has_no_name = self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        has_no_name
            && fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())).is_ok_and(|name| {
                let name = name.as_os_str().as_bytes();
                name.ends_with(b" (deleted)") && !name.starts_with(b"/memfd:")
            })
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
