//! Migration: a folio's contents move to another frame while its index goes on pointing at them.
//!
//! | step | backs out by |
//! | --- | --- |
//! | 1. find the slot that indexes the folio, through its owner | nothing was done |
//! | 2. claim the slot, and check that it still holds this folio | releasing the claim |
//! | 3. allocate the target, frozen | releasing the claim |
//! | 4. freeze the folio; somebody holds references: busy | freeing the target, releasing the claim |
//! | 5. copy bytes, kind, private, and whether it is dirty | can not fail |
//! | 6. switch the slot to the target, which opens it | |
//! | 7. free the old folio | |

use crate::base::ids::{Order, Pfn};
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::index::slot::Slot;
use crate::zone::buddy::Reach;
use crate::zone::folio::FrozenFolio;
use crate::zone::refs::FolioRefs;
use crate::zone::zone::Zone;

/// Who indexes folios, and so can say where.
pub trait Owner<P: Platform>: Sync {
    /// Calls `visit` with the slot that should hold the folio whose descriptor says `owner_data`.
    /// `false`: there is no such slot (any more). The folio may have moved meanwhile; `visit`
    /// checks.
    fn with_slot(&self, pfn: Pfn, owner_data: u64, visit: &mut dyn FnMut(&Slot<P>)) -> bool;

    /// Asked before a larger folio is moved: cuts the one at this head, of which each frame has a
    /// slot, into such as have one ([`LockedSlot::split`](crate::LockedSlot::split)). `false`: it is no
    /// such folio, or is busy.
    fn split(&self, _pfn: Pfn, _order: Order, _owner_data: u64) -> bool {
        false
    }

    /// A folio that a slot indexes is in another frame now. Nothing of it is held; by now it may be
    /// elsewhere again, or gone.
    fn moved(&self, _from: Pfn, _to: Pfn) {}

    /// For folios that no slot indexes, asked when [`with_slot`](Self::with_slot) says `false`:
    /// hands over *all* references that the owner has of this folio, and makes whoever looks it
    /// up wait. [`take_back`](Self::take_back) follows at once.
    fn lend(&self, _pfn: Pfn, _owner_data: u64) -> Option<FolioRefs<P>> {
        None
    }

    /// Ends what [`lend`](Self::lend) began, with as many references: of the folio's copy, or of
    /// the folio itself, if it was not moved. The owner's index points to it from now on.
    fn take_back(&self, _owner_data: u64, _refs: FolioRefs<P>) {}
}

/// Why a folio was not migrated. It is where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrateError {
    /// It is free, a tail, offline, a plain block, or its owner does not know it.
    NotMovable,
    /// Somebody holds references to it, or is at work on it.
    Busy,
    /// There is no free frame to move it to.
    OutOfFrames,
    /// It left its slot before it could be claimed.
    Moved,
}

impl core::fmt::Display for MigrateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotMovable => "the frame is not movable",
            Self::Busy => "somebody holds references to the folio",
            Self::OutOfFrames => "no free frame to move the folio to",
            Self::Moved => "the folio had moved already",
        })
    }
}

impl core::error::Error for MigrateError {}

/// Moves the folio at `pfn` to another frame of its zone and says which.
pub fn migrate<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    owner: &dyn Owner<P>,
) -> Result<Pfn, MigrateError> {
    migrate_within(zone, pfn, owner, Reach::Any)
}

/// As [`migrate`], to what the buddy may take for it.
pub(crate) fn migrate_within<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    owner: &dyn Owner<P>,
    reach: Reach,
) -> Result<Pfn, MigrateError> {
    let mut seen = zone.index(pfn).map(|_| zone.peek(pfn)).ok_or(MigrateError::NotMovable)?;
    if !seen.kind.is_allocated() || seen.kind == crate::Kind::PLAIN {
        return Err(MigrateError::NotMovable);
    }
    if seen.order > Order::ZERO && owner.split(pfn, seen.order, seen.owner_data) {
        seen = zone.peek(pfn);
    }
    let mut result = Err(MigrateError::NotMovable);
    if !owner
        .with_slot(pfn, seen.owner_data, &mut |slot| result = migrate_slot(zone, pfn, slot, reach))
        && let Some(refs) = owner.lend(pfn, seen.owner_data)
    {
        let (refs, lent) = migrate_lent(zone, pfn, refs, reach);
        owner.take_back(seen.owner_data, refs);
        return lent;
    }
    if let Ok(to) = result {
        owner.moved(pfn, to);
    }
    result
}

/// The references come back: of the folio where it is now.
fn migrate_lent<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    refs: FolioRefs<P>,
    reach: Reach,
) -> (FolioRefs<P>, Result<Pfn, MigrateError>) {
    if refs.pfn() != pfn || !core::ptr::eq(refs.zone(), zone) {
        return (refs, Err(MigrateError::Moved));
    }
    let Some(mut target) = zone.alloc_target(zone.peek(pfn).order, reach) else {
        return (refs, Err(MigrateError::OutOfFrames));
    };
    let count = refs.count();
    let old = match refs.freeze() {
        Ok(old) => old,
        Err(refs) => {
            target.free();
            return (refs, Err(MigrateError::Busy));
        }
    };
    copy(&old, &mut target);
    let moved_to = target.pfn();
    let refs = target.init_many(count);
    old.free();
    (refs, Ok(moved_to))
}

fn copy<P: Platform>(old: &FrozenFolio<P>, target: &mut FrozenFolio<P>) {
    target.as_mut_slice().copy_from_slice(old.as_slice());
    target.set_owner(old.kind(), old.owner_data());
    target.set_dirty(old.is_dirty());
    P::trace(Event::MigratedHere, || target.pfn());
}

fn migrate_slot<P: Platform>(
    zone: &'static Zone<P>,
    pfn: Pfn,
    slot: &Slot<P>,
    reach: Reach,
) -> Result<Pfn, MigrateError> {
    if slot.pfn(zone) != Some(pfn) {
        return Err(MigrateError::Moved);
    }
    let locked = slot.try_lock(zone).ok_or(MigrateError::Busy)?;
    if locked.pfn() != pfn {
        return Err(MigrateError::Moved);
    }
    if locked.subpage_of().is_some() {
        return Err(MigrateError::Busy);
    }
    // While the slot's reference exists the order can not change; it is read under the claim.
    let mut target =
        zone.alloc_target(zone.peek(pfn).order, reach).ok_or(MigrateError::OutOfFrames)?;
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
