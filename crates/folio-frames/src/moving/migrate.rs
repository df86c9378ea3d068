//! Migration: moves the contents of a folio to another frame, and its slot with them.
//!
//! | step | backs out by |
//! | --- | --- |
//! | 1. find the slot that indexes the folio, through its owner | nothing was done |
//! | 2. take the page lock, and check that the slot still holds this folio | releasing the page lock |
//! | 3. allocate the target, frozen | releasing the page lock |
//! | 4. freeze the folio; if it is pinned, it is busy | freeing the target, releasing the page lock |
//! | 5. copy bytes, kind, owner data, the dirty bit and the uses | cannot fail |
//! | 6. replace the folio in the slot by the target, which opens it | |
//! | 7. free the old folio | |

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::index::slot::Slot;
use crate::memmap::memmap::Kind;
use crate::zone::buddy::Reach;
use crate::zone::folio::FrozenFolio;
use crate::zone::refs::FolioRefs;
use crate::zone::zone::Zone;

/// An index of folios, which finds the slot of each. The trait is open: a user of the crate
/// implements it for its own index.
///
/// ```
/// use folio_frames::{Arena, Kind, Order, Owner, Pfn, Slot, UserSpace, migrate};
///
/// /// Slots by number. The owner data of a folio is the number of its slot.
/// struct Index(Vec<Slot<UserSpace>>);
///
/// impl Owner<UserSpace> for Index {
///     fn with_slot(&self, _: Pfn, data: u64, visit: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
///         self.0.get(data as usize).map(visit).is_some()
///     }
/// }
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let index = Index((0..4).map(|_| Slot::new()).collect());
/// let mut folio = zone.alloc_frozen(Order::ZERO)?;
/// folio.set_owner(Kind::owner(0), 3);
/// let from = folio.pfn();
/// index.0[3].install(folio).unwrap().publish();
///
/// let to = migrate(zone, from, &index)?;
/// assert_ne!(from, to);
/// assert_eq!(index.0[3].pfn(zone), Some(to));
/// # drop(index.0[3].try_lock(zone).unwrap().remove());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Owner<P: Platform>: Sync {
    /// Calls `visit` with the slot that should hold the folio with this `owner_data`. Returns
    /// `false` if there is no such slot (any more). The folio may have moved meanwhile: `visit`
    /// checks that.
    fn with_slot(&self, pfn: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool;

    /// Splits the multi-slot folio at this head ([`LockedSlot::split`](crate::LockedSlot::split)).
    /// Returns `false` if it is not a multi-slot folio, or is busy. Called before a larger folio is
    /// moved. By default nothing is split.
    fn split(&self, _pfn: Pfn, _order: Order, _owner_data: u64) -> bool {
        false
    }

    /// Reports that a folio in a slot has moved to another frame. No page lock is held and the
    /// folio is not pinned: it may have moved again, or be gone. By default nothing happens.
    fn moved(&self, _from: Pfn, _to: Pfn) {}

    /// Frees frames for a folio of this order that has to leave its block, because none were free.
    /// Returns `false` if it could free none. Called with no page lock held. Frames of the block
    /// itself do not help. By default nothing is freed.
    fn make_room(&self, _order: Order) -> bool {
        false
    }

    /// Lends *all* references that the owner has to this folio, and blocks lookups of it. Returns
    /// `None` if the owner has none.
    ///
    /// It is for folios that no slot holds, and is called after [`with_slot`](Self::with_slot)
    /// returned `false`. [`take_back`](Self::take_back) follows at once. By default nothing is
    /// lent.
    ///
    /// Two threads may try to move one folio at the same time. The owner lends to one of them only,
    /// or keeps apart the references that each of them gets: neither has all then, and both give
    /// theirs back.
    ///
    /// If the bytes of the folio may change ([`VolatileRef`](crate::VolatileRef)), the owner has
    /// ended each mapping by which they are written: its entry is cleared, and in no TLB.
    fn lend(&self, _pfn: Pfn, _owner_data: u64) -> Option<FolioRefs<P>> {
        None
    }

    /// Takes back as many references as [`lend`](Self::lend) lent: to the copy of the folio, or to
    /// the folio itself if it was not moved. The owner's index must name that folio from now on.
    fn take_back(&self, _owner_data: u64, _refs: FolioRefs<P>) {}
}

