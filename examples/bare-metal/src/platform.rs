//! The platform of a bare machine: a spin lock, CPU numbers from a register, waiting by spinning. A
//! room of unsafe code: the promise of `RawMutex`.

use core::sync::atomic::{AtomicBool, Ordering};

use folio_frames::Platform;
use folio_ref::schemes::Generational;
use lock_api::{GuardSend, RawMutex};

use crate::arch::machine;

/// The platform of this kernel.
#[derive(Debug)]
pub struct Machine;

impl Platform for Machine {
    type Scheme = Generational;
    type Lock = SpinLock;

    fn cpu() -> usize {
        machine::cpu()
    }

    fn wait(_: usize, still: &dyn Fn() -> bool) {
        while still() {
            machine::pause();
        }
    }

    /// Does nothing: a waiting CPU spins and notices by itself.
    fn wake_all(_: usize) {}
}

/// A lock that spins. Interrupts are off on this machine, so it need not disable them.
#[derive(Debug)]
pub struct SpinLock {
    held: AtomicBool,
}

// SAFETY: only one swap finds the lock free until the next `unlock`.
unsafe impl RawMutex for SpinLock {
    const INIT: Self = Self { held: AtomicBool::new(false) };
    type Guard = GuardSend;

    fn lock(&self) -> GuardSend {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            while self.is_locked() {
                machine::pause();
            }
        }
    }

    fn try_lock(&self) -> Option<GuardSend> {
        // Acquire: pairs with Release in unlock.
        (!self.held.swap(true, Ordering::Acquire)).then(GuardSend::new)
    }

    unsafe fn unlock(&self, _: GuardSend) {
        // Release: pairs with Acquire in try_lock.
        self.held.store(false, Ordering::Release);
    }

    /// Relaxed: the result is only a hint when to try again.
    fn is_locked(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}
