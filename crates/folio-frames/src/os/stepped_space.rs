//! For shuttle: the lock of a process with threads that run step by step (`--cfg shuttle`).

use core::sync::atomic::{AtomicBool, Ordering};

use folio_ref::testing::{memory, stepped};
use lock_api::{GuardNoSend, RawMutex};

/// A lock that lets other threads run before it is taken, and sleeps while it is held.
#[derive(Debug)]
pub struct SteppedLock(AtomicBool);

impl SteppedLock {
    fn key(&self) -> usize {
        (&raw const self.0).addr()
    }

    fn take(&self) -> bool {
        // Acquire: pairs with Release in unlock.
        let is_taken = !self.0.swap(true, Ordering::Acquire);
        if is_taken {
            memory::taken(self.key());
        }
        is_taken
    }
}

// SAFETY: after `take` has succeeded, it fails until the next `unlock`.
unsafe impl RawMutex for SteppedLock {
    const INIT: Self = Self(AtomicBool::new(false));
    type Guard = GuardNoSend;

    fn lock(&self) -> GuardNoSend {
        stepped::step();
        while !self.take() {
            stepped::wait(self.key(), &|| self.is_locked());
        }
        GuardNoSend::new()
    }

    fn try_lock(&self) -> Option<GuardNoSend> {
        stepped::step();
        self.take().then_some(GuardNoSend::new())
    }

    unsafe fn unlock(&self, _: GuardNoSend) {
        memory::released(self.key());
        // Release: pairs with Acquire in take.
        self.0.store(false, Ordering::Release);
        stepped::wake_all(self.key());
    }

    fn is_locked(&self) -> bool {
        // Relaxed: take decides.
        self.0.load(Ordering::Relaxed)
    }
}
