//! Many references at once: those of one folio in one value, and those of many folios, put
//! together.

use core::fmt;
use core::iter;
use core::mem;

use folio_ref::{MAX_AT_ONCE, SATURATED};

use crate::base::ids::Pfn;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::seeded_bugs;
use crate::zone::folio::{FolioRef, FrozenFolio, put};
use crate::zone::track::Site;
use crate::zone::zone::Zone;

/// Several references of one folio, such as an owner lends for a migration: any number below
/// [`SATURATED`]. The count is exact, since each of them is one reference in the word.
///
/// Clone takes as many more, drop returns them all: up to [`MAX_AT_ONCE`] by one atomic operation.
/// It shows no bytes, so the bytes of the folio may change or not ([`VolatileRef`]).
///
/// [`VolatileRef`]: crate::VolatileRef
pub struct FolioRefs<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** this value accounts for `count` references in the head's word, at least one
    /// and fewer than [`SATURATED`].
    index: u32,
    count: u32,
    /// The site of the first reference; the others count as taken there too.
    site: Site,
}

impl<P: Platform> FolioRefs<P> {
    /// Wraps `count` references that were just taken.
    ///
    /// # Panics
    ///
    /// Panics if `count` is 0, or not below [`SATURATED`].
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn from_index(zone: &'static Zone<P>, index: u32, count: u32) -> Self {
        check_count(count);
        let site = Site::here();
        site.began(zone.place(index), count);
        Self { zone, index, count, site }
    }

    /// Ends the value. The references are the caller's to account for, without a site.
    pub(crate) fn into_parts(self) -> (&'static Zone<P>, u32, u32) {
        let parts = (self.zone, self.index, self.count);
        self.site.ended(self.zone.place(self.index), self.count);
        mem::forget(self);
        parts
    }

    /// Returns the zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Returns the folio's first frame.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// Returns the number of references.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns `true` if the bytes of the folio may change: its references are
    /// [`VolatileRef`](crate::VolatileRef)s.
    pub fn is_volatile(&self) -> bool {
        self.zone.descriptor(self.index).is_volatile()
    }

    /// Adds one more reference.
    ///
    /// # Errors
    ///
    /// Gives `folio` back if it is another folio, or if there is no room: fewer than [`SATURATED`]
    /// references fit.
    pub fn join(&mut self, folio: FolioRef<P>) -> Result<(), FolioRef<P>> {
        if folio.index() != self.index
            || !core::ptr::eq(folio.zone(), self.zone)
            || self.count == SATURATED - 1
        {
            return Err(folio);
        }
        let (zone, index, site) = folio.into_parts();
        site.ended(zone.place(index), 1);
        self.site.began(zone.place(index), 1);
        self.count += 1;
        Ok(())
    }

    /// Returns the references one by one. Those that are not taken end with the iterator.
    ///
    /// # Panics
    ///
    /// Panics if the bytes of the folio may change: then
    /// [`into_each_volatile`](Self::into_each_volatile) returns them.
    pub fn into_each(self) -> impl Iterator<Item = FolioRef<P>> {
        assert!(!self.is_volatile(), "the bytes of {self:?} may change: use into_each_volatile");
        self.into_each_of_any()
    }

    /// Returns the references one by one, whether the bytes may change or not.
    pub(crate) fn into_each_of_any(self) -> impl Iterator<Item = FolioRef<P>> {
        let mut left = Some(self);
        iter::from_fn(move || {
            let mut refs = left.take()?;
            let one = FolioRef::from_parts(refs.zone, refs.index, refs.index, refs.site);
            refs.count -= 1;
            if refs.count > 0 {
                left = Some(refs);
            } else {
                mem::forget(refs);
            }
            Some(one)
        })
    }

    /// Freezes the folio if no other reference exists. Returns the exclusive handle.
    ///
    /// # Errors
    ///
    /// Gives the references back if other references exist.
    pub fn freeze(self) -> Result<FrozenFolio<P>, Self> {
        // All expected references are this value's own.
        let Ok(frozen) = self.zone.descriptor(self.index).word.freeze(self.count) else {
            P::trace(Event::Busy, || self.pfn());
            return Err(self);
        };
        frozen.leave_frozen();
        P::trace(Event::Frozen, || self.pfn());
        self.zone.descriptor(self.index).clear_volatile();
        let folio = FrozenFolio::from_index(self.zone, self.index);
        self.site.ended(self.zone.place(self.index), self.count);
        mem::forget(self);
        Ok(folio)
    }
}

impl<P: Platform> From<FolioRef<P>> for FolioRefs<P> {
    fn from(folio: FolioRef<P>) -> Self {
        let (zone, index, site) = folio.into_parts();
        Self { zone, index, count: 1, site }
    }
}

impl<P: Platform> Clone for FolioRefs<P> {
    /// Takes as many more references: up to [`MAX_AT_ONCE`] by one atomic operation.
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        get(self.zone, self.index, self.count);
        Self::from_index(self.zone, self.index, self.count)
    }
}

impl<P: Platform> Drop for FolioRefs<P> {
    fn drop(&mut self) {
        self.site.ended(self.zone.place(self.index), self.count);
        for n in parts(seeded_bugs::count_to_put(self.count)) {
            put(self.zone, self.index, n);
        }
    }
}

