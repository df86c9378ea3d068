//! Compaction: what is scattered over many 2 MiB blocks moves together, so that whole blocks are
//! free again.
//!
//! The emptiest block is evacuated into the holes of the others, and so on, until the holes no
//! longer hold what is in the next one. (Linux `mm/compaction.c` lets two scanners meet: it needs
//! no count per block, but it also moves pages out of full blocks at one end into empty ones at the
//! other. With a count, each page that moves is one of the fewest that had to.)

use core::ops::Range;

use crate::base::ids::BLOCK_ORDER;
use crate::base::platform::Platform;
use crate::moving::evacuate::Isolated;
use crate::moving::migrate::Owner;
use crate::zone::buddy::Reach;
use crate::zone::zone::Zone;

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// 2 MiB blocks that were emptied: free as a whole, unless somebody was quicker.
    pub emptied: u32,
    /// Blocks that could not be: something in them stays.
    pub busy: u32,
}

impl<P: Platform> Zone<P> {
    /// Empties up to `blocks` blocks of 2 MiB by moving what is in them into the holes of others.
    /// Never cuts up a block that is free as a whole.
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
            // The emptiest comes first: if there is no room for it, there is none for the next.
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
            // The isolation ends here, and what was captured merges.
            true
        });
        done
    }

    /// Free frames in blocks that are partly in use, without this one.
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
