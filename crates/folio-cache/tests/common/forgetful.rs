//! A backing that loses what was written when a sync fails.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use folio_cache::testing::Memory;
use folio_cache::{Backing, Durable};
use parking_lot::Mutex;

pub(crate) const EIO: i32 = 5;
const PAGE: u64 = 4096;

/// A backing that syncs as Linux does: a failed sync counts all pages as clean, and the next one
/// succeeds without them. So a page is durable only if it was written since the last failure.
#[derive(Debug)]
pub(crate) struct Forgetful {
    pub(crate) memory: Memory,
    /// The pages written since the last sync, good or failed, with what they held.
    unsynced: Mutex<BTreeMap<u64, Vec<u8>>>,
    pub(crate) durable: Mutex<Vec<u8>>,
    fails: AtomicBool,
    /// The next sync panics.
    pub(crate) panics: AtomicBool,
    /// The number of syncs that began.
    pub(crate) syncs: AtomicUsize,
    /// A sync waits for it.
    pub(crate) gate: Mutex<()>,
}

impl Forgetful {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new(b""),
            unsynced: Mutex::default(),
            durable: Mutex::default(),
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            syncs: AtomicUsize::new(0),
            gate: Mutex::default(),
        })
    }

    /// Makes syncs fail, or succeed.
    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }
}

impl Backing for Forgetful {
    by_memory!(file_id, version, fill, is_writable);

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        for (page, bytes) in (offset / PAGE..).zip(bytes.chunks(PAGE as usize)) {
            self.unsynced.lock().insert(page, bytes.to_vec());
        }
        self.memory.write(offset, buffers)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.unsynced.lock().retain(|&page, bytes| {
            bytes.truncate(len.saturating_sub(page * PAGE) as usize);
            !bytes.is_empty()
        });
        self.durable.lock().resize(len as usize, 0);
        self.memory.set_len(len)
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let _gate = self.gate.lock();
        let unsynced = std::mem::take(&mut *self.unsynced.lock());
        assert!(!self.panics.swap(false, Ordering::SeqCst), "a panic on purpose");
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let mut durable = self.durable.lock();
        for (page, bytes) in unsynced {
            let start = (page * PAGE) as usize;
            let len = durable.len().max(start + bytes.len());
            durable.resize(len, 0);
            durable[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}
