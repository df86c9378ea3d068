//! For shuttle: the processor's atomics with a step before each operation, and a way to sleep.
//!
//! A *step* is where shuttle may let another thread go on. Its own atomics are no plain words, so
//! zeroed memory can not be one of them; these are, in the layout of the processor's. All threads
//! are played on one thread of the system, so what is between two steps happens at once.
//!
//! Only with `--cfg shuttle`, and only for tests. What stands outside of
//! [`race`](crate::testing::explore::race) does not stop.

use core::sync::atomic::Ordering;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::thread_local;
use std::time::Duration;
use std::vec::Vec;

use shuttle::sync::mpsc::{Sender, channel};

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    /// Who sleeps on which key, with numbers of their own.
    static SLEEPERS: RefCell<HashMap<usize, Vec<(u64, Sender<()>)>>> = RefCell::new(HashMap::new());
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// From here on steps stop, or do not.
pub(crate) fn arm(armed: bool) {
    ARMED.set(armed);
    SLEEPERS.with_borrow_mut(HashMap::clear);
}

/// Another thread may go on here.
pub fn step() {
    if ARMED.get() && !std::thread::panicking() {
        // A switch and nothing else: unlike `yield_now` it does not ask for anybody else.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// A thread that is played with the others. Nobody waits for it.
pub fn spawn(act: impl FnOnce() + Send + 'static) {
    drop(shuttle::thread::spawn(act));
}

/// Anybody else goes on.
pub fn yield_now() {
    shuttle::thread::yield_now();
}

/// As a platform's `wait`: sleeps on `key` while `still()` holds.
pub fn wait(key: usize, still: &dyn Fn() -> bool) {
    let (sender, receiver) = channel();
    let me = NEXT.replace(NEXT.get() + 1);
    SLEEPERS.with_borrow_mut(|sleepers| sleepers.entry(key).or_default().push((me, sender)));
    if still() {
        let _ = receiver.recv();
    } else {
        SLEEPERS.with_borrow_mut(|sleepers| {
            if let Some(on_key) = sleepers.get_mut(&key) {
                on_key.retain(|(who, _)| *who != me);
            }
        });
    }
}

/// As a platform's `wake_all`.
pub fn wake_all(key: usize) {
    let woken = SLEEPERS.with_borrow_mut(|sleepers| sleepers.remove(&key));
    for (_, sender) in woken.into_iter().flatten() {
        // Who does not sleep any more is not there.
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
            /// What it holds instead.
            pub fn compare_exchange(&self, old: $int, new: $int, won: Ordering, lost: Ordering) -> Result<$int, $int> {
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
