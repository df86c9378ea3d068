//! Absent slots: they are empty on purpose, and take no folio until their owner ends the absence.
//! A page of a guest that its balloon gave up, or that the guest converted to its own use, is not
//! filled again by the next access to it.
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | empty, not closed | [`Slot::make_absent`] | absent |
//! | locked, if only the slot's reference exists | [`LockedSlot::make_absent`] | absent; the exclusive handle goes to the caller |
//! | absent | [`Slot::restore`] a frozen folio | locked, frozen: being filled |
//! | absent | [`Slot::end_absence`] | empty |
//!
//! A lookup finds an absent slot empty, and [`Slot::install`] refuses it. So a caller that is too
//! late to see the absence cannot end it.
//!
//! From the freeze in [`LockedSlot::make_absent`] on no access by a reference lies inside the
//! conversion: each access before it had a reference, which the freeze would have found, and each
//! lookup after it is refused or finds the slot empty.

use core::sync::atomic::Ordering;

use folio_ref::{CHECKS, Snapshot};

use crate::base::ids::Order;
use crate::base::platform::Platform;
use crate::base::seeded_bugs::absent_while_pinned;
use crate::index::entry::{ABSENT, Entry};
use crate::index::lock::{FrozenSlot, LockedSlot};
use crate::index::slot::Slot;
use crate::zone::folio::FrozenFolio;

impl<P: Platform> Slot<P> {
    /// Returns `true` if the slot is absent on purpose: it is empty, and [`install`](Self::install)
    /// refuses it. Racy.
    pub fn is_absent(&self) -> bool {
        // Acquire: pairs with Release in unlock and make_absent. A caller that sees the absence
        // sees all that was done before it.
        self.load(Ordering::Acquire).is_absent()
    }

    /// Makes an empty slot absent. Returns `false` if it is not empty, is absent already, or is
    /// closed.
    pub fn make_absent(&self) -> bool {
        // Relaxed: the compare-and-swap decides.
        let seen = self.load(Ordering::Relaxed);
        let can_be = seen.is_empty() && !seen.is_closed() && !seen.is_absent();
        // Acquire: pairs with Release in unlock. Release: pairs with Acquire in is_absent.
        can_be && self.exchange(seen, ABSENT, Ordering::AcqRel)
    }

    /// Makes an absent slot an empty one, which takes a folio again. Returns `false` if it is not
    /// absent.
    pub fn end_absence(&self) -> bool {
        // Relaxed: the compare-and-swap decides.
        let seen = self.load(Ordering::Relaxed);
        // Acquire: pairs with Release in unlock and make_absent. Release: pairs with Acquire in
        // install, so that a caller which fills the slot sees all that was done before.
        seen.is_absent() && self.exchange(seen, Order::ZERO, Ordering::AcqRel)
    }

    /// Puts a frozen folio into an absent slot and takes the page lock. It is what
    /// [`install`](Self::install) is for an empty slot, without a moment between in which another
    /// folio could be installed.
    ///
    /// # Errors
    ///
    /// Returns the folio if the slot is not absent, or changes at the same time.
    pub fn restore(&self, folio: FrozenFolio<P>) -> Result<FrozenSlot<'_, P>, FrozenFolio<P>> {
        self.put_locked(folio, Entry::is_absent)
    }

    /// Changes an empty slot from what was seen to empty (order 0) or absent. Returns `false` if it
    /// changed meanwhile.
    fn exchange(&self, seen: Entry, to: Order, success: Ordering) -> bool {
        let to = Entry::new(None, to, seen.version());
        self.value.compare_exchange(seen.0, to.0, success, Ordering::Relaxed).is_ok()
    }
}

