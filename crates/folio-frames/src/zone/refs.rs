//! Many references at once: those of one folio in one value, and those of many folios, put
//! together.

use core::fmt;
use core::iter;
use core::mem;

use folio_ref::MAX_AT_ONCE;

use crate::base::ids::Pfn;
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::zone::folio::{FolioRef, FrozenFolio, put};
use crate::zone::track::Site;
use crate::zone::zone::Zone;

/// Several references of one folio, such as an owner lends for a migration. The count is exact,
/// since each reference came from a [`FolioRef`].
///
/// Clone takes as many more, drop returns them all at once.
pub struct FolioRefs<P: Platform> {
    zone: &'static Zone<P>,
    /// **Invariant:** this value accounts for `count` references in the head's word, at least one.
    index: u32,
    count: u32,
    /// The site of the first reference; the others count as taken there too.
    site: Site,
}

impl<P: Platform> FolioRefs<P> {
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

    /// Adds one more reference.
    ///
    /// # Errors
    ///
    /// Gives `folio` back if it is another folio, or if there are [`MAX_AT_ONCE`] references
    /// already.
    pub fn join(&mut self, folio: FolioRef<P>) -> Result<(), FolioRef<P>> {
        if folio.index() != self.index
            || !core::ptr::eq(folio.zone(), self.zone)
            || self.count == MAX_AT_ONCE
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
    pub fn into_each(self) -> impl Iterator<Item = FolioRef<P>> {
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
    /// Takes as many more references, with one atomic operation.
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        self.zone.descriptor(self.index).word.get(self.count);
        P::trace(Event::Shared, || self.pfn());
        let site = Site::here();
        site.began(self.zone.place(self.index), self.count);
        Self { zone: self.zone, index: self.index, count: self.count, site }
    }
}

impl<P: Platform> Drop for FolioRefs<P> {
    fn drop(&mut self) {
        self.site.ended(self.zone.place(self.index), self.count);
        put(self.zone, self.index, self.count);
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
    /// Panics if `count` is 0 or above [`MAX_AT_ONCE`].
    #[cfg_attr(feature = "track", track_caller)]
    pub fn init_many(self, count: u32) -> FolioRefs<P> {
        assert!(
            count > 0 && count <= MAX_AT_ONCE,
            "init with {count} references: allowed are 1 to {MAX_AT_ONCE}"
        );
        let (zone, site) = (self.zone(), Site::here());
        let index = self.unfreeze(count);
        site.began(zone.place(index), count);
        FolioRefs { zone, index, count, site }
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
