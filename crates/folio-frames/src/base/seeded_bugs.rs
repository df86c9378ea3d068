//! The seeded bugs that need no zone: each breaks one rule on purpose, in a build with
//! `--cfg 'broken="NAME"'` only.
//!
//! `cargo x seeded-bugs` builds each and requires that a check fails (docs/seeded-bugs.md). In all
//! other builds the constants are false.

/// R8: a reader keeps the folio that it got without checking again.
pub(crate) const NO_RECHECK: bool = cfg!(broken = "no-recheck");

/// R8: an optimistic read returns its copy without checking the slot again.
pub(crate) const NO_SECOND_LOAD: bool = cfg!(broken = "no-second-load");

/// R8: unlocking a slot leaves its version.
pub(crate) const SAME_VERSION: bool = cfg!(broken = "slot-version-not-bumped");

/// R8: the slots of a leaf that is opened again have versions that they had before.
#[cfg(feature = "std")]
pub(crate) const LEAF_VERSION_FORGOTTEN: bool = cfg!(broken = "leaf-version-forgotten");

/// A leaf is closed though a slot was filled while the others were closed.
#[cfg(feature = "std")]
pub(crate) const LEAF_CLOSED_IN_USE: bool = cfg!(broken = "leaf-closed-in-use");

/// A closed slot takes a folio.
pub(crate) const CLOSED_SLOT_FILLED: bool = cfg!(broken = "closed-slot-filled");

/// Frames that move from the buddy to the lists of a CPU are counted in neither for a moment.
pub(crate) const LISTS_PUBLISHED_LATE: bool = cfg!(broken = "lists-published-late");

/// R1: the holes of a block come online with its frames.
pub(crate) const HOLES_FREED: bool = cfg!(broken = "holes-freed");

/// A walker reads the metadata of a block that has none.
pub(crate) const TABLE_NOT_ASKED: bool = cfg!(broken = "table-not-asked");

/// R8: a lookup among several zones takes the zone of one load of the slot, and the folio of
/// another.
pub(crate) const ZONE_OF_ANOTHER_LOAD: bool = cfg!(broken = "zone-of-another-load");

/// A slot that is absent on purpose takes a folio.
pub(crate) const ABSENT_SLOT_FILLED: bool = cfg!(broken = "absent-slot-filled");

/// R3: a slot is made absent although other references to its folio exist.
pub(crate) const ABSENT_WHILE_PINNED: bool = cfg!(broken = "absent-while-pinned");

/// R8: a split of a multi-slot folio opens its head before its slots change. Returns the frames in
/// the order in which they open: in all other builds the head is the last.
#[inline(always)]
pub(crate) fn head_last<T>(tails: impl Iterator<Item = T>, head: T) -> impl Iterator<Item = T> {
    let is_broken = cfg!(broken = "head-opened-first");
    let (before, after) = if is_broken { (Some(head), None) } else { (None, Some(head)) };
    before.into_iter().chain(tails).chain(after)
}
