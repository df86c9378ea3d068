//! A local file past the kernel's page cache, and many reads of it by one system call.
//!
//! Caching pages once is enough, and direct I/O saves a copy.
//!
//! - Some file systems refuse `O_DIRECT`. Then, and for parts of pages, I/O goes through the
//!   kernel's page cache.
//! - Most containers and old kernels refuse `io_uring`. Then requests are made one after the other.
//!
//! A refusal that lasts is remembered. One that passes, as for want of descriptors or memory, has
//! the same effect until it is over ([`Supply`]). `tracing` reports both.
//!
//! The kernel writes the dirty pages of its own cache before a direct read or write, and drops its
//! pages that a direct write changed. So programs that go through the kernel's page cache see the
//! same bytes. The last part of a page goes through it.

use std::cell::RefCell;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use folio_uring::{Request, Ring};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread, preadv, pwrite, pwritev};

use super::supply::Supply;
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
    /// Opened on first use.
    file: OnceLock<fs::File>,
    supply: Supply,
}

/// The errors of a file system that can never bypass its cache for this file.
const NEVER_DIRECT: [Errno; 2] = [Errno::INVAL, Errno::OPNOTSUPP];

impl Direct {
    /// Returns the descriptor, if it can be used at this offset.
    fn at(&self, file: &fs::File, offset: u64) -> Option<&fs::File> {
        let is_possible = offset.is_multiple_of(ALIGNMENT as u64) && offset < FARTHEST;
        if !self.wanted || !is_possible || self.supply.is_refused() {
            return None;
        }
        self.file.get().or_else(|| self.open(|| open(file)))
    }

    /// Opens the descriptor, unless that failed a moment ago.
    #[cold]
    fn open(&self, open: impl FnOnce() -> io::Result<fs::File>) -> Option<&fs::File> {
        let opened = self.supply.get("way past the kernel's cache", &NEVER_DIRECT, open)?;
        // If two threads open it, one descriptor is closed again.
        Some(self.file.get_or_init(|| opened))
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
        // More in one call would be refused by the error that says "not past the cache".
        let most = buffers.len().min(whole::MOST_BUFFERS);
        let buffers = &mut buffers[..most];
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
            Err(error) if NEVER_DIRECT.contains(&error) => {
                self.supply.refuse("way past the kernel's cache", &error.into());
                Ok(0)
            }
            other => Ok(other?),
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
fn open(file: &fs::File) -> io::Result<fs::File> {
    let mode = rustix::fs::fcntl_getfl(file)? & OFlags::RWMODE;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = mode | OFlags::DIRECT | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// The errors of a system that has no rings for this process: a kernel or a container without
/// them.
const NO_RINGS: [Errno; 5] =
    [Errno::NOSYS, Errno::PERM, Errno::ACCESS, Errno::INVAL, Errno::OPNOTSUPP];

/// The rings of this process: one for each thread that reads.
static RINGS: Rings = Rings { supply: Supply::new() };

struct Rings {
    supply: Supply,
}

/// Returns `true` unless it is known that requests cannot be made at once.
pub(super) fn has_rings() -> bool {
    RINGS.supply.is_expected()
}

/// Calls `work` with the ring of this thread. Returns `false` if there is none.
fn with_ring(work: impl FnOnce(&mut Ring)) -> bool {
    RINGS.with_one(|| Ring::new(DEPTH), work)
}

impl Rings {
    fn with_one(
        &self,
        make: impl FnOnce() -> io::Result<Ring>,
        work: impl FnOnce(&mut Ring),
    ) -> bool {
        thread_local! {
            static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
        }
        if self.supply.is_refused() {
            return false;
        }
        let done = RING.try_with(|ring| {
            let mut ring = ring.borrow_mut();
            if ring.as_ref().is_none_or(|ring| !ring.is_usable()) {
                *ring = self.supply.get("io_uring", &NO_RINGS, make);
            }
            ring.as_mut().map(work).is_some()
        });
        done.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::rt::backoff::LONGEST_PAUSE;

    #[repr(align(4096))]
    struct Page([u8; ALIGNMENT]);

    fn error_of(code: Errno) -> io::Error {
        io::Error::from_raw_os_error(code.raw_os_error())
    }

    /// Waits until a supply may be asked again.
    fn await_turn(supply: &Supply) {
        while !supply.is_expected() {
            assert!(!supply.is_refused(), "it is never asked again");
            thread::sleep(LONGEST_PAUSE / 1000);
        }
    }

    /// Otherwise the file would be cached twice from then on.
    #[test]
    fn an_impossible_offset_does_not_end_direct_io() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        let mut page = Page([1; ALIGNMENT]);
        for offset in [u64::MAX - 4095, i64::MAX as u64 - 4095, FARTHEST] {
            assert_eq!(direct.write(&file, offset, &[IoSlice::new(&page.0)]).unwrap(), 0);
            assert_eq!(direct.read(&file, offset, &mut [IoSliceMut::new(&mut page.0)]).unwrap(), 0);
            assert!(!direct.supply.is_refused(), "at {offset}");
        }
    }

    #[test]
    fn more_buffers_than_one_call_takes_do_not_end_direct_access() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        let mut pages: Vec<Box<Page>> = (0..1100).map(|_| Box::new(Page([0; ALIGNMENT]))).collect();
        file.set_len(1100 * ALIGNMENT as u64).unwrap();
        let mut buffers: Vec<_> =
            pages.iter_mut().map(|page| IoSliceMut::new(&mut page.0)).collect();
        direct.read(&file, 0, &mut buffers).unwrap();
        assert!(!direct.supply.is_refused());
    }

    #[test]
    fn a_passing_failure_to_open_is_tried_again() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOENT, Errno::ACCESS] {
            await_turn(&direct.supply);
            let mut tries = 0;
            // At once and often: only the first asks the system.
            for _ in 0..100 {
                let open = || {
                    tries += 1;
                    Err(error_of(code))
                };
                assert!(direct.open(open).is_none());
            }
            assert!((1..20).contains(&tries), "{tries} tries after {code}");
        }
        await_turn(&direct.supply);
        assert!(direct.open(|| file.try_clone()).is_some());
        for code in NEVER_DIRECT {
            let direct = Direct { wanted: true, ..Direct::default() };
            assert!(direct.open(|| Err(error_of(code))).is_none());
            assert!(direct.open(|| panic!("it was refused: {code}")).is_none());
        }
    }

