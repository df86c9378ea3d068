//! What runs the cache and knows nothing of it: threads, locks, counters.

pub(crate) mod backoff;
pub(crate) mod counter;
pub(crate) mod io_pool;
pub(crate) mod shim;
pub(crate) mod worker;
