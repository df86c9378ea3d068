//! The end of a zone: its arena closes it, it retires when its last frame is free, and the zone of
//! a later arena inherits its metadata. No zone is used twice.
//!
//! ```text
//!   open ──close──▶ closed ──retire──▶ retired ──inherit──▶ retired, and has a successor
//!     the arena        every frame         a later arena
//!     is dropped       is captured
//! ```
//!
//! **Invariant:** an arena's bytes are unmapped only after its zone retired: under the zone's lock
//! it is closed, no call has a block of it isolated, and every block is offline or has all its
//! frames captured. A closed zone never hands out a frame again. So from then on nothing leads to
//! the bytes: no reference, no exclusive handle, no list.
//!
//! Safe code may keep the `&'static Zone` of an arena that was dropped, and any call may be running
//! in the zone when its arena is dropped. So each step that could hand out a frame checks
//! `Buddy::is_closed` or the state of a block, under the zone's lock.
//!
//! | step | in a closed zone |
//! | --- | --- |
//! | allocation from any list | the lists stay empty: freed frames of closed blocks are captured |
//! | deferred blocks | there are none: they are offline again |
//! | isolating a block | refused |
//! | the end of an isolation | the block is closed; the call returns `NotOnline` |
//! | forming a huge block | refused |
//! | `Slot::get`, `Slot::try_lock` | no number is accepted; a changed slot has a new version (R8) |
//! | `Zone::try_get` | refused when the zone has a successor (R8) |
//! | the late step of a put (R7) | the successor destroys the frame, which is its own (R4) |
//!
//! The successor inherits the metadata: the descriptors with their words and generations, unchanged
//! (R2, R7), the referenced bits, the table of blocks, and the numbers. The `Zone` itself stays
//! allocated forever, as any code may have kept its `&'static`: 5 KiB for each arena ever made.

use core::ptr;
use core::sync::atomic::Ordering;
use std::boxed::Box;

use crate::base::ids::Order;
use crate::base::platform::Platform;
use crate::memmap::blocks::{Block, State};
use crate::moving::evacuate::{put_offline, withhold};
use crate::zone::folio::KindOps;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Ends all allocation, forever. Frames in use stay so until they are freed.
    pub(crate) fn close(&self) {
        let mut buddy = self.lock();
        buddy.is_closed = true;
        self.gauge.subtract_online(self.deferred.frames());
        self.deferred.set(0..0, (0, 0));
        for block in 0..self.blocks() {
            withhold(self, &mut buddy, block, State::Closed);
        }
        drop(buddy);
        // All lists, even those that seem empty: a free that saw its block online holds the lock of
        // its list, and any later free sees the block closed.
        for cpu in &self.per_cpu {
            self.drain_one(cpu);
        }
    }

    /// Takes every block of a closed zone offline and ends its numbers. Returns `false` and does
    /// nothing while a frame is in use or a call has a block isolated.
    pub(crate) fn retire(&self) -> bool {
        let mut buddy = self.lock();
        let is_empty = |block: &Block| match block.state() {
            State::Offline => true,
            State::Closed => block.captured() == block.frames(),
            State::Online | State::Isolated => false,
        };
        let blocks = &self.blocks.all()[..self.blocks()];
        if !buddy.is_closed || !blocks.iter().all(is_empty) {
            return false;
        }
        for (block, entry) in blocks.iter().enumerate() {
            if entry.state() == State::Closed {
                put_offline(self, &mut buddy, block);
            }
        }
        self.numbers.end();
        true
    }

    /// Makes the successor of this zone, over the same metadata, with every block offline.
    ///
    /// # Panics
    ///
    /// Panics if `frames` is more than the metadata has.
    ///
    /// # Safety
    ///
    /// - `direct_map` is as [`Zone::new`] requires.
    /// - This zone has retired, and has no successor.
    pub(crate) unsafe fn inherit(
        &self,
        frames: u32,
        direct_map: *mut u8,
        huge: Option<Order>,
        kinds: &'static [KindOps<P>],
    ) -> &'static Self {
        let numbers = self.numbers.inherit(self.memmap.frames());
        let (memmap, blocks) = (self.memmap.inherit(), self.blocks.inherit());
        let mut successor =
            Self::over(memmap, blocks, numbers, self.first(), frames, direct_map, kinds);
        if let Some(order) = huge {
            successor = successor.with_huge_order(order);
        }
        let successor: &'static Self = Box::leak(Box::new(successor));
        // Release: pairs with Acquire in successor. Before any block of the successor is online.
        self.successor.store(ptr::from_ref(successor).cast_mut(), Ordering::Release);
        successor
    }
}
