//! Index entries: lookup, page lock, multi-slot folios, optimistic reads.

pub(crate) mod absent;
#[cfg(feature = "std")]
pub(crate) mod closed;
pub(crate) mod entry;
pub(crate) mod lock;
pub(crate) mod optimistic;
pub(crate) mod slot;
pub(crate) mod subpages;
pub(crate) mod zones;
