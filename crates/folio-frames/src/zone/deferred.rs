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
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::blocks::State;
use crate::zone::alloc::BuddyGuard;
use crate::zone::zone::Zone;

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

impl<P: Platform> Zone<P> {
    /// The blocks of this range wait from now on.
    pub(crate) fn let_wait(&self, blocks: Range<usize>) {
        let _buddy = self.lock();
        let before = self.deferred.blocks();
        assert!(before.is_empty(), "blocks {before:?} still wait: one range at a time");
        self.deferred.set(blocks.start as u32..blocks.end as u32);
        self.gauge.came_online(self.deferred.frames());
    }

    /// Brings in the next blocks. `false`: none waits.
    #[cold]
    pub(crate) fn bring_in(&self, blocks: u32) -> bool {
        let mut buddy = self.lock();
        let deferred = self.deferred.blocks();
        let end = deferred.end.min(deferred.start.saturating_add(blocks));
        self.deferred.set(end..deferred.end);
        for block in deferred.start..end {
            self.put_online(&mut buddy, block * BLOCK_ORDER.frames());
        }
        !deferred.is_empty()
    }

    /// Brings in what waits of these blocks, and all that waits before them. A step at a time, so
    /// that nobody waits long for the lock.
    pub(crate) fn bring_in_through(&self, blocks: &Range<usize>) {
        while self.deferred.blocks().start < blocks.end as u32
            && self.deferred.blocks().end > blocks.start as u32
        {
            let more = (blocks.end as u32).saturating_sub(self.deferred.blocks().start);
            if !self.bring_in(more.min(STEP)) {
                return;
            }
        }
    }

    /// Offline → online, under the zone's lock. Nothing but the block's head is written.
    pub(crate) fn put_online(&self, buddy: &mut BuddyGuard<'_, P>, first: u32) {
        let entry = self.blocks.of(first);
        assert_eq!(
            entry.state(),
            State::Offline,
            "block {} is online already",
            first / BLOCK_ORDER.frames()
        );
        entry.set_state(State::Online);
        entry.set_migrate_type(MigrateType::Movable);
        P::trace(Event::Online, || self.pfn(first));
        buddy.free(self.map(), first, BLOCK_ORDER);
    }
}
