//! A store for benchmarks: each call takes its time, fails, or hangs until the store is healed.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use folio_cache::{Backing, Durable, FileId, Version};
use parking_lot::{Condvar, Mutex};

/// The time that a call of a healthy store takes, about. A sleep ends some 50 us late.
const LATENCY: Duration = Duration::from_micros(100);

/// The slowdown of a slow store.
const SLOW: u32 = 100;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Version,
    Read,
    Write,
    SetLen,
    Sync,
}

/// The state of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Healthy,
    /// Calls of this kind do not end.
    Hangs(Call),
    /// Every call except `version` fails at once.
    Fails,
    /// Every call takes 100 times as long.
    Slow,
}

/// A file of zeroes, of any length.
#[derive(Debug)]
pub(crate) struct Store {
    object: u64,
    len: AtomicU64,
    health: Mutex<Health>,
    changed: Condvar,
}

impl Store {
    /// Makes a healthy file of `len` bytes.
    pub(crate) fn new(len: u64) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            // Relaxed: they only have to differ.
            object: NEXT.fetch_add(1, Ordering::Relaxed),
            len: AtomicU64::new(len),
            health: Mutex::new(Health::Healthy),
            changed: Condvar::new(),
        })
    }

    /// Sets the state of the store. Calls that hang go on if it is another one.
    pub(crate) fn set(&self, health: Health) {
        *self.health.lock() = health;
        self.changed.notify_all();
    }

    /// Takes the time of a call, or hangs, or fails.
    fn call(&self, call: Call) -> io::Result<()> {
        let mut health = self.health.lock();
        self.changed.wait_while(&mut health, |health| *health == Health::Hangs(call));
        let health = *health;
        if health == Health::Fails && call != Call::Version {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        match (health, call) {
            (Health::Slow, _) => thread::sleep(SLOW * LATENCY),
            (_, Call::Version) => {}
            _ => thread::sleep(LATENCY),
        }
        Ok(())
    }
}

impl Backing for Store {
    fn file_id(&self) -> FileId {
        FileId { space: "bench: store", volume: 0, object: self.object }
    }

    fn version(&self) -> io::Result<Version> {
        self.call(Call::Version)?;
        // Relaxed, here and below: the cache has its own order.
        Ok(Version { len: self.len.load(Ordering::Relaxed), change_token: [0; 4] })
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.call(Call::Read)?;
        let mut left = self.len.load(Ordering::Relaxed).saturating_sub(offset);
        let mut done = 0;
        for buffer in buffers {
            let n = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            buffer[..n].fill(0);
            (left, done) = (left - n as u64, done + n);
        }
        Ok(done)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.call(Call::Write)?;
        let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.len.fetch_max(offset + len as u64, Ordering::Relaxed);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(Call::SetLen)?;
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        self.call(Call::Sync)
    }
}
