//! Numbers, types and traits that every layer uses.

pub(crate) mod ids;
pub(crate) mod migrate_type;
pub(crate) mod platform;
pub(crate) mod racy_copy;
pub(crate) mod seeded_bugs;
pub(crate) mod sync;
pub(crate) mod trace;
pub(crate) mod vectors;
