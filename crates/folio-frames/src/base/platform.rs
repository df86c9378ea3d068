//! The platform: the scheme, the lock, the CPU number, sleeping, and the registers for copies.
//!
//! It is one trait, so that everything above carries one type parameter. A kernel implements it
//! with its spin lock that disables interrupts, its CPU number and its wait queues. A program in
//! user space takes `UserSpace`.

use core::panic::Location;

use crate::base::ids::Pfn;
use crate::base::trace::Event;
use crate::base::vectors::Vectors;

/// The environment that frames live in.
///
/// This trait is open: implement it for a kernel, a hypervisor, or a test. Only `Scheme`, `Lock`,
/// `cpu`, `wait` and `wake_all` are required. A minimal platform for one CPU without interrupts:
///
/// ```
/// use core::sync::atomic::{AtomicBool, Ordering};
/// use folio_frames::Platform;
/// use folio_ref::DefaultScheme;
///
/// /// A spin lock. A kernel's also disables interrupts.
/// pub struct Spin(AtomicBool);
///
/// // SAFETY: `try_lock` succeeds once until the next `unlock`.
/// unsafe impl lock_api::RawMutex for Spin {
///     const INIT: Self = Self(AtomicBool::new(false));
///     type Guard = lock_api::GuardNoSend;
///
///     fn lock(&self) -> Self::Guard {
///         loop {
///             if let Some(guard) = self.try_lock() {
///                 return guard;
///             }
///             core::hint::spin_loop();
///         }
///     }
///     fn try_lock(&self) -> Option<Self::Guard> {
///         (!self.0.swap(true, Ordering::Acquire)).then_some(lock_api::GuardNoSend::new())
///     }
///     unsafe fn unlock(&self, _: Self::Guard) {
///         self.0.store(false, Ordering::Release);
///     }
///     fn is_locked(&self) -> bool {
///         self.0.load(Ordering::Relaxed)
///     }
/// }
///
/// pub struct Machine;
///
/// impl Platform for Machine {
///     type Scheme = DefaultScheme;
///     type Lock = Spin;
///
///     fn cpu() -> usize {
///         0
///     }
///     fn wait(_key: usize, still: &dyn Fn() -> bool) {
///         // A kernel enqueues itself on `key`, evaluates `still()`, and sleeps.
///         while still() {
///             core::hint::spin_loop();
///         }
///     }
///     fn wake_all(_key: usize) {}
/// }
/// ```
pub trait Platform: Sized + Send + Sync + 'static {
    /// The encoding of reference counts.
    type Scheme: folio_ref::Scheme;
    /// The lock that protects the free lists. Held for a bounded number of descriptor writes.
    ///
    /// In a kernel it disables interrupts on this CPU while it is held, if any interrupt handler
    /// allocates, frees, or drops a reference, which may be the last. Otherwise such a handler
    /// waits forever for the code that it interrupted. The state from before can be part of
    /// [`RawMutex::Guard`](lock_api::RawMutex::Guard): a guard stays in the context that took it,
    /// and two locks are released in the reverse order. Preemption should be disabled as well, so
    /// that no CPU spins while the holder sleeps. No code outside this crate runs meanwhile, except
    /// [`trace`](Self::trace).
    ///
    /// An interrupt that cannot be disabled must do none of the three.
    type Lock: lock_api::RawMutex + Send + Sync;

    /// A byte that overwrites the bytes of each freed folio, so that a read of memory that was not
    /// written since is noticed. `None` leaves them. For debug builds of platforms with mapped
    /// frames.
    const POISON: Option<u8> = None;

    /// Returns the CPU that runs this code: a hint for the choice of a per-CPU list. Any value is
    /// correct.
    fn cpu() -> usize;

    /// Sleeps on `key` while `still()` holds. Must evaluate `still` again after the sleeper is
    /// visible to [`wake_all`](Self::wake_all). It may return early.
    fn wait(key: usize, still: &dyn Fn() -> bool);

    /// Wakes every thread that sleeps on `key`.
    fn wake_all(key: usize);

    /// Returns the widest registers that a copy may use: this processor has them, and saves them
    /// when it switches to other code. Called for each copy of 256 bytes and more.
    #[inline(always)]
    fn vectors() -> Vectors {
        Vectors::BITS_128
    }

    /// Returns `true` if this thread unwinds from a panic: then an exclusive handle that is dropped
    /// on the way is not reported as well.
    fn unwinding() -> bool {
        false
    }

    /// Runs between the two steps of a last put, where the reuse race lies (R4, R7). For tests.
    #[doc(hidden)]
    #[inline(always)]
    fn between_put_steps() {}

    /// Runs in an optimistic read, after the copy and before the second load. For tests.
    #[doc(hidden)]
    #[inline(always)]
    fn between_copy_and_check() {}

    /// Receives every transition of every frame: see [`Event`]. The default does nothing, and costs
    /// nothing.
    #[inline(always)]
    fn trace(_event: Event, _frame: impl FnOnce() -> Pfn) {}

    /// Records that references to a folio were taken at a line of code. Called with the feature
    /// `track` only. `zone` tells zones apart.
    ///
    /// It must not call back, and it must not take a lock that code which takes or returns a
    /// reference could hold.
    fn reference_began(
        _zone: usize,
        _head: Pfn,
        _site: &'static Location<'static>,
        _references: u32,
    ) {
    }

    /// Records that references taken at this line of code are about to end. Called with the feature
    /// `track` only. `zone` tells zones apart.
    ///
    /// It must not call back, and it must not take a lock that code which takes or returns a
    /// reference could hold.
    fn reference_ended(
        _zone: usize,
        _head: Pfn,
        _site: &'static Location<'static>,
        _references: u32,
    ) {
    }

    /// Visits each line of code at which references to a folio were taken that did not end, with
    /// their number. Called with the feature `track` only, by `Zone::pin_owners`.
    fn pin_owners(
        _zone: usize,
        _head: Pfn,
        _visit: &mut dyn FnMut(&'static Location<'static>, u32),
    ) {
    }
}
