//! Closed slots: they are empty, and take no folio until they are opened. So the memory of a closed
//! slot can be given back: it is what fresh memory is, all zeroes.
//!
//! | from | by | to |
//! | --- | --- | --- |
//! | empty, not locked, not absent, version v | close | closed: all bits 0 |
//! | closed | open at a version | empty |
//!
//! A lookup finds a closed slot empty. [`Slot::install`] refuses it. Only open changes its bits.
//!
//! The owner of the slots opens each at a version that the slot did not have for a long time
//! ([`Versions`]). So an optimistic read that lasts from one life of a slot into the next notices
//! that.

use core::sync::atomic::Ordering;

use crate::base::ids::Order;
use crate::base::platform::Platform;
use crate::index::entry::{Entry, FIRST_VERSION, VERSION};
use crate::index::slot::Slot;

/// The most releases of a page lock by which the versions of slots may differ that are closed
/// together.
const MAX_SPREAD: i32 = 1 << 25;

/// Returns the number of releases from `from` to `to`: the shorter way round.
fn distance(from: u32, to: u32) -> i32 {
    let unused = 32 - VERSION.count_ones();
    (to.wrapping_sub(from) << unused).cast_signed() >> unused
}

/// The version at which slots open, and what it becomes if some are closed.
///
/// A slot that closes at version `v` opens again at `v` or up to 2^25 later, so it reaches no
/// version again that it had in its last 2^25 releases.
#[derive(Clone, Copy)]
pub(crate) struct Versions {
    base: u32,
    latest: i32,
    earliest: i32,
}

impl Versions {
    /// Begins with slots that open at `base`.
    pub(crate) fn new(base: u32) -> Self {
        Self { base, latest: 0, earliest: 0 }
    }

    /// Takes account of a slot that closes at a version.
    pub(crate) fn add(&mut self, version: u32) {
        let distance = distance(self.base, version);
        self.latest = self.latest.max(distance);
        self.earliest = self.earliest.min(distance);
    }

    /// Returns the version at which they open again: the latest. Returns `None` if they lie too far
    /// apart.
    pub(crate) fn next_base(self) -> Option<u32> {
        let latest = self.base.wrapping_add_signed(self.latest) & VERSION as u32;
        (self.latest - self.earliest < MAX_SPREAD).then_some(latest.max(FIRST_VERSION))
    }
}

impl<P: Platform> Slot<P> {
    /// Closes the slot. Returns its version, or `None` if it is not empty, is absent, or is closed
    /// already.
    pub(crate) fn close(&self) -> Option<u32> {
        // Relaxed: the compare-and-swap decides.
        let seen = self.load(Ordering::Relaxed);
        if !seen.is_empty() || seen.is_locked() || seen.is_closed() || seen.is_absent() {
            return None;
        }
        // Acquire: pairs with Release in unlock. Release: pairs with Acquire in is_empty.
        self.value
            .compare_exchange(seen.0, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then(|| seen.version())
    }

    /// Closes the slot, whatever it holds: a reference is lost. No other thread may use it.
    pub(crate) fn clear(&mut self) {
        // Relaxed: the caller has the slot alone.
        self.value.store(0, Ordering::Relaxed);
    }

    /// Writes what is there to a closed slot, so that the system gives it memory of its own.
    pub(crate) fn touch(&self) {
        // Relaxed: nothing changes.
        let _ = self.value.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Opens a closed slot at a version: it is empty then. Only one thread may do so.
    pub(crate) fn open(&self, version: u32) {
        // Release: pairs with Acquire in is_closed and get, and with the Acquire of install.
        self.value.store(Entry::new(None, Order::ZERO, version).0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::entry::next;

    const TOP: u32 = VERSION as u32;

    #[test]
    fn a_version_is_never_0() {
        assert_eq!(next(1), 2);
        assert_eq!(next(TOP - 1), TOP);
        assert_eq!(next(TOP), 1);
    }

    #[test]
    fn slots_open_at_the_latest_version_of_all() {
        let next_base = |base, closed: &[u32]| {
            let mut versions = Versions::new(base);
            for &version in closed {
                versions.add(version);
            }
            versions.next_base()
        };
        assert_eq!(next_base(7, &[]), Some(7));
        assert_eq!(next_base(7, &[7, 30, 9]), Some(30));
        assert_eq!(next_base(7, &[3, 1]), Some(7));
        // Around the end of the versions.
        assert_eq!(next_base(TOP - 3, &[TOP, 5, TOP - 9]), Some(5));
        assert_eq!(next_base(2, &[TOP, TOP - 3]), Some(2));
        // Too far apart, on one side and on both.
        assert_eq!(next_base(1, &[(1 << 25) + 1]), None);
        assert_eq!(next_base(1 << 25, &[(1 << 25) + (1 << 24), 1 << 24]), None);
        assert_eq!(next_base(1 << 25, &[(1 << 25) + (1 << 24), (1 << 24) + 1]), Some(3 << 24));
    }
}
