//! A cache for object stores.

#![forbid(unsafe_code)]

mod base;
#[cfg(feature = "object_store_013")]
pub mod v013;
#[cfg(feature = "object_store_014")]
pub mod v014;

#[cfg(not(any(feature = "object_store_013", feature = "object_store_014")))]
compile_error!(
    "choose the version of object_store: the feature object_store_013 (DataFusion 55, Ballista 55) \
     or object_store_014"
);

pub use base::counters::StoreStats;
pub use base::options::{Consistency, Options};
pub use folio_cache::{Advice, Cache, Priority};
