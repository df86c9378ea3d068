//! For shuttle: the processor's atomics with a step before each operation, and a way to sleep.
//!
//! At a *step* shuttle may switch to another thread. Shuttle's own atomics are not plain words, so
//! zeroed memory cannot be one of them. These have the layout of the processor's atomics. All
//! threads run on one thread of the system, so the code between two steps is atomic. A load returns
//! the last value, or an older one if the memory is weak ([`memory`](crate::testing::memory)).
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

use crate::testing::memory;

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

/// The fence of C11. In a weak memory there is a step before one that is `SeqCst`.
#[track_caller]
pub fn fence(order: Ordering) {
    let Some(order) = memory::weakened(order) else { return };
    core::sync::atomic::fence(order);
    if order == Ordering::SeqCst && memory::is_on() {
        step();
    }
    memory::fence(order);
}

/// Starts a thread that runs with the others. It is never joined.
pub fn spawn(act: impl FnOnce() + Send + 'static) {
    let view = memory::mine();
    drop(shuttle::thread::spawn(move || {
        memory::inherit(&view);
        act();
    }));
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
    // The list of sleepers has a lock: a wake-up that has not seen this sleeper is seen.
    memory::taken(key);
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
    memory::released(key);
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
            #[track_caller]
            pub fn load(&self, order: Ordering) -> $int {
                step();
                let order = memory::order(order);
                memory::load(self.at(), self.0.load(order).into(), order) as $int
            }
            #[track_caller]
            pub fn store(&self, value: $int, order: Ordering) {
                step();
                let order = memory::order(order);
                memory::store(self.at(), self.last(), value.into(), order);
                self.0.store(value, order);
            }
            #[track_caller]
            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                step();
                let order = memory::order(order);
                memory::update(self.at(), self.last(), value.into(), order);
                self.0.swap(value, order)
            }
            #[track_caller]
            pub fn fetch_add(&self, n: $int, order: Ordering) -> $int {
                step();
                let order = memory::order(order);
                let sum = (self.last() as $int).wrapping_add(n);
                memory::update(self.at(), self.last(), sum.into(), order);
                self.0.fetch_add(n, order)
            }
            #[track_caller]
            pub fn fetch_sub(&self, n: $int, order: Ordering) -> $int {
                step();
                let order = memory::order(order);
                let rest = (self.last() as $int).wrapping_sub(n);
                memory::update(self.at(), self.last(), rest.into(), order);
                self.0.fetch_sub(n, order)
            }
            #[track_caller]
            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                step();
                let order = memory::order(order);
                let most = (self.last() as $int).max(value);
                memory::update(self.at(), self.last(), most.into(), order);
                self.0.fetch_max(value, order)
            }
            /// # Errors
            ///
            /// The value that it holds, if it is not `old`.
            #[track_caller]
            pub fn compare_exchange(
                &self,
                old: $int,
                new: $int,
                won: Ordering,
                lost: Ordering,
            ) -> Result<$int, $int> {
                step();
                let (won, lost) = (memory::order(won), memory::order(lost));
                let (values, orders) = ((old.into(), new.into()), (won, lost));
                match memory::compare(self.at(), self.last(), values, orders) {
                    Some(found) => Err(found as $int),
                    None => self.0.compare_exchange(old, new, won, lost),
                }
            }

            /// Returns the last value. Relaxed: all threads run on one thread of the system.
            fn last(&self) -> u64 {
                self.0.load(Ordering::Relaxed).into()
            }

            fn at(&self) -> usize {
                core::ptr::from_ref(self).addr()
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
