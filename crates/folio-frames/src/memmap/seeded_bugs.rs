//! The seeded bugs that change or read descriptors: each breaks one rule on purpose, in a run
//! of `cargo x seeded-bugs` only.
//!
//! `cargo x seeded-bugs` requires that a check fails for each (docs/seeded-bugs.md). In all other
//! builds the functions do nothing, or return `None`.

use folio_ref::{Scheme, Snapshot, broken};

use crate::base::ids::Order;
use crate::memmap::memmap::{Descriptor, Kind, Memmap};
use crate::memmap::numbers::{Number, Numbers};

/// R1: the first tail of a new block is live.
#[inline(always)]
pub(crate) fn open_tail<S: Scheme>(memmap: &Memmap<S>, head: u32, order: Order) {
    if broken!("tail-left-live") && order > Order::ZERO {
        let word = &memmap.get(head + 1).word;
        if word.snapshot().is_frozen() {
            word.take_frozen().init();
        }
    }
}

/// R1: the counterpart of [`open_tail`], before the block is freed.
#[inline(always)]
pub(crate) fn freeze_tail<S: Scheme>(memmap: &Memmap<S>, head: u32, order: Order) {
    if broken!("tail-left-live") && order > Order::ZERO {
        let word = &memmap.get(head + 1).word;
        if !word.snapshot().is_frozen()
            && let Some(frozen) = word.put()
        {
            frozen.leave_frozen();
        }
    }
}

/// R4: reads the kind before the put instead of after it.
#[inline(always)]
pub(crate) fn early_kind<S: Scheme>(head: &Descriptor<S>) -> Option<Kind> {
    broken!("early-destructor").then(|| head.shape().kind)
}

/// R7: zeroes the descriptor of a frame that goes offline.
#[inline(always)]
pub(crate) fn zero_descriptor<S: Scheme>(memmap: &Memmap<S>, index: u32) {
    #[cfg(broken)]
    if broken!("metadata-zeroed") {
        memmap.zero(index);
    }
    let _ = (memmap, index);
}

/// A value of more references than one atomic operation may take counts as one of so many.
#[inline(always)]
pub(crate) fn count_to_put(count: u32) -> u32 {
    if broken!("many-counted-once") { count.min(folio_ref::MAX_AT_ONCE) } else { count }
}

/// A walk takes a reference to bytes that do not change, though these may.
#[inline(always)]
pub(crate) fn volatile_walked() -> bool {
    broken!("volatile-walked")
}

/// R8: returns the count by which an optimistic read is validated instead of the slot's version.
#[inline(always)]
pub(crate) fn count_of<S: Scheme>(
    memmap: &Memmap<S>,
    numbers: &Numbers,
    number: Number,
) -> Option<Snapshot> {
    if !broken!("read-by-count") {
        return None;
    }
    let index = numbers.index(number.as_usize() as u64)?;
    Some(memmap.get(index).word.snapshot())
}
