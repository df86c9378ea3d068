//! The fields of a mapping that only writers need, made when the first of them comes.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use crate::backing::Backing;
use crate::rt::shim::Mutex;
use crate::state::dirty::Dirty;
use crate::state::health::Health;
use crate::state::single_flight::SingleFlight;
use crate::state::sync_group::SyncGroup;
use crate::state::unsynced::Unsynced;
use crate::state::writeback_errors::{ErrorCursor, WritebackErrors};

/// The fields of a mapping that only writers need.
///
/// | field | written |
/// | --- | --- |
/// | `backing` | by the first open that may write |
/// | `dirty` | under the page lock |
/// | `swept` | by a thread that wrote pages to make room: a hint |
pub(crate) struct Writing {
    /// The backing that dirty pages are written to.
    pub(crate) backing: OnceLock<Arc<dyn Backing>>,
    /// Up to here the file is in order: the pages past it are written in the order of the file.
    pub(crate) ordered: AtomicU64,
    pub(crate) dirty: Dirty,
    /// The end of the last write that was made to free memory: a hint.
    pub(crate) swept: AtomicU64,
    pub(crate) errors: WritebackErrors,
    /// The errors that were reported to the open without a state of its own.
    pub(crate) reader: ErrorCursor,
    pub(crate) health: Health,
    /// Rounds that write everything dirty. Each returns the number of the next sync.
    pub(crate) writes: SingleFlight<(io::Result<()>, u64)>,
    pub(crate) syncs: SyncGroup,
    pub(crate) unsynced: Unsynced,
    /// The right to extend or truncate the file in several steps.
    pub(crate) grow: Mutex<()>,
}

impl Writing {
    /// Returns the fields of a file that is in order up to `ordered`.
    pub(super) fn new(ordered: u64) -> Self {
        Self {
            backing: OnceLock::new(),
            ordered: AtomicU64::new(ordered),
            dirty: Dirty::default(),
            swept: AtomicU64::new(0),
            errors: WritebackErrors::default(),
            reader: ErrorCursor::default(),
            health: Health::default(),
            writes: SingleFlight::default(),
            syncs: SyncGroup::default(),
            unsynced: Unsynced::default(),
            grow: Mutex::new(()),
        }
    }
}
