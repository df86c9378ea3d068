//! The switch between the processor's atomics and those that step for shuttle, and what a memory
//! that is weak must know about the bytes of frames.
//!
//! Only atomics that decide go through here: the slots and the descriptors. Hints (referenced bits,
//! gauges, counters) do not step.

#[cfg(not(shuttle))]
pub(crate) use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, fence};
#[cfg(shuttle)]
pub(crate) use folio_ref::testing::stepped::{AtomicU8, AtomicU16, AtomicU64, fence};

/// Records that these bytes of a folio are handed out for writing.
#[inline(always)]
pub(crate) fn written(_bytes: &[u8]) {
    #[cfg(shuttle)]
    folio_ref::testing::memory::written(_bytes.as_ptr().addr(), _bytes);
}

/// Records a read of these bytes of a folio.
#[inline(always)]
pub(crate) fn read(_at: *const u8, _len: usize) {
    #[cfg(shuttle)]
    folio_ref::testing::memory::read(_at.addr(), _len);
}

/// Records that a reference ends by which a frame may have been read until now.
#[inline(always)]
pub(crate) fn ended(_at: *const u8) {
    #[cfg(shuttle)]
    folio_ref::testing::memory::ended(_at.addr());
}