/// The reason why a folio was not migrated. It is where it was.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateError {
    /// The frame is free, a tail, offline or a plain block, or the owner does not know the folio,
    /// or its kind has a `destroy` function in one of two zones only.
    NotMovable,
    /// The folio is pinned, its page lock is held, or it is a multi-slot folio that was not split.
    Busy,
    /// There are no free frames to move the folio to.
    OutOfFrames,
    /// The folio left its slot before the page lock was taken.
    Moved,
}

impl core::fmt::Display for MigrateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotMovable => {
                "no folio with this first frame can move: it is free, a tail, offline or plain, or \
                 unknown to its owner or to the other zone"
            }
            Self::Busy => "there are other references to the folio, or its slot is locked",
            Self::OutOfFrames => "no free frames to move the folio to",
            Self::Moved => "the folio has moved out of its slot already",
        })
    }
}

impl core::error::Error for MigrateError {}

/// Moves the folio at `pfn`, which `owner` indexes, to other frames of `zone`. Returns its new
/// first frame.
///
/// Readers that find the folio frozen meanwhile wait on its slot.
///
/// # Errors
///
/// [`MigrateError::NotMovable`] if there is no folio at `pfn` that can move,
/// [`MigrateError::Busy`] if it is pinned or locked, [`MigrateError::OutOfFrames`] if there is no
/// room for it, [`MigrateError::Moved`] if it left its slot meanwhile.
///
/// ```
/// use folio_frames::{Arena, MigrateError, Order, Owner, Pfn, Slot, UserSpace, migrate};
///
/// struct OneSlot(Slot<UserSpace>);
///
/// impl Owner<UserSpace> for OneSlot {
///     fn with_slot(&self, _: Pfn, _: u64, visit: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
///         visit(&self.0);
///         true
///     }
/// }
///
/// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
/// let zone = arena.zone();
/// let owner = OneSlot(Slot::new());
/// let mut folio = zone.alloc_frozen(Order::ZERO)?;
/// folio.set_owner(folio_frames::Kind::owner(0), 0);
/// let pinned = owner.0.install(folio).unwrap().publish_and_get(zone);
///
/// let pfn = pinned.pfn();
/// assert_eq!(migrate(zone, pfn, &owner), Err(MigrateError::Busy));
/// drop(pinned);
/// assert!(migrate(zone, pfn, &owner).is_ok());
/// # drop(owner.0.try_lock(zone).unwrap().remove());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn migrate<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    owner: &dyn Owner<P>,
) -> Result<Pfn, MigrateError> {
    migrate_within(zone, pfn, owner, (zone, Reach::Any))
}

/// Moves the folio at `pfn`, which `owner` indexes, from `zone` to frames of the zone `to`: to
/// another node, or out of memory that devices need. Returns its new first frame.
///
/// Readers that find the folio frozen meanwhile wait on its slot. Those that look it up by
/// [`Zones`](crate::Zones) find it before and after.
///
/// The folio keeps its kind. From then on the kinds of `to` say how it is destroyed.
///
/// # Errors
///
/// [`MigrateError::NotMovable`] if there is no folio at `pfn` that can move, or if its kind has a
/// `destroy` function ([`KindOps`](crate::KindOps)) in one of the zones only,
/// [`MigrateError::Busy`] if it is pinned or locked, [`MigrateError::OutOfFrames`] if there is no
/// room for it in `to`, [`MigrateError::Moved`] if it left its slot meanwhile.
pub fn migrate_to<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    owner: &dyn Owner<P>,
    to: &'static Zone<P>,
) -> Result<Pfn, MigrateError> {
    migrate_within(zone, pfn, owner, (to, Reach::Any))
}

