//! Frames for pages: allocated, evicted, given back to the system.

pub(crate) mod capacity;
pub(crate) mod evict;
pub(crate) mod large_folio;
pub(crate) mod limits;
pub(crate) mod out_of_memory;
pub(crate) mod reclaimer;
