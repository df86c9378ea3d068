//! The two handles on a folio: counted ([`FolioRef`]) and exclusive ([`FrozenFolio`]).

use core::fmt;
use core::mem;
use core::sync::atomic::Ordering;

use folio_ref::CHECKS;

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::sync::{self, fence};
use crate::base::trace::Event;
use crate::memmap::memmap::Kind;
use crate::memmap::seeded_bugs;
use crate::zone::track::Site;
use crate::zone::zone::Zone;

/// The operations of one kind of folio: `destroy` runs when its last reference is dropped.
pub struct KindOps<P: Platform> {
    /// The kind.
    pub kind: Kind,
    /// Its name in reports.
    pub name: &'static str,
    /// Runs in the thread that dropped the last reference, which may never have used this folio
    /// (the reuse race, R4). So it must not take a lock that any code could hold while it drops a
    /// reference. Ends in [`FrozenFolio::free`] or [`FrozenFolio::init`].
    pub destroy: fn(FrozenFolio<P>),
}

impl<P: Platform> fmt::Debug for KindOps<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.name)
    }
}

/// One counted reference. While it exists, the folio's bytes do not change, and its frames stay in
/// this folio.
///
/// Clone takes another reference. Dropping the last one runs the kind's `destroy`, in the same
/// thread.
///
/// ```
/// use folio_frames::{Arena, FolioRef, Kind, Order, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let folio = arena.zone().alloc(Order::ZERO, Kind::owner(0), 42)?;
/// let another = folio.clone();
/// assert_eq!(another.owner_data(), 42);
///
/// // Exclusive access needs the only reference.
/// let folio = folio.freeze().expect_err("there is another");
/// drop(another);
/// let frozen = folio.freeze().expect("the only one");
/// frozen.free();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct FolioRef<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** this value accounts for one reference in the head's word, and the folio's
    /// bytes are only written under a [`FrozenFolio`], which cannot exist beside it.
    index: u32,
    /// **Invariant:** the frame of the folio that it was looked up by.
    at: u32,
    site: Site,
}

impl<P: Platform> FolioRef<P> {
    /// Wraps one reference that was just taken.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn from_index(zone: &'static Zone<P>, index: u32) -> Self {
        Self::from_frame(zone, index, index)
    }

    /// Wraps one reference that was just taken of the folio at `index`, looked up by its frame
    /// `at`.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn from_frame(zone: &'static Zone<P>, index: u32, at: u32) -> Self {
        let site = Site::here();
        site.began(zone.place(index), 1);
        Self { zone, index, at, site }
    }

    /// Wraps one reference that is counted at this site already.
    #[inline(always)]
    pub(crate) fn from_parts(zone: &'static Zone<P>, index: u32, at: u32, site: Site) -> Self {
        Self { zone, index, at, site }
    }

    /// Returns the zone, the index and the site, which account for the reference from now on.
    #[inline(always)]
    pub(crate) fn into_parts(self) -> (&'static Zone<P>, u32, Site) {
        let parts = (self.zone, self.index, self.site);
        mem::forget(self);
        parts
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn at(&self) -> u32 {
        self.at
    }

    /// Returns the zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Returns the first frame.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// Returns the frame that it was looked up by: the frame of the slot if each frame of the folio
    /// has a slot, otherwise the first frame.
    pub fn frame_pfn(&self) -> Pfn {
        self.zone.pfn(self.at)
    }

    /// Returns the order.
    pub fn order(&self) -> Order {
        self.zone.descriptor(self.index).shape().order
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.zone.descriptor(self.index).shape().kind
    }

    /// Returns the owner data of the frame that it was looked up by. A tail has some only in a
    /// multi-slot folio; in any other folio the first frame alone has, by which [`Zone::peek`]
    /// returns it.
    pub fn owner_data(&self) -> u64 {
        self.zone.descriptor(self.at).owner_data()
    }

    /// Returns `true` if the bytes are newer than their source. Exact under the page lock of its
    /// slot, racy otherwise.
    pub fn is_dirty(&self) -> bool {
        self.zone.descriptor(self.index).is_dirty()
    }

    /// Sets the dirty bit, under the page lock of its slot.
    pub(crate) fn set_dirty(&self, dirty: bool) {
        self.zone.descriptor(self.index).set_dirty(dirty);
    }

    /// Counts the reference as taken by the caller from now on: for code that hands references out
    /// (feature `track`; without it, does nothing).
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn taken_here(&mut self) {
        self.site = self.site.moved(Site::here(), self.zone.place(self.index));
    }

    /// Sets the referenced bit of the frame that it was looked up by, and counts the use, for
    /// reclaim. Returns `true` if that frame is a readahead marker and this is its first use: at
    /// least one of several threads gets `true`.
    #[inline(always)]
    pub fn set_referenced(&self) -> bool {
        self.zone.set_referenced(self.at)
    }

    /// Returns the bytes of the whole folio.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        let (at, len) = (self.zone.address(self.index), self.order().bytes());
        sync::read(at, len);
        // SAFETY: mapped while the block is online, and a reference keeps it online; initialised,
        // since memory from the system is; not written while a reference exists (the invariant on
        // `index`).
        unsafe { core::slice::from_raw_parts(at, len) }
    }

    /// Sets the referenced bits of the `n` frames behind the one that it was looked up by. Returns
    /// the last of them that is a readahead marker and was not used before, counted from 1.
    ///
    /// # Panics
    ///
    /// Panics if fewer frames of the folio lie behind that one.
    #[inline]
    pub fn set_referenced_behind(&self, n: u32) -> Option<u32> {
        assert!(n <= self.frames_behind(), "{n} frames lie not behind that of the {self:?}");
        if self.zone.are_hot(self.at + 1, n) {
            return None;
        }
        (1..=n).fold(
            None,
            |last, n| if self.zone.set_referenced(self.at + n) { Some(n) } else { last },
        )
    }

    /// Returns the number of frames of the folio behind the one that it was looked up by.
    #[inline]
    pub fn frames_behind(&self) -> u32 {
        self.index + self.order().frames() - self.at - 1
    }

    /// Returns the bytes from the frame that it was looked up by to the end of the folio.
    #[inline]
    pub fn as_slice_from_frame(&self) -> &[u8] {
        &self.as_slice()[(self.at - self.index) as usize * crate::FRAME_SIZE..]
    }

    /// Returns another reference to the folio, by the `n`-th frame behind the one that this was
    /// looked up by. `None`: the folio ends before.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn frame_after(&self, n: u32) -> Option<Self> {
        (n <= self.frames_behind()).then(|| {
            let mut other = self.clone();
            other.at += n;
            other
        })
    }

    /// Returns the bytes of the frame that it was looked up by: all bytes of a folio of order 0.
    #[inline(always)]
    pub fn frame(&self) -> &[u8; crate::FRAME_SIZE] {
        sync::read(self.zone.address(self.at), crate::FRAME_SIZE);
        // SAFETY: as in `as_slice`, by the invariant on `at`.
        unsafe { &*self.zone.address(self.at).cast() }
    }
}

