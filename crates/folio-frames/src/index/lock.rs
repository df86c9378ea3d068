//! The right to a slot's reference: with it a folio is frozen, moved, exchanged or taken away.

use core::fmt;
use core::mem::{self, ManuallyDrop};
use core::sync::atomic::Ordering;

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::index::slot::Slot;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::zone::Zone;

/// The right to use a slot's reference. Dropping it leaves the slot as it was.
#[must_use = "dropping a locked releases it at once"]
pub struct LockedSlot<'s, P: Platform> {
    slot: &'s Slot<P>,
    /// **Invariant:** the slot holds this folio, and this is the slot's reference, until the claim
    /// ends.
    folio: ManuallyDrop<FolioRef<P>>,
}

impl<'s, P: Platform> LockedSlot<'s, P> {
    /// Of a slot that was just claimed, with its reference.
    pub(crate) fn new(slot: &'s Slot<P>, folio: FolioRef<P>) -> Self {
        Self { slot, folio: ManuallyDrop::new(folio) }
    }

    /// The folio in the slot, with the slot's reference: its bytes do not change while the claim
    /// lasts.
    pub fn folio(&self) -> &FolioRef<P> {
        &self.folio
    }

    /// The slot's frame.
    pub fn pfn(&self) -> Pfn {
        self.folio.frame_pfn()
    }

    /// The order of the folio, if each of its frames has a slot of its own. `None`: this is the
    /// only one.
    pub fn subpage_of(&self) -> Option<Order> {
        // Relaxed: nobody but the claim's holder changes it.
        Some(self.slot.load(Ordering::Relaxed).order()).filter(|&order| order > Order::ZERO)
    }

    /// The zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.folio.zone()
    }

    /// Says whether the folio's bytes are newer than where they came from.
    pub fn set_dirty(&mut self, dirty: bool) {
        self.folio.set_dirty(dirty);
    }

    /// Freezes the folio if the slot's reference is the only one. `Err` gives the claim back: it is
    /// busy, or a folio of which other frames have their own slots, which
    /// [`split`](Self::split) cuts into such as have one.
    pub fn freeze(self) -> Result<FrozenSlot<'s, P>, Self> {
        if self.subpage_of().is_some() {
            return Err(self);
        }
        // The one expected reference is the slot's, which is ours to use while the claim lasts.
        let Ok(token) = self.zone().descriptor(self.folio.index()).word.freeze(1) else {
            P::trace(Event::Busy, || self.pfn());
            return Err(self);
        };
        token.leave_frozen();
        P::trace(Event::Frozen, || self.pfn());
        let folio = FrozenFolio::from_index(self.zone(), self.folio.index());
        Ok(FrozenSlot::new(self.into_slot(), folio))
    }

    /// The slot, still claimed; its reference is accounted for by the caller.
    pub(crate) fn into_slot(self) -> &'s Slot<P> {
        let slot = self.slot;
        mem::forget(self);
        slot
    }

    /// What nobody may do: others may hold the folio.
    #[cfg(broken = "write-without-freeze")]
    pub fn write_unfrozen(self, within: usize, bytes: &[u8]) {
        let (slot, folio) = self.into_parts();
        let to = folio.zone().address(folio.at()).wrapping_add(within);
        // SAFETY: within the folio, which is mapped. It races with readers, and is meant to.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        slot.end(Some(folio.zone().number(folio.at())));
        // It is the slot's.
        mem::forget(folio);
    }

    /// Empties the slot. Its reference is the caller's now: whoever else holds the folio keeps it.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn remove(self) -> FolioRef<P> {
        let (slot, folio) = self.into_parts();
        slot.end(None);
        folio
    }

    /// Puts `new` in the place of the folio and opens it. The slot's reference on the old one is
    /// the caller's now: whoever else holds it keeps it, as it was.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn replace(self, new: FrozenFolio<P>) -> FolioRef<P> {
        let (slot, old) = self.into_parts();
        slot.end(Some(new.open_for_slot(1)));
        old
    }

    /// The slot's reference is the caller's now.
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn into_parts(self) -> (&'s Slot<P>, FolioRef<P>) {
        let this = ManuallyDrop::new(self);
        (this.slot, FolioRef::from_frame(this.zone(), this.folio.index(), this.folio.at()))
    }
}

