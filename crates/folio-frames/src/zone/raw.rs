//! References and exclusive handles as frame numbers, which an entry of a page table can hold.
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | a reference | [`FolioRef::into_raw`], [`VolatileRef::into_raw`] | a raw reference: a frame number that owns it |
//! | many references | [`FolioRefs::into_raw`] | as many raw references to one folio |
//! | a raw reference | [`Zone::get_raw`] | more of them |
//! | raw references | `from_raw` of the three types | references again |
//! | an exclusive handle | [`FrozenFolio::into_raw`], [`FrozenFolio::from_raw`] | a raw handle, and back |
//!
//! A raw reference is a reference in the word, as any other: it keeps the folio, its order and its
//! frames. All raw references to a folio are alike, whichever call they came from.
//!
//! With [`CHECKS`] they are counted for each folio, and taking one that does not exist panics.

use folio_ref::CHECKS;

use crate::base::ids::Pfn;
use crate::base::platform::Platform;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::refs::{self, FolioRefs, check_count};
use crate::zone::volatile::VolatileRef;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Takes `n` more raw references to the folio of one: for the fork of a page table. Up to
    /// [`MAX_AT_ONCE`](folio_ref::MAX_AT_ONCE) by one atomic operation. A count that reaches
    /// [`SATURATED`](folio_ref::SATURATED) stays there, and the folio is leaked (R5).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0, or not below [`SATURATED`](folio_ref::SATURATED); with [`CHECKS`] also
    /// if there is no raw reference.
    ///
    /// # Safety
    ///
    /// There is a raw reference to the folio with this frame, which is not taken before the call
    /// returns: it is the caller's, or that of a table which the caller has locked.
    pub unsafe fn get_raw(&'static self, pfn: Pfn, n: u32) {
        check_count(n);
        let (_, head) = self.raw_frame(pfn, 1);
        refs::get(self, head, n);
        self.descriptor(head).raw.add(n);
    }

    /// Returns the index of a frame, and that of the head of its folio, of which there are `n` raw
    /// references or more.
    fn raw_frame(&'static self, pfn: Pfn, n: u32) -> (u32, u32) {
        let at = self.index(pfn);
        // With a raw reference the block stays what it is, so that the head is found at once.
        let Some((at, (head, _))) = at.and_then(|at| Some((at, self.head_of(at)?))) else {
            panic!("a raw reference to {pfn:?}, which is in no folio of this zone")
        };
        let raw = &self.descriptor(head).raw;
        assert!(!CHECKS || raw.has(n), "{n} raw references to {pfn:?}: so many do not exist");
        (at, head)
    }

    /// Takes `n` raw references, of which the caller may ask the sort: whether bytes may change.
    /// Returns the index of the frame, and that of the head of its folio.
    fn take_raw(&'static self, pfn: Pfn, n: u32, volatile: Option<bool>) -> (u32, u32) {
        let (at, head) = self.raw_frame(pfn, n);
        let descriptor = self.descriptor(head);
        assert!(
            !CHECKS || !descriptor.word.snapshot().is_frozen(),
            "a raw reference to {pfn:?}, which is frozen"
        );
        // Before the take: a reference of the other sort stays raw.
        let is_volatile = descriptor.is_volatile();
        assert!(
            !CHECKS || !is_volatile || volatile != Some(false),
            "a raw reference to {pfn:?}, of which the bytes may change: take a VolatileRef"
        );
        assert!(
            !CHECKS || is_volatile || volatile != Some(true),
            "a raw reference to {pfn:?}, of which the bytes do not change: take a FolioRef"
        );
        // Again: another thread may have taken it meanwhile.
        let is_taken = descriptor.raw.take(n);
        assert!(!CHECKS || is_taken, "{n} raw references to {pfn:?}: so many do not exist");
        (at, head)
    }
}

