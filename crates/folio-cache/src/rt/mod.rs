//! The runtime below the cache, independent of it: threads, locks, counters.

pub(crate) mod backoff;
pub(crate) mod batches;
pub(crate) mod block_on;
pub(crate) mod busy;
pub(crate) mod coop;
pub(crate) mod counter;
pub(crate) mod drive;
mod fair_share;
pub(crate) mod flight;
mod flush_jobs;
pub(crate) mod flush_pool;
pub(crate) mod foreign;
pub(crate) mod in_flight;
pub(crate) mod io_pool;
mod io_queue;
mod io_request;
mod lanes;
pub(crate) mod lock;
pub(crate) mod permits;
mod pool_requests;
pub(crate) mod rank;
pub(crate) mod ready_set;
pub(crate) mod recorder;
pub(crate) mod searches;
pub(crate) mod shim;
pub(crate) mod watcher;
pub(crate) mod worker;
