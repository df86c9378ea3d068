//! The reasons why an allocation fails.

use core::fmt;

use crate::base::ids::Order;

/// Why there is no block. A value: the caller reclaims, compacts or goes without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// No frame is free.
    OutOfFrames,
    /// Frames are free, but no block of the order asked for.
    Fragmented {
        /// The largest order that is free.
        largest: Order,
    },
    /// No block of the zone is online.
    Offline,
    /// The zone has no such order at all.
    TooLarge {
        /// The largest order it has.
        most: Order,
    },
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames => f.write_str("no frame is free"),
            Self::Fragmented { largest } => {
                write!(f, "too fragmented: the largest free block has {largest:?}")
            }
            Self::Offline => f.write_str("no block of the zone is online"),
            Self::TooLarge { most } => {
                write!(f, "the zone has no such order: {most:?} is the largest")
            }
        }
    }
}

impl core::error::Error for AllocError {}
