//! The tests of the module for `object_store` 0.13.

#![cfg(feature = "object_store_013")]

use folio_object_store::v013 as cached;

#[path = "suite/mod.rs"]
mod suite;

/// Returns the result of a get.
fn result(
    payload: cached::object_store::GetResultPayload,
    meta: cached::object_store::ObjectMeta,
    range: std::ops::Range<u64>,
    attributes: cached::object_store::Attributes,
) -> cached::object_store::GetResult {
    cached::object_store::GetResult { payload, meta, range, attributes }
}
