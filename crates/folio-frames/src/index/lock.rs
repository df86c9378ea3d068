//! The page lock: the right to a slot's reference. Its holder freezes, moves, replaces or removes
//! the folio.

use core::fmt;
use core::mem::{self, ManuallyDrop};
use core::sync::atomic::Ordering;

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::index::slot::Slot;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::zone::Zone;

/// The page lock of a slot: the right to use the slot's reference. Dropping it releases the page
/// lock and leaves the slot as it was.
///
/// ```
/// use folio_frames::{Arena, Order, Slot, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let slot = Slot::new();
/// slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap().publish();
///
/// let locked = slot.try_lock(zone).unwrap();
/// assert!(slot.try_lock(zone).is_none());
/// let reader = locked.folio().clone();
///
/// // A pinned folio cannot be frozen.
/// let locked = locked.freeze().unwrap_err();
/// drop(reader);
/// locked.freeze().unwrap().remove().free();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a LockedSlot releases the page lock at once"]
pub struct LockedSlot<'s, P: Platform> {
    slot: &'s Slot<P>,
    /// **Invariant:** the slot holds this folio, and this is the slot's reference, until the page
    /// lock is released.
    folio: ManuallyDrop<FolioRef<P>>,
}

impl<'s, P: Platform> LockedSlot<'s, P> {
    /// Wraps the page lock of a slot that was just locked, with the slot's reference.
    pub(crate) fn new(slot: &'s Slot<P>, folio: FolioRef<P>) -> Self {
        Self { slot, folio: ManuallyDrop::new(folio) }
    }

    /// Returns the folio in the slot, by the slot's reference. Its bytes do not change while the
    /// page lock is held.
    pub fn folio(&self) -> &FolioRef<P> {
        &self.folio
    }

    /// Returns the slot's frame.
    pub fn pfn(&self) -> Pfn {
        self.folio.frame_pfn()
    }

    /// Returns the order of the multi-slot folio to which the slot's frame belongs. `None`: the
    /// folio has no other slot.
    pub fn subpage_of(&self) -> Option<Order> {
        // Relaxed: only the holder of the page lock changes it.
        Some(self.slot.load(Ordering::Relaxed).order()).filter(|&order| order > Order::ZERO)
    }

    /// Returns the zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.folio.zone()
    }

    /// Sets the dirty bit: `true` if the folio's bytes are newer than its backing.
    pub fn set_dirty(&mut self, dirty: bool) {
        self.folio.set_dirty(dirty);
    }

    /// Freezes the folio if the slot's reference is the only one.
    ///
    /// # Errors
    ///
    /// Returns the page lock if the folio is pinned, or is a multi-slot folio:
    /// [`split`](Self::split) it first.
    pub fn freeze(self) -> Result<FrozenSlot<'s, P>, Self> {
        // The one expected reference is the slot's, which the page lock gives us the right to use.
        self.freeze_expecting(1)
    }

    /// Freezes the folio if it has this number of references.
    #[inline(always)]
    pub(super) fn freeze_expecting(self, references: u32) -> Result<FrozenSlot<'s, P>, Self> {
        if self.subpage_of().is_some() {
            return Err(self);
        }
        let word = &self.zone().descriptor(self.folio.index()).word;
        let Ok(handle) = word.freeze(references) else {
            P::trace(Event::Busy, || self.pfn());
            return Err(self);
        };
        handle.leave_frozen();
        P::trace(Event::Frozen, || self.pfn());
        let folio = FrozenFolio::from_index(self.zone(), self.folio.index());
        Ok(FrozenSlot::new(self.into_slot(), folio))
    }

    /// Returns the slot, still locked. The caller accounts for its reference.
    pub(crate) fn into_slot(self) -> &'s Slot<P> {
        let slot = self.slot;
        mem::forget(self);
        slot
    }

    /// Writes to the folio without freezing it. It is a seeded bug: the folio may be pinned.
    #[cfg(broken)]
    pub fn write_unfrozen(self, within: usize, bytes: &[u8]) {
        let (slot, folio) = self.into_parts();
        let to = folio.zone().address(folio.at()).wrapping_add(within);
        // SAFETY: within the folio, which is mapped. It races with readers, and is meant to.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        slot.unlock(Some(folio.zone().number(folio.at())));
        // The reference belongs to the slot.
        mem::forget(folio);
    }

    /// Empties the slot and returns its reference. Other pin owners keep the folio.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn remove(self) -> FolioRef<P> {
        let (slot, folio) = self.into_parts();
        slot.unlock(None);
        folio
    }

    /// Puts `new` in the place of the folio and opens it. Returns the slot's reference to the old
    /// folio. Other pin owners keep the old folio, as it was.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn replace(self, new: FrozenFolio<P>) -> FolioRef<P> {
        let (slot, old) = self.into_parts();
        slot.unlock(Some(new.open_for_slot(1)));
        old
    }

    /// Returns the slot, still locked, and its reference.
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn into_parts(self) -> (&'s Slot<P>, FolioRef<P>) {
        let this = ManuallyDrop::new(self);
        (this.slot, FolioRef::from_frame(this.zone(), this.folio.index(), this.folio.at()))
    }
}

