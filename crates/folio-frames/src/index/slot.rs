//! A slot: an index entry that holds a folio and is read without a lock.
//!
//! ```text
//!   63      62       61 .............. 30      29 .. 26      25 ......... 0
//! locked  waiters    frame number, or 0         order           version
//! ```
//!
//! Frame numbers are unique among all zones (`numbers.rs`). A call with another zone than the
//! folio's is refused by a panic.
//!
//! The order is 0 unless the folio is a multi-slot folio: each of its frames has a slot of its own
//! (`subpages.rs`). Then the frame is that of the slot, and the folio begins at the frame number
//! rounded down to the order.
//!
//! A slot owns one reference to its folio. The page lock gives the right to use that reference: to
//! freeze, move or remove the folio. It is one bit, and has one holder. Readers ignore it: a locked
//! folio that is not (yet) frozen is still read. So the page lock of a frozen folio in an index is
//! always held, and a thread that finds the folio frozen sleeps until the page lock is released.
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | empty, not closed, not absent | [`Slot::install`] a frozen folio | locked, frozen: being filled |
//! | live | [`Slot::try_lock`] | locked |
//! | locked | [`LockedSlot::freeze`], if only the slot's reference exists | locked, frozen |
//! | locked | drop | live |
//! | locked | [`LockedSlot::remove`] | empty; its reference goes to the caller |
//! | locked | [`LockedSlot::replace`] | live, with another folio; the reference to the old one goes to the caller |
//! | locked, frozen | [`FrozenSlot::publish`] | live |
//! | locked, frozen, and its neighbours | [`FrozenSlot::publish_as_one`] | live, all with one folio |
//! | locked, and all others of its folio | [`LockedSlot::split`], if only the slots' references exist | live, each with a folio of its own |
//! | locked, frozen | [`FrozenSlot::replace`] | live, with another folio; the exclusive handle of the old one goes to the caller |
//! | locked, frozen | [`FrozenSlot::remove`], drop | empty |
//! | locked, if only the slot's reference exists | [`LockedSlot::make_absent`] | absent (`absent.rs`) |
//! | locked, frozen | [`FrozenSlot::suspend`], [`Slot::resume`] | the same; meanwhile the exclusive handle alone stands for the page lock |
//!
//! The version counts the releases of the page lock, except the one under which nothing can have
//! happened: a [`LockedSlot`] that was never frozen is dropped. So a slot that is unlocked, and
//! later has the same value in all bits, held one folio with one content all the time between
//! (until 2^26 releases later). An empty slot keeps its version.

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering;

use folio_ref::Refused;

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::prefetch::prefetch;
use crate::base::seeded_bugs::{no_recheck, same_version};
use crate::base::sync::AtomicU64;
use crate::base::trace::Event;
use crate::index::entry::{Entry, FIRST_VERSION, next};
use crate::index::lock::{FrozenSlot, LockedSlot};
use crate::zone::folio::{FolioRef, FrozenFolio};
use crate::zone::track::Site;
use crate::zone::zone::Zone;

/// An index entry: holds one folio with one reference to it, or is empty.
///
/// Readers look a folio up by [`get`](Self::get) or copy its bytes by [`read`](Self::read), and
/// never lock. A change needs the page lock ([`try_lock`](Self::try_lock)). Zeroed memory is a
/// *closed* slot, which is empty and takes no folio
#[cfg_attr(feature = "std", doc = "(see [`SlotRange`](crate::SlotRange)).")]
#[cfg_attr(not(feature = "std"), doc = ".")]
///
/// ```
/// use folio_frames::{Arena, Lookup, Order, Slot, UserSpace};
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let slot = Slot::new();
///
/// // Fill a frame under the page lock, then publish it.
/// let mut filling = slot.install(zone.alloc_frozen(Order::ZERO)?).unwrap();
/// filling.folio_mut().as_mut_slice().fill(7);
/// filling.publish();
///
/// let Lookup::Hit(folio) = slot.get(zone) else { panic!("the folio was published") };
/// assert_eq!(folio.as_slice()[0], 7);
///
/// // The reference keeps the folio after it has left the slot.
/// drop(slot.try_lock(zone).unwrap().remove());
/// assert!(slot.is_empty());
/// assert_eq!(folio.as_slice()[0], 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[repr(transparent)]
pub struct Slot<P: Platform> {
    pub(super) value: AtomicU64,
    platform: PhantomData<fn() -> P>,
}

