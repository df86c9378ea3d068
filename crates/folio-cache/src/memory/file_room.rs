//! Room for the state of open files: it is paid from the capacity, as indexes are.
//!
//! | | at most |
//! | --- | --- |
//! | state of open files | 13/16 of the capacity |
//! | indexes | half of it, and with the files 7/8 |
//! | pages | at least 1/8 of it |
//!
//! A file of one page that is only read costs about 210 bytes, beside its backing. So 256 MiB hold
//! a million such files, with 56 MiB of pages. An open beyond that fails: a file that is open costs
//! memory whatever is done with its pages.

use std::io;

use folio_frames::BLOCK_ORDER;
use folio_ref::Scheme;

use crate::backing::error::error;
use crate::memory::capacity;
use crate::memory::frames_view::BATCH;
use crate::memory::reclaim;
use crate::state::shared::Shared;

/// The number of times that an open evicts pages: a closed object may stay, pinned by a handle.
const MAX_ROUNDS: usize = 64;

/// Returns the maximum number of bytes of the state of open files.
fn limit<S: Scheme>(shared: &Shared<S>) -> usize {
    shared.capacity() / 16 * 13
}

/// Checks that there is room for the state of one more file, of so many bytes. Evicts pages if
/// closed objects of distant stores have the room: they leave with their pages.
///
/// # Errors
///
/// `OutOfMemory` if there is none.
pub(crate) fn check<S: Scheme>(shared: &Shared<S>, bytes: usize) -> io::Result<()> {
    let has_room = || shared.leaves.file_bytes() + bytes <= limit(shared);
    for _ in 0..MAX_ROUNDS {
        if has_room() || shared.kept.is_empty() || reclaim::reclaim(shared, BATCH) == 0 {
            break;
        }
    }
    if has_room() { Ok(()) } else { Err(no_room(shared, bytes)) }
}

#[cold]
fn no_room<S: Scheme>(shared: &Shared<S>, bytes: usize) -> io::Error {
    let message = format!(
        "no memory for one more open file: {} files have {} of at most {} bytes, which is 13/16 of \
         the capacity, and it needs {bytes}; close some, or raise the capacity",
        shared.registry.len(),
        shared.leaves.file_bytes(),
        limit(shared)
    );
    error(io::ErrorKind::OutOfMemory, message)
}

/// Has pages leave for the state of files, which has just grown. Call with no lock held.
pub(crate) fn grown<S: Scheme>(shared: &Shared<S>) {
    // Once for each block that is filled: memory beside the cache has no other moment.
    if shared.leaves.growth() >= BLOCK_ORDER.bytes() {
        capacity::fit(shared);
    }
}
