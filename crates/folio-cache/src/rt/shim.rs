//! The switch between the locks and atomics of the system and those that step for shuttle.
//!
//! What is held, or changed, while a page is worked on goes through here. Locks around what no
//! other thread can come between (a set of numbers, a map of names) are the system's in either
//! case.
//!
//! The cache's own threads are shuttle's as well. Who waits for a word sleeps; a while is over at
//! once, whatever comes meanwhile.

use std::time::Duration;

#[cfg(not(shuttle))]
use crate::rt::backoff::Backoff;

#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::AtomicU64 as Length;

#[cfg(shuttle)]
pub(crate) use folio_ref::testing::stepped::AtomicU64 as Length;
#[cfg(shuttle)]
pub(crate) type Mutex<T> = lock_api::Mutex<folio_frames::SteppedLock, T>;
#[cfg(shuttle)]
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, folio_frames::SteppedLock, T>;

/// Starts a thread that nothing joins. Returns `false` if the system has none, and for a while
/// after that without asking it again.
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

/// Does nothing for a while.
#[cfg(not(shuttle))]
pub(crate) fn rest(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(shuttle)]
pub(crate) fn rest(_: Duration) {
    yield_now();
}

/// Waits for a word for a while. Whether it was over before one came.
#[cfg(not(shuttle))]
pub(crate) fn wait_for<T>(word: &Condvar, guard: &mut MutexGuard<'_, T>, most: Duration) -> bool {
    word.wait_for(guard, most).timed_out()
}

#[cfg(shuttle)]
pub(crate) fn wait_for<T>(_: &Condvar, guard: &mut MutexGuard<'_, T>, _: Duration) -> bool {
    MutexGuard::unlocked(guard, yield_now);
    true
}

/// What sleepers wait for, as that of `parking_lot`. Who waits for one word wakes at any.
#[cfg(shuttle)]
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// Words so far.
    words: std::sync::atomic::AtomicU64,
}

#[cfg(shuttle)]
impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    // Relaxed, all: shuttle plays every thread on one of the system's.
    fn words(&self) -> u64 {
        self.words.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        // Under the lock: what is said once it is free is heard.
        let heard = self.words();
        let sleep = || {
            folio_ref::testing::stepped::wait(std::ptr::from_ref(self).addr(), &|| {
                self.words() == heard
            })
        };
        MutexGuard::unlocked(guard, sleep);
    }

    pub(crate) fn notify_one(&self) {
        self.notify_all();
    }

    pub(crate) fn notify_all(&self) {
        self.words.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        folio_ref::testing::stepped::wake_all(std::ptr::from_ref(self).addr());
    }
}
