//! Numbers, types and traits that every layer uses.

pub(crate) mod ids;
#[cfg(feature = "lock_api_04")]
pub(crate) mod lock_api_04;
pub(crate) mod migrate_type;
pub(crate) mod platform;
pub(crate) mod prefetch;
pub(crate) mod racy_copy;
pub(crate) mod seeded_bugs;
#[cfg(all(target_arch = "x86_64", not(miri), not(shuttle)))]
pub(crate) mod string_copy;
pub(crate) mod sync;
pub(crate) mod trace;
pub(crate) mod vectors;
