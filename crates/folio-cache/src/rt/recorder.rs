//! Records which pages a program uses, for `folio policy`: each thread in a buffer of its own.
//!
//! A recording is a stream of bytes, numbers with the least byte first: [`USES_MAGIC`], the share
//! of the pages in it (4 bytes: one in so many), and 8 bytes for each use: the page (4 bytes), and
//! the number of the open file (4 bytes), as the cache counts the files that it has opened. The
//! uses of one thread are in their order. Those of several threads are in the order in which their
//! buffers got full.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

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

/// The uses that a thread has collected.
#[derive(Default)]
struct Buffer {
    uses: Vec<u64>,
    /// By id: the numbers of files in the recording that the thread has looked up.
    files: HashMap<u32, u32>,
    /// The files that were opened when `files` was right.
    opened: u32,
}

/// Writes uses of pages.
pub(crate) struct Recorder {
    /// A page is recorded if its hash has none of these bits.
    mask: u64,
    /// By the number of the thread. All threads without a number share the last one.
    buffers: [CachePadded<Mutex<Buffer>>; NUMBERS + 1],
    to: Mutex<Box<dyn Write + Send>>,
    has_failed: AtomicBool,
    /// The number of files that were opened.
    opened: AtomicU32,
    /// By id: the number of the last file that was opened with it.
    numbers: Mutex<HashMap<u32, u32>>,
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
            opened: AtomicU32::new(0),
            numbers: Mutex::default(),
            process: Process::current(),
        })
    }

    /// Numbers a file that is opened, before its first use. Others had its id before: what their
    /// pages were says nothing about its own.
    pub(crate) fn opened(&self, id: u32) {
        if !self.process.is_current() {
            return;
        }
        let mut numbers = self.numbers.lock();
        // Relaxed: the lock orders the numbers, and a user of the file has it from this thread.
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        numbers.insert(id, number);
    }

    /// Records a use of a page of a file.
    #[cold]
    #[inline(never)]
    pub(crate) fn record(&self, id: u32, page: u32) {
        if !self.process.is_current() {
            return;
        }
        let mut buffer = self.buffers[counter::number()].lock();
        let number = self.number(&mut buffer, id, page);
        let hash = (number ^ number >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        if hash >> (u64::BITS - HASH_BITS) & self.mask != 0 {
            return;
        }
        buffer.uses.push(number);
        if buffer.uses.len() >= ROOM {
            self.write(&mut buffer.uses);
        }
    }

    /// Takes back the last use that this thread recorded, of a page that it looks up once more. One
    /// that was written already stays.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_back(&self, id: u32, page: u32) {
        if self.process.is_current() {
            let mut buffer = self.buffers[counter::number()].lock();
            let number = self.number(&mut buffer, id, page);
            _ = buffer.uses.pop_if(|last| *last == number);
        }
    }

    /// Returns the number of a page in the recording.
    fn number(&self, buffer: &mut Buffer, id: u32, page: u32) -> u64 {
        let opened = self.opened.load(Ordering::Relaxed);
        if buffer.opened != opened {
            buffer.files.clear();
            buffer.opened = opened;
        }
        let number = || self.numbers.lock().get(&id).copied().unwrap_or_default();
        let file = *buffer.files.entry(id).or_insert_with(number);
        u64::from(file) << 32 | u64::from(page)
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
            self.write(&mut buffer.lock().uses);
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
