//! The runtime below the cache, independent of it: threads, locks, counters.

pub(crate) mod backoff;
pub(crate) mod busy;
pub(crate) mod counter;
pub(crate) mod flush_pool;
pub(crate) mod io_pool;
mod io_queue;
pub(crate) mod shim;
pub(crate) mod worker;