/// The zone that a folio moves to, and the free blocks of it that may be used.
type Target<P> = (&'static Zone<P>, Reach);

/// Moves the folio as [`migrate`] does, to the target.
pub(crate) fn migrate_within<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    owner: &dyn Owner<P>,
    target: Target<P>,
) -> Result<Pfn, MigrateError> {
    let mut seen = zone.index(pfn).map(|_| zone.peek(pfn)).ok_or(MigrateError::NotMovable)?;
    if !seen.kind.is_allocated() || seen.kind == Kind::PLAIN {
        return Err(MigrateError::NotMovable);
    }
    if seen.order > Order::ZERO && owner.split(pfn, seen.order, seen.owner_data) {
        seen = zone.peek(pfn);
    }
    let mut result = Err(MigrateError::NotMovable);
    if !owner
        .with_slot(pfn, seen.owner_data, &mut |slot| result = migrate_slot(zone, pfn, slot, target))
        && let Some(refs) = owner.lend(pfn, seen.owner_data)
    {
        let (refs, lent) = migrate_lent(zone, pfn, refs, target);
        owner.take_back(seen.owner_data, refs);
        return lent;
    }
    if let Ok(to) = result {
        owner.moved(pfn, to);
    }
    result
}

/// Moves a folio by lent references. Returns the references, to the folio where it is now,
/// and the result.
fn migrate_lent<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    refs: FolioRefs<P>,
    (to, reach): Target<P>,
) -> (FolioRefs<P>, Result<Pfn, MigrateError>) {
    if refs.pfn() != pfn || !core::ptr::eq(refs.zone(), zone) {
        return (refs, Err(MigrateError::Moved));
    }
    let seen = zone.peek(pfn);
    if !ends_alike(zone, to, seen.kind) {
        return (refs, Err(MigrateError::NotMovable));
    }
    let Some(mut target) = to.alloc_target(seen.order, reach) else {
        return (refs, Err(MigrateError::OutOfFrames));
    };
    let (count, is_volatile) = (refs.count(), refs.is_volatile());
    let old = match refs.freeze() {
        Ok(old) => old,
        Err(refs) => {
            target.free();
            return (refs, Err(MigrateError::Busy));
        }
    };
    copy(&old, &mut target);
    let moved_to = target.pfn();
    let refs = if is_volatile { target.init_many_volatile(count) } else { target.init_many(count) };
    old.free();
    (refs, Ok(moved_to))
}

/// Returns `true` if folios of this kind have a destructor in both zones, or in none. Otherwise a
/// folio that moves would lose its destructor, or get one that does not know it.
fn ends_alike<P: Platform>(zone: &Zone<P>, to: &Zone<P>, kind: Kind) -> bool {
    core::ptr::eq(zone, to) || zone.has_destructor(kind) == to.has_destructor(kind)
}

fn copy<P: Platform>(old: &FrozenFolio<P>, target: &mut FrozenFolio<P>) {
    target.as_mut_slice().copy_from_slice(old.as_slice());
    target.set_owner(old.kind(), old.owner_data());
    target.set_dirty(old.is_dirty());
    target.copy_uses(old);
    P::trace(Event::MigratedHere, || target.pfn());
}

fn migrate_slot<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    slot: &Slot<P>,
    (to, reach): Target<P>,
) -> Result<Pfn, MigrateError> {
    if slot.pfn(zone) != Some(pfn) {
        return Err(MigrateError::Moved);
    }
    // The folio may have moved to another zone since.
    let locked = slot.try_lock_in(zone).ok_or(MigrateError::Busy)?;
    if locked.pfn() != pfn {
        return Err(MigrateError::Moved);
    }
    if locked.subpage_of().is_some() {
        return Err(MigrateError::Busy);
    }
    // While the slot's reference exists order and kind cannot change. They are read under the page
    // lock.
    let seen = zone.peek(pfn);
    if !ends_alike(zone, to, seen.kind) {
        return Err(MigrateError::NotMovable);
    }
    let mut target = to.alloc_target(seen.order, reach).ok_or(MigrateError::OutOfFrames)?;
    let frozen = match locked.freeze() {
        Ok(frozen) => frozen,
        Err(locked) => {
            drop(locked);
            target.free();
            return Err(MigrateError::Busy);
        }
    };
    copy(frozen.folio(), &mut target);
    let moved_to = target.pfn();
    frozen.replace(target).free();
    Ok(moved_to)
}
