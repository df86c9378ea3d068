//! Room for new pages: in the share of their group, among the pages in flight, and for their slots.
//!
//! **Shares:** how much of the memory the files of a group may have, and keep.
//!
//! | rule | kept by |
//! | --- | --- |
//! | a group has at most its share | a miss or a write evicts pages of the group before new ones come |
//! | it loses none of it to files without a share | reclaim asks their policy first |
//! | it loses none of it to other shares | those have at most theirs, and all shares are at most the whole |
//!
//! A group with a share has a policy of its own, which compares its pages with each other only. A
//! page of it that is pinned or dirty cannot make room. Then reads go on without the cache, and
//! writes exceed the share.
//!
//! **Pages in flight:** requests of several pages leave half of the memory that is not in flight to
//! other files: a file of which all fills hang holds at most half of the cache, a second one a
//! quarter. Requests of one page are not counted: each has a thread that waits for it.
//!
//! **Slots:** indexes have at most half of the capacity, whatever is touched, and less if very many
//! files are open (`file_room.rs`). A page needs a slot, and so an open leaf of its file's index.
//! If there is no room for that leaf, the pages of another one are evicted. If the pages of all
//! leaves are in use, a reader gets its page without the cache (`uncached.rs`).
//!
//! A leaf is closed when its last page is dropped. Eviction closes it as well, if indexes have more
//! than an eighth of the capacity: below that, misses would open what evictions close. A leaf that
//! never got a page, because its fill failed, is found here.

use std::cmp::Reverse;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::backing::error::error;
use crate::memory::evict;
use crate::memory::frames_view::{self, BATCH};
use crate::rt::shim::back_off;
use crate::state::frames::Slot;
use crate::state::groups::{GroupState, group_of};
use crate::state::index::{IndexRoom, NoRoom};
use crate::state::leaves::{LEAF, LEAF_BYTES, LeafOwner};
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;
use crate::writeback::throttle;

/// A group evicts one in this many of its pages at once, and at most a batch.
const BATCH_SHARE: usize = 16;

/// A file may have one part in this many of the capacity in flight, whatever the others have.
const RESERVE_SHARE: usize = 8;

/// The pause of a reader of a file with too many pages in flight, unless some end before.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(20);

/// The number of these pauses in a row without an end, 1 s, after which it reads a single page.
const IN_FLIGHT_PATIENCE: u32 = 50;

/// The share of the capacity that indexes may have.
const INDEX_SHARE: usize = 2;

/// The number of leaves that are looked at for one that can be emptied.
const MAX_CANDIDATES: usize = 32;

/// The number of times that a reader looks for room.
const MAX_READER_TRIES: usize = 16;

/// The number of times that a writer does, before its write fails.
const MAX_WRITER_TRIES: usize = 200;

/// The number of pages that may go for the leaf of one page: those of a leaf that is cold. A writer
/// that finds no such leaf takes a whole one.
const MAX_EVICTED: usize = 64;

/// The pause of a writer between two tries.
const PAUSE: Duration = Duration::from_millis(1);

/// Makes room for pages that a reader misses, from `page` on: in the share of the file's group, for
/// the slot of `page`, and among the pages in flight, where it may wait for about a second. Returns
/// how many of `pages` pages a request may have, or 0 if there is no room for `page`. Call with no
/// page locked, and none in flight.
pub(crate) fn make_room_to_read<S: Scheme>(mapping: &Mapping<S>, page: u32, pages: u32) -> u32 {
    let room = make_room(mapping, pages as usize);
    if room > 0 && make_slot_to_read(mapping, page) { admit(mapping, room) as u32 } else { 0 }
}

/// Makes room in the share of a file's group. Returns how many of `pages` new pages fit into it,
/// or all if the group has no share. Call with no page locked.
#[inline]
pub(crate) fn make_room<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    if group_of(mapping.id) == 0 { pages } else { make_room_in_group(mapping, pages) }
}

