//! Locks of `lock_api` 0.4, such as those of the crate spin, as locks of a [`Platform`], and what a
//! lock does about interrupts. A room of unsafe code: the promise of `RawMutex`.
//!
//! [`Platform`]: crate::Platform

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

/// The interrupts of this CPU, for [`LockApi04`]. This trait is open.
pub trait Interrupts: 'static {
    /// The state from before, which [`restore`](Self::restore) gets.
    type State;

    /// Disables interrupts on this CPU. Returns their state from before.
    fn disable() -> Self::State;

    /// Restores the state of interrupts on this CPU.
    fn restore(state: Self::State);
}

/// Leaves interrupts as they are: for machines on which no interrupt handler allocates, frees, or
/// drops a reference.
#[derive(Debug)]
pub struct AsTheyAre;

impl Interrupts for AsTheyAre {
    type State = ();

    #[inline(always)]
    fn disable() {}

    #[inline(always)]
    fn restore((): ()) {}
}

/// A lock of `lock_api` 0.4 as a [`Platform::Lock`](crate::Platform::Lock), which is one of
/// `lock_api` 0.5. The lock of a kernel also disables interrupts, see there: `I` does it.
///
/// ```
/// use folio_frames::{Arena, Interrupts, LockApi04, Order, Platform};
///
/// /// A kernel's: `cli`, and the flag from before.
/// pub struct Flag;
///
/// impl Interrupts for Flag {
///     type State = bool;
///     fn disable() -> bool {
///         true
///     }
///     fn restore(_were_enabled: bool) {}
/// }
///
/// pub struct Machine;
///
/// impl Platform for Machine {
///     type Scheme = folio_ref::DefaultScheme;
///     type Lock = LockApi04<spin::Mutex<()>, Flag>;
///
///     fn cpu() -> usize {
///         0
///     }
///     fn wait(_key: usize, still: &dyn Fn() -> bool) {
///         while still() {
///             core::hint::spin_loop();
///         }
///     }
///     fn wake_all(_key: usize) {}
/// }
///
/// let arena = Arena::<Machine>::new(2 << 20, &[])?;
/// arena.zone().alloc_frozen(Order::ZERO)?.free();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LockApi04<R, I = AsTheyAre> {
    lock: R,
    interrupts: PhantomData<fn() -> I>,
}

// SAFETY: `lock` and `try_lock` succeed when those of `R` do, which excludes other holders until
// `unlock`, by the same promise.
unsafe impl<R: lock_api_04::RawMutex, I: Interrupts> RawMutex for LockApi04<R, I> {
    const INIT: Self = Self { lock: R::INIT, interrupts: PhantomData };

    /// A guard stays on its CPU, as the state of interrupts does.
    type Guard = (I::State, GuardNoSend);

    #[inline]
    fn lock(&self) -> Self::Guard {
        // Before the lock: a handler between the two would wait for this CPU.
        let state = I::disable();
        self.lock.lock();
        (state, GuardNoSend::new())
    }

    #[inline]
    fn try_lock(&self) -> Option<Self::Guard> {
        let state = I::disable();
        if self.lock.try_lock() {
            return Some((state, GuardNoSend::new()));
        }
        I::restore(state);
        None
    }

    #[inline]
    unsafe fn unlock(&self, (state, _): Self::Guard) {
        // SAFETY: the caller has the guard of a call that locked it.
        unsafe { self.lock.unlock() };
        I::restore(state);
    }

    fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }
}

impl<R, I> fmt::Debug for LockApi04<R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a lock of lock_api 0.4")
    }
}
