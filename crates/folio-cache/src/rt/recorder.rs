//! Records which pages a program uses, for `folio policy`: each thread in a buffer of its own.
//!
//! A recording is a stream of bytes, numbers with the least byte first: [`USES_MAGIC`], the share
//! of the pages in it (4 bytes: one in so many), and 8 bytes for each use. They name the file and
//! the page. The uses of one thread are in their order. Those of several threads are in the order
//! in which their buffers got full.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::CachePadded;
use folio_uring::Process;

use crate::rt::counter::{self, NUMBERS};
use crate::rt::foreign::catch_panic;
use crate::rt::lock::Mutex;

/// The first bytes of a recording.
pub const USES_MAGIC: &[u8; 16] = b"folio uses, v1\r\n";

/// The smallest share of the pages that can be recorded: one in so many.
pub const USES_ONE_IN: u32 = 1 << HASH_BITS;

/// The bits of the hash by which the recorded pages are chosen.
const HASH_BITS: u32 = 24;

/// The uses in a full buffer.
const ROOM: usize = 512;

/// A recorder was made in this process. Without one, a hit looks at no field of its file for it.
static IS_ANY: AtomicBool = AtomicBool::new(false);

/// Returns `false` if no cache records uses.
#[inline(always)]
pub(crate) fn is_any() -> bool {
    // Relaxed: a thread with a cache that has a recorder got the cache after the store.
    IS_ANY.load(Ordering::Relaxed)
}

/// Writes uses of pages.
pub(crate) struct Recorder {
    /// A page is recorded if its hash has none of these bits.
    mask: u64,
    /// By the number of the thread. All threads without a number share the last one.
    buffers: [CachePadded<Mutex<Vec<u64>>>; NUMBERS + 1],
    to: Mutex<Box<dyn Write + Send>>,
    has_failed: AtomicBool,
    /// A child that was forked has a copy of the buffers, and their locks may be held for ever. It
    /// records nothing.
    process: Process,
}

impl Recorder {
    /// Returns a recorder of one page in `one_in`, a power of two, and writes the header.
    ///
    /// # Errors
    ///
    /// The error of the writer.
    pub(crate) fn new(mut to: Box<dyn Write + Send>, one_in: u32) -> io::Result<Self> {
        to.write_all(USES_MAGIC)?;
        to.write_all(&one_in.to_le_bytes())?;
        IS_ANY.store(true, Ordering::Relaxed);
        Ok(Self {
            mask: u64::from(one_in) - 1,
            buffers: std::array::from_fn(|_| CachePadded::default()),
            to: Mutex::new(to),
            has_failed: AtomicBool::new(false),
            process: Process::current(),
        })
    }

    /// Records a use of a page.
    #[cold]
    #[inline(never)]
    pub(crate) fn record(&self, page: u64) {
        let hash = (page ^ page >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = hash >> (u64::BITS - HASH_BITS);
        if hash & self.mask != 0 || !self.process.is_current() {
            return;
        }
        let mut buffer = self.buffers[counter::number()].lock();
        buffer.push(page);
        if buffer.len() >= ROOM {
            self.write(&mut buffer);
        }
    }

    /// Writes a buffer, and empties it. After an error nothing is written any more.
    fn write(&self, buffer: &mut Vec<u64>) {
        let bytes: Vec<u8> = buffer.drain(..).flat_map(u64::to_le_bytes).collect();
        // Relaxed: a hint, and the lock orders the writes.
        if self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let written = catch_panic(|| self.to.lock().write_all(&bytes)).unwrap_or_else(panicked);
        if let Err(error) = written {
            self.has_failed.store(true, Ordering::Relaxed);
            tracing::warn!(%error, "the uses of pages are no longer recorded");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        for buffer in &self.buffers {
            self.write(&mut buffer.lock());
        }
        let flushed = catch_panic(|| self.to.lock().flush()).unwrap_or_else(panicked);
        if let Err(error) = flushed {
            tracing::warn!(%error, "the last uses of pages are not recorded");
        }
    }
}

/// Returns the error for a writer that panicked.
fn panicked<P>(_: P) -> io::Result<()> {
    Err(io::Error::other("the writer panicked"))
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("one_in", &(self.mask + 1)).finish_non_exhaustive()
    }
}
