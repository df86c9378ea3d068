//! Bytes go into pages; a file is truncated, lengthened, punched.

pub(crate) mod resize;
pub(crate) mod write_pages;
