//! The seeded bugs that need no zone: each breaks one rule on purpose, in a run of
//! `cargo x seeded-bugs` only.
//!
//! `cargo x seeded-bugs` requires that a check fails for each (docs/seeded-bugs.md). In all other
//! builds the functions return `false`.

use folio_ref::broken;

/// R8: a reader keeps the folio that it got without checking again.
#[inline(always)]
pub(crate) fn no_recheck() -> bool {
    broken!("no-recheck")
}

/// R8: an optimistic read returns its copy without checking the slot again.
#[inline(always)]
pub(crate) fn no_second_load() -> bool {
    broken!("no-second-load")
}

/// R8: unlocking a slot leaves its version.
#[inline(always)]
pub(crate) fn same_version() -> bool {
    broken!("slot-version-not-bumped")
}

/// R8: the slots of a leaf that is opened again have versions that they had before.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn leaf_version_forgotten() -> bool {
    broken!("leaf-version-forgotten")
}

/// A leaf is closed though a slot was filled while the others were closed.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn leaf_closed_in_use() -> bool {
    broken!("leaf-closed-in-use")
}

/// A spare leaf that is opened is given back with the others.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn spare_leaf_forgotten() -> bool {
    broken!("spare-leaf-forgotten")
}

/// A closed slot takes a folio.
#[inline(always)]
pub(crate) fn closed_slot_filled() -> bool {
    broken!("closed-slot-filled")
}

/// Frames that move from the buddy to the lists of a CPU are counted in neither for a moment.
#[inline(always)]
pub(crate) fn lists_published_late() -> bool {
    broken!("lists-published-late")
}

/// R1: the holes of a block come online with its frames.
#[inline(always)]
pub(crate) fn holes_freed() -> bool {
    broken!("holes-freed")
}

/// A walker reads the metadata of a block that has none.
#[inline(always)]
pub(crate) fn table_not_asked() -> bool {
    broken!("table-not-asked")
}

/// R8: a lookup among several zones takes the zone of one load of the slot, and the folio of
/// another.
#[inline(always)]
pub(crate) fn zone_of_another_load() -> bool {
    broken!("zone-of-another-load")
}

/// A slot that is absent on purpose takes a folio.
#[inline(always)]
pub(crate) fn absent_slot_filled() -> bool {
    broken!("absent-slot-filled")
}

/// R3: a slot is made absent although other references to its folio exist.
#[inline(always)]
pub(crate) fn absent_while_pinned() -> bool {
    broken!("absent-while-pinned")
}

/// R8: a split of a multi-slot folio opens its head before its slots change. Returns the frames in
/// the order in which they open: in all other builds the head is the last.
#[inline(always)]
pub(crate) fn head_last<T>(tails: impl Iterator<Item = T>, head: T) -> impl Iterator<Item = T> {
    let is_broken = broken!("head-opened-first");
    let (before, after) = if is_broken { (Some(head), None) } else { (None, Some(head)) };
    before.into_iter().chain(tails).chain(after)
}

/// A lock is not handed over to a thread that has slept for long.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn lock_never_handed() -> bool {
    broken!("lock-never-handed")
}
