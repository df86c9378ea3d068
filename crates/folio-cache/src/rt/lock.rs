//! Locks that shuttle does not schedule. Each has its state in a word of its own, so those of a new
//! cache work in a forked child.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use folio_frames::{FutexLock, Sleepers};

/// A lock without poison.
pub(crate) type Mutex<T> = lock_api::Mutex<FutexLock, T>;

pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, FutexLock, T>;

/// A condition variable.
#[derive(Debug, Default)]
pub(crate) struct Condvar(Sleepers);

#[cfg_attr(shuttle, allow(dead_code, reason = "the shim has another one"))]
impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(Sleepers::new())
    }

    /// Waits for a notification. May return early.
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.sleep(guard, None);
    }

    /// Waits for a notification, for at most `most`. Returns `true` if the time ended first. May
    /// return early.
    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, most: Duration) -> bool {
        self.0.sleep(guard, Some(most))
    }

    /// Waits for a notification, at most until `end`. May return early.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, end: Instant) {
        self.0.sleep(guard, Some(end.saturating_duration_since(Instant::now())));
    }

    /// Wakes one of the threads that wait.
    pub(crate) fn notify_one(&self) {
        self.0.wake(1);
    }

    /// Wakes all threads that wait.
    pub(crate) fn notify_all(&self) {
        self.0.wake(i32::MAX.cast_unsigned());
    }
}

/// A lock that many readers share, without poison.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> std::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
