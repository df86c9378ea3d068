//! Several zones: those of a machine with nodes, or with memory that devices reach. One index has
//! the pages of all.
//!
//! A slot names a frame by a number that no other zone has. So a loaded entry names one zone, which
//! is found without a lock. A folio may move to another zone between two loads of its slot. Zone
//! and folio are therefore those of *one* load, and the check after `try_get` (R8) compares the
//! slot with that load.

use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::base::ids::{BLOCK_ORDER, Pfn};
use crate::base::platform::Platform;
use crate::base::seeded_bugs::zone_of_another_load;
use crate::index::entry::Entry;
use crate::index::lock::LockedSlot;
use crate::index::slot::{Lookup, Slot};
use crate::zone::folio::FolioRef;
use crate::zone::walk::Refusal;
use crate::zone::zone::Zone;

/// A table of at most `N` zones, which grows and never shrinks. Finds the zone of a frame number,
/// or of the folio in a slot, without a lock: it asks one zone after the other.
///
/// ```
/// use folio_frames::{Arena, Lookup, Order, Slot, UserSpace, Zones};
///
/// static ZONES: Zones<UserSpace> = Zones::new();
///
/// let arena = Arena::<UserSpace>::new(4 << 20, &[])?;
/// ZONES.insert(arena.zone())?;
///
/// let slot = Slot::new();
/// slot.install(arena.zone().alloc_frozen(Order::ZERO)?).unwrap().publish();
/// let Lookup::Hit(folio) = ZONES.get(&slot) else { panic!("the folio was published") };
/// assert!(std::ptr::eq(folio.zone(), arena.zone()));
/// assert!(ZONES.of(folio.pfn()).is_some());
/// # drop(ZONES.try_lock(&slot).unwrap().remove());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Zones<P: Platform, const N: usize = 8> {
    /// **Invariant:** null, or a zone that lives forever; a place that has a zone keeps it, and no
    /// place after a null one has any. No two zones have a 2 MiB block in common.
    zones: [AtomicPtr<Zone<P>>; N],
}

/// The reason why a zone was not inserted.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneRefused {
    /// It has frames in a 2 MiB block in which a zone of the table has some, or is in it already.
    Overlaps,
    /// The table is full.
    Full,
}

impl fmt::Display for ZoneRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlaps => "the zone has a block of 2 MiB in common with one in the table",
            Self::Full => "the table of zones is full: give it a larger `N`",
        })
    }
}

impl core::error::Error for ZoneRefused {}

impl<P: Platform, const N: usize> Zones<P, N> {
    /// Makes an empty table.
    pub const fn new() -> Self {
        Self { zones: [const { AtomicPtr::new(ptr::null_mut()) }; N] }
    }

    /// Inserts a zone behind the others. Zones may span each other's holes. The zones of all arenas
    /// have the same frame numbers, so a table takes one of them.
    ///
    /// # Errors
    ///
    /// [`ZoneRefused::Overlaps`] if it has a 2 MiB block in common with a zone of the table,
    /// [`ZoneRefused::Full`] if `N` zones are in it.
    pub fn insert(&self, zone: &'static Zone<P>) -> Result<(), ZoneRefused> {
        for place in &self.zones {
            // Release: pairs with Acquire in get_place, which then sees the zone. Acquire: the zone
            // that was inserted meanwhile is compared.
            let Err(there) = place.compare_exchange(
                ptr::null_mut(),
                ptr::from_ref(zone).cast_mut(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) else {
                return Ok(());
            };
            if to_zone(there).is_some_and(|other| overlaps(zone, other)) {
                return Err(ZoneRefused::Overlaps);
            }
        }
        Err(ZoneRefused::Full)
    }

    /// Returns the zones, in the order in which they were inserted.
    pub fn iter(&self) -> impl Iterator<Item = &'static Zone<P>> {
        // Acquire: pairs with Release in insert.
        self.zones.iter().map_while(|place| to_zone(place.load(Ordering::Acquire)))
    }

