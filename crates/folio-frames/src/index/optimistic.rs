//! Optimistic reads: copy the bytes of a folio without a reference, then validate the copy by the
//! slot's version, as a seqlock does.
//!
//! | reader | writer, mover or remover |
//! | --- | --- |
//! | 1. loads the slot: live, unlocked, version v (Acquire) | a. takes the page lock |
//! | 2. asks its caller for permission, then copies the bytes, by loads that may race | b. freezes the folio; fence (Release); writes, moves or frees it |
//! | 3. fence (Acquire) | c. releases the page lock: version v + 1 (Release) |
//! | 4. loads the slot again: the same in all bits | |
//!
//! The copy is then one content, under every scheme, and no descriptor was read. The cases:
//!
//! - *A byte from b.* Its writer fenced after a, and the reader fences after it: so 4 comes after
//!   a, and finds a locked slot or a later version. The same holds for each later owner of the
//!   frame, for another slot or another file: allocation comes after c, and every writer fences in
//!   [`FrozenFolio::as_mut_slice`].
//! - *A byte from before v.* Impossible: 1 is an Acquire of the unlock that made version v, and of
//!   all that was written before.
//! - *A page lock under which nothing was frozen* changes no byte, and may leave the version.
//! - *The same bits again after 2^26 unlocks* during one copy: at 10 million a second that takes 7
//!   seconds. The reader must sleep once between 1 and 4, and wake at the instant when the version
//!   has wrapped around to v. A version gives no more than that.
//! - *Bytes that are gone.* Those of an offline block read as zeroes, and fail the validation, as
//!   its frames left their slots before. An address must never be unmapped: hence [`DirectMap`].
//!
//! A read that fails has lost only its copy: the caller takes a reference ([`Slot::get`]), and
//! sleeps if need be. So nothing retries here, and no reader can starve.
//!
//! A hit writes only a referenced bit that is not set. It touches the lines of the slot, of that
//! bit and of the bytes: 9 bytes of metadata for a page.
//!
//! [`FrozenFolio::as_mut_slice`]: crate::FrozenFolio::as_mut_slice

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use folio_ref::CHECKS;

use crate::base::ids::FRAME_SIZE;
use crate::base::platform::Platform;
use crate::base::racy_copy::racy_copy;
use crate::base::seeded_bugs::no_second_load;
use crate::base::sync::fence;
use crate::index::entry::Entry;
use crate::index::slot::{Lookup, Slot};
use crate::memmap::seeded_bugs;
use crate::zone::zone::Zone;

/// The promise that the bytes of a zone's frames stay mapped for `'a`, online or offline.
///
/// `Arena::direct_map` makes it of a borrow of the arena, which unmaps nothing while it exists.
///
/// ```
/// use folio_frames::{Arena, Order, Slot, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let slot = Slot::new();
/// let mut filling = slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap();
/// filling.folio_mut().as_mut_slice().fill(7);
/// filling.publish();
///
/// let mut buf = [0; 64];
/// assert!(slot.read(arena.direct_map(), 100, &mut buf, || true).is_some());
/// assert_eq!(buf, [7; 64]);
///
/// // A locked slot may change at any moment.
/// let locked = slot.try_lock(zone).unwrap();
/// assert!(slot.read(arena.direct_map(), 100, &mut buf, || true).is_none());
/// drop(locked.remove());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct DirectMap<'a, P: Platform> {
    zone: &'static Zone<P>,
    mapped: PhantomData<&'a ()>,
}

impl<P: Platform> DirectMap<'_, P> {
    /// Returns the promise for `zone`.
    ///
    /// # Safety
    ///
    /// For the whole lifetime, the bytes of every frame that was ever online are readable at their
    /// addresses. Their content does not matter.
    pub unsafe fn new(zone: &'static Zone<P>) -> Self {
        Self { zone, mapped: PhantomData }
    }
}

impl<P: Platform> Clone for DirectMap<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for DirectMap<'_, P> {}

impl<P: Platform> fmt::Debug for DirectMap<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "direct map of {:?}", self.zone)
    }
}

