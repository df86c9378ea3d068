//! A slot: where a lockless index holds a folio.
//!
//! ```text
//!   31       30       29 .............. 0
//! claimed  waiters    frame index + 1, or 0
//! ```
//!
//! A slot owns one reference of its folio. Who may use that reference, to freeze, move or remove the folio, is
//! decided by the claim: one bit, one holder. Readers ignore it: a claimed folio that is not (yet) frozen is
//! still read. So in an index a frozen folio always has a claim beside it, and whoever meets one sleeps
//! until that claim ends.
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | empty | [`Slot::install`] a frozen folio | claimed, frozen: being filled |
//! | held | [`Slot::claim`] | claimed |
//! | claimed | [`Claim::freeze`], if only the slot's reference exists | claimed, frozen |
//! | claimed | drop | held |
//! | claimed | [`Claim::remove`] | empty; its reference goes to the caller |
//! | claimed, frozen | [`FrozenClaim::publish`] | held |
//! | claimed, frozen | [`FrozenClaim::replace`] | held, by another folio; the old token goes to the caller |
//! | claimed, frozen | [`FrozenClaim::remove`], drop | empty |

use core::fmt;
use core::marker::PhantomData;
use core::mem::{self, ManuallyDrop};
use core::sync::atomic::{AtomicU32, Ordering};

use page_ref::Refused;

use crate::folio::{FolioRef, FrozenFolio};
use crate::ids::Pfn;
use crate::platform::Platform;
use crate::zone::Zone;

const CLAIMED: u32 = 1 << 31;
const WAITERS: u32 = 1 << 30;
const FRAME: u32 = WAITERS - 1;

/// An index entry. Zeroed memory is an empty slot.
#[repr(transparent)]
pub struct Slot<P: Platform> {
    value: AtomicU32,
    platform: PhantomData<fn() -> P>,
}

/// What a lookup found.
#[derive(Debug)]
pub enum Lookup<P: Platform> {
    /// The folio, with a reference.
    Hit(FolioRef<P>),
    /// Nothing is here.
    Empty,
    /// A folio is being filled, moved or removed: [`Slot::wait`], then look again.
    InProgress,
    /// The folio had left this slot by the time the reference was taken (R8): look again.
    Moved,
    /// The folio's count is saturated; it can not be used any more.
    Saturated,
}

impl<P: Platform> Slot<P> {
    /// An empty slot.
    pub const fn new() -> Self {
        Self { value: AtomicU32::new(0), platform: PhantomData }
    }

    /// Looks the folio up: load, `try_get`, load again.
    #[inline(always)]
    pub fn get(&self, zone: &'static Zone<P>) -> Lookup<P> {
        // Acquire: pairs with Release in install and replace.
        let frame = self.value.load(Ordering::Acquire) & FRAME;
        if frame == 0 {
            return Lookup::Empty;
        }
        let index = frame - 1;
        match zone.descriptor(index).word.try_get(1) {
            Ok(()) => {
                let folio = FolioRef::from_index(zone, index);
                // R8. The load can not move before try_get, which is an Acquire; if the folio had been freed
                // and reused before, the slot's change came before its init, which try_get has seen.
                if self.value.load(Ordering::Relaxed) & FRAME == frame || cfg!(broken = "no-recheck") {
                    Lookup::Hit(folio)
                } else {
                    Lookup::Moved
                }
            }
            Err(refused) => self.refused(frame, refused),
        }
    }

    #[cold]
    fn refused(&self, frame: u32, refused: Refused) -> Lookup<P> {
        match refused {
            Refused::Saturated => Lookup::Saturated,
            Refused::Frozen if self.value.load(Ordering::Acquire) & FRAME == frame => Lookup::InProgress,
            Refused::Frozen => Lookup::Moved,
        }
    }

    /// Whether nothing is here. Racy.
    pub fn is_empty(&self) -> bool {
        self.value.load(Ordering::Acquire) & FRAME == 0
    }

    /// The folio here. Racy: no reference is taken.
    pub fn pfn(&self, zone: &Zone<P>) -> Option<Pfn> {
        let frame = self.value.load(Ordering::Acquire) & FRAME;
        (frame != 0).then(|| zone.pfn(frame - 1))
    }

    /// Sleeps until the claim on this slot has ended; returns at once when there is none. May wake early.
    #[cold]
    pub fn wait(&self) {
        let seen = self.value.load(Ordering::Acquire);
        if seen & CLAIMED == 0 {
            return;
        }
        let waiting = seen | WAITERS;
        if seen & WAITERS == 0
            && self.value.compare_exchange(seen, waiting, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        // The claim's end swaps the whole value, so a sleeper either sees that or is seen by it.
        P::wait(self.key(), &|| self.value.load(Ordering::Acquire) == waiting);
    }

    /// Puts a frozen folio into an empty slot, claimed: from now on others find it, and wait.
    /// `Err` gives the folio back: the slot is not empty.
    pub fn install(&self, folio: FrozenFolio<P>) -> Result<FrozenClaim<'_, P>, FrozenFolio<P>> {
        let value = (folio.index() + 1) | CLAIMED;
        // Release: pairs with Acquire in get.
        match self.value.compare_exchange(0, value, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(FrozenClaim { slot: self, folio: ManuallyDrop::new(folio) }),
            Err(_) => Err(folio),
        }
    }

