//! References to folios with bytes that others may change: pages that are mapped writable into an
//! address space or a guest, or that a device writes.
//!
//! | | [`FolioRef`] | [`VolatileRef`] |
//! | --- | --- | --- |
//! | opened by | [`FrozenFolio::init`], a slot | [`FrozenFolio::init_volatile`] |
//! | the bytes, while references exist | do not change | may change at any moment |
//! | access | slices | copies in and out, atomics |
//! | a walk | [`Zone::try_get`] | [`Zone::try_get_volatile`] |
//!
//! A folio is of one sort from its opening to its freeze, so a slice of bytes that may change never
//! exists. The sort stands in the descriptor; a walk checks it after its get (R8).

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::racy_copy::{racy_copy, racy_write};
use crate::memmap::memmap::Kind;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::refs::FolioRefs;
use crate::zone::walk::Refusal;
use crate::zone::zone::Zone;

/// One counted reference to a folio with bytes that others may change. While it exists, the frames
/// stay in this folio.
///
/// The bytes are copied in and out, or accessed as atomics; there is no slice of them. Any thread
/// with a reference may write. A copy may hold bytes of several writes.
///
/// Clone takes another reference. Dropping the last one runs the kind's `destroy`, in the same
/// thread.
///
/// ```
/// use core::sync::atomic::Ordering::Relaxed;
/// use folio_frames::{Arena, Order, Refusal, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let mut frozen = zone.alloc_frozen(Order::ZERO)?;
/// frozen.zero();
/// let page = frozen.init_volatile();
/// page.write(10, b"hello");
/// page.atomic_u32(16).store(7, Relaxed);
///
/// let mut bytes = [0; 5];
/// zone.try_get_volatile(page.pfn())?.read(10, &mut bytes);
/// assert_eq!(&bytes, b"hello");
/// assert_eq!(zone.try_get(page.pfn()).unwrap_err(), Refusal::Volatile);
///
/// // The only reference: nothing else changes the bytes any more.
/// let frozen = page.freeze().expect("the only one");
/// assert_eq!(frozen.as_slice()[10..15], *b"hello");
/// frozen.free();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It gives no slice:
///
/// ```compile_fail,E0599
/// # fn test(page: folio_frames::VolatileRef<folio_frames::UserSpace>) {
/// page.as_slice();
/// # }
/// ```
pub struct VolatileRef<P: Platform>(
    /// **Invariant:** the folio is volatile. Its bytes are only copied by instructions that may
    /// race, or accessed as atomics.
    pub(super) FolioRef<P>,
);

impl<P: Platform> VolatileRef<P> {
    /// Returns the zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.0.zone()
    }

    /// Returns the first frame.
    pub fn pfn(&self) -> Pfn {
        self.0.pfn()
    }

    /// Returns the frame that it was looked up by.
    pub fn frame_pfn(&self) -> Pfn {
        self.0.frame_pfn()
    }

    /// Returns the order.
    pub fn order(&self) -> Order {
        self.0.order()
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// Returns the owner data of the frame that it was looked up by. Only the first frame of the
    /// folio has some: of a tail, ask [`Zone::peek`] for that of [`pfn`](Self::pfn).
    pub fn owner_data(&self) -> u64 {
        self.0.owner_data()
    }

    /// Returns the address of the first byte of the folio, for a device or an entry of a page
    /// table. The bytes may be read and written while a reference exists, by accesses that may
    /// race: volatile ones, atomics, or those of other hardware.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.as_ptr().cast_mut()
    }

    /// Copies bytes from `at` on out of the folio. If others write them meanwhile, each byte is one
    /// that was there.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in the folio.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) {
        let from = self.checked(at, to.len());
        // SAFETY: mapped while the reference exists, and initialised, since memory from the system
        // is.
        unsafe { racy_copy::<P>(from, to) }
    }

    /// Copies bytes into the folio, from `at` on.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in the folio.
    #[inline]
    pub fn write(&self, at: usize, from: &[u8]) {
        let to = self.checked(at, from.len());
        // SAFETY: mapped while the reference exists; no slice of these bytes exists, by the
        // invariant.
        unsafe { racy_write(from, to) }
    }

    /// Returns the 4 bytes from `at` on as an atomic, in the processor's byte order.
    ///
    /// Accesses of another size to the same bytes are ordered as the hardware orders them.
    ///
    /// # Panics
    ///
    /// Panics if `at` is not a multiple of 4, or the bytes do not lie in the folio.
    #[inline]
    pub fn atomic_u32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4), "byte {at} is not a multiple of 4");
        let word = self.checked(at, 4);
        // SAFETY: mapped, aligned, and accessed by atomics and racing copies only, for as long as
        // the reference exists.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    /// Returns the 8 bytes from `at` on as an atomic, in the processor's byte order.
    ///
    /// Accesses of another size to the same bytes are ordered as the hardware orders them.
    ///
    /// # Panics
    ///
    /// Panics if `at` is not a multiple of 8, or the bytes do not lie in the folio.
    #[inline]
    pub fn atomic_u64(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "byte {at} is not a multiple of 8");
        let word = self.checked(at, 8);
        // SAFETY: as in atomic_u32.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// Returns the address of `len` bytes from `at` on.
    #[inline]
    fn checked(&self, at: usize, len: usize) -> *mut u8 {
        let bytes = self.order().bytes();
        assert!(
            at <= bytes && len <= bytes - at,
            "{len} bytes from {at} on do not lie in a folio of {bytes}"
        );
        self.as_ptr().wrapping_add(at)
    }

    /// Freezes the folio if this is the only reference. Returns the exclusive handle: the bytes do
    /// not change any more.
    ///
    /// Where an entry of a page table owns a reference, its mapping must have ended before its
    /// reference is given up: the entry is cleared, and no processor has it in its TLB.
    ///
    /// # Errors
    ///
    /// Gives the reference back if others exist.
    pub fn freeze(self) -> Result<FrozenFolio<P>, Self> {
        let frozen = self.0.freeze().map_err(Self)?;
        frozen.zone().descriptor(frozen.index()).clear_volatile();
        Ok(frozen)
    }

    /// Takes `n` more references. A count that reaches [`SATURATED`](folio_ref::SATURATED) stays
    /// there, and the folio is leaked (R5).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0, or not below [`SATURATED`](folio_ref::SATURATED).
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get_many(&self, n: u32) -> FolioRefs<P> {
        self.0.get_many(n)
    }
}

