//! A regular file of this machine.

use std::fmt;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, OFlags, SealFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::{pread, preadv, pwrite, pwritev};

use super::direct::{self, Direct};
use super::error::error;
use super::open::{check, open_regular};
use super::pseudo::check_file;
use super::{Backing, Durable, FileId, Fill, Version, whole};

/// The bytes that are copied to the kernel's page cache at a time before a sync. While one piece is
/// copied, the one before goes on to the disk. Smaller pieces gain nothing.
const PIECE: usize = 1 << 20;

/// A regular file, by its descriptor. Its file id is device and inode, and its change token mtime
/// and ctime.
///
/// A file that nothing can write to any more (`fs-verity`, a sealed memory file) keeps its change
/// token. Any other has a new one after each change of its inode. `chmod`, `mv` and `ln` change the
/// ctime only, as does a write after which the mtime is set back. The kernel gives programs no
/// other token: `STATX_CHANGE_COOKIE` stays inside it.
/// [`File::change_metadata`](crate::File::change_metadata) declares a change that changes no byte.
///
/// [`Cache::open`](crate::Cache::open) and [`OpenOptions`](crate::OpenOptions) make one. Use it
/// directly to open a descriptor that exists already, or to wrap it in another [`Backing`].
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Cache, LocalFile};
///
/// # fn main() -> std::io::Result<()> {
/// let descriptor = tempfile::tempfile()?; // without a path
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.open_backing(Arc::new(LocalFile::new(descriptor)?.direct()))?;
/// file.write_all_at(b"bytes", 0)?;
/// file.sync_all()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LocalFile {
    file: fs::File,
    /// The same file, opened to bypass the kernel's page cache.
    direct: Direct,
    file_id: FileId,
    is_writable: bool,
    /// The bytes can never change, whatever else does.
    is_constant: bool,
    /// The time at which the file was made, in nanoseconds, if the file system knows it.
    made: Option<u64>,
}

impl LocalFile {
    /// Opens a regular file for reading.
    /// [`OpenOptions::open_local`](crate::OpenOptions::open_local) opens one for writing.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the path leads to something other than a regular file. It never waits
    ///   for the peer of a FIFO.
    /// - `InvalidInput` if the file has no stable size, as under `/proc` and `/sys`.
    /// - Otherwise the error of the system call.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), OFlags::RDONLY, 0)
    }

    /// Opens a regular file as the options of an open say.
    pub(crate) fn open_with(path: &Path, flags: OFlags, mode: u32) -> io::Result<Self> {
        Self::named(open_regular(path, flags, mode)?, &path.display())
    }

    /// Returns the file with whole pages bypassing the kernel's page cache (`O_DIRECT`), where the
    /// file system allows it.
    ///
    /// Bytes are then not cached twice, a disk is read at its full speed, and synced bytes are
    /// copied once less. It is not the default, because a miss always waits for the disk then.
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.direct.wanted = true;
        self
    }

    /// Wraps an open file. It is writable if the descriptor is.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if it is not a regular file, or has no stable size, as under `/proc`.
    /// - `InvalidInput` if it was opened with `O_APPEND`, because the system ignores the offset of
    ///   a write.
    /// - `InvalidInput` if it was opened for writing only, because other opens of the file read
    ///   through it.
    /// - `InvalidInput` if it was opened with `O_DIRECT`, because the last part of a page could not
    ///   be written: [`direct`](Self::direct) handles both.
    /// - Otherwise the error of the system call.
    pub fn new(file: fs::File) -> io::Result<Self> {
        Self::named(file, &"the descriptor")
    }

    /// Takes an open file that errors call by a name.
    fn named(file: fs::File, name: &dyn fmt::Display) -> io::Result<Self> {
        let metadata = file.metadata()?;
        check(name, metadata.file_type())?;
        let flags = rustix::fs::fcntl_getfl(&file)?;
        let refused = match flags {
            _ if flags.contains(OFlags::PATH) => {
                Some("the descriptor has O_PATH: it names a file that is not open")
            }
            _ if flags.contains(OFlags::APPEND) => {
                Some("the descriptor has O_APPEND: the system ignores the offset of a write")
            }
            _ if flags & OFlags::RWMODE == OFlags::WRONLY => {
                Some("the descriptor is for writing only: other opens of the file read through it")
            }
            _ if flags.contains(OFlags::DIRECT) => Some(
                "the descriptor has O_DIRECT, which only writes whole pages: use LocalFile::direct",
            ),
            _ => None,
        };
        if let Some(message) = refused {
            return Err(error(io::ErrorKind::InvalidInput, message));
        }
        check_file(name, &file)?;
        let known = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok();
        let is_constant = is_constant(&file, &metadata, known.as_ref());
        let made = known.and_then(made);
        let file_id = FileId { space: "file", volume: metadata.dev(), object: metadata.ino() };
        Ok(Self {
            file,
            direct: Direct::default(),
            file_id,
            is_writable: (flags & OFlags::RWMODE) != OFlags::RDONLY,
            is_constant,
            made,
        })
    }

    /// Writes at least a part. Returns the number of bytes written.
    fn write_part(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        // The rest goes through the kernel's page cache.
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

/// Returns `true` if the kernel lets no byte of the file change any more: it has `fs-verity`, or is
/// a sealed memory file. Neither can be undone.
fn is_constant(file: &fs::File, metadata: &fs::Metadata, known: Option<&Statx>) -> bool {
    let sealed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    // Only a memory file has seals, and it has no name.
    if metadata.nlink() == 0
        && rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(sealed))
    {
        return true;
    }
    known.is_some_and(|known| known.stx_attributes.contains(StatxAttributes::VERITY))
}

