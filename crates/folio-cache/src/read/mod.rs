//! From a page number to its bytes: a hit, a miss, and what is read ahead.

pub(crate) mod async_miss;
pub(crate) mod batch;
pub(crate) mod copy;
pub(crate) mod extent;
pub(crate) mod fill;
pub(crate) mod lookup;
pub(crate) mod prefetch;
pub(crate) mod uncached;
pub(crate) mod walk;
