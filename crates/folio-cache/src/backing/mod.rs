//! Sources of pages: where bytes are read from, and written to.
//!
//! The cache knows no file descriptor: it asks a [`Backing`] for ranges of bytes. The local file
//! ([`LocalFile`]) is one, and bytes in memory with faults on demand
//! ([`Memory`](crate::testing::Memory)) another. Objects of a remote store need nothing else.
//!
//! The cache calls
//!
//! - `version` when a file is opened, revalidated, or read at its end. It holds the mapping's
//!   length. Also before and after each change that the cache makes, with the right to make it.
//! - `fill` and `fill_all` when pages are missed; an extent of adjacent pages is one request. It
//!   holds the page locks of the filled pages, which only their readers need.
//! - `write`, `set_len` and `punch` when dirty pages are written or the file is truncated. It holds
//!   the mapping's right to change its backing.
//! - `sync` when the file is synced. It holds the mapping's right to sync, which only syncs need.
//!
//! So any number of fills may be in flight. A slow one delays the readers of its pages only.
//!
//! It is `Arc<dyn Backing>`, and no type parameter: a call through a table costs nothing beside any
//! I/O, opens of different backings share a cache, and `File` and `Cache` keep one parameter.
//! Requests block. A backing that can handle several at once overrides
//! [`fill_all`](Backing::fill_all), which gets all that a reader is about to need.

pub(crate) mod blocking;
mod direct;
pub(crate) mod distant;
pub(crate) mod error;
mod local;
mod open;
mod pseudo;
pub(crate) mod remote;
mod supply;
pub(crate) mod testing;
mod whole;

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

pub use local::LocalFile;

/// The identity of the bytes of a backing. Two backings with one file id share their pages.
///
/// **Contract:** a file id means nothing else for as long as its backing exists. A cache keeps the
/// first backing that it was given for as long as the file is open, as an inode number is only
/// valid while a descriptor is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The implementation that assigned the numbers: those of different ones do not collide.
    pub space: &'static str,
    /// The volume: a device, a bucket.
    pub volume: u64,
    /// The object in it: an inode, an object.
    pub object: u64,
}

/// The state of the contents, as far as it is known without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The length in bytes.
    pub len: u64,
    /// A value that differs if the contents do, as far as can be told: times of the last change, an
    /// `ETag`, a hash.
    pub change_token: [u64; 4],
}

/// The data that a sync makes durable. It will not grow: a backing handles both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// The bytes, and the metadata needed to read them again.
    Data,
    /// The times and all other metadata as well.
    All,
}

/// One request of a [`Backing::fill_all`].
#[derive(Debug)]
pub struct Fill<'a> {
    /// The offset of the first byte.
    pub offset: u64,
    /// The buffers to fill, in order.
    pub buffers: Vec<IoSliceMut<'a>>,
    /// The number of bytes read, or the error, as [`Backing::fill`] returns it. `Ok(0)` before.
    pub result: io::Result<usize>,
}