/// The result of [`Slot::get`]. Exhaustive: a caller must handle each case.
pub enum Lookup<P: Platform> {
    /// The folio, with a reference.
    Hit(FolioRef<P>),
    /// The slot is empty.
    Empty,
    /// The folio is being filled, moved or removed: call [`Slot::wait`], then look it up again.
    InProgress,
    /// The folio left this slot before the reference was taken (R8): look it up again.
    Moved,
    /// The folio's count is saturated: no reference to it can be taken any more.
    Saturated,
}

impl<P: Platform> Slot<P> {
    /// Returns an empty slot.
    pub const fn new() -> Self {
        Self { value: AtomicU64::new(FIRST_VERSION as u64), platform: PhantomData }
    }

    /// Loads the entry. Each caller chooses the ordering and names its partner.
    #[inline(always)]
    #[cfg_attr(shuttle, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> Entry {
        Entry(self.value.load(order))
    }

    /// Looks the folio up: load, `try_get`, load again. Never blocks. A caller that gets
    /// [`Lookup::Empty`] sees all that was done under the page lock that emptied the slot.
    ///
    /// # Panics
    ///
    /// Panics if the folio is not of `zone`.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get(&self, zone: &'static Zone<P>) -> Lookup<P> {
        // Acquire: pairs with Release in unlock, for a caller that finds the slot empty. A hit has
        // its edge from try_get.
        let seen = self.load(Ordering::Acquire);
        self.get_seen(zone, seen)
    }

    /// Looks up the folio of an entry that was just loaded.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(super) fn get_seen(&self, zone: &'static Zone<P>, seen: Entry) -> Lookup<P> {
        let Some(index) = seen.frame(zone) else {
            seen.assert_empty(zone);
            return Lookup::Empty;
        };
        // No branch: a function of its own for subpages would return its result, and with it
        // that of every lookup, through memory.
        self.get_at(zone, seen, seen.head(index), index)
    }

    /// Looks up a folio that has no other slot, and returns a reference. `None`: the folio is a
    /// multi-slot folio or not of `zone`, or there is no hit. Then [`get`](Self::get) decides.
    ///
    /// Frame and head are one register here, and nothing is computed before the count is changed.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get_alone(&self, zone: &'static Zone<P>) -> Option<FolioRef<P>> {
        // Relaxed: a hit has its edge from try_get, and otherwise get decides.
        let seen = self.load(Ordering::Relaxed);
        let index = seen.frame(zone).filter(|_| !seen.is_subpage())?;
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
                // R8. The load cannot move before try_get, which is an Acquire. If the folio was
                // freed and reused before, the slot changed before the init of the new life, which
                // try_get has seen.
                let again = self.load(Ordering::Relaxed);
                let is_same = again.is_same_folio(seen) || no_recheck();
                if is_same && !(again.is_locked() && zone.descriptor(head).is_volatile()) {
                    P::trace(Event::Got, || folio.pfn());
                    seen.check(&folio);
                    return Lookup::Hit(folio);
                }
                P::trace(Event::Moved, || folio.pfn());
                // With bytes that may change, the folio has no reference from this slot: the
                // exclusive handle that stands for the page lock was opened without it. While the
                // slot is unlocked, its own reference is to a folio with bytes that do not change.
                if is_same { Lookup::InProgress } else { Lookup::Moved }
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
            // Relaxed: nothing follows from it. In both cases the caller looks the folio up again.
            Refused::Frozen if self.load(Ordering::Relaxed).is_same_folio(seen) => {
                Lookup::InProgress
            }
            Refused::Frozen => Lookup::Moved,
        }
    }

    /// Requests the cache line of the slot: a caller that will look at several slots waits for them
    /// together. A hint, which does nothing but on x86-64 with SSE.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch(self);
    }

    /// Returns `true` if the slot is empty. Racy.
    pub fn is_empty(&self) -> bool {
        // Acquire: pairs with Release in unlock. A caller that sees the slot emptied sees all that
        // was done under its page lock.
        self.load(Ordering::Acquire).is_empty()
    }

    /// Returns `true` if the slot is closed: it is empty, and takes no folio. Racy.
    pub fn is_closed(&self) -> bool {
        // Relaxed: nothing follows from it. What is done with the slot decides by its own load.
        self.load(Ordering::Relaxed).is_closed()
    }

    /// Returns the slot's frame. `None`: the slot is empty, or its folio is not of `zone`. Racy: no
    /// reference is taken.
    pub fn pfn(&self, zone: &Zone<P>) -> Option<Pfn> {
        // Relaxed: a caller that needs more takes a reference or the page lock. After a try_get it
        // sees each slot that left the folio before: its put is part of what try_get acquires.
        self.load(Ordering::Relaxed).frame(zone).map(|index| zone.pfn(index))
    }

    /// Returns the number of slots, from the first on, that have the frames of a pinned folio from
    /// the `n`-th on behind the one that it was looked up by. Those frames have the bytes of these
    /// slots, and keep them.
    ///
    /// # Panics
    ///
    /// Panics if the folio has fewer frames behind that one.
    #[inline]
    pub fn count_following(slots: &[Self], folio: &FolioRef<P>, n: u32) -> usize {
        let end = (slots.len() as u64).saturating_add(n.into());
        assert!(
            end <= u64::from(folio.frames_behind()) + 1,
            "{} slots from the {n}-th frame on are more than the frames behind that of {folio:?}",
            slots.len()
        );
        let first = folio.zone().number(folio.at()) + n;
        // Relaxed: as in pfn.
        let differs = |(number, slot): (u32, &Self)| slot.load(Ordering::Relaxed).number() ^ number;
        let mut numbered = (first..).zip(slots);
        // No branch in the loop: mostly all slots do.
        if numbered.clone().fold(0, |seen, slot| seen | differs(slot)) == 0 {
            return slots.len();
        }
        numbered.position(|slot| differs(slot) != 0).unwrap_or(slots.len())
    }

    /// Sleeps until the page lock is released. Returns at once if it is not held. May wake early.
    #[cold]
    pub fn wait(&self) {
        // Relaxed: the caller looks again, also if it need not sleep.
        let seen = self.load(Ordering::Relaxed);
        if !seen.is_locked() {
            return;
        }
        let waiting = seen.with_waiters();
        // Relaxed: it publishes nothing, and the sleeper loads the slot again.
        if !seen.has_waiters()
            && self
                .value
                .compare_exchange(seen.0, waiting.0, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        // unlock swaps the whole value, then visits the sleepers: it finds this one, or this one
        // finds the new value. Relaxed: the platform orders the visit and this load.
        P::wait(self.key(), &|| self.load(Ordering::Relaxed) == waiting);
    }

    /// Spins for about as long as the copy of a page takes. Returns `true` as soon as the page lock
    /// is released, `false` if it is still held. Sleeping and being woken costs many times that.
    #[cold]
    pub fn ends_soon(&self) -> bool {
        // The pauses get longer, and leave the cache line to the lock holder.
        let mut loads = if cfg!(any(loom, shuttle)) { 0..0 } else { 0..7 };
        loads.any(|load| {
            (0..1 << load).for_each(|_| core::hint::spin_loop());
            // Relaxed: the caller's next try_lock is an Acquire.
            !self.load(Ordering::Relaxed).is_locked()
        })
    }

    /// Puts a frozen folio into an empty slot and takes the page lock. From now on readers find the
    /// folio, and wait.
    ///
    /// # Errors
    ///
    /// Returns the folio if the slot is not empty, or is closed or absent, or changes at the same
    /// time.
    pub fn install(&self, folio: FrozenFolio<P>) -> Result<FrozenSlot<'_, P>, FrozenFolio<P>> {
        self.put_locked(folio, Entry::takes_folio)
    }

    /// Puts a frozen folio into the slot and takes the page lock, if what the slot holds `fits`.
    /// Returns the folio if not, or if the slot changes at the same time.
    pub(crate) fn put_locked(
        &self,
        folio: FrozenFolio<P>,
        fits: impl FnOnce(Entry) -> bool,
    ) -> Result<FrozenSlot<'_, P>, FrozenFolio<P>> {
        // Relaxed: the compare-and-swap decides.
        let seen = self.load(Ordering::Relaxed);
        let number = folio.zone().number(folio.index());
        let locked = Entry::new(Some(number), Order::ZERO, seen.version()).with_lock();
        // Acquire: pairs with Release in unlock and make_absent, so that all that was done under
        // the last page lock is seen. Not Release: the folio is frozen, and unlock publishes it.
        if fits(seen)
            && self
                .value
                .compare_exchange(seen.0, locked.0, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        {
            return Ok(FrozenSlot::new(self, folio));
        }
        Err(folio)
    }

    /// Resumes a page lock that [`FrozenSlot::suspend`] suspended.
    ///
    /// # Errors
    ///
    /// Returns the folio if its page lock is on another slot, or on none.
    pub fn resume(&self, folio: FrozenFolio<P>) -> Result<FrozenSlot<'_, P>, FrozenFolio<P>> {
        // Relaxed: what happened under the page lock came with the exclusive handle. The page lock
        // of a locked slot with this frame belongs to the handle: any other lock holder would have
        // the handle, or find the frame live.
        let seen = self.load(Ordering::Relaxed);
        if seen.is_locked() && seen.number() == folio.zone().number(folio.index()) {
            return Ok(FrozenSlot::new(self, folio));
        }
        Err(folio)
    }

    /// Takes the page lock. `None`: the slot is empty, or the page lock is held.
    ///
    /// # Panics
    ///
    /// Panics if the folio is not of `zone`.
    pub fn try_lock(&self, zone: &'static Zone<P>) -> Option<LockedSlot<'_, P>> {
        // Relaxed: the compare-and-swap decides.
        let seen = self.load(Ordering::Relaxed);
        if seen.frame(zone).is_none() {
            seen.assert_empty(zone);
        }
        self.try_lock_seen(zone, seen)
    }

    /// Takes the page lock if the slot holds a folio of `zone`. `None`: it does not, or the page
    /// lock is held.
    pub(crate) fn try_lock_in(&self, zone: &'static Zone<P>) -> Option<LockedSlot<'_, P>> {
        // Relaxed: the compare-and-swap decides.
        self.try_lock_seen(zone, self.load(Ordering::Relaxed))
    }

    /// Takes the page lock if the slot still holds the entry that was just loaded.
    pub(super) fn try_lock_seen(
        &self,
        zone: &'static Zone<P>,
        seen: Entry,
    ) -> Option<LockedSlot<'_, P>> {
        let index = seen.frame(zone)?;
        if seen.is_locked() {
            return None;
        }
        // Acquire: pairs with Release in unlock, so that all that was done under the last page lock
        // is seen.
        let taken = self.value.compare_exchange(
            seen.0,
            seen.with_lock().0,
            Ordering::Acquire,
            Ordering::Relaxed,
        );
        taken.ok().map(|_| {
            LockedSlot::new(self, FolioRef::from_parts(zone, seen.head(index), index, Site::NONE))
        })
    }

    /// Releases a page lock under which the folio may have changed: advances the version, and wakes
    /// the sleepers. From now on the slot holds the frame with this number, or is empty.
    pub(super) fn unlock(&self, number: Option<u32>) {
        self.unlock_subpage(number, Order::ZERO);
    }

    /// Releases the page lock as [`unlock`](Self::unlock) does. The frame is a subpage of a
    /// multi-slot folio of this order.
    pub(super) fn unlock_subpage(&self, number: Option<u32>, order: Order) {
        // Relaxed: only the holder of the page lock changes frame, order or version.
        let version = self.load(Ordering::Relaxed).version();
        let next = if same_version() { version } else { next(version) };
        self.swap(Entry::new(number, order, next));
    }

    /// Releases a page lock under which nothing happened.
    pub(super) fn unlock_unchanged(&self) {
        // Relaxed: as in unlock_subpage.
        let seen = self.load(Ordering::Relaxed);
        self.swap(Entry::new(Some(seen.number()), seen.order(), seen.version()));
    }

    #[inline]
    fn swap(&self, entry: Entry) {
        let key = self.key();
        // Release: pairs with Acquire in try_lock, install, read, get and is_empty. After this the
        // slot is not accessed any more.
        if Entry(self.value.swap(entry.0, Ordering::Release)).has_waiters() {
            wake::<P>(key);
        }
    }

    fn key(&self) -> usize {
        (&raw const self.value).addr()
    }
}

/// Wakes the sleepers of a slot. A function of its own, so that an unlock without any saves no
/// registers.
#[cold]
#[inline(never)]
fn wake<P: Platform>(key: usize) {
    P::wake_all(key);
}

impl<P: Platform> Default for Slot<P> {
    fn default() -> Self {
        Self::new()
    }
}

// Derived, it would ask the platform to be `Debug`.
impl<P: Platform> fmt::Debug for Lookup<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hit(folio) => f.debug_tuple("Hit").field(folio).finish(),
            Self::Empty => f.write_str("Empty"),
            Self::InProgress => f.write_str("InProgress"),
            Self::Moved => f.write_str("Moved"),
            Self::Saturated => f.write_str("Saturated"),
        }
    }
}

impl<P: Platform> fmt::Debug for Slot<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: for display.
        let entry = self.load(Ordering::Relaxed);
        if entry.is_empty() {
            return f.write_str(if entry.is_absent() { "absent slot" } else { "empty slot" });
        }
        write!(f, "slot of frame number {}", entry.number())?;
        f.write_str(if entry.is_locked() { ", locked" } else { "" })?;
        f.write_str(if entry.has_waiters() { ", waited for" } else { "" })
    }
}

#[cfg(test)]
mod tests;