    /// Returns the zone that has a frame, or `None` if none has. Holes of the memory map may be in
    /// a zone; a block without any frame is in none.
    pub fn of(&self, pfn: Pfn) -> Option<&'static Zone<P>> {
        self.iter().find(|zone| zone.index(pfn).is_some())
    }

    /// Takes a reference to the folio with this frame as its *head*.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the frame is not the head of an open folio; [`Refusal::Offline`] also if no
    /// zone has it.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get(&self, pfn: Pfn) -> Result<FolioRef<P>, Refusal> {
        self.of(pfn).ok_or(Refusal::Offline)?.try_get(pfn)
    }

    /// Looks the folio in a slot up, of whichever zone it is: load, `try_get`, load again. Never
    /// blocks. A caller that gets [`Lookup::Empty`] sees all that was done under the page lock that
    /// emptied the slot.
    ///
    /// # Panics
    ///
    /// Panics if the folio is of a zone that is not in the table.
    #[inline]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn get(&self, slot: &Slot<P>) -> Lookup<P> {
        // Acquire: pairs with Release in unlock, for a caller that finds the slot empty.
        let seen = slot.load(Ordering::Acquire);
        match self.of_entry(seen) {
            Some(zone) if zone_of_another_load() => slot.get(zone),
            Some(zone) => slot.get_seen(zone, seen),
            None => Lookup::Empty,
        }
    }

    /// Takes the page lock of a slot, of whichever zone its folio is. `None`: the slot is empty, or
    /// the page lock is held.
    ///
    /// # Panics
    ///
    /// Panics if the folio is of a zone that is not in the table.
    pub fn try_lock<'s>(&self, slot: &'s Slot<P>) -> Option<LockedSlot<'s, P>> {
        // Relaxed: the compare-and-swap decides.
        let seen = slot.load(Ordering::Relaxed);
        slot.try_lock_seen(self.of_entry(seen)?, seen)
    }

    /// Returns the zone of the folio in a slot, and the slot's frame. `None`: the slot is empty.
    /// Racy: no reference is taken, and the folio may move to another zone.
    ///
    /// # Panics
    ///
    /// Panics if the folio is of a zone that is not in the table.
    pub fn find(&self, slot: &Slot<P>) -> Option<(&'static Zone<P>, Pfn)> {
        // Relaxed: as in Slot::pfn.
        let seen = slot.load(Ordering::Relaxed);
        let zone = self.of_entry(seen)?;
        seen.frame(zone).map(|index| (zone, zone.pfn(index)))
    }

    /// Returns the zone of an entry's frame, or `None` if the entry is empty.
    fn of_entry(&self, seen: Entry) -> Option<&'static Zone<P>> {
        if seen.is_empty() {
            return None;
        }
        let zone = self.iter().find(|zone| seen.frame(zone).is_some());
        assert!(
            zone.is_some(),
            "a slot holds a frame of a zone that is not in the table: insert it"
        );
        zone
    }
}

fn to_zone<P: Platform>(zone: *mut Zone<P>) -> Option<&'static Zone<P>> {
    // SAFETY: `insert` stores zones that live forever, and its caller has seen the store.
    NonNull::new(zone).map(|zone| unsafe { zone.as_ref() })
}

/// Returns `true` if both zones have metadata for one block.
fn overlaps<P: Platform>(zone: &Zone<P>, other: &Zone<P>) -> bool {
    let (here, there) = (zone.pfns(), other.pfns());
    let start = here.start.as_u64().max(there.start.as_u64());
    let end = here.end.as_u64().min(there.end.as_u64());
    (start..end)
        .step_by(BLOCK_ORDER.frames() as usize)
        .map(Pfn::new)
        .any(|pfn| zone.index(pfn).is_some() && other.index(pfn).is_some())
}

impl<P: Platform, const N: usize> Default for Zones<P, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform, const N: usize> fmt::Debug for Zones<P, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
