//! The frames of a cache: what moves pages and memory.

use std::fmt;

use folio_frames::{
    Compacted, Contig, ContigError, MigrateError, OfflineError, Order, Pfn, UserSpace, migrate,
};
use folio_ref::{DefaultScheme, Scheme};

use crate::api::cache::Cache;
use crate::state::frames::{Offline, Zone};

/// The page frames of a [`Cache`], and the mechanics that move them. [`Cache::frames`] returns it.
///
/// Reading and writing files needs none of this. It serves memory managers, reports and tests.
/// Pages move while they are read: a reader sleeps for the moment in which its page moves.
///
/// # Examples
///
/// ```
/// use folio_cache::Cache;
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::new(8 << 20)?;
/// let frames = cache.frames();
/// let block = frames.offline(0).expect("nothing in it is pinned"); // 2 MiB for the system
/// assert_eq!(frames.zone().stats().online_frames, 3 * 512);
/// frames.online(block);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct CacheFrames<'c, S: Scheme = DefaultScheme> {
    cache: &'c Cache<S>,
}

impl<S: Scheme> Cache<S> {
    /// Returns the cache's frames, for their mechanics.
    pub fn frames(&self) -> CacheFrames<'_, S> {
        CacheFrames { cache: self }
    }
}

impl<S: Scheme> CacheFrames<'_, S> {
    /// Returns the zone of the frames: to walk and to inspect them.
    pub fn zone(&self) -> &'static Zone<S> {
        self.cache.shared.zone()
    }

    /// Moves the page in the frame `pfn` to another frame. Returns that frame.
    ///
    /// # Errors
    ///
    /// Returns the reason for which the page stays where it is, such as a handle that pins it.
    pub fn migrate(&self, pfn: Pfn) -> Result<Pfn, MigrateError> {
        let shared = &self.cache.shared;
        if shared.is_inherited() {
            return Err(MigrateError::NotMovable);
        }
        migrate(shared.zone(), pfn, &**shared)
    }

    /// Takes a block of 2 MiB out of the cache: its pages move elsewhere, and its memory goes back
    /// to the system. If no frame is free elsewhere, evicts pages. Returns the block.
    ///
    /// # Errors
    ///
    /// Returns `NotOnline` if there is no such block, it is offline already, or another call
    /// empties it, `Busy` if something in it is pinned, and `OutOfFrames` if its pages have no room
    /// elsewhere and none could be evicted.
    pub fn offline(&self, block: usize) -> Result<Offline<S>, OfflineError> {
        let shared = &self.cache.shared;
        if shared.is_inherited() {
            return Err(OfflineError::NotOnline);
        }
        shared.arena.offline(block, &**shared)
    }

    /// Gives a block back to the cache.
    ///
    /// # Panics
    ///
    /// Panics if the block belongs to another cache.
    pub fn online(&self, block: Offline<S>) {
        if !self.cache.shared.is_inherited() {
            self.cache.shared.arena.online(block);
        }
    }

    /// Rebuilds up to `blocks` free blocks of 2 MiB by moving pages together. Returns what was
    /// done.
    pub fn compact(&self, blocks: u32) -> Compacted {
        let shared = &self.cache.shared;
        if shared.is_inherited() {
            return Compacted::default();
        }
        shared.zone().compact(blocks, &**shared)
    }

    /// Allocates `frames` adjacent frames of the cache for the caller, the first one aligned to
    /// `align`. Pages in them move elsewhere; if no frame is free there, pages are evicted. Returns
    /// the exclusive handle of all of them.
    ///
    /// # Errors
    ///
    /// Returns the reason for which no range could be emptied.
    pub fn alloc_contig(
        &self,
        frames: u32,
        align: Order,
    ) -> Result<Contig<UserSpace<S>>, ContigError> {
        let shared = &self.cache.shared;
        if shared.is_inherited() {
            return Err(ContigError::NotOnline);
        }
        shared.zone().alloc_contig(frames, align, &**shared)
    }

    /// Gives memory back to the system until `blocks` blocks of 2 MiB are online. Pages in the
    /// others move together. If no frame is free for them, evicts pages.
    ///
    /// # Errors
    ///
    /// Returns the error of the last block if too few blocks could be emptied. The others are
    /// offline.
    pub fn shrink_to(&self, blocks: usize) -> Result<(), OfflineError> {
        let shared = &self.cache.shared;
        if shared.is_inherited() {
            return Err(OfflineError::NotOnline);
        }
        shared.arena.shrink_to(blocks, &**shared)
    }

    /// Takes memory back that [`shrink_to`](Self::shrink_to) returned to the system, until `blocks`
    /// blocks are online. Returns the number of blocks that are online.
    pub fn grow_to(&self, blocks: usize) -> usize {
        let shared = &self.cache.shared;
        if shared.is_inherited() {
            return shared.arena.online_blocks();
        }
        shared.arena.grow_to(blocks)
    }
}

impl<S: Scheme> fmt::Debug for CacheFrames<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheFrames").field(self.zone()).finish()
    }
}
