//! A live bit, a generation that every freeze increments, and the count, in 64 bits: folio's own
//! scheme.
//!
//! ```text
//!  63   62 ........ 32   31 ........ 0
//! live   generation      count / stale
//! ```
//!
//! A put that sleeps between its two steps expects the generation it saw. Once the frame was
//! frozen, its compare-and-swap fails, so the reuse race of R4 cannot win. The generation wraps
//! after 2^31 freezes of one frame. A late put wins wrongly only if its thread sleeps through
//! exactly that many.

use super::bit::Encoding;
use super::layout::Layout;
use crate::sync::AtomicU64;

/// A live bit, a generation and a count: Live(n) is 2^63 + generation + n, Frozen is the next
/// generation + stale. Zeroed memory is frozen.
///
/// # Examples
///
/// A late put loses once its frame was frozen:
///
/// ```
/// use folio_ref::{PageRef, schemes::Generational};
///
/// let word = PageRef::<Generational>::frozen();
/// word.take_frozen().init();
/// let late = word.drop_references(1).expect("the last reference");
/// word.try_get(1).expect("revives the frame");
/// word.put().expect("frees it").init(); // the next life
/// let last = word.drop_references(1).expect("the last reference");
/// assert!(late.finish().is_none());
/// last.finish().expect("its own life").leave_frozen();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Generational;

impl Encoding for Generational {
    const NAME: &'static str = "generational";
    type Atomic = AtomicU64;
    #[cfg(not(loom))]
    const NEW: AtomicU64 = AtomicU64::new(Self::LAYOUT.frozen());
    const LAYOUT: Layout = Layout {
        width: 64,
        bit: 1 << 63,
        live: 1 << 63,
        shift: 0,
        count: (1 << 32) - 1,
        generation: ((1 << 31) - 1) << 32,
        tag: 0,
    }
    .checked();
}
