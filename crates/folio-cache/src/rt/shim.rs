//! The switch between the system's locks, atomics and threads, and those that shuttle schedules.
//!
//! Locks and atomics that are held or changed while a page is in progress come from here. Locks
//! around steps that no other thread can interleave (a set of numbers, a map of names) are always
//! the system's.
//!
//! The threads of the cache are shuttle's as well. A wait for a notification sleeps. A wait with a
//! time limit ends at once, whatever happens meanwhile.

use std::time::Duration;

#[cfg(not(shuttle))]
use crate::rt::backoff::Backoff;

#[cfg(not(shuttle))]
pub(crate) use crate::rt::lock::{Condvar, Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::{AtomicU32 as Position, AtomicU64 as Length, fence};

#[cfg(shuttle)]
pub(crate) use folio_ref::testing::stepped::{AtomicU32 as Position, AtomicU64 as Length, fence};
#[cfg(shuttle)]
pub(crate) type Mutex<T> = lock_api::Mutex<folio_frames::SteppedLock, T>;
#[cfg(shuttle)]
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, folio_frames::SteppedLock, T>;

/// Starts a detached thread. Returns `false` if the system cannot start one, and for a pause after
/// that.
#[cfg(not(shuttle))]
pub(crate) fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> bool {
    // One for all caches: what is short is short for the whole process.
    static BACKOFF: Backoff = Backoff::new();
    if !BACKOFF.is_due() {
        return false;
    }
    match std::thread::Builder::new().name(name.to_owned()).spawn(act) {
        Ok(_) => {
            BACKOFF.succeeded();
            true
        }
        Err(error) => {
            if BACKOFF.failed() {
                tracing::warn!(name, %error, "no thread for now: callers do its work themselves");
            }
            false
        }
    }
}

#[cfg(shuttle)]
pub(crate) fn spawn(_: &str, act: impl FnOnce() + Send + 'static) -> bool {
    folio_ref::testing::stepped::spawn(act);
    true
}

#[cfg(not(shuttle))]
pub(crate) use std::thread::yield_now;

#[cfg(shuttle)]
pub(crate) use folio_ref::testing::stepped::yield_now;

/// Sleeps for `time`; under shuttle, only yields.
#[cfg(not(shuttle))]
pub(crate) fn back_off(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(shuttle)]
pub(crate) fn back_off(_: Duration) {
    yield_now();
}

/// Waits for a notification, for at most `most`. Returns `true` if the time ended first.
#[cfg(not(shuttle))]
pub(crate) fn wait_for<T>(cond: &Condvar, guard: &mut MutexGuard<'_, T>, most: Duration) -> bool {
    cond.wait_for(guard, most)
}

#[cfg(shuttle)]
pub(crate) fn wait_for<T>(_: &Condvar, guard: &mut MutexGuard<'_, T>, _: Duration) -> bool {
    MutexGuard::unlocked(guard, yield_now);
    true
}

/// Locks a mutex. Returns `None` if it stays locked for the given time; under shuttle, it waits for
/// ever.
#[cfg(not(shuttle))]
pub(crate) fn lock_for<T>(mutex: &Mutex<T>, most: Duration) -> Option<MutexGuard<'_, T>> {
    mutex.try_lock_for(most)
}

#[cfg(shuttle)]
pub(crate) fn lock_for<T>(mutex: &Mutex<T>, _: Duration) -> Option<MutexGuard<'_, T>> {
    Some(mutex.lock())
}

/// The looks at a lock before a thread sleeps for it, and the pauses before each: 15 to 60 us, by
/// the processor.
#[cfg(not(shuttle))]
const LOOKS: u32 = 128;
#[cfg(not(shuttle))]
const PAUSES: u32 = 8;

/// Locks a mutex that is held for a few microseconds at most. Looks for longer than that before it
/// sleeps: a wake-up costs more.
#[cfg(not(shuttle))]
#[inline]
pub(crate) fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.try_lock().unwrap_or_else(|| look_and_lock(mutex))
}

#[cfg(not(shuttle))]
#[cold]
fn look_and_lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    for _ in 0..LOOKS {
        (0..PAUSES).for_each(|_| std::hint::spin_loop());
        // A try writes the line that the holder writes too.
        if !mutex.is_locked()
            && let Some(guard) = mutex.try_lock()
        {
            return guard;
        }
    }
    mutex.lock()
}

#[cfg(shuttle)]
pub(crate) fn lock_soon<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// A condition variable with the interface of the other. Each notification wakes all waiters.
#[cfg(shuttle)]
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// The number of notifications so far.
    notifications: std::sync::atomic::AtomicU64,
}

#[cfg(shuttle)]
impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    // Relaxed, in all places: shuttle runs all its threads on one thread of the system.
    fn notifications(&self) -> u64 {
        self.notifications.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        // Under the lock: a notification after the unlock changes the number.
        let before = self.notifications();
        let sleep = || {
            folio_ref::testing::stepped::wait(std::ptr::from_ref(self).addr(), &|| {
                self.notifications() == before
            })
        };
        MutexGuard::unlocked(guard, sleep);
    }

    pub(crate) fn notify_one(&self) {
        self.notify_all();
    }

    pub(crate) fn notify_all(&self) {
        self.notifications.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        folio_ref::testing::stepped::wake_all(std::ptr::from_ref(self).addr());
    }
}
