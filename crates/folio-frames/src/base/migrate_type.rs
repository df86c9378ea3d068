//! Migrate types: folios that can move and folios that cannot lie apart, so that whole 2 MiB blocks
//! can become free.
//!
//! One page that cannot move keeps its whole 2 MiB block from ever becoming free. So each 2 MiB
//! block serves one migrate type, and an allocation takes frames from the blocks of its type. When
//! those are used up, it takes the largest free block of another type. Where that is worth it, the
//! whole 2 MiB block changes to the new type: later allocations of that type go there too, not to
//! a third place. (Linux `mm/page_alloc.c`, `fallbacks` and `find_suitable_fallback`; Gorman's
//! grouping by mobility.)

/// The ability of a block's contents to be moved, or to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MigrateType {
    /// The owner lets it move on request: pages of files.
    #[default]
    Movable = 0,
    /// It cannot move, but its owner gives it up on request: the owner's own caches.
    Reclaimable = 1,
    /// It can neither move nor be given up: page tables, buffers of devices.
    Unmovable = 2,
}

/// The number of migrate types.
pub(crate) const MIGRATE_TYPES: usize = 3;

impl MigrateType {
    pub(crate) const ALL: [Self; MIGRATE_TYPES] =
        [Self::Movable, Self::Reclaimable, Self::Unmovable];

    pub(crate) fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Movable,
            1 => Self::Reclaimable,
            _ => Self::Unmovable,
        }
    }

    /// Returns the types to take blocks from when its own are used up, the least harm first.
    pub(crate) fn fallbacks(self) -> [Self; MIGRATE_TYPES - 1] {
        match self {
            Self::Movable => [Self::Reclaimable, Self::Unmovable],
            Self::Reclaimable => [Self::Unmovable, Self::Movable],
            Self::Unmovable => [Self::Reclaimable, Self::Movable],
        }
    }
}
