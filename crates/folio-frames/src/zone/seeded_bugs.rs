//! The seeded bugs of a zone: each breaks one rule on purpose, in a build with
//! `--cfg 'broken="NAME"'` only.
//!
//! `cargo x seeded-bugs` builds each and requires that a check fails (docs/seeded-bugs.md). In all
//! other builds the functions do nothing, or return `None`.

use folio_ref::Snapshot;

use crate::base::ids::Order;
use crate::base::platform::Platform;
use crate::memmap::memmap::Kind;
use crate::memmap::numbers::Number;
use crate::zone::zone::Zone;

/// R1: the first tail of a new block is live.
#[inline(always)]
pub(super) fn open_tail<P: Platform>(zone: &Zone<P>, head: u32, order: Order) {
    if cfg!(broken = "tail-left-live") && order > Order::ZERO {
        let word = &zone.descriptor(head + 1).word;
        if word.snapshot().is_frozen() {
            word.take_frozen().init();
        }
    }
}

/// R1: the counterpart of [`open_tail`], before the block is freed.
#[inline(always)]
pub(super) fn freeze_tail<P: Platform>(zone: &Zone<P>, head: u32, order: Order) {
    if cfg!(broken = "tail-left-live") && order > Order::ZERO {
        let word = &zone.descriptor(head + 1).word;
        if !word.snapshot().is_frozen()
            && let Some(frozen) = word.put()
        {
            frozen.leave_frozen();
        }
    }
}

/// R4: reads the kind before the put instead of after it.
#[inline(always)]
pub(super) fn early_kind<P: Platform>(zone: &Zone<P>, head: u32) -> Option<Kind> {
    cfg!(broken = "early-destructor").then(|| zone.descriptor(head).shape().kind)
}

/// R7: zeroes the descriptor of a frame that goes offline.
#[inline(always)]
pub(crate) fn zero_descriptor<P: Platform>(zone: &Zone<P>, index: u32) {
    #[cfg(broken = "metadata-zeroed")]
    zone.memmap.zero(index);
    let _ = (zone, index);
}

/// R8: returns the count by which an optimistic read is validated instead of the slot's version.
#[inline(always)]
pub(crate) fn count_of<P: Platform>(zone: &Zone<P>, number: Number) -> Option<Snapshot> {
    if !cfg!(broken = "read-by-count") {
        return None;
    }
    let index = zone.numbers.index(number.as_usize() as u64)?;
    Some(zone.descriptor(index).word.snapshot())
}
