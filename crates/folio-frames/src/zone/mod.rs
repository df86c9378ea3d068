//! A zone: its allocator, its folios, and the ways to a reference.

pub(crate) mod adjacent;
pub(crate) mod alloc;
pub(crate) mod buddy;
pub(crate) mod deferred;
pub(crate) mod folio;
pub(crate) mod pcp;
pub(crate) mod refs;
#[cfg(feature = "std")]
pub(crate) mod retire;
pub(crate) mod scrub;
pub(crate) mod stats;
pub(crate) mod track;
pub(crate) mod walk;
pub(crate) mod watermarks;
#[expect(clippy::module_inception, reason = "the file of the type that names the folder")]
pub(crate) mod zone;
