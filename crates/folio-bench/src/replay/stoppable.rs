//! A file of which a read that waits ends when it is asked to.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// The time between two looks at the flag that ends a read: 50 ms.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A file, such as a pipe. Its reads fail once `stop` is set.
#[derive(Debug)]
pub(super) struct Stoppable {
    file: File,
    stop: &'static AtomicBool,
}

impl Stoppable {
    /// Opens a file. Does not wait for the writer of a FIFO.
    pub(super) fn open(path: &Path, stop: &'static AtomicBool) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self { file, stop })
    }
}

impl Read for Stoppable {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Relaxed: a flag of its own.
        while !self.stop.load(Ordering::Relaxed) {
            // A FIFO has no end before its first writer.
            let mut asked = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut asked, Some(&LOOK)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            match self.file.read(buf) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                read => return read,
            }
        }
        Err(io::Error::other("stopped before the end"))
    }
}
