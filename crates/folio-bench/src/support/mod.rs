//! Shared by several benchmarks: files, backings, traces, baselines, models, a small executor.

#[cfg(feature = "baselines")]
pub(crate) mod baselines;
pub(crate) mod cache_line;
pub(crate) mod executor;
pub(crate) mod files;
pub(crate) mod memcpy_backing;
pub(crate) mod reads;
pub(crate) mod schemes;
pub(crate) mod store;
pub(crate) mod traces;
pub(crate) mod undo;
