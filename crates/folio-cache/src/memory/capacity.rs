//! The budget: how much memory a cache may use, changed while it is read.
//!
//! The arena has addresses for the most that the cache was made for. What is beyond the budget is
//! offline: blocks of 2 MiB whose memory the system has back. Shrinking takes the blocks with the
//! least that is held, frees as much as they hold by the policy, and moves the rest of their pages
//! elsewhere; readers go on, or sleep for the moment in which their page moves.
//!
//! A file's index is paid from the budget as well: for each 2 MiB of indexes there is a block less.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use folio_frames::{BLOCK_ORDER, OfflineError};
use folio_ref::Scheme;

use crate::memory::evict;
use crate::memory::limits::machine_bytes;
use crate::memory::pinned;
use crate::memory::watermarks::set_watermarks;
use crate::rt::shim::rest;
use crate::state::frames::Offline;
use crate::state::shared::Shared;

/// Tries to empty one block while others take what was freed for it.
const TRIES: usize = 4;

/// Rounds through all blocks before a new budget is given up: readers hold pages for moments, which
/// pass.
const ROUNDS: usize = 200;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(1);

/// Rounds a budget down to blocks.
///
/// # WritebackErrors
///
/// `InvalidInput`, outside of what is allowed.
pub(crate) fn check(bytes: usize, most: usize, why: &str) -> io::Result<usize> {
    let least = BLOCK_ORDER.bytes();
    if (least..=most).contains(&bytes) {
        return Ok(bytes - bytes % least);
    }
    let message = format!("a capacity of {bytes} bytes: allowed are {least} to {most}, {why}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// As [`check`], for a cache that is to be made.
pub(crate) fn check_new(bytes: usize) -> io::Result<usize> {
    check(bytes, machine_bytes(), "this machine's memory")
}

/// The most that the cache was made for.
pub(crate) fn most_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    shared.zone().blocks() * BLOCK_ORDER.bytes()
}

pub(crate) fn set_capacity<S: Scheme>(shared: &Shared<S>, bytes: usize) -> io::Result<()> {
    let bytes = check(bytes, most_bytes(shared), "what the cache was made for")?;
    let mut offline = shared.capacity.offline.lock();
    shared.capacity.bytes.store(bytes, Ordering::Relaxed);
    let mut reached = fit_under_lock(shared, &mut offline);
    for _ in 0..ROUNDS {
        if reached <= bytes {
            break;
        }
        rest(PAUSE);
        reached = fit_under_lock(shared, &mut offline);
    }
    if reached <= bytes {
        return Ok(());
    }
    shared.capacity.bytes.store(reached, Ordering::Relaxed);
    let pinned = pinned::pinned_bytes(shared);
    let message = format!(
        "the capacity is {reached} bytes, not {bytes}: {pinned} bytes are pinned, and no block can be given back whole"
    );
    Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
}

/// What is offline though the budget allows it: paid for indexes.
pub(crate) fn spare_bytes<S: Scheme>(shared: &Shared<S>) -> usize {
    spare_of(shared, &shared.capacity.offline.lock())
}

fn spare_of<S: Scheme>(shared: &Shared<S>, offline: &[Offline<S>]) -> usize {
    (offline.len() * BLOCK_ORDER.bytes())
        .saturating_sub(most_bytes(shared) - shared.capacity.bytes())
}

/// Takes back what was paid for the index of a file that was closed. It may be called where
/// somebody evicts to give blocks back, by the thread that does: so it only tries.
pub(crate) fn fit_after_close<S: Scheme>(shared: &Shared<S>) {
    if let Some(mut offline) = shared.capacity.offline.try_lock()
        && spare_of(shared, &offline) > 0
    {
        fit_under_lock(shared, &mut offline);
    }
}

/// Gives blocks back for what the indexes grew, or takes them again. Called each time that
/// memory is short.
pub(crate) fn fit<S: Scheme>(shared: &Shared<S>) {
    if let Some(mut offline) = shared.capacity.offline.try_lock() {
        fit_under_lock(shared, &mut offline);
    }
}

/// Brings as many blocks online, or takes as many offline, as the budget says. The bytes online
/// after that.
fn fit_under_lock<S: Scheme>(shared: &Shared<S>, offline: &mut Vec<Offline<S>>) -> usize {
    let zone = shared.zone();
    let block_bytes = BLOCK_ORDER.bytes();
    let wanted = (shared
        .capacity
        .bytes()
        .saturating_sub(shared.registry.index_bytes() / block_bytes * block_bytes)
        / block_bytes)
        .max(1);
    let beyond = zone.blocks() - wanted;
    let before = offline.len();
    while offline.len() > beyond {
        shared.arena.online(offline.pop().expect("there are more than none"));
    }
    if offline.len() < beyond {
        for block in blocks_by_pinned(shared) {
            if offline.len() == beyond {
                break;
            }
            offline.extend(empty(shared, block));
        }
    }
    if offline.len() != before {
        let frames = (zone.blocks() - offline.len()) * BLOCK_ORDER.frames() as usize;
        let frames = set_watermarks(zone, frames as u32);
        shared.policy.lock().resize(frames);
    }
    (zone.blocks() - offline.len()) * block_bytes
}

/// All blocks, those with the least that can not be moved first; of equals the last one first.
fn blocks_by_pinned<S: Scheme>(shared: &Shared<S>) -> Vec<usize> {
    let zone = shared.zone();
    let mut blocks: Vec<(usize, usize)> = (0..zone.blocks())
        .rev()
        .map(|block| (pinned::pinned_frames(shared, zone.block_range(block)), block))
        .collect();
    blocks.sort_by_key(|block| block.0);
    blocks.into_iter().map(|block| block.1).collect()
}

/// Takes a block offline; `None`: something in it is held.
fn empty<S: Scheme>(shared: &Shared<S>, block: usize) -> Option<Offline<S>> {
    let frames = BLOCK_ORDER.frames();
    for _ in 0..TRIES {
        // Room for what is moved out of it.
        let free = shared.zone().stats().free_frames;
        if free < frames {
            evict::reclaim(shared, (frames - free) as usize);
        }
        match shared.arena.offline(block, shared) {
            Ok(offline) => return Some(offline),
            Err(OfflineError::NotOnline) => return None,
            // Busy or OutOfFrames: make room, and try again.
            Err(_) => {}
        }
    }
    None
}
