//! Where pages come from, and where they go.
//!
//! The cache knows no file descriptor: it asks a [`Backing`] for ranges of bytes. The local file
//! ([`LocalFile`]) is one, bytes in memory with faults on demand ([`Memory`]) another; objects of a
//! remote store need nothing else.
//!
//! | the cache calls | when | holding |
//! | --- | --- | --- |
//! | `version` | a file is opened, revalidated, or read at its end | the mapping's length |
//! | `fill`, `fill_all` | pages are missed; a run of neighbours is one request | claims of the pages that are filled, which only their readers need |
//! | `write`, `set_len`, `punch` | dirty pages are written, the file is cut | the mapping's right to change its backing |
//! | `sync` | somebody syncs | the mapping's right to sync, which nobody else needs |
//!
//! So any number of fills may be in flight, and a slow one holds up those who need its pages, and
//! nobody else.
//!
//! `Arc<dyn Backing>`, no type parameter: one call through a table is nothing beside any input or
//! output, opens of different backings share a cache, and `File` and `Cache` keep one parameter.
//! Requests block. Who can do several at once overrides [`fill_all`](Backing::fill_all), which gets
//! all that a reader is about to need.

mod direct;
mod local;
mod open;
mod pseudo;
mod supply;
mod testing;
mod whole;

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

pub use local::LocalFile;
pub use testing::{Call, Fault, Memory};

/// What a backing is: two with one identity are the same bytes, and share their pages.
///
/// **Contract:** it means nothing else for as long as the backing exists. A cache keeps the first
/// one it was given for as long as the file is open, as an inode's number is only good while a
/// descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Who gave the numbers: implementations of other people do not meet.
    pub space: &'static str,
    /// The device, the bucket.
    pub volume: u64,
    /// The inode, the object.
    pub object: u64,
}

/// What is known of the contents without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The length in bytes.
    pub len: u64,
    /// Differs when the contents do, as far as can be told: times of the last change, a tag, a
    /// hash.
    pub change_token: [u64; 4],
}

/// What a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// The bytes, and what is needed to read them again.
    Data,
    /// Times and everything else as well.
    All,
}

/// One request of a [`Backing::fill_all`].
#[derive(Debug)]
pub struct Fill<'a> {
    /// Where it begins.
    pub offset: u64,
    /// What is to be filled, in order.
    pub buffers: Vec<IoSliceMut<'a>>,
    /// The answer: as [`Backing::fill`] gives it. `Ok(0)` before.
    pub result: io::Result<usize>,
}

/// Bytes with a length that can be read by ranges; perhaps written.
///
/// Only the first three methods must be there. Any of them may be called by several threads at
/// once.
pub trait Backing: fmt::Debug + Send + Sync + 'static {
    /// What this is.
    fn file_id(&self) -> FileId;

    /// The length, and the mark of the contents.
    fn version(&self) -> io::Result<Version>;

    /// Reads from `offset` on, in one request, until the buffers are full or the bytes end. How
    /// many: fewer than asked only at the end. Each buffer is a piece of memory, one page or
    /// several. A call that the system interrupts is begun again by the implementation.
    ///
    /// # What the buffers hold
    ///
    /// The buffers are frames of the cache, and hold what they held before: bytes of any file, also
    /// of one that is closed. So an implementation
    ///
    /// - **must write every byte that it counts.** The cache believes the count: what was counted
    ///   and not written is shown to readers of this file as if it were its own. Bytes past the
    ///   count are zeroed before anything sees them, and a count past the buffers is cut.
    /// - sees what it is given. A cache whose backings are not trusted that far scrubs its frames
    ///   ([`Cache::set_scrub`](crate::Cache::set_scrub)): then the buffers hold zeroes.
    ///
    /// In debug builds freed frames are overwritten with `0xA5`, so that a test sees bytes that were
    /// counted and not written.
    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Reads for several requests, in any order or at once. Each has its own answer.
    fn fill_all(&self, requests: &mut [Fill<'_>]) {
        for request in requests {
            request.result = self.fill(request.offset, &mut request.buffers);
        }
    }

    /// Whether [`fill_all`](Self::fill_all) has its requests under way at once. Then it gets what
    /// several futures miss, from one thread, and each of them waits for the slowest; else each
    /// is filled by a thread of its own.
    fn fills_together(&self) -> bool {
        false
    }

    /// Whether it can be written to.
    fn is_writable(&self) -> bool {
        false
    }

    /// Writes all of the buffers from `offset` on, and makes the bytes longer if need be. After an
    /// error any part of the range may have been written: it will be written again.
    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let _ = (offset, buffers);
        Err(read_only(self))
    }

    /// As [`write`](Self::write), just before a [`sync`](Self::sync): who can, lets what was
    /// written go on to where it will be durable.
    fn write_to_sync(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.write(offset, buffers)
    }

    /// Cuts the bytes, or appends zeroes. After an error nothing has changed.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(read_only(self))
    }

    /// Makes `len` bytes from `offset` on zeroes, and gives their space back. The length stays.
    /// `Unsupported`, which is the answer of who can be written to and has no other: the cache
    /// writes zeroes instead. After any error nothing has changed.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Err(if self.is_writable() { ErrorKind::Unsupported.into() } else { read_only(self) })
    }

    /// Returns `true` if these bytes can never be opened again once the last open of them is gone,
    /// as a file that was unlinked. The cache asks when the last open is dropped with dirty pages,
    /// and before it tries those again: they are dropped instead of written. Where that is not
    /// certain, the answer is `false`.
    fn is_unlinked(&self) -> bool {
        false
    }

    /// Returns when what was written before is durable. An error need not be told again: the cache
    /// tells it to all.
    fn sync(&self, what: Durable) -> io::Result<()> {
        let _ = what;
        Ok(())
    }
}

fn read_only(backing: &(impl Backing + ?Sized)) -> io::Error {
    io::Error::new(
        ErrorKind::PermissionDenied,
        format!("{:?} can not be written to", backing.file_id()),
    )
}
