//! Frames for pages: allocated, evicted, given back to the system.

pub(crate) mod alloc;
pub(crate) mod capacity;
pub(crate) mod evict;
pub(crate) mod file_room;
pub(crate) mod frames_view;
pub(crate) mod large_folio;
pub(crate) mod limits;
pub(crate) mod out_of_memory;
pub(crate) mod owner;
pub(crate) mod pinned;
pub(crate) mod reclaim;
pub(crate) mod reclaimer;
pub(crate) mod relief;
pub(crate) mod resident;
pub(crate) mod room;
pub(crate) mod short_handle;
mod sweep;
mod wait;
pub(crate) mod watermarks;
