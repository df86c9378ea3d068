//! Compaction: moves folios that are scattered over many 2 MiB blocks together, so that whole
//! blocks are free again.
//!
//! It evacuates the emptiest block into the holes of the others, then the next one. It ends when
//! the holes have no room for the contents of the next block. (In Linux `mm/compaction.c` two
//! scanners meet. That needs no count per block, but it also moves pages out of full blocks at one
//! end into empty ones at the other. With a count, compaction moves the fewest pages possible.)

use core::ops::Range;

use crate::base::ids::BLOCK_ORDER;
use crate::base::platform::Platform;
use crate::moving::evacuate::Isolated;
use crate::moving::migrate::Owner;
use crate::zone::buddy::Reach;
use crate::zone::zone::Zone;

/// The result of [`Zone::compact`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Number of 2 MiB blocks that were emptied. Each is free as a whole, unless another thread
    /// has allocated from it since.
    pub emptied: u32,
    /// Number of blocks that could not be emptied: some of their frames cannot move.
    pub busy: u32,
}

impl<P: Platform> Zone<P> {
    /// Empties up to `blocks` blocks of 2 MiB, the emptiest first: moves their contents into the
    /// holes of others. Returns the number of blocks emptied, and of those that were busy.
    ///
    /// A block that is free as a whole is never split. Drains the per-CPU lists.
    pub fn compact(&'static self, blocks: u32, owner: &dyn Owner<P>) -> Compacted {
        let mut done = Compacted::default();
        self.drain();
        self.by_emptiness(|block, used| {
            if done.emptied == blocks {
                return false;
            }
            if used == 0 {
                return true;
            }
            let frames = frames_of(block);
            // Each next block holds more: if there is no room for this one, there is none for that.
            if self.holes_beside(block) < used {
                return false;
            }
            if !self.looks_movable(frames.clone()) {
                return true;
            }
            let Some(isolated) = Isolated::new(self, block..block + 1) else { return true };
            match isolated.evacuate(frames, owner, Reach::Holes) {
                Ok(()) => done.emptied += 1,
                Err(_) => done.busy += 1,
            }
            // The isolation has ended, and the captured frames have merged.
            true
        });
        done
    }

    /// Returns the number of free frames in all other blocks that are partly in use.
    fn holes_beside(&self, block: usize) -> u32 {
        let buddy = self.lock();
        let in_holes = buddy.lists.frames() - self.whole_in_buddy(&buddy) * BLOCK_ORDER.frames();
        in_holes.saturating_sub(self.blocks.all()[block].free())
    }
}

fn frames_of(block: usize) -> Range<u32> {
    let first = block as u32 * BLOCK_ORDER.frames();
    first..first + BLOCK_ORDER.frames()
}
