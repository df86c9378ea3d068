//! The switch between the processor's atomics, loom's, and the stepped ones for shuttle; and one
//! trait over the two widths.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::AtomicU32;
#[cfg(all(target_has_atomic = "64", not(any(loom, shuttle))))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::Ordering;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use core::sync::atomic::fence;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(shuttle)]
pub(crate) use crate::testing::stepped::{AtomicU32, AtomicU64, fence};

/// An atomic word of 32 or 64 bits, its value widened to 64.
pub trait Word: Send + Sync + 'static {
    /// Creates a word with `value`.
    fn new(value: u64) -> Self;
    /// Loads the value.
    fn load(&self, order: Ordering) -> u64;
    /// Stores `value`.
    fn store(&self, value: u64, order: Ordering);
    /// Adds `n`. Returns the value before.
    fn fetch_add(&self, n: u64, order: Ordering) -> u64;
    /// Subtracts `n`. Returns the value before.
    fn fetch_sub(&self, n: u64, order: Ordering) -> u64;
    /// Replaces `old` by `new` if the word holds `old`. Returns the value before, as an error if it
    /// was another one. The failure ordering is Relaxed.
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
                // loom reports a store beside a compare-and-swap as a race on its own bookkeeping.
                // A swap is the same edge to loom.
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
// Here the conversion is the identity: the macro has one text for both widths.
#[cfg(target_has_atomic = "64")]
word!(AtomicU64, u64);
