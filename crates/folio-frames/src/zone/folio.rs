//! The two ways to hold a folio: counted ([`FolioRef`]) and alone ([`FrozenFolio`], the token).

use core::fmt;
use core::mem;
use core::ops::Range;
use core::sync::atomic::{Ordering, fence};

use folio_ref::CHECKS;

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::memmap::Kind;
use crate::zone::track::Site;
use crate::zone::zone::Zone;

/// One counted reference. While it exists, the folio's bytes do not change and its frames stay what
/// they are.
///
/// Clone takes another one, drop returns it; the last one out runs the kind's `destroy`, in its own
/// thread.
pub struct FolioRef<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** this value accounts for one reference in the head's word, and the folio's
    /// bytes are only written under a [`FrozenFolio`], which can not exist beside it.
    index: u32,
    /// **Invariant:** a frame of the folio: the one that it was looked up by.
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

    /// Wraps one reference that was just taken, of the folio at `index`, looked up by its frame
    /// `at`.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn from_frame(zone: &'static Zone<P>, index: u32, at: u32) -> Self {
        let site = Site::here();
        site.began(zone, index, 1);
        Self { zone, index, at, site }
    }

    /// Wraps one reference that was taken there, and is known to be.
    #[inline(always)]
    pub(crate) fn from_parts(zone: &'static Zone<P>, index: u32, at: u32, site: Site) -> Self {
        Self { zone, index, at, site }
    }

    /// The reference is accounted for by what is returned.
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

    /// The zone that it lies in.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// The frame that it was looked up by: that of its slot, where each of its frames has one, else
    /// the first.
    pub fn frame_pfn(&self) -> Pfn {
        self.zone.pfn(self.at)
    }

    /// The size.
    pub fn order(&self) -> Order {
        self.zone.descriptor(self.index).shape().order
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.zone.descriptor(self.index).shape().kind
    }

    /// What its owner noted in the descriptor of the frame that it was looked up by.
    pub fn owner_data(&self) -> u64 {
        self.zone.descriptor(self.at).owner_data()
    }

    /// Whether its bytes are newer than where they came from. Sure for who holds the claim on its
    /// slot, racy else.
    pub fn is_dirty(&self) -> bool {
        self.zone.descriptor(self.index).is_dirty()
    }

    /// For the holder of the claim on its slot.
    pub(crate) fn set_dirty(&self, dirty: bool) {
        self.zone.descriptor(self.index).set_dirty(dirty);
    }

    /// From now on it counts as taken by the caller: for who hands references out (feature `track`;
    /// without it, nothing).
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn taken_here(&mut self) {
        self.site = self.site.moved(Site::here(), self.zone, self.index);
    }

    /// Notes that the frame that it was looked up by was used, for reclaim. Whether that is a
    /// milestone, and this its first use: of several threads at least one is told.
    #[inline(always)]
    pub fn set_referenced(&self) -> bool {
        self.zone.set_mark(self.at)
    }

    /// The bytes of the whole folio.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped while the block is online, which a reference keeps it; initialised, since
        // memory from the system is; not written while a reference exists (the invariant on
        // `index`).
        unsafe { core::slice::from_raw_parts(self.zone.address(self.index), self.order().bytes()) }
    }

    /// As [`mark`](Self::mark), of the `n` frames behind that one, which are of the folio too. The
    /// last one that is a milestone and was not used before, if there is one.
    ///
    /// # Panics
    ///
    /// When the folio has fewer.
    #[inline]
    pub fn set_referenced_behind(&self, n: u32) -> Option<u32> {
        assert!(n <= self.frames_behind(), "{n} frames behind that of {self:?}");
        (1..=n).fold(None, |last, n| if self.zone.set_mark(self.at + n) { Some(n) } else { last })
    }

    /// How many frames of the folio lie behind the one that it was looked up by.
    #[inline]
    pub fn frames_behind(&self) -> u32 {
        self.index + self.order().frames() - self.at - 1
    }

    /// The bytes from the frame on that it was looked up by, to the end of the folio.
    #[inline]
    pub fn as_slice_from_frame(&self) -> &[u8] {
        &self.as_slice()[(self.at - self.index) as usize * crate::FRAME_SIZE..]
    }

    /// The bytes of the frame that it was looked up by: all that a folio of order 0 has.
    #[inline(always)]
    pub fn frame(&self) -> &[u8; crate::FRAME_SIZE] {
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
        self.site.ended(self.zone, self.index, 1);
        put(self.zone, self.index, 1);
    }
}