impl<P: Platform> LockedSlot<'_, P> {
    /// Takes the folio out of the slot if the slot's reference is the only one, and makes the slot
    /// absent. Returns the exclusive handle: no access to the folio is under way, and none can
    /// begin before the handle is opened or freed.
    ///
    /// # Errors
    ///
    /// Returns the page lock if the folio is pinned, or is a multi-slot folio:
    /// [`split`](Self::split) it first.
    ///
    /// ```
    /// use folio_frames::{Arena, Lookup, Order, Slot, UserSpace};
    ///
    /// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
    /// let zone = arena.zone();
    /// let slot = Slot::new();
    /// slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap().publish();
    ///
    /// // The guest takes the page for its own use. An access that is under way makes it busy.
    /// let Lookup::Hit(access) = slot.get(zone) else { panic!("the folio was published") };
    /// let locked = slot.try_lock(zone).unwrap().make_absent().unwrap_err();
    /// drop(access);
    /// let private = locked.make_absent().unwrap();
    ///
    /// // Until the guest gives it back, no access finds it and no fault fills the slot.
    /// assert!(matches!(slot.get(zone), Lookup::Empty) && slot.is_absent());
    /// let refused = slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap_err();
    /// slot.restore(private).unwrap().publish();
    /// assert!(matches!(slot.get(zone), Lookup::Hit(_)));
    /// # refused.free();
    /// # drop(slot.try_lock(zone).unwrap().remove());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn make_absent(self) -> Result<FrozenFolio<P>, Self> {
        let references = if absent_while_pinned() { self.references() } else { 1 };
        Ok(self.freeze_expecting(references)?.make_absent())
    }

    /// Returns the number of references to the folio at this moment, for a seeded bug.
    fn references(&self) -> u32 {
        match self.zone().descriptor(self.folio().index()).word.snapshot() {
            Snapshot::Live(n) => n,
            _ => 1,
        }
    }
}

impl<P: Platform> FrozenSlot<'_, P> {
    /// Takes the folio out of the slot, makes the slot absent, and releases the page lock. Returns
    /// the folio, still frozen.
    ///
    /// # Panics
    ///
    /// Panics if it has the exclusive handle of another folio.
    pub fn make_absent(self) -> FrozenFolio<P> {
        let (slot, folio) = self.into_parts();
        let word = &folio.zone().descriptor(folio.index()).word;
        assert!(
            !CHECKS || word.snapshot().is_frozen(),
            "a slot becomes absent while its folio is {word:?} (R3)"
        );
        slot.unlock_subpage(None, ABSENT);
        folio
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::index::lock::LockedSlot;
    use crate::{Arena, Lookup, SlotSpace, UserSpace};

    #[test]
    fn an_absent_slot_takes_no_folio_until_its_absence_ends() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let (zone, slot) = (arena.zone(), Slot::new());
        let frozen = || zone.alloc_frozen(Order::ZERO).unwrap();
        assert!(!slot.end_absence() && !slot.is_absent());
        slot.restore(frozen()).unwrap_err().free();
        assert!(slot.make_absent() && !slot.make_absent());
        assert!(slot.is_absent() && slot.is_empty() && slot.try_lock(zone).is_none());
        slot.install(frozen()).unwrap_err().free();
        assert!(slot.end_absence() && slot.is_empty() && !slot.is_absent());
        slot.install(frozen()).unwrap().publish();
        assert!(!slot.make_absent() && !slot.end_absence(), "the slot has a folio");
        let version = slot.load(Ordering::Relaxed).version();
        slot.try_lock(zone).unwrap().freeze().unwrap().make_absent().free();
        assert_eq!(slot.load(Ordering::Relaxed).version(), version + 1);
        assert!(slot.is_absent());
    }

    #[test]
    fn a_pinned_folio_does_not_become_absent() {
        let arena = Arena::<UserSpace>::new(2 << 20, &[]).unwrap();
        let (zone, slot) = (arena.zone(), Slot::new());
        slot.install(zone.alloc_frozen(Order::ZERO).unwrap()).unwrap().publish();
        let Lookup::Hit(access) = slot.get(zone) else { panic!("the folio was published") };
        let locked = slot.try_lock(zone).unwrap();
        let locked = locked.make_absent().expect_err("an access is under way");
        drop(locked);
        assert!(!slot.is_absent());
        drop(access);
        slot.try_lock(zone).and_then(|locked| LockedSlot::make_absent(locked).ok()).unwrap().free();
        assert!(slot.is_absent());
    }

    #[test]
    fn a_leaf_with_an_absent_slot_stays_open() {
        let space = SlotSpace::<UserSpace>::new();
        let range = space.reserve(512).unwrap();
        range.lock().open(0, 0);
        let slot = range.get(7).unwrap();
        assert!(slot.make_absent());
        assert!(!range.lock().close(0), "the absence would be lost");
        assert!(slot.is_absent());
        assert!(slot.end_absence() && range.lock().close(0));
        assert!(!slot.make_absent(), "a closed slot has no memory");
    }
}
