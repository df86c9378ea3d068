//! The tests of the module for `object_store` 0.14.

#![cfg(feature = "object_store_014")]

use folio_object_store::v014 as cached;

#[path = "suite/mod.rs"]
mod suite;

/// Returns the result of a get.
fn result(
    payload: cached::object_store::GetResultPayload,
    meta: cached::object_store::ObjectMeta,
    range: std::ops::Range<u64>,
    attributes: cached::object_store::Attributes,
) -> cached::object_store::GetResult {
    let extensions = cached::object_store::Extensions::default();
    cached::object_store::GetResult { payload, meta, range, attributes, extensions }
}