/// Returns `n` references of the folio at `index`.
#[inline(always)]
pub(crate) fn put<P: Platform>(zone: &'static Zone<P>, index: u32, n: u32) {
    #[cfg(broken = "early-destructor")]
    let early = zone.descriptor(index).shape().kind;
    if let Some(dying) = zone.descriptor(index).word.drop_references(n) {
        P::trace(Event::Dying, || zone.pfn(index));
        P::between_put_steps();
        if let Some(token) = dying.finish() {
            token.leave_frozen();
            // The zone, too, is the one that the frame belongs to now (R4).
            let zone = zone.heir();
            P::trace(Event::Ended, || zone.pfn(index));
            let folio = FrozenFolio::from_index(zone, index);
            #[cfg(not(broken = "early-destructor"))]
            let kind = folio.kind();
            #[cfg(broken = "early-destructor")]
            let kind = early;
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

/// Exclusive control of a frozen folio: the token that the winner of a last put or of a freeze
/// holds, and what the allocator hands out. Only it can be written to, split, initialised or freed.
///
/// Dropping it by mistake leaks its frames; with [`CHECKS`](folio_ref::CHECKS) that panics.
///
/// A folio can not be freed twice, split twice, or used after it was freed:
///
/// ```compile_fail,E0382
/// # fn test(folio: folio_frames::FrozenFolio<folio_frames::UserSpace>) {
/// folio.free();
/// folio.free();
/// # }
/// ```
/// ```compile_fail,E0382
/// # fn test(folio: folio_frames::FrozenFolio<folio_frames::UserSpace>) {
/// let parts = folio.split(folio_frames::Order::ZERO);
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
/// And who only holds a reference has nothing to free, as others may hold one too:
///
/// ```compile_fail,E0599
/// # fn test(folio: folio_frames::FolioRef<folio_frames::UserSpace>) {
/// folio.free();
/// # }
/// ```
#[must_use = "a token that nobody uses leaks its frames: init, publish or free it"]
pub struct FrozenFolio<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** the head's word is frozen, and this is the only token of the folio.
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

    /// The zone that it lies in.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// The size.
    pub fn order(&self) -> Order {
        self.zone.descriptor(self.index).shape().order
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.zone.descriptor(self.index).shape().kind
    }

    /// What its owner noted in the descriptor.
    pub fn owner_data(&self) -> u64 {
        self.zone.descriptor(self.index).owner_data()
    }

    /// Says what the folio is, and notes `owner_data` for its owner. It is not dirty then.
    ///
    /// # Panics
    ///
    /// When `kind` is one of the allocator's own free kinds.
    pub fn set_owner(&mut self, kind: Kind, owner_data: u64) {
        assert!(kind.is_allocated(), "{kind:?} is no kind of an allocated folio");
        let head = self.zone.descriptor(self.index);
        head.set_owner_data(owner_data);
        head.set_dirty(false);
        head.set_shape(kind, head.shape().order);
    }

    /// Whether its bytes are newer than where they came from.
    pub fn is_dirty(&self) -> bool {
        self.zone.descriptor(self.index).is_dirty()
    }

    /// Says whether its bytes are newer than where they came from.
    pub fn set_dirty(&mut self, dirty: bool) {
        self.zone.descriptor(self.index).set_dirty(dirty);
    }

    /// Notes that it is read ahead of its use: it counts as marked until its first
    /// [`mark`](FolioRef::mark). Of a milestone that one says so: readahead goes on when a
    /// reader comes here. It costs a hit nothing, as the first use of a folio takes the slower
    /// way anyway.
    pub fn set_readahead(&mut self, is_marker: bool) {
        self.zone.memmap.set_readahead(self.index, is_marker);
    }

    /// The bytes of the whole folio.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: mapped while the block is online; the token is exclusive, so nobody writes.
        unsafe { core::slice::from_raw_parts(self.zone.address(self.index), self.order().bytes()) }
    }

    /// The bytes of the whole folio, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // Release: pairs with the fence in Slot::read, which holds no reference and may be copying
        // these bytes just now: a reader that gets a byte written from here on sees the
        // slot as it was claimed, or left, before.
        fence(Ordering::Release);
        // SAFETY: as above; readers need a reference, which does not exist while the folio is
        // frozen.
        unsafe {
            core::slice::from_raw_parts_mut(self.zone.address(self.index), self.order().bytes())
        }
    }

    /// Begins a life with one reference, the caller's.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn init(self) -> FolioRef<P> {
        let zone = self.zone;
        FolioRef::from_index(zone, self.unfreeze(1))
    }

    /// Ends the freeze with `n` references, which the caller accounts for by the index returned.
    pub(crate) fn unfreeze(self, n: u32) -> u32 {
        // Before it is so: afterwards others may be told of what they do to it.
        P::trace(Event::Opened, || self.pfn());
        self.zone.descriptor(self.index).word.take_frozen().unfreeze(n);
        self.into_index()
    }

    /// Ends the freeze with `n` references, and says how a slot names the first frame.
    pub(crate) fn open_for_slot(self, n: u32) -> u32 {
        let zone = self.zone;
        zone.number(self.unfreeze(n))
    }

    /// Cuts the folio into equal parts of a smaller order, each a token of the same kind and
    /// private, and as dirty. The new heads were tails: frozen all along, so nobody can take a
    /// reference on the way. Those that nobody takes from the iterator are leaked, as a token
    /// that is dropped.
    ///
    /// # Panics
    ///
    /// When `order` is larger than the folio's.
    pub fn split(self, order: Order) -> impl Iterator<Item = Self> {
        let (zone, whole, kind, owner_data) =
            (self.zone, self.order(), self.kind(), self.owner_data());
        assert!(order <= whole, "a folio of {whole:?} can not be split into parts of {order:?}");
        let dirty = self.is_dirty();
        let first = self.into_index();
        // Back to front, so that the old head, which a walker may probe, shrinks last.
        for part in (first..first + whole.frames()).step_by(order.frames() as usize).rev() {
            let head = zone.descriptor(part);
            assert!(!CHECKS || head.word.snapshot().is_frozen(), "a tail is {:?} (R1)", head.word);
            head.set_owner_data(owner_data);
            zone.memmap.clear_mark(part);
            head.set_dirty(dirty);
            head.set_shape(kind, order);
            P::trace(Event::Split, || zone.pfn(part));
        }
        Parts { zone, left: first..first + whole.frames(), order }
    }

    /// Zeroes the bytes of the whole folio: its bytes, never its descriptors, which stay frozen.
    pub fn zero(&mut self) {
        self.as_mut_slice().fill(0);
    }

    /// Returns the folio to the allocator.
    pub fn free(mut self) {
        self.scrub();
        let (zone, order) = (self.zone, self.order());
        zone.free_index(self.into_index(), order);
    }
}

/// Tokens of neighbouring folios of one order.
struct Parts<P: Platform> {
    zone: &'static Zone<P>,
    left: Range<u32>,
    order: Order,
}

impl<P: Platform> Iterator for Parts<P> {
    type Item = FrozenFolio<P>;

    #[inline]
    fn next(&mut self) -> Option<FrozenFolio<P>> {
        let index = self.left.start;
        (!self.left.is_empty()).then(|| {
            self.left.start += self.order.frames();
            FrozenFolio::from_index(self.zone, index)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let parts = self.left.len() / self.order.frames() as usize;
        (parts, Some(parts))
    }
}

impl<P: Platform> Drop for Parts<P> {
    fn drop(&mut self) {
        // Whoever dropped them is told by the first.
        self.next().into_iter().for_each(drop);
    }
}

impl<P: Platform> Drop for FrozenFolio<P> {
    fn drop(&mut self) {
        assert!(
            !CHECKS || P::unwinding(),
            "a token was dropped: {self:?} is leaked, frozen for ever"
        );
    }
}

impl<P: Platform> fmt::Debug for FrozenFolio<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token of the folio at {:?}, {:?}, {:?}", self.pfn(), self.order(), self.kind())
    }
}
