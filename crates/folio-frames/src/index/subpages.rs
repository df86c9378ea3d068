//! A folio of which each frame has a slot of its own: made of the frozen folios of neighbouring
//! slots, and cut into such again.
//!
//! ```text
//!   slots       [ 8, order 2 ][ 9, order 2 ][ 10, order 2 ][ 11, order 2 ]      a reference each
//!                     └──────────────┴─────┬──────┴───────────────┘
//!   frames        8: head, count 4     9: tail       10: tail        11: tail
//! ```
//!
//! So who holds all of it takes one reference, and a look at one frame is what it always was: the
//! slot says where the bytes lie and, by its order, whose word counts. Each slot keeps its own
//! claim and version, and may leave by itself: it is emptied, or gets another folio, and its
//! reference goes. What is left is cut again when somebody wants to have a frame of it for himself.
//!
//! | | who | needs |
//! | --- | --- | --- |
//! | [`FrozenSlot::publish_as_one`] | the holder of all claims, the folios frozen | they lie one behind the other, aligned |
//! | [`LockedSlot::split`], [`LockedSlot::remove_all`] | the holder of the claims of all slots that are left | nobody else holds a reference |
//!
//! In all the head is frozen while a shape or a slot's order is not yet what it will be: it opens
//! after the shapes and before the slots when they become one, whose old tails stay frozen, and
//! after the tails and their slots when they are cut. So who has a reference by such a slot, and
//! looks at the slot again (R8), has one of the folio that the frame belongs to.
//!
//! The tails keep what their owner noted of them, and their marks, for the time when they are
//! folios again.

use core::mem;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::platform::Platform;
use crate::base::seeded_bugs;
use crate::base::trace::Event;
use crate::index::lock::{FrozenSlot, LockedSlot};
use crate::memmap::memmap::Kind;
use crate::zone::folio::{FolioRef, FrozenFolio};

impl<P: Platform> FrozenSlot<'_, P> {
    /// The largest order, up to `most` and [`BLOCK_ORDER`], of which some folios from the first on
    /// can be [published as one](Self::publish_as_one): single frames that lie one behind the
    /// other, the first one aligned, none dirty, all of one kind.
    pub fn largest_as_one<'c>(
        locked_slots: impl IntoIterator<Item = &'c Self>,
        most: Order,
    ) -> Order
    where
        Self: 'c,
    {
        let mut locked_slots = locked_slots.into_iter().map(Self::folio);
        let Some(first) = locked_slots.next().filter(|folio| is_single(folio)) else {
            return Order::ZERO;
        };
        let most = first.index().trailing_zeros().min(u32::from(most.min(BLOCK_ORDER).as_u8()));
        let follows = |&(index, folio): &(u32, &FrozenFolio<P>)| {
            core::ptr::eq(folio.zone(), first.zone())
                && folio.index() == index
                && is_single(folio)
                && folio.kind() == first.kind()
        };
        let more = (first.index() + 1..)
            .zip(locked_slots)
            .take((1 << most) - 1)
            .take_while(follows)
            .count();
        Order::new((more + 1).ilog2() as u8).unwrap_or(Order::ZERO)
    }

    /// Opens folios as one, with a reference for each slot and one for the caller, by the first
    /// one's frame. All are taken.
    ///
    /// # Panics
    ///
    /// When there are not as many as an order has frames, all of them, or they are no such folios
    /// as [`largest_as_one`](Self::largest_as_one) says.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn publish_as_one(locked_slots: &mut [Option<Self>]) -> FolioRef<P> {
        let order =
            Self::largest_as_one(locked_slots.iter().map_while(Option::as_ref), BLOCK_ORDER);
        assert!(
            order.frames() as usize == locked_slots.len(),
            "{} folios do not make one, only {order:?}",
            locked_slots.len()
        );
        assert!(
            locked_slots.iter().flatten().all(Self::is_whole),
            "locked_slots with the tokens of other folios"
        );
        let first = locked_slots[0].as_ref().expect("it was counted").folio();
        let (zone, head, kind) = (first.zone(), first.index(), first.kind());
        // The tokens of all are here, so nobody else writes a shape. The head's last: who probes
        // finds a frame of its own until then.
        for tail in head + 1..head + order.frames() {
            zone.descriptor(tail).set_shape(Kind::INTERIOR, Order::ZERO);
        }
        zone.descriptor(head).set_shape(kind, order);
        P::trace(Event::Opened, || zone.pfn(head));
        zone.descriptor(head).word.take_frozen().unfreeze(order.frames() + 1);
        // Who finds a slot before its claim ends finds a frozen tail under a claim, and waits for
        // that.
        for (frame, locked) in (head..).zip(locked_slots) {
            let (slot, token) = locked.take().expect("it was counted").into_parts();
            // It is a tail now, or the head, which is open.
            mem::forget(token);
            slot.end_as_part(Some(zone.number(frame)), order);
        }
        FolioRef::from_frame(zone, head, head)
    }
}

