//! The platform of a process: `parking_lot`'s lock, a number per thread, sleeping on an address.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use page_ref::{DefaultScheme, Scheme};

use crate::platform::Platform;

/// Frames in a process, with the scheme `S`.
#[derive(Debug)]
pub struct UserSpace<S: Scheme = DefaultScheme>(PhantomData<S>);

std::thread_local! {
    static THREAD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

impl<S: Scheme> Platform for UserSpace<S> {
    type Scheme = S;
    #[cfg(not(shuttle))]
    type Lock = parking_lot::RawMutex;
    #[cfg(shuttle)]
    type Lock = crate::SteppedLock;

    fn cpu() -> usize {
        // A thread keeps its list wherever it runs: cheaper than asking, and as good a hint.
        THREAD.try_with(|&n| n).unwrap_or(0)
    }

    #[cfg(shuttle)]
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        page_ref::stepped::wait(key, still);
    }

    #[cfg(shuttle)]
    fn wake_all(key: usize) {
        page_ref::stepped::wake_all(key);
    }

    #[cfg(not(shuttle))]
    fn wait(key: usize, still: &dyn Fn() -> bool) {
        let token = parking_lot_core::DEFAULT_PARK_TOKEN;
        // SAFETY: `still` loads an atomic: it neither panics nor calls into parking_lot. The other two
        // callbacks do nothing. The key is an address that only this crate parks on.
        unsafe {
            parking_lot_core::park(key, still, || {}, |_, _| {}, token, None);
        }
    }

    #[cfg(not(shuttle))]
    fn wake_all(key: usize) {
        // SAFETY: the key is an address that only this crate parks on.
        unsafe {
            parking_lot_core::unpark_all(key, parking_lot_core::DEFAULT_UNPARK_TOKEN);
        }
    }

    fn unwinding() -> bool {
        thread::panicking()
    }
}
