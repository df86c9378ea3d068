//! The capacity: the amount of memory that a cache may use. It can change while the cache is read.
//!
//! The arena has addresses for the maximum that the cache was made for. What is beyond the capacity
//! is offline: blocks of 2 MiB that were given back to the system. Shrinking takes the blocks with
//! no pinned frames. It frees as many pages as they hold by the policy, and moves the rest
//! of their pages elsewhere. Readers go on, or sleep for the moment in which their page moves.
//!
//! The indexes and the state of open files are paid from the capacity as well (`room.rs`,
//! `file_room.rs`): for each 2 MiB of them, to the nearest, one more block is offline.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use folio_frames::BLOCK_ORDER;
use folio_ref::{Scheme, broken};

use crate::backing::error::error;
use crate::memory::frames_view;
use crate::memory::limits::machine_bytes;
use crate::memory::pinned;
use crate::memory::reclaim;
use crate::memory::room;
use crate::memory::sweep;
use crate::memory::watermarks::set_watermarks;
use crate::rt::shim::back_off;
use crate::state::frames::Offline;
use crate::state::shared::{OfflineBlocks, Shared};

/// The first pause between two rounds through all blocks; each is twice the one before. Readers pin
/// pages for moments, which pass.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The last pause, after which a new capacity is given up. All are 127 ms.
const MAX_PAUSE: Duration = Duration::from_millis(64);

/// Attempts to empty one block in all rounds, before it counts as pinned.
const MAX_ATTEMPTS: u8 = 2;

/// One in this many frames of a block is looked at, to find the blocks with few pages in use.
const LOOKED_AT: usize = 8;

/// The time for which no block is taken offline for the indexes after none could be.
const FIT_BACK_OFF: Duration = Duration::from_millis(100);

/// The way in which a block is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    /// The coldest pages of the cache are evicted, and those of the block take their frames.
    ByMoves,
    /// Its own pages are evicted, hot ones among them: no page is copied, and no frame is needed
    /// elsewhere. A neighbour that takes memory may not leave the time for more.
    InPlace,
}

/// Returns a capacity rounded down to whole blocks.
///
/// # Errors
///
/// `InvalidInput` outside the allowed range.
pub(crate) fn check(bytes: usize, max: usize, why: &str) -> io::Result<usize> {
    let min = BLOCK_ORDER.bytes();
    if (min..=max).contains(&bytes) {
        return Ok(bytes - bytes % min);
    }
    let message = format!("a capacity of {bytes} bytes is not within {min} to {max}, {why}");
    Err(error(io::ErrorKind::InvalidInput, message))
}

/// Returns the capacity of a new cache, rounded down to whole blocks.
///
/// # Errors
///
/// `InvalidInput` below one block or above the memory of the machine.
pub(crate) fn check_new(bytes: usize) -> io::Result<usize> {
    check(bytes, machine_bytes(), "this machine's memory")
}

/// Returns the maximum capacity that the cache was made for, in bytes.
pub(crate) fn most_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    shared.zone().blocks() * BLOCK_ORDER.bytes()
}

/// Sets the capacity that the user wants.
///
/// # Errors
///
/// - `InvalidInput` outside the allowed range.
/// - `ResourceBusy` if too much is pinned.
pub(crate) fn set_capacity<S: Scheme>(shared: &Shared<S>, bytes: usize) -> io::Result<()> {
    let bytes = check(bytes, most_bytes(shared), "the maximum capacity of this cache")?;
    let mut offline = shared.capacity.offline.lock();
    shared.capacity.wanted.store(bytes, Ordering::Relaxed);
    shared.capacity.bytes.store(bytes, Ordering::Relaxed);
    room::shrink_to_limit(shared);
    let mut attempts = HashMap::new();
    let mut reached = fit_under_lock(shared, &mut offline, &mut attempts, Empty::ByMoves);
    let mut pause = MIN_PAUSE;
    while reached > bytes && pause <= MAX_PAUSE {
        back_off(pause);
        pause *= 2;
        reached = fit_under_lock(shared, &mut offline, &mut attempts, Empty::ByMoves);
    }
    if reached <= bytes {
        return Ok(());
    }
    shared.capacity.wanted.store(reached, Ordering::Relaxed);
    shared.capacity.bytes.store(reached, Ordering::Relaxed);
    let pinned = pinned::pinned_bytes(shared);
    let message = format!(
        "the capacity is {reached} bytes, not {bytes}: {pinned} bytes are pinned, \
         and no block can be taken offline"
    );
    Err(error(io::ErrorKind::ResourceBusy, message))
}

