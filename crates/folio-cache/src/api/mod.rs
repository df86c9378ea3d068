//! What a user of the cache calls.

pub(crate) mod cache;
pub(crate) mod file;
pub(crate) mod file_write;
pub(crate) mod futures;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod open;
pub(crate) mod range;
pub(crate) mod read_many;
pub(crate) mod stream;
pub(crate) mod unwritten;
