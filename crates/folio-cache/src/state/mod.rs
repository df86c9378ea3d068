//! The state of the cache, of each file, and of each page.

pub(crate) mod dirty;
pub(crate) mod error_cursor;
pub(crate) mod fill_waiters;
pub(crate) mod frames;
pub(crate) mod handle;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod kept;
pub(crate) mod leaves;
pub(crate) mod live;
pub(crate) mod looked;
pub(crate) mod mapping;
pub(crate) mod process;
pub(crate) mod range_set;
pub(crate) mod readahead;
pub(crate) mod registry;
pub(crate) mod remote;
pub(crate) mod requests;
pub(crate) mod shared;
pub(crate) mod shown;
pub(crate) mod single_flight;
pub(crate) mod stats;
pub(crate) mod sync_group;
pub(crate) mod units;
pub(crate) mod unsynced;
pub(crate) mod unwritten;
