//! The switch between the locks and atomics of the system and those that step for shuttle.
//!
//! What is held, or changed, while a page is worked on goes through here. Locks around what no other thread can come
//! between (a set of numbers, a map of names) are the system's in either case.
//!
//! The threads that fill are shuttle's as well. They never wait for more to do: for them the while in which nothing came is over at
//! once. The flusher and the reclaimer do not run there.

use std::time::Duration;

use parking_lot::Condvar;
#[cfg(not(shuttle))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::sync::atomic::AtomicU64 as Length;

#[cfg(shuttle)]
pub(crate) use page_ref::stepped::AtomicU64 as Length;
#[cfg(shuttle)]
pub(crate) type Mutex<T> = lock_api::Mutex<page_frames::SteppedLock, T>;
#[cfg(shuttle)]
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, page_frames::SteppedLock, T>;

/// Starts a thread that nobody waits for. Whether the system gave one.
#[cfg(not(shuttle))]
pub(crate) fn spawn(name: &str, act: impl FnOnce() + Send + 'static) -> bool {
    std::thread::Builder::new().name(name.to_owned()).spawn(act).is_ok()
}

/// Waits for a word. May end early.
#[cfg(not(shuttle))]
pub(crate) fn wait<T>(word: &Condvar, guard: &mut MutexGuard<'_, T>) {
    word.wait(guard);
}

/// Waits for a word for a while. Whether it was over before one came.
#[cfg(not(shuttle))]
pub(crate) fn wait_for<T>(word: &Condvar, guard: &mut MutexGuard<'_, T>, most: Duration) -> bool {
    word.wait_for(guard, most).timed_out()
}

#[cfg(shuttle)]
pub(crate) fn spawn(_: &str, act: impl FnOnce() + Send + 'static) -> bool {
    page_ref::stepped::spawn(act);
    true
}

#[cfg(shuttle)]
pub(crate) fn wait<T>(_: &Condvar, guard: &mut MutexGuard<'_, T>) {
    MutexGuard::unlocked(guard, page_ref::stepped::yield_now);
}

#[cfg(shuttle)]
pub(crate) fn wait_for<T>(word: &Condvar, guard: &mut MutexGuard<'_, T>, _: Duration) -> bool {
    wait(word, guard);
    true
}
