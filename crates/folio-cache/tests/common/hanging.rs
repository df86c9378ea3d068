//! A backing with calls that hang, and threads that must end all the same.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use folio_cache::testing::{Call, Memory};
use folio_cache::{Backing, Durable, Version};
use parking_lot::{Condvar, Mutex};

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counted(Call),
    IsUnlinked,
}

/// Memory of which one kind of call hangs until it is healed.
#[derive(Debug)]
pub(crate) struct Hanging {
    pub(crate) memory: Memory,
    hangs: Mutex<Option<Kind>>,
    healed: Condvar,
    /// The number of calls that hang now.
    pub(crate) hung: AtomicUsize,
}

impl Hanging {
    pub(crate) fn new(bytes: &[u8]) -> Arc<Self> {
        let (hangs, healed, hung) = (Mutex::new(None), Condvar::new(), AtomicUsize::new(0));
        Arc::new(Self { memory: Memory::new(bytes), hangs, healed, hung })
    }

    pub(crate) fn hang(&self, call: Call) {
        *self.hangs.lock() = Some(Kind::Counted(call));
    }

    pub(crate) fn hang_in_is_unlinked(&self) {
        *self.hangs.lock() = Some(Kind::IsUnlinked);
    }

    pub(crate) fn heal(&self) {
        *self.hangs.lock() = None;
        self.healed.notify_all();
    }

    fn pass(&self, call: Call) {
        self.pass_kind(Kind::Counted(call));
    }

    fn pass_kind(&self, call: Kind) {
        let mut hangs = self.hangs.lock();
        if *hangs == Some(call) {
            self.hung.fetch_add(1, Ordering::SeqCst);
            self.healed.wait_while(&mut hangs, |hangs| *hangs == Some(call));
            self.hung.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn wait_until_it_hangs(&self) {
        within("the call does not come", || self.hung.load(Ordering::SeqCst) > 0);
    }
}

impl Backing for Hanging {
    by_memory!(file_id, is_writable);

    fn version(&self) -> io::Result<Version> {
        self.pass(Call::Version);
        self.memory.version()
    }

    fn fill(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.pass(Call::Fill);
        self.memory.fill(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.pass(Call::Write);
        self.memory.write(offset, buffers)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.pass(Call::SetLen);
        self.memory.set_len(len)
    }

    fn sync(&self, what: Durable) -> io::Result<()> {
        self.pass(Call::Sync);
        self.memory.sync(what)
    }

    fn is_unlinked(&self) -> bool {
        self.pass_kind(Kind::IsUnlinked);
        self.memory.is_unlinked()
    }
}

/// Ends the hangs when it is dropped. A failed assertion drops it as well: otherwise the closes
/// would wait forever.
pub(crate) struct HealOnDrop(pub(crate) Vec<Arc<Hanging>>);

impl Drop for HealOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(|hanging| hanging.heal());
    }
}

/// Waits until a condition holds: 20 s at most, which only a hang reaches.
pub(crate) fn within(message: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{message}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Runs `act` in a thread of its own, for 20 s at most.
pub(crate) fn ends(what: &str, act: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(act);
    within(&format!("{what} hangs"), || thread.is_finished());
    thread.join().unwrap();
}