impl<P: Platform> FrozenFolio<P> {
    /// Opens the folio with one reference, as one with bytes that others may change.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn init_volatile(self) -> VolatileRef<P> {
        let zone = self.zone();
        VolatileRef(FolioRef::from_index(zone, self.unfreeze_volatile(1)))
    }

    /// Opens the folio with `count` references, as one with bytes that others may change.
    ///
    /// # Panics
    ///
    /// Panics if `count` is 0, or not below [`SATURATED`](folio_ref::SATURATED).
    #[cfg_attr(feature = "track", track_caller)]
    pub fn init_many_volatile(self, count: u32) -> FolioRefs<P> {
        crate::zone::refs::check_count(count);
        let zone = self.zone();
        FolioRefs::from_index(zone, self.unfreeze_volatile(count), count)
    }

    fn unfreeze_volatile(self, count: u32) -> u32 {
        self.zone().descriptor(self.index()).set_volatile();
        self.unfreeze(count)
    }
}

impl<P: Platform> FolioRefs<P> {
    /// Returns the references one by one. Those that are not taken end with the iterator.
    ///
    /// # Panics
    ///
    /// Panics if the bytes of the folio do not change: then [`into_each`](Self::into_each) returns
    /// them.
    pub fn into_each_volatile(self) -> impl Iterator<Item = VolatileRef<P>> {
        assert!(self.is_volatile(), "the bytes of {self:?} do not change: use into_each");
        self.into_each_of_any().map(VolatileRef)
    }
}

impl<P: Platform> From<VolatileRef<P>> for FolioRefs<P> {
    fn from(folio: VolatileRef<P>) -> Self {
        Self::from(folio.0)
    }
}

impl<P: Platform> Zone<P> {
    /// Takes a reference to the folio that this frame belongs to, as head or tail, if its bytes may
    /// change. The value counts as looked up by this frame.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the frame does not belong to an open folio, [`Refusal::NotVolatile`] if
    /// the bytes do not change.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get_volatile(&'static self, pfn: Pfn) -> Result<VolatileRef<P>, Refusal> {
        let (at, head, shape) = self.around(pfn)?;
        self.try_take(head, 1, shape, self.descriptor(head).owner_data())?;
        let folio = FolioRef::from_frame(self, head, at);
        // Exact, as there is a reference.
        if self.descriptor(head).is_volatile() {
            Ok(VolatileRef(folio))
        } else {
            Err(Refusal::NotVolatile)
        }
    }
}

impl<P: Platform> Clone for VolatileRef<P> {
    #[cfg_attr(feature = "track", track_caller)]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> fmt::Debug for VolatileRef<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "volatile {:?}", self.0)
    }
}