impl<P: Platform> FolioRef<P> {
    /// Gives up the value, and returns the frame that it was looked up by, which owns the reference
    /// from now on: a raw reference. With the feature `track` it has no site.
    ///
    /// ```
    /// use folio_frames::{Arena, FolioRef, Kind, Order, UserSpace};
    ///
    /// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
    /// let zone = arena.zone();
    /// let entry = zone.alloc(Order::ZERO, Kind::owner(0), 42)?.into_raw();
    /// assert!(zone.try_get(entry)?.freeze().is_err(), "the entry has a reference");
    /// // SAFETY: the raw reference from above, taken once.
    /// let folio = unsafe { FolioRef::from_raw(zone, entry) };
    /// assert_eq!(folio.owner_data(), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "a raw reference that is not taken back keeps its folio forever"]
    pub fn into_raw(self) -> Pfn {
        let pfn = self.frame_pfn();
        let (zone, index, site) = self.into_parts();
        site.ended(zone.place(index), 1);
        zone.descriptor(index).raw.add(1);
        pfn
    }

    /// Takes a raw reference. The value counts as looked up by the frame `pfn`.
    ///
    /// # Panics
    ///
    /// Panics if `pfn` is in no folio of the zone; with [`CHECKS`] also if there is no raw
    /// reference to its folio, or if the bytes of the folio may change.
    ///
    /// # Safety
    ///
    /// - The caller owns a raw reference to the folio with this frame: from `into_raw` of any type
    ///   of reference to it, or from [`Zone::get_raw`], with this zone. It is taken once.
    /// - The bytes of the folio do not change: it was opened by [`FrozenFolio::init`],
    ///   [`FrozenFolio::init_many`] or a slot, not by [`FrozenFolio::init_volatile`].
    #[inline]
    #[cfg_attr(feature = "track", track_caller)]
    pub unsafe fn from_raw(zone: &'static Zone<P>, pfn: Pfn) -> Self {
        let (at, head) = zone.take_raw(pfn, 1, Some(false));
        Self::from_frame(zone, head, at)
    }

    /// Returns the address of the first byte of the folio. The bytes may be read while a reference
    /// exists.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.zone().address(self.index())
    }

    /// Takes `n` more references. A count that reaches [`SATURATED`](folio_ref::SATURATED) stays
    /// there, and the folio is leaked (R5).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0, or not below [`SATURATED`](folio_ref::SATURATED).
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get_many(&self, n: u32) -> FolioRefs<P> {
        check_count(n);
        refs::get(self.zone(), self.index(), n);
        FolioRefs::from_index(self.zone(), self.index(), n)
    }
}

impl<P: Platform> VolatileRef<P> {
    /// Gives up the value, and returns the frame that it was looked up by, which owns the reference
    /// from now on: a raw reference. With the feature `track` it has no site.
    #[must_use = "a raw reference that is not taken back keeps its folio forever"]
    pub fn into_raw(self) -> Pfn {
        self.0.into_raw()
    }

    /// Takes a raw reference. The value counts as looked up by the frame `pfn`.
    ///
    /// # Panics
    ///
    /// Panics if `pfn` is in no folio of the zone; with [`CHECKS`] also if there is no raw
    /// reference to its folio, or if the bytes of the folio do not change.
    ///
    /// # Safety
    ///
    /// - The caller owns a raw reference to the folio with this frame: from `into_raw` of any type
    ///   of reference to it, or from [`Zone::get_raw`], with this zone. It is taken once.
    /// - The bytes of the folio may change: it was opened by [`FrozenFolio::init_volatile`].
    #[inline]
    #[cfg_attr(feature = "track", track_caller)]
    pub unsafe fn from_raw(zone: &'static Zone<P>, pfn: Pfn) -> Self {
        let (at, head) = zone.take_raw(pfn, 1, Some(true));
        Self(FolioRef::from_frame(zone, head, at))
    }
}

impl<P: Platform> FolioRefs<P> {
    /// Gives up the value. Returns the first frame of the folio and the number of references, which
    /// are raw from now on: one by one, or together.
    #[must_use = "raw references that are not taken back keep their folio forever"]
    pub fn into_raw(self) -> (Pfn, u32) {
        let pfn = self.pfn();
        let (zone, index, count) = self.into_parts();
        zone.descriptor(index).raw.add(count);
        (pfn, count)
    }

