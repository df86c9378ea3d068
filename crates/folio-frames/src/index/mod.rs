//! Index entries: lookup, page lock, multi-slot folios, optimistic reads.

pub(crate) mod absent;
#[cfg(feature = "std")]
pub(crate) mod closed;
pub(crate) mod entry;
pub(crate) mod lock;
pub(crate) mod optimistic;
pub(crate) mod racy_copy;
pub(crate) mod slot;
#[cfg(all(target_arch = "x86_64", not(miri), not(shuttle)))]
pub(crate) mod string_copy;
pub(crate) mod subpages;