/// Memory is being given back, until this is dropped.
struct GivingBack<'c>(&'c AtomicBool);

impl<'c> GivingBack<'c> {
    fn begin(flag: &'c AtomicBool) -> Self {
        // Relaxed, here and below: a hint.
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for GivingBack<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Sets the capacity within what the user wants, as memory pressure asks. Blocks with pinned pages
/// stay, and none is waited for. Returns the capacity that was reached.
pub(crate) fn adapt<S: Scheme>(shared: &Shared<S>, bytes: usize) -> usize {
    let early = broken!("pressure-outgrows-the-user").then(|| shared.capacity.wanted());
    // Before the lock: a thread that has it moves no more blocks.
    let _others_wait = GivingBack::begin(&shared.capacity.is_giving_back);
    let mut offline = shared.capacity.offline.lock();
    // Under the lock: the user may have set less since the decision.
    let bytes = bytes.min(early.unwrap_or_else(|| shared.capacity.wanted()));
    shared.capacity.bytes.store(bytes, Ordering::Relaxed);
    room::shrink_to_limit(shared);
    let reached = fit_under_lock(shared, &mut offline, &mut HashMap::new(), Empty::InPlace);
    let reached = reached.max(bytes).min(shared.capacity.wanted());
    shared.capacity.bytes.store(reached, Ordering::Relaxed);
    reached
}

/// Returns the number of bytes that are offline though the capacity allows them: paid for indexes.
pub(crate) fn spare_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    spare_of(shared, &shared.capacity.offline.lock())
}

fn spare_of<S: Scheme>(shared: &Shared<S>, offline: &OfflineBlocks<S>) -> usize {
    (offline.blocks.len() * BLOCK_ORDER.bytes())
        .saturating_sub(most_bytes(shared) - shared.capacity.bytes())
}

/// Takes back what was paid for the index of a file that was closed. The thread that calls this may
/// be evicting pages to take blocks offline, so it only tries the lock.
pub(crate) fn fit_after_close<S: Scheme>(shared: &Shared<S>) {
    if let Some(mut offline) = shared.capacity.offline.try_lock()
        && spare_of(shared, &offline) > 0
    {
        fit_now(shared, &mut offline);
    }
}

/// Takes blocks offline for what the indexes grew, or online again. Called each time that memory is
/// short.
pub(crate) fn fit<S: Scheme>(shared: &Shared<S>) {
    if let Some(mut offline) = shared.capacity.offline.try_lock() {
        fit_now(shared, &mut offline);
    }
}

/// Fits, unless no block could be taken offline a moment ago.
fn fit_now<S: Scheme>(shared: &Shared<S>, offline: &mut OfflineBlocks<S>) {
    if offline.failed.is_none_or(|failed| failed.elapsed() >= FIT_BACK_OFF) {
        fit_under_lock(shared, offline, &mut HashMap::new(), Empty::ByMoves);
    }
}

/// Brings as many blocks online, or takes as many offline, as the capacity says. Returns the number
/// of bytes online after that. `attempts` counts those to empty a block, by block.
fn fit_under_lock<S: Scheme>(
    shared: &Shared<S>,
    offline: &mut OfflineBlocks<S>,
    attempts: &mut HashMap<usize, u8>,
    how: Empty,
) -> usize {
    let failed = &mut offline.failed;
    let offline = &mut offline.blocks;
    let zone = shared.zone();
    let block_bytes = BLOCK_ORDER.bytes();
    let capacity = shared.capacity.bytes() / block_bytes;
    let beside_pages = shared.leaves.bytes() + shared.leaves.file_bytes();
    let blocks = (beside_pages + block_bytes / 2) / block_bytes;
    let wanted = (capacity - blocks.min(room::beside_pages(capacity))).max(1);
    let beyond = zone.blocks() - wanted;
    let before = offline.len();
    while offline.len() > beyond {
        shared.arena.online(offline.pop().expect("more blocks are offline than `beyond`"));
    }
    if offline.len() < beyond {
        for block in order(shared, offline, how) {
            // Relaxed: a hint.
            let is_waited_for = || shared.capacity.is_giving_back.load(Ordering::Relaxed);
            if offline.len() == beyond || (how == Empty::ByMoves && is_waited_for()) {
                break;
            }
            if is_worth_an_attempt(shared, block, attempts) {
                offline.extend(empty(shared, block, how));
            }
        }
    }
    *failed = (offline.len() < beyond).then(Instant::now);
    if failed.is_none() {
        shared.leaves.set_fitted(beside_pages);
    }
    if offline.len() != before {
        let frames = (zone.blocks() - offline.len()) * BLOCK_ORDER.frames() as usize;
        let frames = set_watermarks(zone, frames as u32);
        frames_view::resize(shared, frames);
    }
    (zone.blocks() - offline.len()) * block_bytes
}

/// Returns the blocks in the order in which they are taken offline: the last first, or those first
/// that have the fewest pages in use.
fn order<S: Scheme>(shared: &Shared<S>, offline: &[Offline<S>], how: Empty) -> Vec<usize> {
    let zone = shared.zone();
    let mut is_online = vec![true; zone.blocks()];
    for offline in offline {
        is_online[offline.block()] = false;
    }
    let mut blocks: Vec<_> = (0..zone.blocks()).rev().filter(|&block| is_online[block]).collect();
    if how == Empty::InPlace {
        let looked_at = |block| zone.block_range(block).step_by(LOOKED_AT);
        let used = |&block: &usize| looked_at(block).filter(|&pfn| zone.is_referenced(pfn)).count();
        blocks.sort_by_cached_key(used);
    }
    blocks
}

/// Returns `true` if a block seems to be movable, and was not tried without success too often. A
/// look at the descriptors goes first: a block with a pinned page costs no more than that.
fn is_worth_an_attempt<S: Scheme>(
    shared: &Shared<S>,
    block: usize,
    attempts: &mut HashMap<usize, u8>,
) -> bool {
    let frames = shared.zone().block_range(block);
    if !pinned::seem_movable(shared, &frames) {
        return false;
    }
    let attempts = attempts.entry(block).or_default();
    *attempts += u8::from(*attempts <= MAX_ATTEMPTS);
    *attempts <= MAX_ATTEMPTS && pinned::pinned_frames(shared, &frames) == 0
}

/// Takes a block offline. Returns `None` if a frame in it is pinned.
fn empty<S: Scheme>(shared: &Shared<S>, block: usize, how: Empty) -> Option<Offline<S>> {
    match how {
        Empty::InPlace => sweep::evict_range(shared, &shared.zone().block_range(block)),
        Empty::ByMoves => {
            // Frees at once what the pages of the block need elsewhere. Other threads may take some
            // of that: then the move frees more (`owner.rs`).
            let needed = BLOCK_ORDER.frames().saturating_sub(shared.zone().stats().free_frames);
            if needed > 0 {
                reclaim::reclaim(shared, needed as usize);
            }
        }
    }
    shared.arena.offline(block, shared).ok()
}
