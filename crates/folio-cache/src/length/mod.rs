//! The length of a file, and the pages that leave because it changed.

pub(crate) mod drop;
pub(crate) mod once;
pub(crate) mod refresh;
pub(crate) mod version;
