//! A file past the kernel's cache: once in memory is enough, and one copy less on the way to the
//! disk. Many reads go there by one system call.
//!
//! | what | where it is refused |
//! | --- | --- |
//! | `O_DIRECT` | some file systems; then, and for what is not whole pages, the kernel's cache is asked |
//! | `io_uring` | most containers, old kernels; then requests are made one after the other, as they are for as long as descriptors or memory are short |
//!
//! Either is found out once and said by `tracing`. The kernel writes what is dirty in its own cache
//! before it reads or writes past it, and drops there what was written past it: so who goes through
//! that cache, we with the last part of a page among them, sees and is seen.

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

/// What `O_DIRECT` wants offsets, lengths and addresses to be a multiple of, on any disk.
const ALIGNMENT: usize = 4096;

/// No file reaches here, and the system refuses an offset of which it can not tell the end with the
/// same error as a way past its cache.
const FARTHEST: u64 = 1 << 62;

/// Requests of one thread in flight at the most.
const DEPTH: u32 = 64;

/// A descriptor of its own for a file, past the kernel's cache.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// Somebody asked for it.
    pub(super) wanted: bool,
    /// `None`: it can not be opened so. Opened when it is first asked for.
    file: OnceLock<Option<fs::File>>,
    /// It was opened, but can not be used so.
    refused: AtomicBool,
}

impl Direct {
    /// The descriptor, if it can be used at this offset.
    fn at(&self, file: &fs::File, offset: u64) -> Option<&fs::File> {
        let is_possible = offset.is_multiple_of(ALIGNMENT as u64) && offset < FARTHEST;
        // Relaxed: a hint.
        if !self.wanted || !is_possible || self.refused.load(Ordering::Relaxed) {
            return None;
        }
        self.file.get_or_init(|| open(file)).as_ref()
    }

    /// The descriptor, if it can be used for all of these.
    fn usable<'b>(
        &self,
        file: &fs::File,
        offset: u64,
        buffers: impl IntoIterator<Item = &'b IoSliceMut<'b>>,
    ) -> Option<&fs::File> {
        let whole = buffers.into_iter().all(|buffer| whole_pages(buffer) == Some(buffer.len()));
        if whole { self.at(file, offset) } else { None }
    }

    /// Reads what can be read past the kernel's cache. How many bytes: perhaps 0, which says
    /// nothing about the end.
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

    /// Writes the first whole pages past the kernel's cache. How many bytes: perhaps 0, and the
    /// kernel's cache takes them.
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

    /// 0 where the file system refuses, from now on.
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
        static SAID: AtomicBool = AtomicBool::new(false);
        // Relaxed, both: a hint.
        self.refused.store(true, Ordering::Relaxed);
        if !SAID.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a file system has no way past the kernel's cache: its files are cached twice"
            );
        }
    }

    /// Makes several requests at once. What is not answered in full is to be made again, one by
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

/// How many bytes of a buffer are whole pages; `None`: it does not begin as one.
fn whole_pages(buffer: &[u8]) -> Option<usize> {
    buffer.as_ptr().addr().is_multiple_of(ALIGNMENT).then_some(buffer.len() / ALIGNMENT * ALIGNMENT)
}

/// Opens the same file again, for the same: the flag belongs to the descriptor, and parts of pages
/// do without it.
fn open(file: &fs::File) -> Option<fs::File> {
    let mode = rustix::fs::fcntl_getfl(file).ok()? & OFlags::RWMODE;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, mode | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .map(fs::File::from)
        .ok()
}

/// Whether this process may have rings.
static RINGS: Rings = Rings { refused: AtomicBool::new(false) };

struct Rings {
    /// The system has none for us: found out by the first thread that tried.
    refused: AtomicBool,
}

/// Whether requests can be made at once, as far as it is known.
pub(super) fn has_rings() -> bool {
    RINGS.are_there()
}

/// Calls `work` with this thread's ring. `false`: there is none.
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

    /// What is short now is asked for again with the next requests: descriptors, memory, memory
    /// that may be locked. Anything else is the system's last word, as `EPERM` and `ENOSYS`
    /// are.
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

    /// It did: from one request past the end of all files on, a file was cached twice.
    #[test]
    fn an_offset_that_no_file_has_does_not_end_the_way_past_the_cache() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        let mut page = Page([1; ALIGNMENT]);
        for offset in [u64::MAX - 4095, i64::MAX as u64 - 4095, FARTHEST] {
            assert_eq!(direct.write(&file, offset, &[IoSlice::new(&page.0)]).unwrap(), 0);
            assert_eq!(direct.read(&file, offset, &mut [IoSliceMut::new(&mut page.0)]).unwrap(), 0);
            assert!(!direct.refused.load(Ordering::Relaxed), "at {offset}");
        }
    }

    /// One moment without a free descriptor, and the process made its requests one after the other
    /// for ever.
    #[test]
    fn what_is_short_for_a_moment_does_not_end_the_rings() {
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
            // A thread of its own has no ring yet.
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
