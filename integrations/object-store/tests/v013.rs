//! The tests over servers, with `object_store` 0.13.

use folio_object_store::v013 as cached;

#[path = "suite/mod.rs"]
mod suite;

/// The version of `object_store`.
const VERSION: &str = "0.13";