    /// Takes the claim. `None`: the slot is empty, or somebody else has it.
    pub fn claim(&self, zone: &'static Zone<P>) -> Option<Claim<'_, P>> {
        let seen = self.value.load(Ordering::Relaxed);
        if seen & FRAME == 0 || seen & CLAIMED != 0 {
            return None;
        }
        // Acquire: pairs with Release in end, so that the last claim's work is seen.
        self.value.compare_exchange(seen, seen | CLAIMED, Ordering::Acquire, Ordering::Relaxed).ok().map(|seen| Claim {
            slot: self,
            zone,
            index: (seen & FRAME) - 1,
        })
    }

    /// Ends a claim: the slot gets its new value, and whoever slept on it is woken.
    fn end(&self, value: u32) {
        let key = self.key();
        // Release: pairs with Acquire in claim, get and wait. After this the slot is not touched any more.
        if self.value.swap(value, Ordering::AcqRel) & WAITERS != 0 {
            P::wake_all(key);
        }
    }

    fn key(&self) -> usize {
        (&raw const self.value).addr()
    }
}

impl<P: Platform> Default for Slot<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> fmt::Debug for Slot<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.load(Ordering::Relaxed);
        if value & FRAME == 0 {
            return f.write_str("empty slot");
        }
        write!(f, "slot of frame {}", (value & FRAME) - 1)?;
        f.write_str(if value & CLAIMED != 0 { ", claimed" } else { "" })?;
        f.write_str(if value & WAITERS != 0 { ", waited for" } else { "" })
    }
}

/// The right to use a slot's reference. Dropping it leaves the slot as it was.
#[must_use = "dropping a claim releases it at once"]
pub struct Claim<'s, P: Platform> {
    slot: &'s Slot<P>,
    zone: &'static Zone<P>,
    /// **Invariant:** the slot holds this frame and its reference until the claim ends.
    index: u32,
}

impl<'s, P: Platform> Claim<'s, P> {
    /// The folio in the slot.
    pub fn pfn(&self) -> Pfn {
        self.zone.pfn(self.index)
    }

    /// The zone of the folio.
    pub fn zone(&self) -> &'static Zone<P> {
        self.zone
    }

    /// Freezes the folio if the slot's reference is the only one. `Err` gives the claim back: it is busy.
    pub fn freeze(self) -> Result<FrozenClaim<'s, P>, Self> {
        // The one expected reference is the slot's, which is ours to use while the claim lasts.
        match self.zone.descriptor(self.index).word.freeze(1) {
            Ok(token) => {
                token.leave_frozen();
                let folio = FrozenFolio::from_index(self.zone, self.index);
                let slot = self.slot;
                mem::forget(self);
                Ok(FrozenClaim { slot, folio: ManuallyDrop::new(folio) })
            }
            Err(_) => Err(self),
        }
    }

    /// Empties the slot. Its reference is the caller's now: whoever else holds the folio keeps it.
    pub fn remove(self) -> FolioRef<P> {
        let folio = FolioRef::from_index(self.zone, self.index);
        self.slot.end(0);
        mem::forget(self);
        folio
    }
}

impl<P: Platform> Drop for Claim<'_, P> {
    fn drop(&mut self) {
        self.slot.end(self.index + 1);
    }
}

impl<P: Platform> fmt::Debug for Claim<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim on {:?}", self.slot)
    }
}

/// A claim whose folio is frozen: it may be filled, moved or taken away. Dropping it empties the slot and
/// frees the folio, so that a fill that fails or panics leaves nothing behind.
#[must_use = "dropping it empties the slot: publish, replace or remove it"]
pub struct FrozenClaim<'s, P: Platform> {
    slot: &'s Slot<P>,
    folio: ManuallyDrop<FrozenFolio<P>>,
}

impl<P: Platform> FrozenClaim<'_, P> {
    /// The folio.
    pub fn folio(&self) -> &FrozenFolio<P> {
        &self.folio
    }

    /// The folio, to write.
    pub fn folio_mut(&mut self) -> &mut FrozenFolio<P> {
        &mut self.folio
    }

    /// Opens the folio to everybody; the slot has its one reference.
    pub fn publish(self) {
        let (slot, folio) = self.into_parts();
        let index = folio.unfreeze(1);
        slot.end(index + 1);
    }

    /// Opens the folio to everybody; the slot has one reference, the caller another.
    pub fn publish_and_get(self, zone: &'static Zone<P>) -> FolioRef<P> {
        let (slot, folio) = self.into_parts();
        let index = folio.unfreeze(2);
        slot.end(index + 1);
        FolioRef::from_index(zone, index)
    }

    /// Puts `new` in the place of the folio and opens it; the old one stays frozen and is the caller's.
    pub fn replace(self, new: FrozenFolio<P>) -> FrozenFolio<P> {
        let (slot, old) = self.into_parts();
        let index = new.unfreeze(1);
        slot.end(index + 1);
        old
    }

    /// Empties the slot; the folio stays frozen and is the caller's.
    pub fn remove(self) -> FrozenFolio<P> {
        let (slot, folio) = self.into_parts();
        slot.end(0);
        folio
    }
}

impl<'s, P: Platform> FrozenClaim<'s, P> {
    fn into_parts(self) -> (&'s Slot<P>, FrozenFolio<P>) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again.
        (this.slot, unsafe { ManuallyDrop::take(&mut this.folio) })
    }
}

impl<P: Platform> Drop for FrozenClaim<'_, P> {
    fn drop(&mut self) {
        self.slot.end(0);
        // SAFETY: dropped once, and not used after.
        unsafe { ManuallyDrop::take(&mut self.folio) }.free();
    }
}

impl<P: Platform> fmt::Debug for FrozenClaim<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim on {:?}, frozen", self.slot)
    }
}