impl<P: Platform> Drop for LockedSlot<'_, P> {
    fn drop(&mut self) {
        self.slot.end_untouched();
    }
}

impl<P: Platform> fmt::Debug for LockedSlot<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "locked on {:?}", self.slot)
    }
}

/// A claim whose folio is frozen: it may be filled, moved or taken away. Dropping it empties the
/// slot and frees the folio, so that a fill that fails or panics leaves nothing behind.
#[must_use = "dropping it empties the slot: publish, replace or remove it"]
pub struct FrozenSlot<'s, P: Platform> {
    slot: &'s Slot<P>,
    folio: ManuallyDrop<FrozenFolio<P>>,
}

impl<P: Platform> FrozenSlot<'_, P> {
    /// The folio.
    pub fn folio(&self) -> &FrozenFolio<P> {
        &self.folio
    }

    /// The folio, to write. The claim is its token's: who exchanges it for another one has no claim
    /// here any more.
    pub fn folio_mut(&mut self) -> &mut FrozenFolio<P> {
        &mut self.folio
    }

    /// Opens the folio to everybody; the slot has its one reference.
    pub fn publish(self) {
        let (slot, folio) = self.into_parts();
        slot.end(Some(folio.open_for_slot(1)));
    }

    /// Opens the folio to everybody; the slot has one reference, the caller another.
    ///
    /// # Panics
    ///
    /// When the folio is of another zone: nothing is left of it then.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn publish_and_get(self, zone: &'static Zone<P>) -> FolioRef<P> {
        assert!(core::ptr::eq(zone, self.folio.zone()), "{self:?} is of another zone");
        let (slot, folio) = self.into_parts();
        let index = folio.unfreeze(2);
        slot.end(Some(zone.number(index)));
        FolioRef::from_index(zone, index)
    }

    /// Puts `new` in the place of the folio and opens it; the old one stays frozen and is the
    /// caller's.
    pub fn replace(self, new: FrozenFolio<P>) -> FrozenFolio<P> {
        let (slot, old) = self.into_parts();
        slot.end(Some(new.open_for_slot(1)));
        old
    }

    /// Keeps the claim but not the borrow of the slot, for a fill that outlives its caller: the
    /// token stands for both until [`Slot::resume`]. Who frees it instead leaves a slot that is
    /// claimed for ever.
    pub fn suspend(self) -> FrozenFolio<P> {
        self.into_parts().1
    }

    /// Empties the slot; the folio stays frozen and is the caller's.
    pub fn remove(self) -> FrozenFolio<P> {
        let (slot, folio) = self.into_parts();
        slot.end(None);
        folio
    }
}

impl<'s, P: Platform> FrozenSlot<'s, P> {
    /// Of a slot that is claimed, with the token of its folio.
    pub(crate) fn new(slot: &'s Slot<P>, folio: FrozenFolio<P>) -> Self {
        Self { slot, folio: ManuallyDrop::new(folio) }
    }

    /// Whether it has the token that it began with.
    pub(crate) fn is_whole(&self) -> bool {
        // What an unclaimed slot names is live, and has no token.
        self.slot.pfn(self.folio.zone()) == Some(self.folio.pfn())
    }

    pub(crate) fn into_parts(self) -> (&'s Slot<P>, FrozenFolio<P>) {
        // Whoever has the other one can have the claim, by Slot::resume.
        assert!(self.is_whole(), "{self:?} has the token of another folio");
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again.
        (this.slot, unsafe { ManuallyDrop::take(&mut this.folio) })
    }
}

impl<P: Platform> Drop for FrozenSlot<'_, P> {
    fn drop(&mut self) {
        if self.is_whole() {
            self.slot.end(None);
        }
        // SAFETY: dropped once, and not used after.
        unsafe { ManuallyDrop::take(&mut self.folio) }.free();
    }
}

impl<P: Platform> fmt::Debug for FrozenSlot<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "locked on {:?}, frozen", self.slot)
    }
}
