//! The result of a look at the length of a backing, as many callers share it.

use std::io;

use crate::backing::error::copy;

/// The result of a look at the length of the backing. Many callers share one.
#[derive(Debug)]
pub(crate) enum Looked {
    Len(u64),
    /// The backing did not say.
    Failed(io::Error),
    /// The old last page is dirty and cannot be written.
    Unwritten(io::Error),
}

impl Looked {
    /// Returns the same result for another caller.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Len(len) => Self::Len(*len),
            Self::Failed(error) => Self::Failed(copy(error)),
            Self::Unwritten(error) => Self::Unwritten(copy(error)),
        }
    }
}