impl<P: Platform> fmt::Debug for FolioRefs<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} references of the folio at {:?}", self.count, self.pfn())
    }
}

impl<P: Platform> FrozenFolio<P> {
    /// Opens the folio with `count` references, and returns them.
    ///
    /// # Panics
    ///
    /// Panics if `count` is 0, or not below [`SATURATED`].
    #[cfg_attr(feature = "track", track_caller)]
    pub fn init_many(self, count: u32) -> FolioRefs<P> {
        check_count(count);
        let zone = self.zone();
        FolioRefs::from_index(zone, self.unfreeze(count), count)
    }
}

impl<P: Platform> FolioRef<P> {
    /// Freezes the folio if this is the only reference. Returns the exclusive handle.
    ///
    /// # Errors
    ///
    /// Gives the reference back if others exist.
    pub fn freeze(self) -> Result<FrozenFolio<P>, Self> {
        let Ok(frozen) = self.zone().descriptor(self.index()).word.freeze(1) else {
            P::trace(Event::Busy, || self.pfn());
            return Err(self);
        };
        frozen.leave_frozen();
        P::trace(Event::Frozen, || self.pfn());
        let (zone, index, site) = self.into_parts();
        site.ended(zone.place(index), 1);
        Ok(FrozenFolio::from_index(zone, index))
    }

    /// Drops the reference with one compare-and-swap instead of two atomic operations if it is the
    /// last. If others exist, this costs a failed compare-and-swap more than a drop.
    #[inline]
    pub fn drop_expecting_last(self) {
        match self.freeze() {
            Ok(folio) => folio.zone().destroy_by_kind(folio),
            Err(busy) => drop(busy),
        }
    }
}

/// Divides a number of references into parts of at most [`MAX_AT_ONCE`].
fn parts(count: u32) -> impl Iterator<Item = u32> {
    let mut left = count;
    iter::from_fn(move || {
        let n = left.min(MAX_AT_ONCE);
        left -= n;
        (n > 0).then_some(n)
    })
}

/// Takes `count` more references of the folio at `index`, for a caller that holds one.
pub(crate) fn get<P: Platform>(zone: &'static Zone<P>, index: u32, count: u32) {
    for n in parts(count) {
        zone.descriptor(index).word.get(n);
        P::trace(Event::Shared, || zone.pfn(index));
    }
}

/// Panics if a value cannot stand for so many references.
pub(crate) fn check_count(count: u32) {
    assert!(
        count > 0 && count < SATURATED,
        "{count} references: allowed are 1 to {}",
        SATURATED - 1
    );
}

/// The number of folios that are freed under one lock.
const BATCH: usize = 64;

/// Frozen folios on their way to the allocator. Dropping it frees them, so that none leaks if a
/// destructor panics.
struct Batch<P: Platform> {
    zone: Option<&'static Zone<P>>,
    heads: [u32; BATCH],
    len: usize,
    /// This thread will soon allocate as many frames.
    for_reuse: bool,
}

impl<P: Platform> Batch<P> {
    fn new(for_reuse: bool) -> Self {
        Self { zone: None, heads: [0; BATCH], len: 0, for_reuse }
    }

    fn push(&mut self, folio: FrozenFolio<P>) {
        folio.check_not_raw();
        let folio = folio.scrubbed();
        let zone = folio.zone();
        if self.len == BATCH || self.zone.is_some_and(|of| !core::ptr::eq(of, zone)) {
            self.flush();
        }
        self.zone = Some(zone);
        // There is room for one more now.
        if let Some(place) = self.heads.get_mut(self.len) {
            *place = folio.into_index();
            self.len += 1;
        } else {
            folio.free();
        }
    }

    fn flush(&mut self) {
        let heads = self.heads.get_mut(..mem::take(&mut self.len));
        if let (Some(zone), Some(heads)) = (self.zone, heads) {
            zone.free_batch(heads, self.for_reuse);
        }
    }
}

impl<P: Platform> Drop for Batch<P> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Frees many folios, in batches, each under one lock, for a thread that will soon allocate as many
/// frames. So single frames go to the lists of this CPU also from 2 MiB blocks that are nearly
/// free, as far as the lists have room.
pub fn free_for_reuse<P: Platform>(folios: impl IntoIterator<Item = FrozenFolio<P>>) {
    let mut batch = Batch::new(true);
    folios.into_iter().for_each(|folio| batch.push(folio));
}

/// Drops many references, each probably the last of its folio: the freed folios go to the allocator
/// in batches, each under one lock. Folios of kinds with a `destroy` function are passed to it one
/// by one.
pub fn put_all<P: Platform>(folios: impl IntoIterator<Item = FolioRef<P>>) {
    let mut batch = Batch::new(false);
    for folio in folios {
        // Others exist: dropping the error returns this reference.
        let Ok(frozen) = folio.freeze() else { continue };
        // The kind is read after the freeze (R4).
        if frozen.zone().has_destructor(frozen.kind()) {
            frozen.zone().destroy_by_kind(frozen);
        } else {
            batch.push(frozen);
        }
    }
}
