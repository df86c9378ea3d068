//! Frames of a process: bytes from the operating system, its platform.

#[cfg(feature = "std")]
pub(crate) mod arena;
#[cfg(feature = "std")]
pub(crate) mod retire;
#[cfg(all(shuttle, feature = "std"))]
pub(crate) mod stepped_space;
#[cfg(feature = "std")]
pub(crate) mod user_space;