impl<P: Platform> Slot<P> {
    /// Copies bytes of the folio in this slot without a reference, and sets its referenced bit.
    ///
    /// The copy begins at byte `within` of the slot's frame. Returns `Some` if `buf` holds it. The
    /// value is `true` if this was the first use of a frame with a readahead marker, as
    /// [`FolioRef::set_referenced`](crate::FolioRef::set_referenced) returns it. Returns `None` if
    /// the slot is empty or locked, or its folio is not of the zone of `map`, or it changed during
    /// the copy, or `wanted` returned `false`. Then `buf` is unchanged or zeroed.
    ///
    /// `wanted` is called between the two loads of the slot. A value that it loads with Acquire is
    /// as valid as the bytes: at the second load the folio has not changed since the first.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in one frame.
    #[inline(always)]
    #[must_use]
    pub fn read(
        &self,
        map: DirectMap<'_, P>,
        within: usize,
        buf: &mut [u8],
        wanted: impl FnOnce() -> bool,
    ) -> Option<bool> {
        if within > FRAME_SIZE || buf.len() > FRAME_SIZE - within {
            past_the_frame(within, buf.len());
        }
        // Acquire: pairs with Release in unlock, which published the bytes.
        let before = self.load(Ordering::Acquire);
        let number = before.number_unlocked(map.zone)?;
        if !wanted() {
            return None;
        }
        let count = || seeded_bugs::count_of(&map.zone.memmap, &map.zone.numbers, number);
        let count_before = count();
        // SAFETY: the frame was online when it came into the slot, so its bytes are mapped for the
        // lifetime of `map`, and initialised, since memory from the system is. The range lies in
        // the frame.
        unsafe { racy_copy::<P>(map.zone.address_of(number).wrapping_add(within), buf) };
        P::between_copy_and_check();
        // Acquire: pairs with the fence in as_mut_slice. If a byte came from a write behind that
        // fence, the load below comes after the try_lock before it.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        let is_same = match count_before {
            None => self.load(Ordering::Relaxed) == before || no_second_load(),
            Some(_) => count() == count_before,
        };
        if !is_same {
            discard(buf);
            return None;
        }
        if CHECKS {
            self.check(map, before, within, buf);
        }
        Some(map.zone.set_referenced_of(number))
    }

    /// Asserts that a reader with a reference finds the bytes of `copy`, if the slot is unchanged.
    fn check(&self, map: DirectMap<'_, P>, before: Entry, within: usize, copy: &[u8]) {
        // By the entry of the copy: the slot may hold a folio of another zone by now. Relaxed: the
        // reference keeps the bytes, and they differ only if the entry does.
        if let Lookup::Hit(folio) = self.get_seen(map.zone, before)
            && self.load(Ordering::Relaxed) == before
        {
            let bytes = &folio.frame()[within..within + copy.len()];
            assert!(
                bytes == copy,
                "an optimistic read gave bytes that {folio:?} does not hold at byte {within}"
            );
        }
    }
}

/// Reports a range that does not lie in one frame. A function of its own, so that a read has no
/// code for the message.
#[cold]
#[inline(never)]
fn past_the_frame(within: usize, len: usize) -> ! {
    panic!("{len} bytes from {within} on do not lie in a frame of {FRAME_SIZE}")
}

/// Zeroes a copy that failed the validation: its bytes may belong to another file.
#[cold]
fn discard(buf: &mut [u8]) {
    buf.fill(0);
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use crate::{Arena, Order, UserSpace};

    use super::*;

    #[test]
    fn a_copy_is_checked_after_its_page_left_for_another_zone() {
        let arenas = [(); 2].map(|()| Arena::<UserSpace>::new(2 << 20, &[]).unwrap());
        let [here, there] = arenas.each_ref().map(Arena::zone);
        let slot = Slot::new();
        slot.install(here.alloc_frozen(Order::ZERO).unwrap()).unwrap().publish();
        let before = slot.load(Ordering::Relaxed);
        // Between the second load of a read and its check.
        drop(slot.try_lock(here).unwrap().replace(there.alloc_frozen(Order::ZERO).unwrap()));
        slot.check(arenas[0].direct_map(), before, 0, &[1]);
        drop(slot.try_lock(there).unwrap().remove());
    }
}