    /// Takes `count` raw references.
    ///
    /// # Panics
    ///
    /// Panics if `pfn` is in no folio of the zone, if `count` is 0, or not below
    /// [`SATURATED`](folio_ref::SATURATED); with [`CHECKS`] also if there are fewer raw references
    /// to its folio.
    ///
    /// # Safety
    ///
    /// The caller owns `count` raw references to the folio with this frame: from `into_raw` of any
    /// type of reference to it, or from [`Zone::get_raw`], with this zone. Each is taken once.
    #[cfg_attr(feature = "track", track_caller)]
    pub unsafe fn from_raw(zone: &'static Zone<P>, pfn: Pfn, count: u32) -> Self {
        check_count(count);
        let (_, head) = zone.take_raw(pfn, count, None);
        Self::from_index(zone, head, count)
    }
}

impl<P: Platform> FrozenFolio<P> {
    /// Gives up the value, and returns the first frame of the folio, which owns it exclusively from
    /// now on: a raw handle. For a page of a page table, which the entry above it owns.
    ///
    /// ```
    /// use folio_frames::{Arena, FrozenFolio, Order, UserSpace};
    ///
    /// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
    /// let zone = arena.zone();
    /// let table = zone.alloc_frozen(Order::ZERO)?.into_raw();
    /// assert!(zone.try_get(table).is_err(), "it is frozen");
    /// // SAFETY: the raw handle from above, taken once.
    /// unsafe { FrozenFolio::from_raw(zone, table) }.free();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "a raw handle that is not taken back leaks its frames"]
    pub fn into_raw(self) -> Pfn {
        let (zone, pfn) = (self.zone(), self.pfn());
        zone.descriptor(self.into_index()).raw.add(1);
        pfn
    }

    /// Takes a raw handle.
    ///
    /// # Panics
    ///
    /// Panics if `pfn` is not in the zone; with [`CHECKS`] also if there is no raw handle of it.
    ///
    /// # Safety
    ///
    /// The caller owns the raw handle of the folio with this first frame: from
    /// [`into_raw`](Self::into_raw), with this zone. It is taken once.
    #[inline]
    pub unsafe fn from_raw(zone: &'static Zone<P>, pfn: Pfn) -> Self {
        let Some(index) = zone.index(pfn) else {
            panic!("a raw handle of {pfn:?}, which is not in the zone of {:?}", zone.pfns())
        };
        let descriptor = zone.descriptor(index);
        assert!(
            !CHECKS || descriptor.word.snapshot().is_frozen(),
            "a raw handle of {pfn:?}, which is not frozen"
        );
        let is_taken = descriptor.raw.take(1);
        assert!(!CHECKS || is_taken, "a raw handle of {pfn:?}, which does not exist");
        Self::from_index(zone, index)
    }

    /// Returns the address of the first byte of the folio. The bytes may be read and written while
    /// the handle exists, also as a raw handle.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.zone().address(self.index())
    }

    /// Panics, with [`CHECKS`], if raw references exist to a folio that is about to be free.
    #[inline(always)]
    pub(crate) fn check_not_raw(&self) {
        let raw = &self.zone().descriptor(self.index()).raw;
        assert!(!CHECKS || raw.is_none(), "raw references exist to {self:?}, which is freed");
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use crate::{Arena, Order, UserSpace};

    #[test]
    #[cfg_attr(not(debug_assertions), ignore = "a check of debug builds")]
    #[should_panic(expected = "raw references exist to frozen folio at pfn 0x10")]
    fn a_free_of_a_folio_with_raw_references_is_reported() {
        // Leaked: the check at its end must not see its broken state.
        let arena = std::boxed::Box::leak(std::boxed::Box::new(
            Arena::<UserSpace>::new(2 << 20, &[]).unwrap(),
        ));
        let folio = arena.zone().alloc_frozen(Order::ZERO).unwrap();
        // No caller can do this: another raw reference than those of `into_raw`.
        arena.zone().descriptor(folio.index()).raw.add(1);
        folio.free();
    }
}
