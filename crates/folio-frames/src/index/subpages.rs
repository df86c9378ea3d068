//! Multi-slot folios: each frame of the folio is a subpage with a slot of its own. Such a folio is
//! formed from the frozen folios of neighbouring slots, and split into single-frame folios again.
//!
//! ```text
//!   slots       [ 8, order 2 ][ 9, order 2 ][ 10, order 2 ][ 11, order 2 ]      a reference each
//!                     └──────────────┴─────┬──────┴───────────────┘
//!   frames        8: head, count 4     9: tail       10: tail        11: tail
//! ```
//!
//! One reference pins all of the folio, and a lookup of one frame costs what it costs for any
//! folio. The slot names the frame that has the bytes and, by its order, the head that has the
//! count. Each slot keeps its own page lock and version, and may leave the folio by itself: it is
//! emptied, or gets another folio, and its reference goes. The rest is split when a caller needs
//! one of its frames exclusively.
//!
//! | operation | caller | condition |
//! | --- | --- | --- |
//! | [`FrozenSlot::publish_as_one`] | holds all page locks, and the folios are frozen | the frames are adjacent and aligned |
//! | [`LockedSlot::split`], [`LockedSlot::remove_all`] | holds the page locks of all slots that are left | there is no other reference |
//!
//! In each operation the head is frozen until all shapes and the orders of the other slots are
//! final. When folios become one, the head opens after the shapes are set and before the slots are
//! unlocked; the old heads that are tails now stay frozen. In a split, the head opens after the
//! tails and their slots. So a reader that gets a reference by such a slot, and loads the slot
//! again (R8), has a reference to the folio to which the frame belongs.
//!
//! The tails keep their owner data and their referenced bits until they are folios again.

use core::mem;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::platform::Platform;
use crate::base::seeded_bugs;
use crate::base::trace::Event;
use crate::index::lock::{FrozenSlot, LockedSlot};
use crate::memmap::memmap::Kind;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::zone::Zone;

impl<P: Platform> FrozenSlot<'_, P> {
    /// Returns the largest order, up to `max` and [`BLOCK_ORDER`], at which folios can be
    /// [published as one](Self::publish_as_one), from the first on. They must be adjacent single
    /// frames of one kind, none dirty, the first one aligned.
    pub fn largest_as_one<'c>(locked_slots: impl IntoIterator<Item = &'c Self>, max: Order) -> Order
    where
        Self: 'c,
    {
        let mut locked_slots = locked_slots.into_iter().map(Self::folio);
        let Some(first) = locked_slots.next().filter(|folio| is_single(folio)) else {
            return Order::ZERO;
        };
        let max = first.index().trailing_zeros().min(u32::from(max.min(BLOCK_ORDER).as_u8()));
        let follows = |&(index, folio): &(u32, &FrozenFolio<P>)| {
            core::ptr::eq(folio.zone(), first.zone())
                && folio.index() == index
                && is_single(folio)
                && folio.kind() == first.kind()
        };
        let more = (first.index() + 1..)
            .zip(locked_slots)
            .take((1 << max) - 1)
            .take_while(follows)
            .count();
        Order::new((more + 1).ilog2() as u8).unwrap_or(Order::ZERO)
    }

    /// Opens all these folios as one multi-slot folio, and releases their page locks. Returns a
    /// reference by the first frame. Each slot has another one. Takes every element.
    ///
    /// # Panics
    ///
    /// Panics unless [`largest_as_one`](Self::largest_as_one) of all elements is the order with as
    /// many frames as there are elements. Panics if an element has the exclusive handle of another
    /// folio.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn publish_as_one(locked_slots: &mut [Option<Self>]) -> FolioRef<P> {
        let (zone, head) = Self::open_as_one(locked_slots, 1);
        FolioRef::from_frame(zone, head, head)
    }

    /// Opens all these folios as one multi-slot folio, and releases their page locks. Only the
    /// slots have references, so nothing pins the folio. Takes every element.
    ///
    /// # Panics
    ///
    /// Panics unless [`largest_as_one`](Self::largest_as_one) of all elements is the order with as
    /// many frames as there are elements. Panics if an element has the exclusive handle of another
    /// folio.
    pub fn publish_as_one_unpinned(locked_slots: &mut [Option<Self>]) {
        Self::open_as_one(locked_slots, 0);
    }

    /// Opens the folios as one, with a reference for each slot and `more`. Returns the zone and the
    /// head.
    fn open_as_one(locked_slots: &mut [Option<Self>], more: u32) -> (&'static Zone<P>, u32) {
        let order =
            Self::largest_as_one(locked_slots.iter().map_while(Option::as_ref), BLOCK_ORDER);
        assert!(
            order.frames() as usize == locked_slots.len(),
            "{} folios cannot be published as one: they form at most {order:?}",
            locked_slots.len()
        );
        assert!(
            locked_slots.iter().flatten().all(Self::has_own_handle),
            "a page lock has the exclusive handle of another folio"
        );
        let first = locked_slots[0].as_ref().expect("each element was counted").folio();
        let (zone, head, kind) = (first.zone(), first.index(), first.kind());
        // All exclusive handles are here, so no other code writes a shape. That of the head comes
        // last: until then a walker finds a single-frame folio.
        for tail in head + 1..head + order.frames() {
            zone.descriptor(tail).set_shape(Kind::INTERIOR, Order::ZERO);
        }
        zone.descriptor(head).set_shape(kind, order);
        P::trace(Event::Opened, || zone.pfn(head));
        zone.descriptor(head).word.take_frozen().unfreeze(order.frames() + more);
        // A reader that loads a slot before it is unlocked finds a frozen tail under a page lock,
        // and waits for that.
        for (frame, locked) in (head..).zip(locked_slots) {
            let (slot, handle) = locked.take().expect("each element was counted").into_parts();
            // Its frame is a tail now, or the head, which is open.
            mem::forget(handle);
            slot.unlock_subpage(Some(zone.number(frame)), order);
        }
        (zone, head)
    }
}

