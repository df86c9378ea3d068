//! Mobility: what will move, and what will not, kept apart, so that 2 MiB blocks survive.
//!
//! One page that can not move spoils its whole 2 MiB for ever. So each 2 MiB block serves one
//! mobility, and an allocation takes frames from blocks of its own. When those are used up, it
//! takes the largest free block of another mobility and, where that is worth it, makes the whole 2
//! MiB its own: the next ones of its kind go there too, not to a third place. (Linux
//! `mm/page_alloc.c`, `fallbacks` and `find_suitable_fallback`; Gorman's grouping by mobility.)

/// Whether what a block is allocated for can be moved, or be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MigrateType {
    /// Its owner can be asked to let it move: pages of files.
    #[default]
    Movable = 0,
    /// It can not be moved, but its owner gives it up when asked: caches of the owner's own.
    Reclaimable = 1,
    /// Neither: page tables, buffers of devices.
    Unmovable = 2,
}

/// How many there are.
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

    /// Whose blocks to take when its own are used up, the least harm first.
    pub(crate) fn fallbacks(self) -> [Self; MIGRATE_TYPES - 1] {
        match self {
            Self::Movable => [Self::Reclaimable, Self::Unmovable],
            Self::Reclaimable => [Self::Unmovable, Self::Movable],
            Self::Unmovable => [Self::Reclaimable, Self::Movable],
        }
    }
}