impl<P: Platform> Drop for LockedSlot<'_, P> {
    fn drop(&mut self) {
        self.slot.unlock_unchanged();
    }
}

impl<P: Platform> fmt::Debug for LockedSlot<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page lock on {:?}", self.slot)
    }
}

/// The page lock of a slot with a frozen folio, which may be filled, moved or removed.
///
/// Dropping it empties the slot and frees the folio, so that a fill that fails or panics leaves
/// nothing behind.
///
/// ```
/// use folio_frames::{Arena, Lookup, Order, Slot, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let slot = Slot::new();
///
/// let mut filling = slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap();
/// assert!(matches!(slot.get(zone), Lookup::InProgress));
/// filling.folio_mut().zero();
/// let folio = filling.publish_and_get(zone);
/// assert_eq!(slot.pfn(zone), Some(folio.pfn()));
/// # drop(folio);
///
/// // A fill that is given up empties the slot.
/// drop(slot.try_lock(zone).unwrap().freeze().unwrap());
/// assert!(slot.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it empties the slot: publish, replace or remove it"]
pub struct FrozenSlot<'s, P: Platform> {
    slot: &'s Slot<P>,
    folio: ManuallyDrop<FrozenFolio<P>>,
}

impl<P: Platform> FrozenSlot<'_, P> {
    /// Returns the folio.
    pub fn folio(&self) -> &FrozenFolio<P> {
        &self.folio
    }

    /// Returns the folio, to write.
    ///
    /// The page lock belongs to the exclusive handle. A caller that swaps the handle for another
    /// one no longer holds the page lock of this slot.
    pub fn folio_mut(&mut self) -> &mut FrozenFolio<P> {
        &mut self.folio
    }

    /// Opens the folio to readers and releases the page lock. The slot has the one reference.
    ///
    /// # Panics
    ///
    /// Panics if it has the exclusive handle of another folio.
    pub fn publish(self) {
        let (slot, folio) = self.into_parts();
        slot.unlock(Some(folio.open_for_slot(1)));
    }

    /// Opens the folio to readers, releases the page lock, and returns a reference. The slot has
    /// another one.
    ///
    /// # Panics
    ///
    /// Panics if the folio is not of `zone`: then the slot is emptied and the folio freed. Panics
    /// if it has the exclusive handle of another folio.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn publish_and_get(self, zone: &'static Zone<P>) -> FolioRef<P> {
        assert!(core::ptr::eq(zone, self.folio.zone()), "{self:?} is of another zone");
        let (slot, folio) = self.into_parts();
        let index = folio.unfreeze(2);
        slot.unlock(Some(zone.number(index)));
        FolioRef::from_index(zone, index)
    }

    /// Puts `new` in the place of the folio, opens it, and releases the page lock. Returns the old
    /// folio, still frozen.
    ///
    /// # Panics
    ///
    /// Panics if it has the exclusive handle of another folio.
    pub fn replace(self, new: FrozenFolio<P>) -> FrozenFolio<P> {
        let (slot, old) = self.into_parts();
        slot.unlock(Some(new.open_for_slot(1)));
        old
    }

    /// Keeps the page lock but not the borrow of the slot, for a fill that outlives its caller.
    /// Returns the exclusive handle, which stands for both until [`Slot::resume`].
    ///
    /// If the handle is freed or opened instead, the slot stays locked until a handle of this frame
    /// resumes it.
    ///
    /// # Panics
    ///
    /// Panics if it has the exclusive handle of another folio.
    pub fn suspend(self) -> FrozenFolio<P> {
        self.into_parts().1
    }

    /// Empties the slot and releases the page lock. Returns the folio, still frozen.
    ///
    /// # Panics
    ///
    /// Panics if it has the exclusive handle of another folio.
    pub fn remove(self) -> FrozenFolio<P> {
        let (slot, folio) = self.into_parts();
        slot.unlock(None);
        folio
    }
}

impl<'s, P: Platform> FrozenSlot<'s, P> {
    /// Wraps the page lock of a locked slot, with the exclusive handle of its folio.
    pub(crate) fn new(slot: &'s Slot<P>, folio: FrozenFolio<P>) -> Self {
        Self { slot, folio: ManuallyDrop::new(folio) }
    }

    /// Returns `true` if it has the exclusive handle that it began with.
    pub(crate) fn has_own_handle(&self) -> bool {
        // The folio in an unlocked slot is live, and has no exclusive handle.
        self.slot.pfn(self.folio.zone()) == Some(self.folio.pfn())
    }

    pub(crate) fn into_parts(self) -> (&'s Slot<P>, FrozenFolio<P>) {
        // The owner of the other handle can get the page lock, by Slot::resume.
        assert!(self.has_own_handle(), "{self:?} has the exclusive handle of another folio");
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again.
        (this.slot, unsafe { ManuallyDrop::take(&mut this.folio) })
    }
}

impl<P: Platform> Drop for FrozenSlot<'_, P> {
    fn drop(&mut self) {
        if self.has_own_handle() {
            self.slot.unlock(None);
        }
        // SAFETY: dropped once, and not used after.
        unsafe { ManuallyDrop::take(&mut self.folio) }.free();
    }
}

impl<P: Platform> fmt::Debug for FrozenSlot<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page lock on {:?}, frozen", self.slot)
    }
}
