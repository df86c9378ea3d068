//! The cache follows changes of a file: its length, its version, and the pages that leave.

pub(crate) mod drop;
pub(crate) mod drop_pages;
pub(crate) mod once;
pub(crate) mod refresh;
pub(crate) mod version;
