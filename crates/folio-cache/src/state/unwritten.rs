//! The description of a file that cannot be written.

use std::io;

use crate::backing::FileId;

/// A file with dirty bytes that do not reach its backing: see
/// [`Cache::unwritten`](crate::Cache::unwritten).
#[derive(Debug)]
#[non_exhaustive]
pub struct Unwritten {
    /// The file.
    pub file_id: FileId,
    /// The bytes of its dirty pages. They count against the capacity.
    pub dirty_bytes: u64,
    /// The bytes that a failed sync may have lost: they had left the cache by then.
    pub lost_bytes: u64,
    /// The error of its last write; otherwise `TimedOut` if a request has not ended yet, or `Other`
    /// if bytes may be lost.
    pub error: io::Error,
    /// The file is open. If not, the cache keeps it until it is written or discarded.
    pub is_open: bool,
}
