//! A slot: where a lockless index holds a folio.
//!
//! ```text
//!   63       62       61 .............. 30      29 .. 26      25 ......... 0
//! claimed  waiters    frame's number, or 0       order           version
//! ```
//!
//! The number is the frame's among those of all zones (`numbers.rs`): who says another zone than
//! the folio's is refused, by a panic.
//!
//! The order is 0 but where each frame of a larger folio has a slot of its own (`parts.rs`): then
//! the frame is the slot's, and the folio begins at the frame's number rounded down to the order.
//!
//! A slot owns one reference of its folio. Who may use that reference, to freeze, move or remove
//! the folio, is decided by the claim: one bit, one holder. Readers ignore it: a claimed folio that
//! is not (yet) frozen is still read. So in an index a frozen folio always has a claim beside it,
//! and whoever meets one sleeps until that claim ends.
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | empty | [`Slot::install`] a frozen folio | claimed, frozen: being filled |
//! | held | [`Slot::try_lock`] | claimed |
//! | claimed | [`LockedSlot::freeze`], if only the slot's reference exists | claimed, frozen |
//! | claimed | drop | held |
//! | claimed | [`LockedSlot::remove`] | empty; its reference goes to the caller |
//! | claimed | [`LockedSlot::replace`] | held, by another folio; the reference of the old one goes to the caller |
//! | claimed, frozen | [`FrozenSlot::publish`] | held |
//! | claimed, frozen, and its neighbours | [`FrozenSlot::publish_as_one`] | held, all by one folio |
//! | claimed, and all others of its folio | [`LockedSlot::split`], if only the slots' references exist | held, each by a folio of its own |
//! | claimed, frozen | [`FrozenSlot::replace`] | held, by another folio; the old token goes to the caller |
//! | claimed, frozen | [`FrozenSlot::remove`], drop | empty |
//! | claimed, frozen | [`FrozenSlot::suspend`], [`Slot::resume`] | the same, held by the token alone meanwhile |
//!
//! The version counts the ends of claims, but for the one end under which nothing can have
//! happened: a [`LockedSlot`] that was never frozen and is dropped. So a slot that is not claimed, and
//! later is the same in all its bits, held one folio with one content all the time between (until
//! 2^26 ends later). An empty slot keeps its version.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use folio_ref::{CHECKS, Refused};

use crate::base::ids::{BLOCK_ORDER, Order, Pfn};
use crate::base::platform::Platform;
use crate::base::seeded_bugs::{NO_RECHECK, SAME_VERSION};
use crate::base::sync::AtomicU64;
use crate::base::trace::Event;
use crate::index::lock::{FrozenSlot, LockedSlot};
use crate::memmap::numbers::Number;
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::track::Site;
use crate::zone::zone::Zone;

const LOCKED: u64 = 1 << 63;
const WAITERS: u64 = 1 << 62;
const VERSION: u64 = (1 << 26) - 1;
const ORDER_AT: u32 = 26;
const ORDER: u64 = 15 << ORDER_AT;
const FRAME_AT: u32 = 30;
const FRAME: u64 = (u32::MAX as u64) << FRAME_AT;

const _: () = assert!(LOCKED ^ WAITERS ^ FRAME ^ ORDER ^ VERSION == u64::MAX);
const _: () = assert!(BLOCK_ORDER.as_u8() < 16);

/// What a slot holds, at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u64);

impl Entry {
    /// An entry that is empty, or holds a frame, by its number.
    fn new(number: Option<u32>, order: Order, version: u32) -> Self {
        let number = u64::from(number.unwrap_or(0)) << FRAME_AT;
        Self(number | u64::from(order.as_u8()) << ORDER_AT | u64::from(version) & VERSION)
    }

    /// 0: it is empty.
    #[inline(always)]
    fn number(self) -> u32 {
        // The bits above fall away.
        (self.0 >> FRAME_AT) as u32
    }

    fn is_empty(self) -> bool {
        self.number() == 0
    }

    /// The frame. `None`: it is empty, or the folio is of another zone.
    #[inline(always)]
    fn frame<P: Platform>(self, zone: &Zone<P>) -> Option<u32> {
        zone.numbers.index((self.0 & FRAME) >> FRAME_AT)
    }

