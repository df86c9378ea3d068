//! Shared by several benchmarks: files, backings, traces, baselines, models, a small executor, a
//! simulated store and its readers.

#[cfg(feature = "baselines")]
pub(crate) mod baselines;
pub(crate) mod cache_line;
pub(crate) mod distant_store;
pub(crate) mod executor;
pub(crate) mod files;
pub(crate) mod latency;
pub(crate) mod lives;
pub(crate) mod memcpy_backing;
pub(crate) mod memory;
#[cfg(feature = "baselines")]
pub(crate) mod range_caches;
pub(crate) mod range_readers;
pub(crate) mod reads;
pub(crate) mod schemes;
pub mod scratch;
pub(crate) mod store;
pub(crate) mod tail_subjects;
pub(crate) mod traces;
pub(crate) mod undo;
