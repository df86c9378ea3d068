//! The error of a request for exclusive control.

use core::{error, fmt};

use crate::Snapshot;

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
