//! The reason why a lookup was refused.

use core::{error, fmt};

use crate::SATURATED;

/// The reason why [`PageRef::try_get`](crate::PageRef::try_get) took no reference.
///
/// A refusal is expected: the caller continues without the frame. The two variants are part of the
/// specification, so callers may match them without a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The frame is frozen, free or a tail: its owner has exclusive control (R1).
    Frozen,
    /// The frame has 2^30 references or more and is leaked (R5).
    Saturated,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frozen => f.write_str("the frame is frozen"),
            Self::Saturated => {
                write!(f, "the reference count is saturated at {SATURATED}: the frame is leaked")
            }
        }
    }
}

impl error::Error for Refused {}