    /// The frame's number, unless somebody has the claim. In one comparison: both bits above lie
    /// where no frame number reaches, and the one for waiters is never set alone. `None`: it is
    /// empty, claimed, or of another zone.
    #[inline(always)]
    pub(crate) fn number_unclaimed<P: Platform>(self, zone: &Zone<P>) -> Option<Number> {
        zone.numbers.check(self.0 >> FRAME_AT)
    }

    /// Of an entry without a frame of this zone: it is empty, then, or somebody is mistaken.
    #[inline(always)]
    fn assert_empty<P: Platform>(self, zone: &Zone<P>) {
        if !self.is_empty() {
            self.is_of_another(zone);
        }
    }

    #[cold]
    #[inline(never)]
    fn is_of_another<P: Platform>(self, zone: &Zone<P>) -> ! {
        panic!(
            "a slot that holds frame number {} was asked for a frame of {:?}, another zone",
            self.number(),
            zone.pfns()
        )
    }

    /// 0, or the order of the folio whose frames have a slot each.
    pub(crate) fn order(self) -> Order {
        Order::new(((self.0 & ORDER) >> ORDER_AT) as u8).unwrap_or(Order::ZERO)
    }

    /// Whether other frames of the folio have slots too.
    #[inline(always)]
    fn is_part(self) -> bool {
        self.0 & ORDER != 0
    }

    /// Where the folio begins that has this frame.
    #[inline(always)]
    fn head(self, frame: u32) -> u32 {
        frame & u32::MAX << ((self.0 & ORDER) >> ORDER_AT)
    }

    /// Returns `true` if nothing but the claim changed between the two entries: the slot held the
    /// same folio, by the same frame, all the time between.
    ///
    /// The version counts as well. A slot that was emptied, and filled again with a frame of the
    /// same number, may hold another zone's (`retire.rs`).
    #[inline(always)]
    fn is_same_folio(self, other: Self) -> bool {
        (self.0 ^ other.0) & !(LOCKED | WAITERS) == 0
    }

    /// What a slot's look and second look gave is the folio that the slot's frame belongs to. Its
    /// head's own slot may say the order a moment longer.
    #[inline(always)]
    fn check<P: Platform>(self, folio: &FolioRef<P>) {
        assert!(
            !CHECKS || folio.index() == folio.at() || folio.order() == self.order(),
            "a slot of {:?} let somebody into {folio:?} (R8)",
            self.order()
        );
    }

    fn version(self) -> u32 {
        (self.0 & VERSION) as u32
    }

    fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    fn locked(self) -> Self {
        Self(self.0 | LOCKED)
    }

    fn waited_for(self) -> Self {
        Self(self.0 | WAITERS)
    }
}

