//! The public API: the types and methods that a user calls.

pub(crate) mod builder;
pub(crate) mod cache;
pub(crate) mod cursor;
pub(crate) mod distant;
pub(crate) mod file;
pub(crate) mod file_hints;
pub(crate) mod file_write;
pub(crate) mod frames;
pub(crate) mod futures;
pub(crate) mod group;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod piece;
pub(crate) mod range;
pub(crate) mod ranges;
pub(crate) mod read_many;
pub(crate) mod stream;
pub(crate) mod unwritten;
