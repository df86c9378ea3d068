//! Index entries: lookup, page lock, multi-slot folios, optimistic reads.

#[cfg(feature = "std")]
pub(crate) mod closed;
pub(crate) mod entry;
pub(crate) mod lock;
pub(crate) mod optimistic;
pub(crate) mod slot;
pub(crate) mod subpages;
pub(crate) mod zones;
