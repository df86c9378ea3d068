//! From a page number to its bytes: a hit, a miss, and what is read ahead.

pub(crate) mod async_miss;
pub(crate) mod batch;
pub(crate) mod collect;
pub(crate) mod copy;
pub(crate) mod extent;
pub(crate) mod fill;
pub(crate) mod gather;
mod in_table;
pub(crate) mod learn;
pub(crate) mod lookup;
mod permit;
mod plan;
pub(crate) mod prefetch;
pub(crate) mod request;
mod request_frames;
pub(crate) mod uncached;
pub(crate) mod walk;
mod window;
