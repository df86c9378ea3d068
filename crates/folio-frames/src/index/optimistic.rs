//! Reading without a reference: the bytes are copied while others may change them, and believed if
//! nobody did.
//!
//! | reader | whoever changes what is read |
//! | --- | --- |
//! | 1. loads the slot: held, not claimed, version v (Acquire) | a. claims the slot |
//! | 2. asks its caller whether the bytes are wanted, then copies them, by atomic loads | b. freezes the folio; fence (Release); writes, moves or frees it |
//! | 3. fence (Acquire) | c. ends the claim: version v + 1 (Release) |
//! | 4. loads the slot again: the same in all bits | |
//!
//! Why the copy is then one content, under every scheme, without a look at the descriptor:
//!
//! - *A byte from b.* Its writer fenced after a, and the reader fences after it: so 4 comes after
//!   a, and what 4 finds is claimed, or a later version. The same holds for everybody who gets the
//!   frame later, for another slot or another file, since allocating comes after c, and every
//!   writer fences in [`FrozenFolio::as_mut_slice`].
//! - *A byte from before v.* No: 1 is an Acquire of the end that made version v, and all that was
//!   written before.
//! - *A claim that froze nothing* changes no byte, and may leave the version.
//! - *The same bits again after 2^26 ends* while one copy lasts: at 10 million a second 7 seconds,
//!   for one sleep of the reader between 1 and 4 that ends in the instant when the number comes
//!   round. That is what a version is worth.
//! - *Bytes that are gone.* An offline block's read as zeroes, and are not believed, as its frames
//!   left their slots before. What must not happen is an address that is no longer mapped: hence
//!   [`DirectMap`].
//!
//! A reader that is not lucky has lost nothing but its copy: it takes a reference ([`Slot::get`]),
//! and sleeps if need be. So nobody retries here, and nobody can lose for ever.
//!
//! On a hit nothing is written but a mark that is not set. The slot's line, the mark's and the
//! bytes' are all that is touched: 9 bytes of metadata for a page.
//!
//! [`FrozenFolio::as_mut_slice`]: crate::FrozenFolio::as_mut_slice

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{Ordering, fence};

use folio_ref::CHECKS;

use crate::base::ids::FRAME_SIZE;
use crate::base::platform::Platform;
use crate::base::seeded_bugs::NO_SECOND_LOAD;
use crate::index::racy_copy::racy_copy;
use crate::index::slot::{Entry, Lookup, Slot};
use crate::zone::seeded_bugs;
use crate::zone::zone::Zone;

/// The promise that the bytes of a zone's frames stay mapped for `'a`, whether they are online or
/// not.
///
/// An `Arena` makes it of a borrow of itself: it unmaps nothing while it exists.
pub struct DirectMap<'a, P: Platform> {
    zone: &'static Zone<P>,
    mapped: PhantomData<&'a ()>,
}

impl<P: Platform> DirectMap<'_, P> {
    /// # Safety
    ///
    /// For as long as the lifetime says, the bytes of every frame that was online are readable
    /// where they were. What they hold does not matter.
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
    /// Copies bytes of the folio here, from byte `within` of its first frame on, taking no
    /// reference, and marks it as used. `Some`: they are in `buf`; whether a milestone was
    /// passed, as [`FolioRef::mark`](crate::FolioRef::mark) says. `None`: nothing is
    /// here, somebody is at work on it, or was meanwhile, or `wanted` said no; `buf` is as it was,
    /// or zeroes.
    ///
    /// `wanted` is asked between the two looks at the slot. What it loads, with Acquire, goes with
    /// the bytes: at the second look nothing had been done to the folio since the first.
    ///
    /// # Panics
    ///
    /// When the range does not lie in one frame.
    #[inline(always)]
    #[must_use]
    pub fn read(
        &self,
        map: DirectMap<'_, P>,
        within: usize,
        buf: &mut [u8],
        wanted: impl FnOnce() -> bool,
    ) -> Option<bool> {
        assert!(
            within <= FRAME_SIZE && buf.len() <= FRAME_SIZE - within,
            "a range past the end of a frame"
        );
        // Acquire: pairs with Release in end, which published the bytes.
        let before = self.load(Ordering::Acquire);
        let number = before.number_unclaimed(map.zone)?;
        if !wanted() {
            return None;
        }
        let count = seeded_bugs::count_of(map.zone, number);
        // SAFETY: the frame was online when it came here, so its bytes are mapped as long as `map`
        // says, and initialised, since memory from the system is. The range lies in the
        // frame.
        unsafe { racy_copy::<P>(map.zone.address_of(number).wrapping_add(within), buf) };
        P::between_copy_and_check();
        // Acquire: pairs with the fence in as_mut_slice. If a byte came from a write behind that
        // fence, the load below comes after the claim before it.
        fence(Ordering::Acquire);
        // Relaxed: ordered by the fence.
        let is_same = match count {
            None => self.load(Ordering::Relaxed) == before || NO_SECOND_LOAD,
            Some(_) => seeded_bugs::count_of(map.zone, number) == count,
        };
        if !is_same {
            forget(buf);
            return None;
        }
        if CHECKS {
            self.check(map, before, within, buf);
        }
        Some(map.zone.set_referenced_of(number))
    }

    /// What a reader with a reference finds is what was copied, if the slot is still the same.
    fn check(&self, map: DirectMap<'_, P>, before: Entry, within: usize, copy: &[u8]) {
        // Relaxed: the reference keeps the bytes; they can be others only if the entry is.
        if let Lookup::Hit(folio) = self.get(map.zone)
            && self.load(Ordering::Relaxed) == before
        {
            let bytes = &folio.frame()[within..within + copy.len()];
            assert!(
                bytes == copy,
                "a read without a reference gave what never was: {folio:?} at {within}"
            );
        }
    }
}

/// What was copied may be another's.
#[cold]
fn forget(buf: &mut [u8]) {
    buf.fill(0);
}
