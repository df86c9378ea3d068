//! A local file past the kernel's page cache, and many reads of it by one system call.
//!
//! Caching pages once is enough, and direct I/O saves a copy.
//!
//! - Some file systems refuse `O_DIRECT`. Then, and for parts of pages, I/O goes through the
//!   kernel's page cache.
//! - Most containers and old kernels refuse `io_uring`. Then requests are made one after the other,
//!   as they are while descriptors or memory are short.
//!
//! Each refusal is found out once, and reported by `tracing`. The kernel writes the dirty pages of
//! its own cache before a direct read or write, and drops its pages that a direct write changed. So
//! programs that go through the kernel's page cache see the same bytes. The last part of a page
//! goes through it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use folio_uring::{Request, Ring};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread, preadv, pwrite, pwritev};

use super::{Fill, whole};

/// The alignment of offsets, lengths and addresses for `O_DIRECT`, on any disk.
const ALIGNMENT: usize = 4096;

/// No file reaches this offset. If the end of a request overflows, the system refuses it with the
/// same error as a file without direct I/O.
const FARTHEST: u64 = 1 << 62;

/// The maximum number of requests of one thread in flight.
const DEPTH: u32 = 64;

/// A descriptor of a file past the kernel's page cache.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// It was asked for.
    pub(super) wanted: bool,
    /// `None`: it cannot be opened with `O_DIRECT`. Opened on first use.
    file: OnceLock<Option<fs::File>>,
    /// It was opened, but the file system refuses direct I/O.
    refused: AtomicBool,
}

impl Direct {
    /// Returns the descriptor, if it can be used at this offset.
    fn at(&self, file: &fs::File, offset: u64) -> Option<&fs::File> {
        let is_possible = offset.is_multiple_of(ALIGNMENT as u64) && offset < FARTHEST;
        // Relaxed: a hint.
        if !self.wanted || !is_possible || self.refused.load(Ordering::Relaxed) {
            return None;
        }
        self.file.get_or_init(|| open(file)).as_ref()
    }

    /// Returns the descriptor, if it can be used for all of these buffers.
    fn usable<'b>(
        &self,
        file: &fs::File,
        offset: u64,
        buffers: impl IntoIterator<Item = &'b IoSliceMut<'b>>,
    ) -> Option<&fs::File> {
        let whole = buffers.into_iter().all(|buffer| whole_pages(buffer) == Some(buffer.len()));
        if whole { self.at(file, offset) } else { None }
    }

    /// Reads what can be read past the kernel's page cache. Returns the number of bytes read. 0
    /// does not mean the end.
    pub(super) fn read(
        &self,
        file: &fs::File,
        offset: u64,
        buffers: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        let Some(direct) = self.usable(file, offset, &*buffers) else { return Ok(0) };
        let read = match buffers {
            [one] => pread(direct, &mut **one, offset),
            many => preadv(direct, many, offset),
        };
        match read {
            Err(Errno::INTR) => Ok(0),
            other => self.unless_refused(other),
        }
    }

    /// Writes the first whole pages past the kernel's page cache. Returns the number of bytes
    /// written. After 0, the kernel's page cache takes them.
    pub(super) fn write(
        &self,
        file: &fs::File,
        offset: u64,
        buffers: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let Some(direct) = self.at(file, offset) else { return Ok(0) };
        let mut bytes = 0;
        for buffer in buffers {
            let Some(whole) = whole_pages(buffer) else { break };
            bytes += whole;
            if whole < buffer.len() {
                break;
            }
        }
        if bytes == 0 {
            return Ok(0);
        }
        self.unless_refused(match &*whole::first(buffers, bytes) {
            [one] => pwrite(direct, one, offset),
            many => pwritev(direct, many, offset),
        })
    }

    /// Returns 0 if the file system refuses, as it will from now on.
    fn unless_refused(&self, done: Result<usize, Errno>) -> io::Result<usize> {
        match done {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.refuse();
                Ok(0)
            }
            other => Ok(other?),
        }
    }

    fn refuse(&self) {
        static REPORTED: AtomicBool = AtomicBool::new(false);
        // Relaxed, both: a hint.
        self.refused.store(true, Ordering::Relaxed);
        if !REPORTED.swap(true, Ordering::Relaxed) {
            tracing::warn!("a file system refuses O_DIRECT: its files are cached twice");
        }
    }

    /// Makes several requests at once. Those without a full answer are to be made again, one by
    /// one.
    pub(super) fn read_all(&self, file: &fs::File, requests: &mut [Fill<'_>]) {
        let mut direct =
            requests.iter().map(|request| self.usable(file, request.offset, &request.buffers));
        // All or none: one that is not aligned is rare.
        let all_direct = direct.try_fold(file, |_, one| one);
        let (mut made, results): (Vec<_>, Vec<_>) = requests
            .iter_mut()
            .map(|fill| (Request::new(fill.offset, &mut fill.buffers), &mut fill.result))
            .unzip();
        if with_ring(|ring| ring.read_all(all_direct.unwrap_or(file), &mut made)) {
            for (request, result) in made.into_iter().zip(results) {
                *result = request.result;
            }
        }
    }
}