    #[test]
    fn a_passing_shortage_does_not_end_the_rings() {
        let rings = Rings { supply: Supply::new() };
        for code in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::BUSY] {
            assert!(!rings.with_one(|| Err(error_of(code)), |_| panic!("there is none")));
            assert!(!rings.supply.is_refused(), "{code}");
        }
        // The next request after the pause has one, where the system has any.
        await_turn(&rings.supply);
        let mut asked = false;
        let mut worked = false;
        let make = || {
            asked = true;
            Ring::new(DEPTH)
        };
        assert_eq!(rings.with_one(make, |_| worked = true), worked);
        assert!(asked);
        for code in [Errno::PERM, Errno::NOSYS, Errno::ACCESS] {
            let rings = Rings { supply: Supply::new() };
            // A new thread has no ring yet.
            thread::scope(|scope| {
                let asks = || rings.with_one(|| Err(error_of(code)), |_| panic!("there is none"));
                assert!(!scope.spawn(asks).join().unwrap());
            });
            assert!(rings.supply.is_refused(), "{code}");
            assert!(
                !rings.with_one(|| panic!("it was refused: {code}"), |_| panic!("there is none"))
            );
        }
    }

    #[repr(align(4096))]
    struct Pages([u8; 4 * ALIGNMENT]);

    /// Returns `n` where direct I/O is possible, and 0 elsewhere.
    fn if_possible(file: &fs::File, n: usize) -> usize {
        if open(file).is_ok() { n } else { 0 }
    }

    #[test]
    fn whole_pages_are_written_past_the_kernels_cache() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        let mut pages = Pages([0; 4 * ALIGNMENT]);
        for (n, page) in pages.0.chunks_mut(ALIGNMENT).enumerate() {
            page.fill(n as u8 + 1);
        }
        let bytes = &pages.0;
        let (half, page) = (ALIGNMENT / 2, ALIGNMENT);
        for (buffers, written) in [
            (vec![&bytes[..page]], page),
            (vec![&bytes[..3 * page]], 3 * page),
            (vec![&bytes[..page + half]], page),
            (vec![&bytes[..half]], 0),
            (vec![&bytes[..page], &bytes[2 * page..]], 3 * page),
            (vec![&bytes[..2 * page], &bytes[page..page + half]], 2 * page),
            // No buffer behind a part of a page, and none that is not aligned.
            (vec![&bytes[..page + half], &bytes[..page]], page),
            (vec![&bytes[..page], &bytes[half..half + page], &bytes[..page]], page),
            (vec![&bytes[half..half + page], &bytes[..page]], 0),
            (vec![], 0),
        ] {
            file.set_len(0).unwrap();
            let slices: Vec<_> = buffers.iter().map(|buffer| IoSlice::new(buffer)).collect();
            let expected = if_possible(&file, written);
            assert_eq!(direct.write(&file, page as u64, &slices).unwrap(), expected);
            let mut there = vec![0; 5 * page];
            let read = pread(&file, &mut *there, page as u64).unwrap();
            assert!(there[..read] == buffers.concat()[..expected], "{written}");
            assert_eq!(direct.write(&file, half as u64, &slices).unwrap(), 0, "not aligned");
            assert_eq!(Direct::default().write(&file, 0, &slices).unwrap(), 0, "not wanted");
        }
    }

    #[test]
    fn whole_pages_are_read_past_the_kernels_cache() {
        let file = tempfile::tempfile().unwrap();
        let direct = Direct { wanted: true, ..Direct::default() };
        let (half, page) = (ALIGNMENT / 2, ALIGNMENT);
        let bytes: Vec<u8> = (0..4 * page).map(|n| (n / 100) as u8).collect();
        assert_eq!(rustix::io::pwrite(&file, &bytes, 0).unwrap(), bytes.len());
        let mut pages = Pages([0; 4 * ALIGNMENT]);
        for (ranges, read) in [
            (&[(0, page)][..], page),
            (&[(0, 2 * page), (3 * page, 4 * page)][..], 3 * page),
            (&[(0, page + half)][..], 0),
            (&[(0, page), (page, page + half)][..], 0),
            (&[(half, half + page)][..], 0),
        ] {
            pages.0.fill(0);
            let mut rest = &mut pages.0[..];
            let (mut buffers, mut at) = (Vec::new(), 0);
            for &(start, end) in ranges {
                let (_, behind) = rest.split_at_mut(start - at);
                let (buffer, behind) = behind.split_at_mut(end - start);
                buffers.push(IoSliceMut::new(buffer));
                (rest, at) = (behind, end);
            }
            let expected = if_possible(&file, read);
            assert_eq!(direct.read(&file, 0, &mut buffers).unwrap(), expected);
            let seen: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
            assert!(seen[..expected] == bytes[..expected]);
            assert_eq!(direct.read(&file, half as u64, &mut buffers).unwrap(), 0, "not aligned");
            assert_eq!(Direct::default().read(&file, 0, &mut buffers).unwrap(), 0, "not wanted");
        }
    }

    #[test]
    fn a_refusal_ends_direct_access_and_no_other_error_does() {
        let direct = Direct { wanted: true, ..Direct::default() };
        assert_eq!(direct.unless_refused(Ok(5)).unwrap(), 5);
        let error = direct.unless_refused(Err(Errno::IO)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        assert!(!direct.supply.is_refused());
        assert_eq!(direct.unless_refused(Err(Errno::INVAL)).unwrap(), 0);
        assert!(direct.supply.is_refused());
        let file = tempfile::tempfile().unwrap();
        assert!(direct.at(&file, 0).is_none());
    }

    #[test]
    fn the_second_descriptor_has_the_access_of_the_first() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read_only = fs::File::open(file.path()).unwrap();
        for (file, mode) in [(file.as_file(), OFlags::RDWR), (&read_only, OFlags::RDONLY)] {
            let Ok(second) = open(file) else { continue };
            let flags = rustix::fs::fcntl_getfl(&second).unwrap();
            assert_eq!(flags & OFlags::RWMODE, mode);
            assert!(flags.contains(OFlags::DIRECT));
            let flags = rustix::io::fcntl_getfd(&second).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_thread_uses_one_ring_for_many_requests() {
        let is_possible = Ring::new(DEPTH).is_ok();
        assert_eq!(with_ring(|_| ()), is_possible);
        assert_eq!(has_rings(), is_possible);
        let rings = Rings { supply: Supply::new() };
        thread::spawn(move || {
            let mut asked = 0;
            for _ in 0..10 {
                let make = || {
                    asked += 1;
                    Ring::new(DEPTH)
                };
                assert_eq!(rings.with_one(make, |_| ()), is_possible);
            }
            // Without rings, a lasting refusal is remembered, and others are tried again later.
            assert_eq!(asked, 1);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn requests_to_a_ring_have_their_results() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(rustix::io::pwrite(&file, &[7; 3 * ALIGNMENT], 0).unwrap(), 3 * ALIGNMENT);
        let mut buffers = vec![vec![0; ALIGNMENT]; 3];
        let mut requests: Vec<_> = buffers
            .iter_mut()
            .enumerate()
            .map(|(n, buffer)| Fill {
                offset: (n * ALIGNMENT) as u64,
                buffers: vec![IoSliceMut::new(buffer)],
                result: Ok(0),
            })
            .collect();
        Direct::default().read_all(&file, &mut requests);
        let expected = if has_rings() { ALIGNMENT } else { 0 };
        for request in &requests {
            assert!(matches!(request.result, Ok(read) if read == expected), "{request:?}");
        }
        drop(requests);
        assert!(buffers.concat().iter().all(|&byte| (byte == 7) == (expected > 0)));
    }
}
