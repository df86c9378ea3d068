//! A source of pressure that the program itself drives.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::pressure::source::{Headroom, PressureSource, Reading, Wait};
use crate::rt::lock::Mutex;

/// A source of memory pressure that the program drives. A clone is another handle on the same
/// source: give one to [`Pressure::source`](crate::pressure::Pressure::source), and keep one. Each
/// cache needs a source of its own.
#[derive(Clone, Debug)]
pub struct PressureHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    event: OwnedFd,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    signal: bool,
    headroom: Option<Headroom>,
}

impl PressureHandle {
    /// Returns a source without pressure.
    ///
    /// # Errors
    ///
    /// The system's error if no descriptor (an eventfd) is free.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { event, now: Mutex::default() }) })
    }

    /// Reports that memory is short: the cache gives back half of what it uses. Signals within
    /// 100 ms count as one.
    pub fn signal(&self) {
        self.inner.now.lock().signal = true;
        self.wake();
    }

    /// Sets the limit, and what is used under it. Both are in bytes, and include the cache.
    pub fn set_room(&self, limit: u64, used: u64) {
        self.inner.now.lock().headroom = Some(Headroom { limit, used });
        self.wake();
    }

    /// Removes the limit.
    pub fn clear_room(&self) {
        self.inner.now.lock().headroom = None;
        self.wake();
    }

    /// Wakes the thread that waits for the descriptor.
    fn wake(&self) {
        // It fails if the count is at its maximum: then the descriptor has an event already.
        let _ = rustix::io::write(&self.inner.event, &1_u64.to_ne_bytes());
    }
}

impl PressureSource for PressureHandle {
    fn wait(&self) -> Option<Wait<'_>> {
        Some(Wait::Readable(self.inner.event.as_fd()))
    }

    fn read(&mut self, _: bool) -> Reading {
        // Before the state: what changes from here on has an event of its own.
        let _ = rustix::io::read(&self.inner.event, &mut [0; 8]);
        let mut now = self.inner.now.lock();
        let signal = std::mem::take(&mut now.signal);
        Reading { signal, headrooms: now.headroom.into_iter().collect() }
    }
}
