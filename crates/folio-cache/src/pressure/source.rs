//! The trait of sources of memory pressure, and what they report.

use std::fmt;
use std::os::fd::BorrowedFd;

/// A limit for memory, and what is used under it by all programs that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The limit in bytes.
    pub limit: u64,
    /// The bytes in use that the system cannot take back by itself, those of the cache included.
    pub used: u64,
}

impl Headroom {
    /// Returns the bytes that are free: 0 if more than the limit is used.
    pub fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The report of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Memory has become short since the last reading.
    pub signal: bool,
    /// The limits that hold now. The tightest one counts.
    pub headrooms: Vec<Headroom>,
}

/// A descriptor to wait for by poll(2), and the event that asks for a reading.
#[derive(Clone, Copy, Debug)]
pub enum Wait<'a> {
    /// `POLLIN`: as of an eventfd or a socket.
    Readable(BorrowedFd<'a>),
    /// `POLLPRI`: as of a file of pressure stall information.
    Urgent(BorrowedFd<'a>),
}

/// A source of memory pressure. Implement it for what only your program knows.
///
/// It is called by one thread at a time: one of the cache, or one in
/// [`Cache::relieve`](crate::Cache::relieve). It must not call the cache.
pub trait PressureSource: fmt::Debug + Send + 'static {
    /// Returns a descriptor to wait for. The reading must end its event. Called when the cache is
    /// built, and by [`Cache::relieve`](crate::Cache::relieve).
    ///
    /// The default is `None`: the thread reads the source from time to time, at least once a
    /// second.
    fn wait(&self) -> Option<Wait<'_>> {
        None
    }

    /// Reads the source. `has_event` says that its descriptor had an event.
    ///
    /// A source that panics is left out for a second. The other sources are read.
    fn read(&mut self, has_event: bool) -> Reading;
}
