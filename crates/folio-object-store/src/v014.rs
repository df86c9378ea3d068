//! The cached store for `object_store` 0.14.

#[doc(no_inline)]
pub use object_store_014 as object_store;

#[path = "store/mod.rs"]
mod store;

pub use store::CachedStore;

use object_store::{Attributes, GetResult, GetResultPayload, ObjectMeta};

/// Returns the result of a get. The fields of the type differ between the versions.
fn get_result(
    payload: GetResultPayload,
    meta: ObjectMeta,
    range: std::ops::Range<u64>,
    attributes: Attributes,
) -> GetResult {
    let extensions = object_store::Extensions::default();
    GetResult { payload, meta, range, attributes, extensions }
}
