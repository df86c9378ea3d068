//! The tests over servers, with `object_store` 0.14.

use folio_object_store::v014 as cached;

#[path = "suite/mod.rs"]
mod suite;

/// The version of `object_store`.
const VERSION: &str = "0.14";
