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

use crate::memory::limits::machine_bytes;
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
/// # Errors
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

impl<S: Scheme> Shared<S> {
    /// The most that the cache was made for.
    pub(crate) fn most_bytes(&self) -> usize {
        self.zone().blocks() * BLOCK_ORDER.bytes()
    }

    pub(crate) fn set_capacity(&self, bytes: usize) -> io::Result<()> {
        let bytes = check(bytes, self.most_bytes(), "what the cache was made for")?;
        let mut offline = self.capacity.offline.lock();
        self.capacity.bytes.store(bytes, Ordering::Relaxed);
        let mut reached = self.fit_locked(&mut offline);
        for _ in 0..ROUNDS {
            if reached <= bytes {
                break;
            }
            rest(PAUSE);
            reached = self.fit_locked(&mut offline);
        }
        if reached <= bytes {
            return Ok(());
        }
        self.capacity.bytes.store(reached, Ordering::Relaxed);
        let pinned = self.pinned_bytes();
        let message = format!(
            "the capacity is {reached} bytes, not {bytes}: {pinned} bytes are pinned, and no block can be given back whole"
        );
        Err(io::Error::new(io::ErrorKind::ResourceBusy, message))
    }

    /// What is offline though the budget allows it: paid for indexes.
    pub(crate) fn spare_bytes(&self) -> usize {
        self.spare_of(&self.capacity.offline.lock())
    }

    fn spare_of(&self, offline: &[Offline<S>]) -> usize {
        (offline.len() * BLOCK_ORDER.bytes())
            .saturating_sub(self.most_bytes() - self.capacity.bytes())
    }

    /// Takes back what was paid for the index of a file that was closed. It may be called where
    /// somebody evicts to give blocks back, by the thread that does: so it only tries.
    pub(crate) fn fit_after_close(&self) {
        if let Some(mut offline) = self.capacity.offline.try_lock()
            && self.spare_of(&offline) > 0
        {
            self.fit_locked(&mut offline);
        }
    }

    /// Gives blocks back for what the indexes grew, or takes them again. Called each time that
    /// memory is short.
    pub(crate) fn fit(&self) {
        if let Some(mut offline) = self.capacity.offline.try_lock() {
            self.fit_locked(&mut offline);
        }
    }

    /// Brings as many blocks online, or takes as many offline, as the budget says. The bytes online
    /// after that.
    fn fit_locked(&self, offline: &mut Vec<Offline<S>>) -> usize {
        let zone = self.zone();
        let block_bytes = BLOCK_ORDER.bytes();
        let wanted = (self
            .capacity
            .bytes()
            .saturating_sub(self.registry.index_bytes() / block_bytes * block_bytes)
            / block_bytes)
            .max(1);
        let beyond = zone.blocks() - wanted;
        let before = offline.len();
        while offline.len() > beyond {
            self.arena.online(offline.pop().expect("there are more than none"));
        }
        if offline.len() < beyond {
            for block in self.by_what_is_held() {
                if offline.len() == beyond {
                    break;
                }
                offline.extend(self.empty(block));
            }
        }
        if offline.len() != before {
            let frames = (zone.blocks() - offline.len()) * BLOCK_ORDER.frames() as usize;
            let frames = set_watermarks(zone, frames as u32);
            self.policy.lock().resize(frames);
        }
        (zone.blocks() - offline.len()) * block_bytes
    }

    /// All blocks, those with the least that can not be moved first; of equals the last one first.
    fn by_what_is_held(&self) -> Vec<usize> {
        let zone = self.zone();
        let mut blocks: Vec<(usize, usize)> = (0..zone.blocks())
            .rev()
            .map(|block| (self.held_frames(zone.block_range(block)), block))
            .collect();
        blocks.sort_by_key(|block| block.0);
        blocks.into_iter().map(|block| block.1).collect()
    }

    /// Takes a block offline; `None`: something in it is held.
    fn empty(&self, block: usize) -> Option<Offline<S>> {
        let frames = BLOCK_ORDER.frames();
        for _ in 0..TRIES {
            // Room for what is moved out of it.
            let free = self.zone().stats().free_frames;
            if free < frames {
                self.reclaim((frames - free) as usize);
            }
            match self.arena.offline(block, self) {
                Ok(offline) => return Some(offline),
                Err(OfflineError::NotOnline) => return None,
                Err(OfflineError::Busy { .. } | OfflineError::OutOfFrames) => {}
            }
        }
        None
    }
}