/// Returns the time at which a file was made, in nanoseconds, if the file system knows it.
fn made(known: Statx) -> Option<u64> {
    let (time, has) = (known.stx_btime, StatxFlags::from_bits_retain(known.stx_mask));
    let seconds = time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000);
    has.contains(StatxFlags::BTIME).then(|| seconds.wrapping_add(u64::from(time.tv_nsec)))
}

impl AsFd for LocalFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Backing for LocalFile {
    fn file_id(&self) -> FileId {
        self.file_id
    }

    fn generation(&self) -> Option<u64> {
        self.made
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
        // The rest is at the end of the file, or cannot be read directly: it goes through the
        // kernel's page cache.
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
                // The sync reports its errors.
                let _ = folio_uring::begin_writeback(&self.file, offset, written as u64);
            }
            Ok(written)
        })
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
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

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::MemfdFlags;

    use super::*;

    #[repr(align(4096))]
    struct Pages([u8; 8192]);

    #[test]
    fn a_memory_file_is_constant_once_it_has_all_seals() {
        let seals = [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW];
        for chosen in 0..8_u32 {
            let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
            let memfd: OwnedFd = rustix::fs::memfd_create(c"sealed", flags).unwrap();
            for (n, &seal) in seals.iter().enumerate() {
                if chosen & 1 << n != 0 {
                    rustix::fs::fcntl_add_seals(&memfd, seal).unwrap();
                }
            }
            let file = fs::File::from(memfd);
            let metadata = file.metadata().unwrap();
            assert_eq!(is_constant(&file, &metadata, None), chosen == 7, "{chosen:b}");
        }
    }

    #[test]
    fn the_rest_behind_whole_pages_is_a_part_of_its_own() {
        let file = tempfile::tempfile().unwrap();
        let is_possible = file.try_clone().is_ok_and(|file| {
            let one = Pages([1; 8192]);
            let direct = LocalFile::new(file).unwrap().direct();
            direct.direct.write(&direct.file, 0, &[IoSlice::new(&one.0)]).unwrap() > 0
        });
        let pages = Pages([2; 8192]);
        let buffers = [IoSlice::new(&pages.0[..6000])];
        let direct = LocalFile::new(file.try_clone().unwrap()).unwrap().direct();
        let first = if is_possible { 4096 } else { 6000 };
        assert_eq!(direct.write_part(0, &buffers).unwrap(), first);
        assert_eq!(LocalFile::new(file).unwrap().write_part(0, &buffers).unwrap(), 6000);
    }

    #[test]
    fn requests_at_once_have_the_results_of_each_alone() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| (n / 41) as u8).collect();
        assert_eq!(pwrite(&file, &bytes, 0).unwrap(), bytes.len());
        let file = LocalFile::new(file).unwrap();
        assert_eq!(file.fills_together(), direct::has_rings());
        for offsets in [&[0][..], &[4096, 0], &[8000, 100, 9990, 20_000]] {
            let mut buffers = vec![vec![0; 4096]; offsets.len()];
            let mut requests: Vec<_> = offsets
                .iter()
                .zip(&mut buffers)
                .map(|(&offset, buffer)| Fill {
                    offset,
                    buffers: vec![IoSliceMut::new(buffer)],
                    result: Ok(0),
                })
                .collect();
            file.fill_all(&mut requests);
            let results: Vec<_> =
                requests.into_iter().map(|request| request.result.unwrap()).collect();
            for ((&offset, read), buffer) in offsets.iter().zip(results).zip(&buffers) {
                let start = bytes.len().min(offset as usize);
                let expected = &bytes[start..bytes.len().min(start + 4096)];
                assert_eq!(read, expected.len(), "at {offset}");
                assert!(buffer[..read] == *expected, "at {offset}");
            }
        }
    }
}
