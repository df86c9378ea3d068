//! The switch between the processor's atomics and those that step for shuttle.
//!
//! Only atomics that decide go through here: the slots and the descriptors. Hints (referenced bits,
//! gauges, counters) do not step.

#[cfg(not(shuttle))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64};
#[cfg(shuttle)]
pub(crate) use folio_ref::testing::stepped::{AtomicU8, AtomicU16, AtomicU64};
