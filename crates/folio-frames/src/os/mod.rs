//! Frames of a process: memory from the operating system, and the user-space platform.

#[cfg(feature = "std")]
pub(crate) mod arena;
#[cfg(feature = "std")]
pub(crate) mod futex_lock;
#[cfg(feature = "std")]
pub(crate) mod lazy_range;
#[cfg(feature = "std")]
pub(crate) mod leaf_memory;
#[cfg(feature = "std")]
pub(crate) mod retire;
#[cfg(feature = "std")]
pub(crate) mod slot_space;
#[cfg(all(shuttle, feature = "std"))]
pub(crate) mod stepped_space;
#[cfg(feature = "std")]
pub(crate) mod user_space;
