//! Blocks of 2 MiB come online: at once, or deferred until the allocator needs them
//! (`deferred.rs`).

use core::ops::Range;

use folio_ref::CHECKS;

use crate::base::ids::BLOCK_ORDER;
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::blocks::State;
use crate::zone::buddy::BuddyGuard;
use crate::zone::deferred::STEP;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Defers the blocks of this range: they are online, and initialised later.
    pub(crate) fn defer(&self, blocks: Range<usize>) {
        let in_map = self.in_map(&blocks);
        let _buddy = self.lock();
        let before = self.deferred.blocks();
        assert!(before.is_empty(), "blocks {before:?} are still deferred: one range at a time");
        // Later it would be noticed as well, in an allocation.
        for block in if CHECKS { blocks.clone() } else { 0..0 } {
            let state = self.blocks.of(block as u32 * BLOCK_ORDER.frames()).state();
            assert!(
                !CHECKS || state == State::Offline,
                "block {block} of {blocks:?} comes online, but is {state:?}"
            );
        }
        self.deferred.set(blocks.start as u32..blocks.end as u32, in_map);
        self.gauge.add_online(self.deferred.frames());
    }

    /// Initialises the next deferred blocks. Returns `false` if there is none.
    #[cold]
    pub(crate) fn init_deferred(&self, blocks: u32) -> bool {
        let mut buddy = self.lock();
        let deferred = self.deferred.blocks();
        let end = deferred.end.min(deferred.start.saturating_add(blocks));
        let (frames, whole) = self.in_map(&(deferred.start as usize..end as usize));
        let left = (self.deferred.frames() - frames, self.deferred.whole_blocks() - whole);
        self.deferred.set(end..deferred.end, left);
        for block in deferred.start..end {
            self.put_online(&mut buddy, block * BLOCK_ORDER.frames());
        }
        !deferred.is_empty()
    }

    /// Initialises the deferred blocks up to the last of these. One step at a time, so that other
    /// threads get the lock in between.
    pub(crate) fn init_deferred_through(&self, blocks: &Range<usize>) {
        while self.deferred.blocks().start < blocks.end as u32
            && self.deferred.blocks().end > blocks.start as u32
        {
            let more = (blocks.end as u32).saturating_sub(self.deferred.blocks().start);
            if !self.init_deferred(more.min(STEP)) {
                return;
            }
        }
    }

    /// Puts an offline block online, under the zone's lock. Writes only the heads of its free
    /// blocks: one, unless it has holes.
    pub(crate) fn put_online(&self, buddy: &mut BuddyGuard<'_, P>, first: u32) {
        let entry = self.blocks.of(first);
        if !entry.has_metadata() {
            return;
        }
        assert!(
            entry.state() == State::Offline,
            "block {} is online already",
            first / BLOCK_ORDER.frames()
        );
        entry.set_state(State::Online);
        entry.set_migrate_type(MigrateType::Movable);
        P::trace(Event::Online, || self.pfn(first));
        self.free_around_holes(buddy, first);
    }
}
