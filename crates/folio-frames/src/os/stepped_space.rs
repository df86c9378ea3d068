//! For shuttle: the lock and the sleeping of a process whose threads are played (`--cfg shuttle`).

use core::sync::atomic::{AtomicBool, Ordering};

use folio_ref::testing::stepped;
use lock_api::{GuardNoSend, RawMutex};

/// A lock that lets other threads go on before it is taken, and sleeps while it is not free.
#[derive(Debug)]
pub struct SteppedLock(AtomicBool);

impl SteppedLock {
    fn key(&self) -> usize {
        (&raw const self.0).addr()
    }

    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }
}

// SAFETY: `take` succeeds for one until the next `unlock`.
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
        self.0.store(false, Ordering::Release);
        stepped::wake_all(self.key());
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