/// Returns the number of bytes of a buffer in whole pages. `None`: it is not aligned.
fn whole_pages(buffer: &[u8]) -> Option<usize> {
    buffer.as_ptr().addr().is_multiple_of(ALIGNMENT).then_some(buffer.len() / ALIGNMENT * ALIGNMENT)
}

/// Opens the same file again for the same access. The flag belongs to the descriptor, and parts of
/// pages are read and written without it.
fn open(file: &fs::File) -> Option<fs::File> {
    let mode = rustix::fs::fcntl_getfl(file).ok()? & OFlags::RWMODE;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, mode | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .map(fs::File::from)
        .ok()
}

/// The knowledge about rings of this process.
static RINGS: Rings = Rings { refused: AtomicBool::new(false) };

struct Rings {
    /// The system refuses rings: found out by the first thread that tried.
    refused: AtomicBool,
}

/// Returns `true` unless it is known that requests cannot be made at once.
pub(super) fn has_rings() -> bool {
    RINGS.are_there()
}

/// Calls `work` with the ring of this thread. Returns `false` if there is none.
fn with_ring(work: impl FnOnce(&mut Ring)) -> bool {
    RINGS.with_one(|| Ring::new(DEPTH), work)
}

impl Rings {
    fn are_there(&self) -> bool {
        // Relaxed: a hint.
        !self.refused.load(Ordering::Relaxed)
    }

    fn with_one(
        &self,
        make: impl FnOnce() -> io::Result<Ring>,
        work: impl FnOnce(&mut Ring),
    ) -> bool {
        thread_local! {
            static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
        }
        if !self.are_there() {
            return false;
        }
        let done = RING.try_with(|ring| {
            let mut ring = ring.borrow_mut();
            if ring.as_ref().is_none_or(|ring| !ring.is_usable()) {
                match make() {
                    Ok(new) => *ring = Some(new),
                    Err(error) => {
                        self.did_not_get_one(&error);
                        return false;
                    }
                }
            }
            ring.as_mut().is_some_and(|ring| {
                work(ring);
                true
            })
        });
        done.unwrap_or(false)
    }

    /// Notes why there is no ring. A shortage of descriptors, memory or lockable memory may pass:
    /// the next requests try again. Any other error is final, such as `EPERM` and `ENOSYS`.
    fn did_not_get_one(&self, error: &io::Error) {
        const SHORT: [Errno; 5] =
            [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR];
        if SHORT.iter().any(|short| error.raw_os_error() == Some(short.raw_os_error())) {
            tracing::debug!(%error, "no io_uring for now: requests are made one after the other");
        } else if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "no io_uring: requests are made one after the other");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[repr(align(4096))]
    struct Page([u8; ALIGNMENT]);

    /// Otherwise the file would be cached twice from then on.
    #[test]
    fn an_impossible_offset_does_not_end_direct_io() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        let mut page = Page([1; ALIGNMENT]);
        for offset in [u64::MAX - 4095, i64::MAX as u64 - 4095, FARTHEST] {
            assert_eq!(direct.write(&file, offset, &[IoSlice::new(&page.0)]).unwrap(), 0);
            assert_eq!(direct.read(&file, offset, &mut [IoSliceMut::new(&mut page.0)]).unwrap(), 0);
            assert!(!direct.refused.load(Ordering::Relaxed), "at {offset}");
        }
    }

    /// Otherwise a moment without a free descriptor would end the use of rings in the process.
    #[test]
    fn a_short_shortage_does_not_end_the_use_of_rings() {
        let of = |code: Errno| io::Error::from_raw_os_error(code.raw_os_error());
        let rings = Rings { refused: AtomicBool::new(false) };
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN] {
            assert!(!rings.with_one(|| Err(of(code)), |_| panic!("there is none")));
            assert!(rings.are_there(), "{code}");
        }
        // The next request has one, where the system has any.
        let mut asked = false;
        let mut worked = false;
        let make = || {
            asked = true;
            Ring::new(DEPTH)
        };
        assert_eq!(rings.with_one(make, |_| worked = true), worked);
        assert!(asked);
        for code in [Errno::PERM, Errno::NOSYS, Errno::ACCESS] {
            let rings = Rings { refused: AtomicBool::new(false) };
            // A new thread has no ring yet.
            thread::scope(|scope| {
                let asks = || rings.with_one(|| Err(of(code)), |_| panic!("there is none"));
                assert!(!scope.spawn(asks).join().unwrap());
            });
            assert!(!rings.are_there(), "{code}");
            assert!(
                !rings.with_one(|| panic!("it was refused: {code}"), |_| panic!("there is none"))
            );
        }
    }
}
