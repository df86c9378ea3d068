//! Room for indexes: at most half of the capacity, whatever is touched, and less if very many files
//! are open (`file_room.rs`).
//!
//! A page needs a slot, and so an open leaf of its file's index. If there is no room for that leaf,
//! the pages of another one are evicted. If the pages of all leaves are in use, a reader gets its
//! page without the cache (`uncached.rs`).
//!
//! A leaf is closed when its last page is dropped. Eviction closes it as well, if indexes have more
//! than an eighth of the capacity: below that, misses would open what evictions close. A leaf that
//! never got a page, because its fill failed, is found here.

use std::io;
use std::time::Duration;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::backing::error::error;
use crate::memory::evict;
use crate::memory::frames_view;
use crate::rt::shim::back_off;
use crate::state::frames::Slot;
use crate::state::index::{IndexRoom, NoRoom};
use crate::state::leaves::{LEAF, LEAF_BYTES, LeafOwner};
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::writeback::throttle;

/// The share of the capacity that indexes may have.
const SHARE: usize = 2;

/// The number of leaves that are looked at for one that can be emptied.
const MAX_CANDIDATES: usize = 32;

/// The number of times that a reader looks for room.
const MAX_READER_TRIES: usize = 16;

/// The number of times that a writer does, before its write fails.
const MAX_WRITER_TRIES: usize = 200;

/// The number of pages that may go for the leaf of one page.
const MAX_EVICTED: usize = 64;

const PAUSE: Duration = Duration::from_millis(1);

/// Returns the part of a capacity that indexes and the state of open files may have together.
pub(super) fn beside_pages(capacity: usize) -> usize {
    capacity - capacity / 8
}

/// Returns the maximum number of bytes of all indexes.
fn limit<S: Scheme>(shared: &Shared<S>) -> usize {
    let capacity = shared.capacity();
    let left = beside_pages(capacity).saturating_sub(shared.leaves.file_bytes());
    left.min(capacity / SHARE)
}

/// Returns the slot of a page, of which the leaf is open. Waits for nothing, so it may be called
/// with page locks.
///
/// # Errors
///
/// See [`NoRoom`].
#[inline]
pub(crate) fn try_make_slot<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
) -> Result<&Slot<S>, NoRoom> {
    let pages = mapping.len().div_ceil(FRAME_SIZE as u64);
    let shared = &mapping.shared;
    let room = IndexRoom { leaves: &shared.leaves, mapping: mapping.id, limit: limit(shared) };
    mapping.index.make(page, pages, &room)
}

/// Opens the leaf of a page for a reader. Returns `false` if there is no room. Call with no page
/// locked.
pub(crate) fn make_slot_to_read<S: Scheme>(mapping: &Mapping<S>, page: u32) -> bool {
    for _ in 0..MAX_READER_TRIES {
        if try_make_slot(mapping, page).is_ok() {
            return true;
        }
        if !empty_a_leaf(&mapping.shared, false) {
            return false;
        }
    }
    false
}

/// Returns the slot of a page for a writer. Its leaf may be closed: it refuses a folio then, and
/// [`make_slot_to_write`] opens it.
///
/// # Errors
///
/// `OutOfMemory` if there is no room for a leaf and none can be made.
#[inline(always)]
pub(crate) fn slot_to_write<S: Scheme>(mapping: &Mapping<S>, page: u32) -> io::Result<&Slot<S>> {
    match mapping.index.get(page) {
        Some(slot) => Ok(slot),
        None => make_slot_to_write(mapping, page),
    }
}

/// Returns the slot of a page for a writer, of which the leaf is open. Call with no lock held
/// except `grow`.
///
/// # Errors
///
/// `OutOfMemory` if there is no room and none can be made: the pages of all leaves are pinned, or
/// cannot be written.
#[cold]
#[inline(never)]
pub(crate) fn make_slot_to_write<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
) -> io::Result<&Slot<S>> {
    let shared = &mapping.shared;
    for _ in 0..MAX_WRITER_TRIES {
        if let Ok(slot) = try_make_slot(mapping, page) {
            return Ok(slot);
        }
        if !empty_a_leaf(shared, false)
            && !empty_a_leaf(shared, true)
            && !throttle::write_back_some(shared)
        {
            back_off(PAUSE);
        }
    }
    let message = format!(
        "no memory for the index of the file: all indexes have {} of {} bytes, for pages that \
         cannot be evicted",
        shared.leaves.bytes(),
        limit(shared)
    );
    Err(error(io::ErrorKind::OutOfMemory, message))
}

/// Brings the indexes below their limit, after the capacity became less. Leaves with pages that are
/// pinned or dirty stay. Call with no page locked.
pub(crate) fn shrink_to_limit<S: Scheme>(shared: &Shared<S>) {
    let leaves = shared.leaves.bytes() / LEAF_BYTES;
    for _ in 0..leaves {
        if shared.leaves.bytes() <= limit(shared) {
            break;
        }
        let Some(owner) = shared.leaves.next_open() else { break };
        empty_leaf(shared, owner, true);
    }
}

/// Evicts the pages of a leaf and closes it. Only pages that were not used lately go, unless
/// `even_hot`. Returns `false` if there is no such leaf among those looked at. Call with no page
/// locked.
fn empty_a_leaf<S: Scheme>(shared: &Shared<S>, even_hot: bool) -> bool {
    (0..MAX_CANDIDATES)
        .map_while(|_| shared.leaves.next_open())
        .any(|owner| empty_leaf(shared, owner, even_hot))
}

/// Evicts the pages of a leaf and closes it. Returns `false` if a page of it stays.
fn empty_leaf<S: Scheme>(shared: &Shared<S>, owner: LeafOwner, even_hot: bool) -> bool {
    // No lock is held when the mapping, perhaps its last reference, is dropped here.
    let Some(mapping) = shared.registry.by_id(owner.mapping) else { return false };
    let pages: SmallVec<[_; MAX_EVICTED]> = mapping.index.pages_of_leaf(owner.first).collect();
    let is_cold = |slot: &Slot<S>| {
        slot.pfn(mapping.zone()).is_none_or(|pfn| frames_view::is_cold(&mapping, pfn))
    };
    let may_go = || pages.len() <= MAX_EVICTED && pages.iter().all(|(_, slot)| is_cold(slot));
    let is_emptied = (even_hot || may_go())
        && pages.iter().all(|&(page, slot)| evict::evict_page(&mapping, slot, page));
    if is_emptied {
        mapping.give_back_leaf(owner.first + (LEAF as u32 - 1));
    }
    is_emptied
}
