//! Calls of foreign code, which may panic: wakers, and values of a user.

use std::panic::{self, AssertUnwindSafe};
use std::task::Waker;
use std::thread;

/// Calls a backing or a writer that is one among others, so that its panic does not affect the
/// others. A panic leaves page locks and locks in the same state as an error does.
pub(crate) fn catch_panic<T>(act: impl FnOnce() -> T) -> thread::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(act))
}

/// Wakes each. A waker that panics does not keep the others from being woken.
pub(crate) fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        let _ = catch_panic(|| waker.wake());
    }
}

/// Drops a value of a user.
pub(crate) fn drop_quietly<T>(value: T) {
    let _ = catch_panic(|| drop(value));
}

/// Calls foreign code in a destructor. Its panic continues, unless the thread unwinds already: a
/// second panic would end the process.
pub(crate) fn call_in_drop(act: impl FnOnce()) {
    if let Err(panic) = catch_panic(act)
        && !thread::panicking()
    {
        panic::resume_unwind(panic);
    }
}
