//! Handing over a range at once: its blocks wait, untouched, until the allocator runs short or
//! somebody asks for them.
//!
//! ```text
//!   ├── in the allocator ──┤── waiting ──────────────────┤── offline ──
//!                         next                          end
//! ```
//!
//! So a terabyte is handed over by two stores: no descriptor is written, no entry of the block
//! table, and where zeroed metadata says frozen
//! ([`Scheme::ZERO_IS_FROZEN`](folio_ref::Scheme::ZERO_IS_FROZEN)) none is ever touched before its
//! block is used. A frame that waits counts as online and free. To a walker it is not there yet:
//! its word is frozen, no block reaches it (R1).
//!
//! Blocks are brought in from the front. Who wants one in the middle (to take it offline, for
//! contiguous memory) brings in all before it. Tried instead: blocks of 1 GiB in the buddy, 1024
//! descriptors in 1024 pages for a terabyte: 4 MiB touched.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::base::ids::BLOCK_ORDER;

/// Blocks brought in at once when the allocator runs short: 16 MiB.
pub(crate) const STEP: u32 = 8;

/// The range of blocks that waits. Written under the zone's lock; elsewhere a hint.
#[derive(Default)]
pub(crate) struct Deferred {
    next: AtomicU32,
    end: AtomicU32,
}

// All accesses are Relaxed: exact under the zone's lock, hints elsewhere.
impl Deferred {
    pub(crate) fn blocks(&self) -> Range<u32> {
        let end = self.end.load(Ordering::Relaxed);
        self.next.load(Ordering::Relaxed).min(end)..end
    }

    pub(crate) fn frames(&self) -> u32 {
        self.blocks().len() as u32 * BLOCK_ORDER.frames()
    }

    /// Whether this frame's block waits.
    pub(crate) fn has(&self, index: u32) -> bool {
        self.blocks().contains(&(index / BLOCK_ORDER.frames()))
    }

    /// Under the zone's lock.
    pub(crate) fn set(&self, blocks: Range<u32>) {
        self.next.store(blocks.start, Ordering::Relaxed);
        self.end.store(blocks.end, Ordering::Relaxed);
    }
}
