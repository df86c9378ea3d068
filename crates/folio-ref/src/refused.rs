//! The two ways to be refused: by a lookup, and by a request for exclusive control.

use core::{error, fmt};

use crate::{SATURATED, Snapshot};

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

/// The error of [`PageRef::freeze`](crate::PageRef::freeze) and
/// [`PageRef::try_claim`](crate::PageRef::try_claim): the frame was in another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Busy {
    /// The state that was found.
    pub found: Snapshot,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the frame is {:?}, which is not the expected state", self.found)
    }
}

impl error::Error for Busy {}
