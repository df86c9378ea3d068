//! The switch between the processor's atomics, loom's, and those that step for shuttle; and the two
//! widths behind one trait.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(shuttle)]
pub(crate) use crate::testing::stepped::{AtomicU32, AtomicU64};

/// An atomic word of 32 or 64 bits, its value widened to 64.
pub trait Word: Send + Sync + 'static {
    /// A word that holds `value`.
    fn new(value: u64) -> Self;
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Atomic add; the value before.
    fn fetch_add(&self, n: u64, order: Ordering) -> u64;
    /// Atomic subtract; the value before.
    fn fetch_sub(&self, n: u64, order: Ordering) -> u64;
    /// Compare and swap; the failure ordering is always relaxed.
    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64>;
}

macro_rules! word {
    ($atomic:ty, $int:ty) => {
        impl Word for $atomic {
            fn new(value: u64) -> Self {
                <$atomic>::new(value as $int)
            }
            #[inline(always)]
            fn load(&self, order: Ordering) -> u64 {
                u64::from(<$atomic>::load(self, order))
            }
            #[inline(always)]
            fn store(&self, value: u64, order: Ordering) {
                // loom reports a store beside a compare-and-swap as a race on its own bookkeeping;
                // a swap is the same edge to it.
                #[cfg(loom)]
                <$atomic>::swap(self, value as $int, order);
                #[cfg(not(loom))]
                <$atomic>::store(self, value as $int, order);
            }
            #[inline(always)]
            fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
                u64::from(<$atomic>::fetch_add(self, n as $int, order))
            }
            #[inline(always)]
            fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
                u64::from(<$atomic>::fetch_sub(self, n as $int, order))
            }
            #[inline(always)]
            fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
                <$atomic>::compare_exchange(
                    self,
                    old as $int,
                    new as $int,
                    order,
                    Ordering::Relaxed,
                )
                .map(u64::from)
                .map_err(u64::from)
            }
        }
    };
}

word!(AtomicU32, u32);
// On 64-bit targets the conversion is the identity; the macro keeps one text for both widths.
word!(AtomicU64, u64);
