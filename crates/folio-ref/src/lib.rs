//! The reference count word of a page frame.
//!
//! Several threads can find a frame: through a lockless index, or by walking frame numbers. Each
//! must take a reference before it looks, and the attempt must *reliably* fail while the frame is
//! frozen, free, or a tail of a larger block. With a dedicated bit for "frozen" the attempt is one
//! fetch-add.
//!
//! ```text
//!              try_get, get                  try_get, get
//!                 ┌──┐                          ┌──┐
//!   init,         │  ▼       put of the last    │  ▼        2^30 references
//!   unfreeze    ┌──────┐   ─────────────────▶ ┌───────┐    (from Live) ┌───────────┐
//!  ┌──────────▶ │ Live │                      │ Dying │        ······▶ │ Saturated │ leaked, never leaves
//!  │            └──────┘ ◀─────────────────   └───────┘                └───────────┘
//!  │               │        try_get revives       │
//!  │  freeze(n)    │                              │ put's second step
//!  │               ▼                              ▼
//!  │            ┌────────────────────────────────────┐
//!  └─────────── │ Frozen: one owner, holds the token │ ◀─┐ try_get refused,
//!               └────────────────────────────────────┘ ──┘ may leave noise
//! ```
//!
//! ```
//! use folio_ref::{PageRef, Refused};
//!
//! let word: PageRef = PageRef::frozen();
//! assert_eq!(word.try_get(1), Err(Refused::Frozen)); // nobody gets in
//! word.take_frozen().init(); // its owner opens it: Live(1)
//! assert_eq!(word.try_get(1), Ok(())); // Live(2)
//! assert!(word.put().is_none()); // Live(1)
//! let token = word.put().expect("the last put wins the frame"); // Frozen
//! token.leave_frozen(); // a free frame stays frozen
//! ```
//!
//! The rules R1 to R8 that the code cites are stated in ARCHITECTURE.md. [`schemes`] holds the six
//! encodings; [`PageRef`] is generic over them with one default. What this crate deliberately
//! lacks: any way to store the count 0, any memory of its own, any lock, any unsafe code.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, shuttle))]
extern crate std;

mod page_ref;
pub mod schemes;
mod snapshot;
mod sync;
#[cfg(shuttle)]
#[doc(hidden)]
pub mod testing;

pub use page_ref::{Busy, Dying, Frozen, PageRef, Refused};
pub use schemes::{DefaultScheme, Scheme};
pub use snapshot::Snapshot;

/// Whether operations check their callers and their own invariants, and panic with what is wrong:
/// in debug builds, and in any build with the feature `checks`.
pub const CHECKS: bool = cfg!(any(debug_assertions, feature = "checks"));

/// References that one call may take or return at once.
///
/// It keeps R5's bound on noise: past [`STALE_LIMIT`] each thread adds at most this much before it
/// resets, so 2^20 threads together stay below the next bit.
pub const MAX_AT_ONCE: u32 = 1 << 10;

/// Noise at which a refused [`PageRef::try_get`] begins to reset it (R5).
///
/// Under loom it is so small that a model of three threads meets it.
pub const STALE_LIMIT: u32 = if cfg!(loom) { 2 } else { 1 << 30 };

/// Live references at which the count saturates: the frame is leaked instead of overflowing (R5).
pub const SATURATED: u32 = 1 << 30;
