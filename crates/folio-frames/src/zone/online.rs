//! Blocks of 2 MiB come online: at once, or deferred until the allocator needs them (`deferred.rs`).

use core::ops::Range;

use crate::base::ids::BLOCK_ORDER;
use crate::base::migrate_type::MigrateType;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::blocks::State;
use crate::zone::buddy::BuddyGuard;
use crate::zone::deferred::STEP;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// The blocks of this range wait from now on.
    pub(crate) fn let_wait(&self, blocks: Range<usize>) {
        let _buddy = self.lock();
        let before = self.deferred.blocks();
        assert!(before.is_empty(), "blocks {before:?} still wait: one range at a time");
        self.deferred.set(blocks.start as u32..blocks.end as u32);
        self.gauge.add_online(self.deferred.frames());
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
