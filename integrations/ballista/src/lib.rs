//! Ballista over folio: executors that share one cache, and tasks that go where their bytes are.
//!
//! - [`SharedCache`] gives all sessions of an executor one [`Cache`](folio_object_store::Cache).
//! - [`Affinity`] is a policy for the scheduler. The tasks of a part of a file always go to the
//!   same executor, which has the bytes from the last time.
//! - [`route_tasks`] does so for `datafusion-distributed` (feature `distributed`).
//!
//! Both engines are used as they are: these are what their configurations take.

#![forbid(unsafe_code)]

mod heat;
mod homes;
mod place;
mod policy;
#[cfg(feature = "distributed")]
mod route;
mod scan;
mod shared;

pub use homes::{Key, homes};
pub use policy::{Affinity, Settings, Stats};
#[cfg(feature = "distributed")]
pub use route::route_tasks;
pub use shared::SharedCache;