impl<P: Platform> Clone for FolioRef<P> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        self.zone.descriptor(self.index).word.get(1);
        P::trace(Event::Shared, || self.pfn());
        Self::from_frame(self.zone, self.index, self.at)
    }
}

impl<P: Platform> Drop for FolioRef<P> {
    #[inline(always)]
    fn drop(&mut self) {
        sync::ended(self.zone.address(self.at));
        self.site.ended(self.zone.place(self.index), 1);
        put(self.zone, self.index, 1);
    }
}

/// Puts `n` references of the folio at `index`.
#[inline(always)]
pub(crate) fn put<P: Platform>(zone: &'static Zone<P>, index: u32, n: u32) {
    let early = seeded_bugs::early_kind(zone.descriptor(index));
    if let Some(dying) = zone.descriptor(index).word.drop_references(n) {
        P::trace(Event::Dying, || zone.pfn(index));
        P::between_put_steps();
        if let Some(frozen) = dying.finish() {
            frozen.leave_frozen();
            // The zone, too, is the one that the frame belongs to now (R4).
            let zone = zone.successor();
            P::trace(Event::Ended, || zone.pfn(index));
            zone.descriptor(index).clear_volatile();
            let folio = FrozenFolio::from_index(zone, index);
            let kind = early.unwrap_or_else(|| folio.kind());
            zone.destroy(folio, kind);
        } else {
            P::trace(Event::Revived, || zone.pfn(index));
        }
    } else {
        P::trace(Event::Put, || zone.pfn(index));
    }
}

impl<P: Platform> fmt::Debug for FolioRef<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.zone.descriptor(self.index).word;
        write!(f, "folio at {:?}, {:?}, {:?}, {:?}", self.pfn(), self.order(), self.kind(), word)
    }
}

/// The exclusive handle of a frozen folio. The allocator returns it, and so does the winner of a
/// last put or of a freeze. Only through it can a folio be written, split, opened or freed.
///
/// Dropping it leaks its frames; with [`CHECKS`] that panics.
///
/// ```
/// use folio_frames::{Arena, Order, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let mut frozen = arena.zone().alloc_frozen(Order::ZERO)?;
/// frozen.as_mut_slice().fill(7);
/// let folio = frozen.init();
/// assert_eq!(folio.as_slice()[0], 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A folio cannot be freed twice, split twice, or used after it was freed:
///
/// ```compile_fail,E0382
/// # fn test(folio: folio_frames::FrozenFolio<folio_frames::UserSpace>) {
/// folio.free();
/// folio.free();
/// # }
/// ```
/// ```compile_fail,E0382
/// # fn test(folio: folio_frames::FrozenFolio<folio_frames::UserSpace>) {
/// let pieces = folio.split(folio_frames::Order::ZERO);
/// let again = folio.split(folio_frames::Order::ZERO);
/// # }
/// ```
/// ```compile_fail,E0505
/// # fn test(mut folio: folio_frames::FrozenFolio<folio_frames::UserSpace>) {
/// let bytes = folio.as_mut_slice();
/// folio.free();
/// bytes[0] = 1;
/// # }
/// ```
///
/// A reference cannot free the folio, as other references may exist:
///
/// ```compile_fail,E0599
/// # fn test(folio: folio_frames::FolioRef<folio_frames::UserSpace>) {
/// folio.free();
/// # }
/// ```
#[must_use = "an exclusive handle that is not used leaks its frames: init, publish or free it"]
pub struct FrozenFolio<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** the head's word is frozen, and this is the only exclusive handle of the
    /// folio.
    index: u32,
}