/// An index entry. Zeroed memory is an empty slot.
#[repr(transparent)]
pub struct Slot<P: Platform> {
    value: AtomicU64,
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
        Self { value: AtomicU64::new(0), platform: PhantomData }
    }

    /// The orderings are the callers', who name the partner.
    #[inline(always)]
    pub(crate) fn load(&self, order: Ordering) -> Entry {
        Entry(self.value.load(order))
    }

    /// Looks the folio up: load, `try_get`, load again.
    ///
    /// # Panics
    ///
    /// When the folio is of another zone.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get(&self, zone: &'static Zone<P>) -> Lookup<P> {
        // Acquire: pairs with Release in install and end.
        let seen = self.load(Ordering::Acquire);
        let Some(index) = seen.frame(zone) else {
            seen.assert_empty(zone);
            return Lookup::Empty;
        };
        // No branch: a function of its own for parts would bring back its answer, and with it
        // everybody's, through memory.
        self.get_at(zone, seen, seen.head(index), index)
    }

    /// As [`get`](Self::get), where no other frame of the folio has a slot. `None`: one has, there
    /// is no hit, or it is of another zone. Frame and head are one register here, and nothing
    /// is computed before the count is asked for.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get_alone(&self, zone: &'static Zone<P>) -> Option<FolioRef<P>> {
        // Acquire: as in get.
        let seen = self.load(Ordering::Acquire);
        let index = seen.frame(zone).filter(|_| !seen.is_part())?;
        match self.get_at(zone, seen, index, index) {
            Lookup::Hit(folio) => Some(folio),
            _ => None,
        }
    }

    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    fn get_at(&self, zone: &'static Zone<P>, seen: Entry, head: u32, index: u32) -> Lookup<P> {
        match zone.descriptor(head).word.try_get(1) {
            Ok(()) => {
                let folio = FolioRef::from_frame(zone, head, index);
                // R8. The load can not move before try_get, which is an Acquire; if the folio had
                // been freed and reused before, the slot's change came before its
                // init, which try_get has seen.
                if self.load(Ordering::Relaxed).is_same_folio(seen) || NO_RECHECK {
                    P::trace(Event::Got, || folio.pfn());
                    seen.check(&folio);
                    Lookup::Hit(folio)
                } else {
                    P::trace(Event::Moved, || folio.pfn());
                    Lookup::Moved
                }
            }
            Err(refused) => {
                P::trace(Event::Refused, || zone.pfn(head));
                self.refused(seen, refused)
            }
        }
    }

    #[cold]
    fn refused(&self, seen: Entry, refused: Refused) -> Lookup<P> {
        match refused {
            Refused::Saturated => Lookup::Saturated,
            // Acquire: as in get.
            Refused::Frozen if self.load(Ordering::Acquire).is_same_folio(seen) => {
                Lookup::InProgress
            }
            Refused::Frozen => Lookup::Moved,
        }
    }

    /// Whether nothing is here. Racy.
    pub fn is_empty(&self) -> bool {
        // Acquire: who sees the slot emptied sees what its claim did before.
        self.load(Ordering::Acquire).is_empty()
    }

    /// The folio's frame here. Racy: no reference is taken. `None`: nothing is here, or of another
    /// zone.
    pub fn pfn(&self, zone: &Zone<P>) -> Option<Pfn> {
        // Acquire: as in get.
        self.load(Ordering::Acquire).frame(zone).map(|index| zone.pfn(index))
    }

    /// Sleeps until the claim on this slot has ended; returns at once when there is none. May wake
    /// early.
    #[cold]
    pub fn wait(&self) {
        // Acquire: pairs with Release in end; what the claim did is seen by who does not need to
        // sleep.
        let seen = self.load(Ordering::Acquire);
        if !seen.is_locked() {
            return;
        }
        let waiting = seen.waited_for();
        // Relaxed: it publishes nothing; the sleeper looks again.
        if !seen.has_waiters()
            && self
                .value
                .compare_exchange(seen.0, waiting.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        // The claim's end swaps the whole value, so a sleeper either sees that or is seen by it.
        P::wait(self.key(), &|| self.load(Ordering::Acquire) == waiting);
    }

    /// Looks for about as long as a page is copied whether the claim has ended: to sleep and be
    /// woken costs many times that.
    #[cold]
    pub fn ends_soon(&self) -> bool {
        // Longer from look to look: the line is left to who has the claim.
        let mut looks = if cfg!(any(loom, shuttle)) { 0..0 } else { 0..7 };
        looks.any(|look| {
            (0..1 << look).for_each(|_| core::hint::spin_loop());
            // Relaxed: who claims next looks with Acquire.
            !self.load(Ordering::Relaxed).is_locked()
        })
    }

    /// Puts a frozen folio into an empty slot, claimed: from now on others find it, and wait.
    /// `Err` gives the folio back: the slot is not empty, or was not a moment ago.
    pub fn install(&self, folio: FrozenFolio<P>) -> Result<FrozenSlot<'_, P>, FrozenFolio<P>> {
        // Relaxed: the compare-and-swap decides.
        let seen = self.load(Ordering::Relaxed);
        let number = folio.zone().number(folio.index());
        let locked = Entry::new(Some(number), Order::ZERO, seen.version()).locked();
        // Release: pairs with Acquire in get. Acquire: pairs with Release in end, so that what the
        // last claim did is seen.
        if seen.is_empty()
            && self
                .value
                .compare_exchange(seen.0, locked.0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            return Ok(FrozenSlot::new(self, folio));
        }
        Err(folio)
    }

    /// Takes up a claim that was suspended. `Err` gives the folio back: its claim is on no slot, or
    /// on another.
    pub fn resume(&self, folio: FrozenFolio<P>) -> Result<FrozenSlot<'_, P>, FrozenFolio<P>> {
        // Relaxed: what happened under the claim came with the token. A claimed slot with this
        // frame is claimed by the token: whoever else had a claim on it would have the
        // token, or find the frame live.
        let seen = self.load(Ordering::Relaxed);
        if seen.is_locked() && seen.number() == folio.zone().number(folio.index()) {
            return Ok(FrozenSlot::new(self, folio));
        }
        Err(folio)
    }

    /// Takes the claim. `None`: the slot is empty, or somebody else has it.
    ///
    /// # Panics
    ///
    /// When the folio is of another zone.
    pub fn try_lock(&self, zone: &'static Zone<P>) -> Option<LockedSlot<'_, P>> {
        // Acquire: pairs with Release in end. If the number is another zone's by now, that its old
        // numbers ended is seen as well. Else the compare-and-swap decides.
        let seen = self.load(Ordering::Acquire);
        let Some(index) = seen.frame(zone) else {
            seen.assert_empty(zone);
            return None;
        };
        if seen.is_locked() {
            return None;
        }
        // Acquire: pairs with Release in end, so that the last claim's work is seen.
        let taken = self.value.compare_exchange(
            seen.0,
            seen.locked().0,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        taken.ok().map(|_| {
            LockedSlot::new(self, FolioRef::from_parts(zone, seen.head(index), index, Site::NONE))
        })
    }

    /// Ends a claim under which something happened: another version, and whoever slept on the slot
    /// is woken. It holds the frame of this number from now on.
    pub(crate) fn end(&self, number: Option<u32>) {
        self.end_as_part(number, Order::ZERO);
    }

    /// As above; the frame is one of a folio of this order, whose frames have a slot each.
    pub(crate) fn end_as_part(&self, number: Option<u32>, order: Order) {
        // Relaxed: nobody but the claim's holder changes frame, order or version.
        let version = self.load(Ordering::Relaxed).version();
        let bump = u32::from(!SAME_VERSION);
        self.swap(Entry::new(number, order, version.wrapping_add(bump)));
    }

    /// Ends a claim under which nothing happened.
    pub(crate) fn end_untouched(&self) {
        // Relaxed: as in end.
        let seen = self.load(Ordering::Relaxed);
        self.swap(Entry::new(Some(seen.number()), seen.order(), seen.version()));
    }

    fn swap(&self, entry: Entry) {
        let key = self.key();
        // Release: pairs with Acquire in claim, get, install and wait. After this the slot is not
        // touched any more.
        if Entry(self.value.swap(entry.0, Ordering::AcqRel)).has_waiters() {
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
        // Relaxed: for people.
        let entry = self.load(Ordering::Relaxed);
        if entry.is_empty() {
            return f.write_str("empty slot");
        }
        write!(f, "slot of frame number {}", entry.number())?;
        f.write_str(if entry.is_locked() { ", locked" } else { "" })?;
        f.write_str(if entry.has_waiters() { ", waited for" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use folio_ref::DefaultScheme;

    use super::*;
    use crate::{Arena, Order, UserSpace};

    type Frames = UserSpace<DefaultScheme>;

    #[test]
    fn every_end_of_a_claim_is_another_version_unless_nothing_happened() {
        let arena = Arena::<Frames>::new(2 << 20, &[]).unwrap();
        let zone = arena.zone();
        let frozen = || zone.alloc_frozen(Order::ZERO).unwrap();
        // One step before the version wraps.
        let slot = Slot::<Frames> { value: AtomicU64::new(VERSION), platform: PhantomData };
        let version = || slot.load(Ordering::Relaxed).version();
        drop(slot.install(frozen()).unwrap());
        assert_eq!((version(), slot.is_empty()), (0, true));
        let locked = slot.install(frozen()).unwrap();
        assert_eq!(version(), 0);
        locked.publish();
        assert_eq!(version(), 1);
        drop(slot.try_lock(zone).unwrap());
        assert_eq!(version(), 1, "nothing happened");
        drop(slot.try_lock(zone).unwrap().replace(frozen()));
        assert_eq!(version(), 2);
        slot.try_lock(zone).unwrap().freeze().unwrap().replace(frozen()).free();
        assert_eq!(version(), 3);
        drop(slot.try_lock(zone).unwrap().freeze().unwrap().publish_and_get(zone));
        assert_eq!(version(), 4);
        drop(slot.try_lock(zone).unwrap().remove());
        assert_eq!((version(), slot.is_empty()), (5, true));
        slot.install(frozen()).unwrap().remove().free();
        assert_eq!(version(), 6);
    }
}
