//! Deferred initialisation: a range of blocks comes online at once, and each block stays untouched
//! until the allocator runs short or a caller needs that block.
//!
//! ```text
//!   ├── in the allocator ──┤── deferred ─────────────────┤── offline ──
//!                         next                          end
//! ```
//!
//! (Linux `CONFIG_DEFERRED_STRUCT_PAGE_INIT`.) So a terabyte comes online with two stores: no
//! descriptor is written, and no entry of the block table. Where zeroed metadata means frozen
//! ([`Scheme::ZERO_IS_FROZEN`](folio_ref::Scheme::ZERO_IS_FROZEN)), no metadata is touched before
//! its block is used. A deferred frame counts as online and free. To a walker it is offline: its
//! word is frozen, and no block reaches it (R1).
//!
//! Blocks are initialised from the front. To use one in the middle (to take it offline, or for
//! contiguous memory), all blocks before it are initialised first. Blocks of 1 GiB in the buddy
//! would touch 1024 descriptors in 1024 pages for a terabyte: 4 MiB.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::base::ids::BLOCK_ORDER;

/// The number of blocks that are initialised at once when the allocator runs short: 16 MiB.
pub(crate) const STEP: u32 = 8;

/// The range of deferred blocks. Written under the zone's lock; a hint elsewhere.
#[derive(Default)]
pub(crate) struct Deferred {
    next: AtomicU32,
    end: AtomicU32,
    frames: AtomicU32,
    whole: AtomicU32,
}

// All accesses are Relaxed: exact under the zone's lock, hints elsewhere.
impl Deferred {
    pub(crate) fn blocks(&self) -> Range<u32> {
        let end = self.end.load(Ordering::Relaxed);
        self.next.load(Ordering::Relaxed).min(end)..end
    }

    /// Returns the number of frames in the deferred blocks: those that exist.
    pub(crate) fn frames(&self) -> u32 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Returns the number of deferred blocks of which all frames exist.
    pub(crate) fn whole_blocks(&self) -> u32 {
        self.whole.load(Ordering::Relaxed)
    }

    /// Returns `true` if this frame's block is deferred.
    pub(crate) fn has(&self, index: u32) -> bool {
        self.blocks().contains(&(index / BLOCK_ORDER.frames()))
    }

    /// Sets the range, and the numbers of its frames and whole blocks, under the zone's lock.
    pub(crate) fn set(&self, blocks: Range<u32>, (frames, whole): (u32, u32)) {
        self.next.store(blocks.start, Ordering::Relaxed);
        self.end.store(blocks.end, Ordering::Relaxed);
        self.frames.store(frames, Ordering::Relaxed);
        self.whole.store(whole, Ordering::Relaxed);
    }
}
