//! The number of raw references to a folio, in builds with checks: so that a `from_raw` without its
//! `into_raw` is reported. In all other builds it has no size, and nothing is counted.

#[cfg(any(debug_assertions, feature = "checks"))]
use core::sync::atomic::{AtomicU32, Ordering};

/// The number of raw references to the folio with this frame as its head, or 1 for a raw exclusive
/// handle.
pub(crate) struct RawCount {
    #[cfg(any(debug_assertions, feature = "checks"))]
    count: AtomicU32,
}

#[cfg(any(debug_assertions, feature = "checks"))]
impl RawCount {
    pub(crate) const fn new() -> Self {
        Self { count: AtomicU32::new(0) }
    }

    /// Counts `n` more.
    pub(crate) fn add(&self, n: u32) {
        // Relaxed: the caller owns a reference, and hands the raw one on by means of its own.
        self.count.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts `n` less. Returns `false`, and changes nothing, if there are fewer.
    #[must_use]
    pub(crate) fn take(&self, n: u32) -> bool {
        // Relaxed: as in add.
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(n))
            .is_ok()
    }

    /// Returns `true` if there are `n` or more.
    pub(crate) fn has(&self, n: u32) -> bool {
        // Relaxed: as in add.
        self.count.load(Ordering::Relaxed) >= n
    }

    /// Returns `true` if there is none.
    pub(crate) fn is_none(&self) -> bool {
        !self.has(1)
    }
}

#[cfg(not(any(debug_assertions, feature = "checks")))]
#[expect(clippy::unused_self, reason = "there is nothing to count")]
impl RawCount {
    pub(crate) const fn new() -> Self {
        Self {}
    }

    #[inline(always)]
    pub(crate) fn add(&self, _n: u32) {}

    #[inline(always)]
    #[must_use]
    pub(crate) fn take(&self, _n: u32) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn has(&self, _n: u32) -> bool {
        true
    }

    #[inline(always)]
    pub(crate) fn is_none(&self) -> bool {
        true
    }
}
