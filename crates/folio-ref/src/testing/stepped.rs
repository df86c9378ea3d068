//! For shuttle: the processor's atomics with a step before each operation, and a way to sleep.
//!
//! At a *step* shuttle may switch to another thread. Shuttle's own atomics are not plain words, so
//! zeroed memory cannot be one of them. These have the layout of the processor's atomics. All
//! threads run on one thread of the system, so the code between two steps is atomic.
//!
//! Only with `--cfg shuttle`, and only for tests. Code outside of
//! [`race`](crate::testing::explore::race) does not step.

use core::sync::atomic::Ordering;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::thread_local;
use std::time::Duration;
use std::vec::Vec;

use shuttle::sync::mpsc::{Sender, channel};

/// The sleepers on one key, each with its own number.
type Sleepers = Vec<(u64, Sender<()>)>;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static SLEEPERS: RefCell<HashMap<usize, Sleepers>> = RefCell::new(HashMap::new());
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Switches the steps on or off.
pub(crate) fn arm(armed: bool) {
    ARMED.set(armed);
    SLEEPERS.with_borrow_mut(HashMap::clear);
}

/// Lets shuttle switch to another thread.
pub fn step() {
    if ARMED.get() && !std::thread::panicking() {
        // Unlike `yield_now`, it does not ask for another thread.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// Starts a thread that runs with the others. It is never joined.
pub fn spawn(act: impl FnOnce() + Send + 'static) {
    drop(shuttle::thread::spawn(act));
}

/// Returns the number of the thread, from 0 in each execution.
///
/// # Panics
///
/// Panics outside of an execution.
pub fn thread_number() -> usize {
    usize::from(shuttle::thread::current().id())
}

/// Switches to another thread.
pub fn yield_now() {
    shuttle::thread::yield_now();
}

/// Sleeps on `key` while `still()` returns `true`, as a platform's `wait` does.
pub fn wait(key: usize, still: &dyn Fn() -> bool) {
    let (sender, receiver) = channel();
    let me = NEXT.replace(NEXT.get() + 1);
    SLEEPERS.with_borrow_mut(|sleepers| sleepers.entry(key).or_default().push((me, sender)));
    if still() {
        let _ = receiver.recv();
    } else {
        SLEEPERS.with_borrow_mut(|sleepers| {
            if let Some(on_key) = sleepers.get_mut(&key) {
                on_key.retain(|(sleeper, _)| *sleeper != me);
            }
        });
    }
}

/// Wakes all sleepers on `key`, as a platform's `wake_all` does.
pub fn wake_all(key: usize) {
    let woken = SLEEPERS.with_borrow_mut(|sleepers| sleepers.remove(&key));
    for (_, sender) in woken.into_iter().flatten() {
        // An error means that the sleeper is gone.
        let _ = sender.send(());
    }
}

macro_rules! stepped {
    ($($name:ident, $int:ty;)*) => {$(
        /// An atomic with a step before each operation.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(core::sync::atomic::$name);

        #[allow(missing_docs, reason = "as the processor's")]
        impl $name {
            pub const fn new(value: $int) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }
            pub fn load(&self, order: Ordering) -> $int {
                step();
                self.0.load(order)
            }
            pub fn store(&self, value: $int, order: Ordering) {
                step();
                self.0.store(value, order);
            }
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                step();
                self.0.swap(value, order)
            }
            pub fn fetch_add(&self, n: $int, order: Ordering) -> $int {
                step();
                self.0.fetch_add(n, order)
            }
            pub fn fetch_sub(&self, n: $int, order: Ordering) -> $int {
                step();
                self.0.fetch_sub(n, order)
            }
            /// # Errors
            ///
            /// The value that it holds, if it is not `old`.
            pub fn compare_exchange(
                &self,
                old: $int,
                new: $int,
                won: Ordering,
                lost: Ordering,
            ) -> Result<$int, $int> {
                step();
                self.0.compare_exchange(old, new, won, lost)
            }
        }
    )*};
}

stepped! {
    AtomicU8, u8;
    AtomicU16, u16;
    AtomicU32, u32;
    AtomicU64, u64;
}