#[inline(never)]
fn make_room_in_group<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let shared = &mapping.shared;
    let group = shared.groups.of(mapping.id);
    let Some(limit) = shared.groups.limit(group) else { return pages };
    let limit = limit as usize;
    let pages = pages.min(limit);
    let over = (used(group) + pages).saturating_sub(limit);
    if over == 0 {
        return pages;
    }
    let more = (limit / BATCH_SHARE).min(BATCH);
    evict::reclaim_by_policy(shared, group.number, over.max(more));
    limit.saturating_sub(used(group)).min(pages)
}

/// Returns the pages of a group, with those in flight. Racy.
fn used(group: &GroupState) -> usize {
    (group.counters.now(Count::Cached) + group.counters.now(Count::InFlight)) as usize
}

/// Returns the numbers of the policies of all groups with a share, the fullest first.
pub(super) fn fullest_first<S: Scheme>(shared: &Shared<S>) -> Vec<usize> {
    let full = |group: &GroupState| {
        let limit = u64::from(shared.groups.limit(group)?);
        Some((used(group) as u64 * 1000 / limit, group.number))
    };
    let mut numbers: Vec<_> = shared.groups.all().filter_map(|group| full(group)).collect();
    numbers.sort_unstable_by_key(|&(full, _)| Reverse(full));
    numbers.into_iter().map(|(_, number)| number).collect()
}

/// Returns the number of pages, of `pages` and at least one, that a request of a file may have.
pub(crate) fn admit_at_once<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let (shared, capacity) = (&mapping.shared, mapping.shared.capacity() / FRAME_SIZE);
    // Relaxed: a count.
    let own = mapping.readahead.filling.load(Ordering::Relaxed) as usize;
    if pages < 2 || own + pages <= capacity / RESERVE_SHARE {
        return pages;
    }
    let in_flight = usize::try_from(shared.memory_wait.in_flight()).unwrap_or(usize::MAX);
    pages.min(capacity.saturating_sub(in_flight).saturating_sub(own)).max(1)
}

/// Returns the number of pages, of `pages` and at least one, that a request of a file may have.
/// Waits until there may be several, for about a second. Call with no page in flight.
fn admit<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let admitted = admit_at_once(mapping, pages);
    if pages < 2 || admitted > 1 { admitted } else { wait_for_several(mapping, pages) }
}

#[cold]
fn wait_for_several<S: Scheme>(mapping: &Mapping<S>, pages: usize) -> usize {
    let mut look = mapping.shared.memory_wait.look();
    let (mut admitted, mut fruitless) = (admit_at_once(mapping, pages), 0);
    while admitted < 2 && fruitless < IN_FLIGHT_PATIENCE {
        fruitless = if look.wait(IN_FLIGHT_PAUSE) { 0 } else { fruitless + 1 };
        admitted = admit_at_once(mapping, pages);
    }
    admitted
}

/// Returns the part of a capacity that indexes and the state of open files may have together.
pub(super) fn beside_pages(capacity: usize) -> usize {
    capacity - capacity / 8
}

/// Returns the maximum number of bytes of all indexes.
fn index_limit<S: Scheme>(shared: &Shared<S>) -> usize {
    let capacity = shared.capacity();
    let left = beside_pages(capacity).saturating_sub(shared.leaves.file_bytes());
    left.min(capacity / INDEX_SHARE)
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
    mapping.index.get_open(page).map_or_else(|| make_slot(mapping, page), Ok)
}

#[inline(never)]
fn make_slot<S: Scheme>(mapping: &Mapping<S>, page: u32) -> Result<&Slot<S>, NoRoom> {
    let pages = mapping.len().div_ceil(FRAME_SIZE as u64);
    let shared = &mapping.shared;
    let room =
        IndexRoom { leaves: &shared.leaves, mapping: mapping.id, limit: index_limit(shared) };
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
        index_limit(shared)
    );
    Err(error(io::ErrorKind::OutOfMemory, message))
}

/// Brings the indexes below their limit, after the capacity became less. Leaves with pages that are
/// pinned or dirty stay. Call with no page locked.
pub(crate) fn shrink_to_limit<S: Scheme>(shared: &Shared<S>) {
    let leaves = shared.leaves.bytes() / LEAF_BYTES;
    for _ in 0..leaves {
        if shared.leaves.bytes() <= index_limit(shared) {
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
