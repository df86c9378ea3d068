//! Arenas for tests, an index of slots, and the check that nothing leaked.

#![allow(dead_code, reason = "no test file uses all of it")]

pub(crate) mod hooked;

use std::alloc::{Layout, alloc_zeroed};
use std::mem;
use std::ptr::NonNull;

use folio_frames::{
    Arena, BLOCK_ORDER, FolioRef, FolioRefs, Kind, KindOps, MemmapMemory, Order, Owner, Pfn,
    Platform, Slot, UserSpace, Zone,
};
use folio_ref::{MAX_AT_ONCE, SATURATED, Scheme};

/// The kind of the folios that tests allocate.
pub(crate) const OURS: Kind = Kind::owner(0);

pub(crate) const NO_KINDS: &[KindOps<UserSpace>] = &[];

/// Creates an arena of `blocks` blocks of 2 MiB.
pub(crate) fn arena<S: Scheme>(blocks: usize) -> Arena<UserSpace<S>> {
    Arena::new(blocks << 21, &[]).expect("memory for a test")
}

pub(crate) fn order(n: u8) -> Order {
    Order::new(n).expect("an order")
}

/// Takes so many references to `folio` that it is saturated and leaked.
pub(crate) fn saturate<P: Platform>(folio: &FolioRef<P>) {
    let mut many = FolioRefs::from(folio.clone());
    (1..MAX_AT_ONCE).for_each(|_| many.join(folio.clone()).expect("the same folio"));
    (0..SATURATED / MAX_AT_ONCE).for_each(|_| mem::forget(many.clone()));
}

/// Slots by number. The owner data of a folio is the number of its slot.
pub(crate) struct Index<P: Platform>(pub(crate) Vec<Slot<P>>);

impl<P: Platform> Index<P> {
    pub(crate) fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| Slot::new()).collect())
    }

    /// Allocates, fills and publishes a folio in `slot`. Returns its frame number.
    pub(crate) fn publish(&self, zone: &'static Zone<P>, slot: usize, order: Order) -> Pfn {
        let mut folio = zone.alloc_frozen(order).expect("a free block");
        folio.set_owner(OURS, slot as u64);
        folio.as_mut_slice().fill(slot as u8);
        let pfn = folio.pfn();
        self.0[slot].install(folio).expect("an empty slot").publish();
        pfn
    }

    /// Empties `slot`. The last pin owner frees the folio.
    pub(crate) fn remove(&self, zone: &'static Zone<P>, slot: usize) {
        drop(self.0[slot].try_lock(zone).expect("a folio that is not locked").remove());
    }
}

impl<P: Platform> Owner<P> for Index<P> {
    fn with_slot(&self, _: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool {
        let slot = usize::try_from(owner_data).ok().and_then(|slot| self.0.get(slot));
        slot.map(visit).is_some()
    }
}

/// Asserts that every frame is free, frozen, and merged with its buddies.
#[track_caller]
pub(crate) fn assert_all_free<P: Platform>(zone: &'static Zone<P>) {
    zone.drain();
    zone.assert_sound();
    let stats = zone.stats();
    assert_eq!(stats.free_frames, stats.online_frames, "{zone:?}");
    for pfn in zone.pfns() {
        let seen = zone.peek(pfn);
        assert!(seen.snapshot.is_frozen(), "{pfn:?} is {seen:?}");
        assert!(!seen.kind.is_allocated(), "{pfn:?} is {seen:?}");
    }
}

/// Makes a zone of `blocks` blocks from a frame number on, all online. It is never freed.
pub(crate) fn zone_at<P: Platform>(first: u64, blocks: u32) -> &'static Zone<P> {
    let frames = blocks * BLOCK_ORDER.frames();
    let bytes = Layout::from_size_align((frames as usize) << 12, BLOCK_ORDER.bytes()).unwrap();
    let [metadata, bytes] = [Zone::<P>::layout(frames), bytes].map(|layout| {
        // SAFETY: neither layout is empty.
        NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory for a test")
    });
    let (holds, first) = (MemmapMemory::Zeroed, Pfn::new(first));
    // SAFETY: both allocations belong to this zone alone, and are never freed.
    let zone = unsafe { Zone::new(metadata, holds, first, frames, bytes.as_ptr(), &[]) };
    let zone: &'static Zone<P> = Box::leak(Box::new(zone));
    (0..blocks as usize).for_each(|block| {
        // SAFETY: as above.
        unsafe { zone.online_block(block) };
    });
    zone
}
