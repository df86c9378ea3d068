//! A zone: its allocator, its folios, and the ways to a reference.

pub(crate) mod adjacent;
pub(crate) mod adopt;
pub(crate) mod alloc;
pub(crate) mod alloc_at;
pub(crate) mod alloc_error;
pub(crate) mod buddy;
pub(crate) mod deferred;
pub(crate) mod folio;
pub(crate) mod free_lists;
pub(crate) mod gauge;
pub(crate) mod holes;
mod huge;
pub(crate) mod level;
pub(crate) mod new;
pub(crate) mod online;
pub(crate) mod pcp;
#[cfg(feature = "track")]
pub(crate) mod pin_owners;
pub(crate) mod pinned_bytes;
pub(crate) mod raw;
pub(crate) mod refs;
pub(crate) mod scrub;
pub(crate) mod split;
pub(crate) mod stats;
pub(crate) mod track;
pub(crate) mod volatile;
pub(crate) mod walk;
pub(crate) mod watermarks;
#[expect(clippy::module_inception, reason = "the file of the type that names the folder")]
pub(crate) mod zone;
