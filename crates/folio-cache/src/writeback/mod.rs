//! Dirty pages go to the backing.

pub(crate) mod flusher;
pub(crate) mod unlinked;
pub(crate) mod write_back;