fn is_single<P: Platform>(folio: &FrozenFolio<P>) -> bool {
    folio.order() == Order::ZERO && !folio.is_dirty()
}

impl<P: Platform> LockedSlot<'_, P> {
    /// Splits a multi-slot folio into single-frame folios, open, in their slots, with the dirty bit
    /// of the folio. Releases the page locks.
    ///
    /// `locked_slots` has an element for each frame of the folio, in order. It is `None` where the
    /// slot has left the folio: that frame is freed. Returns `false` if there is another reference,
    /// a page lock is missing, or the folio is not a multi-slot folio. Then nothing happened, and
    /// the page locks are still held.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many elements as the folio has frames, or an element is the page
    /// lock of another frame.
    pub fn split(locked_slots: &mut [Option<Self>]) -> bool {
        let Some(folio) = Self::freeze_all(locked_slots) else { return false };
        let (zone, head, order, kind) = (folio.zone(), folio.index(), folio.order(), folio.kind());
        let dirty = folio.is_dirty();
        mem::forget(folio);
        // Back to front, so that the old head, which a walker may probe, shrinks last.
        for frame in (head..head + order.frames()).rev() {
            let descriptor = zone.descriptor(frame);
            assert!(
                !CHECKS || descriptor.word.snapshot().is_frozen(),
                "a tail is {:?} (R1)",
                descriptor.word
            );
            if dirty {
                descriptor.set_dirty(true);
            }
            descriptor.set_shape(kind, Order::ZERO);
            P::trace(Event::Split, || zone.pfn(frame));
        }
        // The head last, even if some slots have left: while it is frozen, no slot that still names
        // it gives a reference, and afterwards only its own slot names it. If it opened first, a
        // reference to that one frame would pass for one to another frame, as the slot of that
        // has not changed yet.
        let (first, tails) = locked_slots.split_first_mut().expect("there is a page lock");
        for (frame, locked) in seeded_bugs::head_last((head + 1..).zip(tails), (head, first)) {
            let folio = FrozenFolio::from_index(zone, frame);
            let Some(locked) = locked.take() else {
                folio.free();
                continue;
            };
            // Its reference was one of those that were frozen.
            locked.into_slot().unlock(Some(folio.open_for_slot(1)));
        }
        true
    }

    /// Removes a multi-slot folio from all its slots, which are empty then. Returns the folio,
    /// undivided and frozen.
    ///
    /// `locked_slots` has an element for each frame of the folio, in order. It is `None` where the
    /// slot has left the folio. Returns `None` if there is another reference, a page lock is
    /// missing, or the folio is not a multi-slot folio. Then nothing happened, and the page locks
    /// are still held.
    ///
    /// # Panics
    ///
    /// Panics if there are not as many elements as the folio has frames, or an element is the page
    /// lock of another frame.
    pub fn remove_all(locked_slots: &mut [Option<Self>]) -> Option<FrozenFolio<P>> {
        let folio = Self::freeze_all(locked_slots)?;
        for locked in locked_slots.iter_mut().filter_map(Option::take) {
            locked.into_slot().unlock(None);
        }
        Some(folio)
    }

    /// Freezes the folio and returns its exclusive handle, if the slots of these page locks have
    /// all its references.
    fn freeze_all(locked_slots: &[Option<Self>]) -> Option<FrozenFolio<P>> {
        let first = locked_slots.iter().flatten().next()?;
        let (order, zone, head) = (first.subpage_of()?, first.zone(), first.folio().index());
        assert!(
            locked_slots.len() == order.frames() as usize,
            "{} elements for a folio of {order:?}: one for each frame is needed",
            locked_slots.len()
        );
        let ours = |(frame, locked): (u32, &Option<Self>)| {
            locked.as_ref().is_none_or(|locked| {
                core::ptr::eq(locked.zone(), zone)
                    && locked.folio().at() == frame
                    && locked.folio().index() == head
            })
        };
        assert!(
            (head..).zip(locked_slots).all(ours),
            "a page lock is not of its frame of the folio at {:?}",
            zone.pfn(head)
        );
        // The expected references are those of the slots, which the page locks give us the right to
        // use.
        let references = locked_slots.iter().flatten().count() as u32;
        let Ok(handle) = zone.descriptor(head).word.freeze(references) else {
            P::trace(Event::Busy, || zone.pfn(head));
            return None;
        };
        handle.leave_frozen();
        P::trace(Event::Frozen, || zone.pfn(head));
        Some(FrozenFolio::from_index(zone, head))
    }
}
