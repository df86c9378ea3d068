//! The parts that do not depend on the version of `object_store`.

pub(crate) mod counters;
pub(crate) mod epochs;
pub(crate) mod flights;
pub(crate) mod key;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod redact;
pub(crate) mod runtime;
pub(crate) mod table;
