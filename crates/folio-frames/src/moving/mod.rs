//! Operations that empty frames: migration, compaction, contiguous allocation, offline and online.

pub(crate) mod compact;
pub(crate) mod contig;
pub(crate) mod evacuate;
pub(crate) mod hotplug;
pub(crate) mod migrate;
