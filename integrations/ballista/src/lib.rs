//! Ballista over folio: executors that share one cache, and tasks that go where their bytes are.
//!
//! - [`SharedCache`] gives all sessions of an executor one [`Cache`](folio_object_store::Cache).
//! - [`Affinity`] is a policy for the scheduler. The tasks of a part of a file always go to the
//!   same executor, which has the bytes from the last time.
//!
//! Ballista is used as it is: both are what its configuration takes.

#![forbid(unsafe_code)]

mod heat;
mod homes;
mod place;
mod policy;
mod scan;
mod shared;

pub use homes::{Key, homes};
pub use policy::{Affinity, Settings, Stats};
pub use shared::SharedCache;
