//! The reasons why an allocation fails.

use core::fmt;

use crate::base::ids::Order;

/// The reason why no block was allocated. The caller can reclaim, compact, or do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// No frame is free.
    OutOfFrames,
    /// Frames are free, but no block of the requested order.
    Fragmented {
        /// The largest order of a free block.
        largest: Order,
    },
    /// No block of the zone is online.
    Offline,
    /// The zone never hands out blocks of this order.
    TooLarge {
        /// The largest order that the zone hands out.
        max: Order,
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
            Self::TooLarge { max } => {
                write!(f, "the zone has no such order: {max:?} is the largest")
            }
        }
    }
}

impl core::error::Error for AllocError {}