/// Bytes with a length that are read by ranges, and perhaps written.
///
/// This trait is open: implement it for any source of bytes. Only the first three methods are
/// required. Several threads may call any of them at once.
///
/// # Examples
///
/// A file with generated contents:
///
/// ```
/// use std::io::{self, IoSliceMut};
/// use std::sync::Arc;
/// use folio_cache::{Backing, Cache, FileId, Version};
///
/// /// 1 MiB in which each byte is the low byte of its offset.
/// #[derive(Debug)]
/// struct Ramp;
///
/// impl Backing for Ramp {
///     fn file_id(&self) -> FileId {
///         FileId { space: "my crate: ramp", volume: 0, object: 0 }
///     }
///
///     fn version(&self) -> io::Result<Version> {
///         Ok(Version { len: 1 << 20, change_token: [0; 4] }) // it never changes
///     }
///
///     fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
///         let mut offsets = offset..1 << 20;
///         let bytes = buffers.iter_mut().flat_map(|buffer| buffer.iter_mut());
///         Ok(bytes.zip(&mut offsets).map(|(byte, offset)| *byte = offset as u8).count())
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let file = Cache::new(4 << 20)?.open_backing(Arc::new(Ramp))?;
/// let mut buf = [0; 3];
/// file.read_exact_at(&mut buf, 1000)?;
/// assert_eq!(buf, [232, 233, 234]);
/// # Ok(())
/// # }
/// ```
pub trait Backing: fmt::Debug + Send + Sync + 'static {
    /// Returns the identity of the bytes.
    fn file_id(&self) -> FileId;

    /// Returns the length and the change token of the contents.
    ///
    /// # Errors
    ///
    /// Any: the cache returns it to its caller.
    fn version(&self) -> io::Result<Version>;

    /// Reads from `offset` on, in one request, until the buffers are full or the bytes end. Returns
    /// the number of bytes read: fewer than asked only at the end.
    ///
    /// Each buffer is a piece of memory of one or more pages. The implementation repeats a call
    /// that the system interrupts.
    ///
    /// # Errors
    ///
    /// Any: the cache returns it to the readers of these pages.
    ///
    /// # What the buffers hold
    ///
    /// The buffers are frames of the cache. They hold the bytes of their last use: of any file,
    /// even of one that is closed. So an implementation
    ///
    /// - **must write every byte that it counts.** The cache believes the count: bytes that were
    ///   counted and not written are shown to the readers of this file. The cache zeroes the bytes
    ///   past the count before a reader sees them, and cuts a count that exceeds the buffers.
    /// - can read those bytes. If backings are not trusted that far, scrub the frames
    ///   ([`CacheBuilder::scrub`](crate::CacheBuilder::scrub)): then the buffers hold zeroes.
    ///
    /// Debug builds overwrite freed frames with `0xA5`, so that a test sees bytes that were counted
    /// and not written.
    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Reads for several requests, in any order or at once. Sets the result of each.
    fn fill_all(&self, requests: &mut [Fill<'_>]) {
        for request in requests {
            request.result = self.fill(request.offset, &mut request.buffers);
        }
    }

    /// Returns `true` if [`fill_all`](Self::fill_all) handles its requests at once. Then one thread
    /// passes it the misses of several futures, and each future waits for the slowest. Otherwise
    /// each miss is filled by a thread of its own.
    fn fills_together(&self) -> bool {
        false
    }

    /// Returns `true` if it can be written to.
    fn is_writable(&self) -> bool {
        false
    }

    /// Writes all of the buffers from `offset` on, and extends the bytes if necessary.
    ///
    /// # Errors
    ///
    /// Any: any part of the range may have been written, and the cache writes it again. The default
    /// returns `PermissionDenied`.
    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let _ = (offset, buffers);
        Err(read_only(self))
    }

    /// Writes as [`write`](Self::write), just before a [`sync`](Self::sync). An implementation may
    /// start to make the bytes durable.
    ///
    /// # Errors
    ///
    /// Any: any part of the range may have been written, and the cache writes it again.
    fn write_to_sync(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.write(offset, buffers)
    }

    /// Truncates the bytes, or appends zeroes.
    ///
    /// # Errors
    ///
    /// Any: nothing has changed then. The default returns `PermissionDenied`.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(read_only(self))
    }

    /// Sets `len` bytes from `offset` on to zero, and frees their space. The length stays.
    ///
    /// # Errors
    ///
    /// - `Unsupported` if the backing has no holes: the cache writes zeroes instead. A writable
    ///   backing returns it by default.
    /// - Any other. After each of them nothing has changed.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(if self.is_writable() { ErrorKind::Unsupported.into() } else { read_only(self) })
    }

    /// Returns `true` if these bytes can never be opened again once their last open is gone, such
    /// as those of an unlinked file.
    ///
    /// The cache asks when the last open is dropped while pages are dirty, and before it tries to
    /// write those again. If the answer is `true`, they are dropped instead. If it is not certain,
    /// return `false`.
    fn is_unlinked(&self) -> bool {
        false
    }

    /// Returns a number that other files with the same file id do not have, such as the time at
    /// which the file was made. Returns `None` if it is not known.
    ///
    /// The cache asks at an open and at a last close. What a file has left behind, such as bytes
    /// that a failed sync lost, does not concern a new file that got its inode.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// Returns when all bytes that were written before are durable.
    ///
    /// # Errors
    ///
    /// Any: the cache reports it to each open of the file, so it need not be returned again.
    fn sync(&self, what: Durable) -> io::Result<()> {
        let _ = what;
        Ok(())
    }

    /// Returns the file descriptor behind the bytes, if there is one, for calls that the cache does
    /// not make. A write through it is one by another program: call
    /// [`File::revalidate`](crate::File::revalidate) after it.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

fn read_only(backing: &(impl Backing + ?Sized)) -> io::Error {
    let message = format!("{:?} cannot be written to", backing.file_id());
    error::numbered(ErrorKind::PermissionDenied, Errno::BADF, message)
}
