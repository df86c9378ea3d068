//! The end of a zone: its arena closes it, it retires when its last frame is free, and the zone of a
//! later arena inherits its metadata. No zone is used twice.
//!
//! ```text
//!   open ──close──▶ closed ──retire──▶ retired ──inherit──▶ retired, and has an heir
//!     the arena        every frame         a later arena
//!     is dropped       is captured
//! ```
//!
//! **Invariant:** an arena's bytes are unmapped only when its zone retired: under the zone's lock it
//! is closed, no call has a block of it isolated, and every block is offline or has all its frames
//! captured. A closed zone never hands out a frame again. So from then on nothing leads to the
//! bytes: no reference, no exclusive handle, no list.
//!
//! Safe code may keep the `&'static Zone` of an arena that is gone, and any call may be inside the
//! zone while its arena goes. Each step that could hand out a frame looks under the zone's lock: at
//! `Buddy::is_closed`, or at the state of a block.
//!
//! | step | in a closed zone |
//! | --- | --- |
//! | allocation from the buddy or a CPU's list | the lists are empty, and stay so: what is freed in a closed block is captured |
//! | blocks that waited | none waits: they are offline again |
//! | isolating a block | refused |
//! | a block that a call had isolated when the zone was closed | is closed when that ends; the call reports `NotOnline` |
//! | forming a huge block | refused |
//! | `Slot::get`, `Slot::try_lock` | a retired zone has no numbers; a slot that changed meanwhile has another version (R8) |
//! | `Zone::try_get` | refused when the zone has an heir (R8) |
//! | the late step of a put (R7) | the heir's frame is destroyed by the heir (R4) |
//!
//! What is inherited is metadata: the descriptors with their words and generations, as they are (R2,
//! R7), the marks, the table of blocks, and the numbers. The `Zone` itself stays behind for ever:
//! 5 KiB for each arena that was ever made, as its `&'static` may be anywhere.

use core::ptr;
use core::sync::atomic::Ordering;
use std::boxed::Box;

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::platform::Platform;
use crate::memmap::blocks::{Block, State};
use crate::moving::evacuate::{put_offline, withhold};
use crate::zone::folio::KindOps;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Ends all allocation, for ever. Frames that are in use stay so until they are freed.
    pub(crate) fn close(&self) {
        let mut buddy = self.lock();
        buddy.is_closed = true;
        self.gauge.subtract_online(self.deferred.frames());
        self.deferred.set(0..0);
        for block in 0..self.blocks() {
            withhold(self, &mut buddy, block, State::Closed);
        }
        drop(buddy);
        // Each of them, also one that seems empty: a free that saw its block online has the lock of
        // its list, and any later one sees the block closed.
        for cpu in &self.per_cpu {
            self.drain_one(cpu);
        }
    }

    /// Takes every block of a closed zone offline and ends its numbers. Returns `false`, and has
    /// done nothing, while a frame is in use or a call has a block isolated.
    pub(crate) fn retire(&self) -> bool {
        let buddy = self.lock();
        let is_empty = |block: &Block| match block.state() {
            State::Offline => true,
            State::Closed => block.captured() == BLOCK_ORDER.frames(),
            State::Online | State::Isolated => false,
        };
        let blocks = &self.blocks.all()[..self.blocks()];
        if !buddy.is_closed || !blocks.iter().all(is_empty) {
            return false;
        }
        for (block, entry) in blocks.iter().enumerate() {
            if entry.state() == State::Closed {
                put_offline(self, &buddy, block);
            }
        }
        self.numbers.end();
        true
    }

    /// Makes the zone that has this one's metadata from now on, all offline.
    ///
    /// # Panics
    ///
    /// When `frames` are more than the metadata has.
    ///
    /// # Safety
    ///
    /// - `direct_map` is as [`Zone::new`] says.
    /// - This zone has retired, and has no heir.
    pub(crate) unsafe fn inherit(
        &self,
        frames: u32,
        direct_map: *mut u8,
        huge: Option<Order>,
        kinds: &'static [KindOps<P>],
    ) -> &'static Self {
        let numbers = self.numbers.inherit(self.memmap.frames());
        let (memmap, blocks) = (self.memmap.inherit(), self.blocks.inherit());
        let mut heir = Self::over(memmap, blocks, numbers, self.first(), frames, direct_map, kinds);
        if let Some(order) = huge {
            heir = heir.with_huge_order(order);
        }
        let heir: &'static Self = Box::leak(Box::new(heir));
        // Release: pairs with Acquire in heir. Before any block of the heir is online.
        self.heir.store(ptr::from_ref(heir).cast_mut(), Ordering::Release);
        heir
    }
}
