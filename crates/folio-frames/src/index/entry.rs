//! The value of a slot: frame number, order, version, and the two bits of the page lock.

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, Order};
use crate::base::platform::Platform;
use crate::base::seeded_bugs::{absent_slot_filled, closed_slot_filled};
use crate::memmap::numbers::Number;
use crate::zone::folio::FolioRef;
use crate::zone::zone::Zone;

const LOCKED: u64 = 1 << 63;
const WAITERS: u64 = 1 << 62;
pub(super) const VERSION: u64 = (1 << 26) - 1;
const ORDER_AT: u32 = 26;
const ORDER: u64 = 15 << ORDER_AT;
const FRAME_AT: u32 = 30;
const FRAME: u64 = (u32::MAX as u64) << FRAME_AT;

const _: () = assert!(LOCKED ^ WAITERS ^ FRAME ^ ORDER ^ VERSION == u64::MAX);
const _: () = assert!(BLOCK_ORDER.as_u8() < ABSENT.as_u8());

/// The order of an empty entry that is absent on purpose (`absent.rs`). No folio in a slot has it.
pub(super) const ABSENT: Order = Order::new(15).expect("an order of 4 bits");

/// The version of a new slot. Version 0 is only that of a closed one.
pub(crate) const FIRST_VERSION: u32 = 1;

/// Returns the version after `version`, which is never 0.
pub(super) fn next(version: u32) -> u32 {
    (version.wrapping_add(1) & VERSION as u32).max(FIRST_VERSION)
}

/// The value of a slot at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(pub(super) u64);

impl Entry {
    /// Returns an unlocked entry: of the frame with this number, or empty for `None`.
    pub(super) fn new(number: Option<u32>, order: Order, version: u32) -> Self {
        let number = u64::from(number.unwrap_or(0)) << FRAME_AT;
        Self(number | u64::from(order.as_u8()) << ORDER_AT | u64::from(version) & VERSION)
    }

    /// Returns the frame number, which is 0 if the entry is empty.
    #[inline(always)]
    pub(super) fn number(self) -> u32 {
        // The cast drops the bits above.
        (self.0 >> FRAME_AT) as u32
    }

    pub(super) fn is_empty(self) -> bool {
        self.number() == 0
    }

    /// Returns `true` for an empty entry that takes no folio (`closed.rs`).
    pub(super) fn is_closed(self) -> bool {
        self.0 == 0
    }

    /// Returns `true` for an empty entry that takes no folio until its owner ends that
    /// (`absent.rs`).
    pub(super) fn is_absent(self) -> bool {
        self.is_empty() && self.0 & ORDER == u64::from(ABSENT.as_u8()) << ORDER_AT
    }

    /// Returns `true` for an empty entry that takes a folio.
    pub(super) fn takes_folio(self) -> bool {
        self.is_empty()
            && (!self.is_closed() || closed_slot_filled())
            && (!self.is_absent() || absent_slot_filled())
    }

    /// Returns the index of the frame. `None`: the entry is empty, or its folio is not of `zone`.
    #[inline(always)]
    pub(super) fn frame<P: Platform>(self, zone: &Zone<P>) -> Option<u32> {
        zone.numbers.index((self.0 & FRAME) >> FRAME_AT)
    }

    /// Returns the frame number. `None`: the entry is empty, locked, or not of `zone`.
    ///
    /// One comparison decides all three. No frame number reaches the two bits above it, and the
    /// bit for waiters is never set without the lock bit.
    #[inline(always)]
    pub(super) fn number_unlocked<P: Platform>(self, zone: &Zone<P>) -> Option<Number> {
        zone.numbers.check(self.0 >> FRAME_AT)
    }

    /// Panics unless the entry is empty. For an entry without a frame of `zone`.
    #[inline(always)]
    pub(super) fn assert_empty<P: Platform>(self, zone: &Zone<P>) {
        if !self.is_empty() {
            self.is_of_another(zone);
        }
    }

    #[cold]
    #[inline(never)]
    fn is_of_another<P: Platform>(self, zone: &Zone<P>) -> ! {
        panic!(
            "slot holds frame number {}, which is of another zone than {:?}: pass the folio's zone",
            self.number(),
            zone.pfns()
        )
    }

    /// Returns the order of a multi-slot folio, or 0 for any other.
    pub(super) fn order(self) -> Order {
        Order::new(((self.0 & ORDER) >> ORDER_AT) as u8).unwrap_or(Order::ZERO)
    }

    /// Returns `true` if the frame is a subpage of a multi-slot folio.
    #[inline(always)]
    pub(super) fn is_subpage(self) -> bool {
        self.0 & ORDER != 0
    }

    /// Returns the index of the head of the folio to which `frame` belongs.
    #[inline(always)]
    pub(super) fn head(self, frame: u32) -> u32 {
        frame & u32::MAX << ((self.0 & ORDER) >> ORDER_AT)
    }

    /// Returns `true` if nothing but the page lock changed between the two entries: the slot held
    /// the same folio, by the same frame, all the time between.
    ///
    /// The version counts as well. A slot that was emptied, and filled again with a frame of the
    /// same number, may hold another zone's (`retire.rs`).
    #[inline(always)]
    pub(super) fn is_same_folio(self, other: Self) -> bool {
        (self.0 ^ other.0) & !(LOCKED | WAITERS) == 0
    }

    /// Asserts that a lookup, which loaded this entry before and after `try_get`, got the folio to
    /// which the slot's frame belongs. The slot of the head may hold the order a moment longer.
    #[inline(always)]
    pub(super) fn check<P: Platform>(self, folio: &FolioRef<P>) {
        assert!(
            !CHECKS || folio.index() == folio.at() || folio.order() == self.order(),
            "a slot of {:?} gave a reference to {folio:?} (R8)",
            self.order()
        );
    }

    pub(super) fn version(self) -> u32 {
        (self.0 & VERSION) as u32
    }

    pub(super) fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    pub(super) fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    pub(super) fn with_lock(self) -> Self {
        Self(self.0 | LOCKED)
    }

    pub(super) fn with_waiters(self) -> Self {
        Self(self.0 | WAITERS)
    }
}
