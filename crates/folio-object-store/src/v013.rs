//! The cached store for `object_store` 0.13.

#[doc(no_inline)]
pub use object_store_013 as object_store;

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
    GetResult { payload, meta, range, attributes }
}
