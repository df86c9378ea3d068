//! Dirty pages go to the backing.

pub(crate) mod dirty_pages;
pub(crate) mod flusher;
pub(crate) mod sync;
pub(crate) mod throttle;
pub(crate) mod unlinked;
pub(crate) mod write_back;
