//! Huge blocks: above the largest order of the lists, formed of free blocks that lie together.

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order};
use crate::base::platform::Platform;
use crate::zone::alloc_error::AllocError;
use crate::zone::deferred;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Takes a huge block, or forms one.
    #[cold]
    pub(crate) fn alloc_huge(&self, order: Order) -> Result<u32, AllocError> {
        let huge = self.huge_order();
        if huge != Some(order) {
            return Err(AllocError::TooLarge { max: huge.unwrap_or(MAX_ORDER) });
        }
        if self.online_frames() == 0 {
            return Err(AllocError::Offline);
        }
        let taken = self.lock().alloc_huge(self.map(), order);
        if let Some(index) = taken {
            return Ok(index);
        }
        // As many blocks as one huge block can need at any alignment, and more if they have holes.
        // One step at a time, so that the lock is released between them.
        let most = 2 * order.frames() / BLOCK_ORDER.frames();
        loop {
            let has_more =
                (0..most.div_ceil(deferred::STEP)).all(|_| self.init_deferred(deferred::STEP));
            self.drain();
            if let Some(index) = self.form_huge(order) {
                return Ok(index);
            }
            if !has_more {
                break;
            }
        }
        let largest = self.lock().lists.largest(huge);
        Err(largest.map_or(AllocError::OutOfFrames, |largest| AllocError::Fragmented { largest }))
    }

    /// Forms a huge block of free blocks that lie together, and takes it. Returns `None` if none
    /// do.
    fn form_huge(&self, order: Order) -> Option<u32> {
        let last = self.frames().saturating_sub(order.frames() - 1);
        (0..last).step_by(order.frames() as usize).find_map(|first| {
            // One at a time, so that the lock is released between them.
            let mut buddy = self.lock();
            let is_formed = buddy.form_huge(self.map(), first, order);
            is_formed.then(|| buddy.alloc_huge(self.map(), order)).flatten()
        })
    }
}