impl<P: Platform> FrozenFolio<P> {
    pub(crate) fn from_index(zone: &'static Zone<P>, index: u32) -> Self {
        Self { zone, index }
    }

    pub(crate) fn into_index(self) -> u32 {
        let index = self.index;
        mem::forget(self);
        index
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Returns the zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Returns the first frame.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// Returns the order.
    pub fn order(&self) -> Order {
        self.zone.descriptor(self.index).shape().order
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.zone.descriptor(self.index).shape().kind
    }

    /// Returns the owner data.
    pub fn owner_data(&self) -> u64 {
        self.zone.descriptor(self.index).owner_data()
    }

    /// Sets the kind and the owner data, and clears the dirty bit.
    ///
    /// # Panics
    ///
    /// Panics if `kind` is one of the allocator's own free kinds.
    pub fn set_owner(&mut self, kind: Kind, owner_data: u64) {
        kind.assert_allocated();
        let head = self.zone.descriptor(self.index);
        head.set_owner_data(owner_data);
        head.set_dirty(false);
        head.set_shape(kind, head.shape().order);
    }

    /// Returns `true` if the bytes are newer than their source.
    pub fn is_dirty(&self) -> bool {
        self.zone.descriptor(self.index).is_dirty()
    }

    /// Sets the dirty bit: the bytes are newer than their source.
    pub fn set_dirty(&mut self, dirty: bool) {
        self.zone.descriptor(self.index).set_dirty(dirty);
    }

    /// Records that the folio is read ahead of its use: it counts as referenced until its first
    /// [`set_referenced`](FolioRef::set_referenced). For a readahead marker that call returns
    /// `true`, so that readahead continues when a reader arrives here. It costs a hit nothing, as
    /// the first use of a folio takes the slower path anyway.
    pub fn set_readahead(&mut self, is_marker: bool) {
        self.zone.memmap.set_readahead(self.index, is_marker);
    }

    /// Gives each frame the uses of that of another folio of this size, which moves here.
    pub(crate) fn copy_uses(&mut self, from: &Self) {
        for n in 0..self.order().frames() {
            self.zone.memmap.copy_uses(self.index + n, &from.zone.memmap, from.index + n);
        }
    }

    /// Returns the bytes of the whole folio.
    pub fn as_slice(&self) -> &[u8] {
        let (at, len) = (self.zone.address(self.index), self.order().bytes());
        sync::read(at, len);
        // SAFETY: mapped while the block is online; the handle is exclusive, so nothing writes.
        unsafe { core::slice::from_raw_parts(at, len) }
    }

    /// Returns the bytes of the whole folio for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // Release: pairs with the fence in the optimistic read, which has no reference and may be
        // copying these bytes now: a reader that gets a byte written from here on sees the slot as
        // it was locked, or left, before.
        fence(Ordering::Release);
        // SAFETY: as in as_slice; readers need a reference, and none exists while the folio is
        // frozen.
        let bytes = unsafe {
            core::slice::from_raw_parts_mut(self.zone.address(self.index), self.order().bytes())
        };
        sync::written(bytes);
        bytes
    }

    /// Opens the folio with one reference, and returns it.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn init(self) -> FolioRef<P> {
        let zone = self.zone;
        FolioRef::from_index(zone, self.unfreeze(1))
    }

    /// Opens the folio with `n` references. Returns its index, by which the caller accounts for
    /// them.
    pub(crate) fn unfreeze(self, n: u32) -> u32 {
        // Before it is open: afterwards other threads may trace what they do to it.
        P::trace(Event::Opened, || self.pfn());
        self.zone.descriptor(self.index).word.take_frozen().unfreeze(n);
        self.into_index()
    }

    /// Opens the folio with `n` references. Returns the number by which a slot names the first
    /// frame.
    pub(crate) fn open_for_slot(self, n: u32) -> u32 {
        let zone = self.zone;
        zone.number(self.unfreeze(n))
    }

    /// Zeroes the bytes of the whole folio. Its descriptors stay frozen.
    pub fn zero(&mut self) {
        self.as_mut_slice().fill(0);
    }

    /// Returns the folio to the allocator.
    pub fn free(self) {
        self.check_not_raw();
        let freed = self.scrubbed();
        let (zone, order) = (freed.zone, freed.order());
        zone.free_index(freed.into_index(), order);
    }
}

impl<P: Platform> Drop for FrozenFolio<P> {
    fn drop(&mut self) {
        assert!(
            !CHECKS || P::unwinding(),
            "an exclusive handle was dropped, which leaks its frames: {self:?}"
        );
    }
}

impl<P: Platform> fmt::Debug for FrozenFolio<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frozen folio at {:?}, {:?}, {:?}", self.pfn(), self.order(), self.kind())
    }
}