fn is_single<P: Platform>(folio: &FrozenFolio<P>) -> bool {
    folio.order() == Order::ZERO && !folio.is_dirty()
}

impl<P: Platform> LockedSlot<'_, P> {
    /// Cuts a folio of which each frame has a slot into folios of one frame, open, in their slots,
    /// as dirty as it is. `locked_slots` are those of its frames in their order, `None` where the
    /// slot has left it: such frames are freed. Ends the claims.
    ///
    /// `false`: somebody else holds a reference, or a claim is missing. Then nothing happened, and
    /// the claims are still there.
    ///
    /// # Panics
    ///
    /// When there are not as many places as the folio has frames, or a claim is of another frame.
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
        // it lets anybody in, and afterwards none names it but its own. If it opened first,
        // who has a reference of that one frame would find it good for another, whose slot is not
        // changed yet.
        let (first, tails) = locked_slots.split_first_mut().expect("there is a locked");
        for (frame, locked) in seeded_bugs::head_last((head + 1..).zip(tails), (head, first)) {
            let folio = FrozenFolio::from_index(zone, frame);
            let Some(locked) = locked.take() else {
                folio.free();
                continue;
            };
            // Its reference was one of those that were frozen.
            locked.into_slot().end(Some(folio.open_for_slot(1)));
        }
        true
    }

    /// Takes a folio of which each frame has a slot out of all of them: they are empty, and the
    /// folio, as large as it is, is the caller's. `locked_slots`, and `None`, as for
    /// [`split`](Self::split).
    ///
    /// # Panics
    ///
    /// As [`split`](Self::split).
    pub fn remove_all(locked_slots: &mut [Option<Self>]) -> Option<FrozenFolio<P>> {
        let folio = Self::freeze_all(locked_slots)?;
        for locked in locked_slots.iter_mut().filter_map(Option::take) {
            locked.into_slot().end(None);
        }
        Some(folio)
    }

    /// The token, if all references are those of the claims' slots.
    fn freeze_all(locked_slots: &[Option<Self>]) -> Option<FrozenFolio<P>> {
        let first = locked_slots.iter().flatten().next()?;
        let (order, zone, head) = (first.subpage_of()?, first.zone(), first.folio().index());
        assert!(
            locked_slots.len() == order.frames() as usize,
            "{} places for the frames of {order:?}",
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
            "locked_slots of other frames than those of the folio at {:?}",
            zone.pfn(head)
        );
        // The references that are expected are those of the slots, which are ours to use while the
        // claims last.
        let references = locked_slots.iter().flatten().count() as u32;
        let Ok(token) = zone.descriptor(head).word.freeze(references) else {
            P::trace(Event::Busy, || zone.pfn(head));
            return None;
        };
        token.leave_frozen();
        P::trace(Event::Frozen, || zone.pfn(head));
        Some(FrozenFolio::from_index(zone, head))
    }
}
