//! Writing bytes into pages, and truncating, lengthening and punching files.

pub(crate) mod discard;
pub(crate) mod resize;
mod spare_folios;
pub(crate) mod write_pages;
