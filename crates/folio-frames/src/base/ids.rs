//! Frame numbers, orders and ranges.

use core::fmt;
use core::ops::Range;

/// Bytes in one frame.
pub const FRAME_SIZE: usize = 4096;

/// The largest order that the buddy merges two halves into: 4 MiB.
pub const MAX_ORDER: Order = Order(10);

/// The order of the unit that goes offline and comes online: 2 MiB.
pub const BLOCK_ORDER: Order = Order(9);

/// The largest order that a zone can have as its huge order: 1 GiB.
pub const LARGEST_HUGE_ORDER: Order = Order(18);

/// A page frame number: a physical address divided by [`FRAME_SIZE`].
///
/// ```
/// use folio_frames::{FRAME_SIZE, Order, Pfn, PfnRange};
///
/// let first = Pfn::new(0x8020_0000 / FRAME_SIZE as u64);
/// let order = Order::new(2).expect("at most 18");
/// let end = Pfn::new(first.as_u64() + u64::from(order.frames()));
/// let block = PfnRange { start: first, end };
/// assert_eq!(block.frames(), 4);
/// assert_eq!(block.last(), Some(Pfn::new(0x8_0203)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(u64);

impl Pfn {
    /// Makes a frame number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

/// The size of a block: a power of two of frames. At most [`LARGEST_HUGE_ORDER`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// A single frame.
    pub const ZERO: Self = Self(0);

    /// Returns the order `n`, or `None` if it is above [`LARGEST_HUGE_ORDER`].
    pub const fn new(n: u8) -> Option<Self> {
        if n <= LARGEST_HUGE_ORDER.0 { Some(Self(n)) } else { None }
    }

    /// Returns the exponent.
    pub const fn as_u8(self) -> u8 {
        self.0
    }

    /// Returns the number of frames in a block of this order.
    pub const fn frames(self) -> u32 {
        1 << self.0
    }

    /// Returns the number of bytes in a block of this order.
    pub const fn bytes(self) -> usize {
        FRAME_SIZE << self.0
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.0)
    }
}

/// The frames from `start` up to, not including, `end`. Iterates over them.
#[derive(Clone, PartialEq, Eq)]
pub struct PfnRange {
    /// The first frame.
    pub start: Pfn,
    /// One past the last frame.
    pub end: Pfn,
}

impl PfnRange {
    /// Returns the number of frames in the range.
    pub const fn frames(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
}

/// Returns the blocks of a range of indices: each is aligned, and as large as possible.
pub(crate) fn aligned(indices: Range<u32>) -> impl Iterator<Item = (u32, Order)> {
    let mut at = indices.start;
    core::iter::from_fn(move || {
        let fits = indices.end.checked_sub(at)?.checked_ilog2()?;
        let order = Order(at.trailing_zeros().min(fits).min(MAX_ORDER.0.into()) as u8);
        at += order.frames();
        Some((at - order.frames(), order))
    })
}

impl fmt::Debug for PfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x} to {:#x}", self.start.0, self.end.0.saturating_sub(1))
    }
}

impl Iterator for PfnRange {
    type Item = Pfn;

    fn next(&mut self) -> Option<Pfn> {
        if self.start >= self.end {
            return None;
        }
        let pfn = self.start;
        self.start = Pfn(pfn.0 + 1);
        Some(pfn)
    }
}
