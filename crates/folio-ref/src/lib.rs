//! The reference count word of a page frame.
//!
//! Several threads can find a frame: through a lockless index, or by walking frame numbers. Each
//! must take a reference before it reads the frame, and the attempt must *reliably* fail while the
//! frame is frozen, free, or a tail of a larger block. With a dedicated bit for "frozen" the
//! attempt is one fetch-add.
//!
//! ```text
//!              try_get, get                  try_get, get
//!                 ┌──┐                          ┌──┐
//!   init,         │  ▼       put of the last    │  ▼        2^30 references
//!   unfreeze    ┌──────┐   ─────────────────▶ ┌───────┐    (from Live) ┌───────────┐
//!  ┌──────────▶ │ Live │                      │ Dying │        ······▶ │ Saturated │ leaked
//!  │            └──────┘ ◀─────────────────   └───────┘                └───────────┘
//!  │               │        try_get revives       │
//!  │  freeze(n)    │                              │ put's second step
//!  │               ▼                              ▼
//!  │            ┌────────────────────────────────────┐
//!  └─────────── │ Frozen: one owner holds the handle │ ◀─┐ try_get is refused,
//!               └────────────────────────────────────┘ ──┘ may add stale increments
//! ```
//!
//! # Examples
//!
//! ```
//! use folio_ref::{PageRef, Refused};
//!
//! let word: PageRef = PageRef::frozen();
//! assert_eq!(word.try_get(1), Err(Refused::Frozen)); // no thread gets in
//! word.take_frozen().init(); // the owner opens the frame: Live(1)
//! assert_eq!(word.try_get(1), Ok(())); // Live(2)
//! assert!(word.put().is_none()); // Live(1)
//! let handle = word.put().expect("the last put wins the frame"); // Frozen
//! handle.leave_frozen(); // a free frame stays frozen
//! ```
//!
//! # What is here
//!
//! - [`PageRef`] is the word. It is generic over a [`Scheme`], with one default. [`PageRefIn`] is a
//!   word in a descriptor of the caller's.
//! - [`schemes`] holds the seven encodings. Under [`Tagged`](schemes::Tagged) a frozen frame says
//!   by a [`Tag`] what it is.
//! - [`Frozen`] is the exclusive handle of a frozen frame, [`Detached`] the same without a borrow,
//!   [`Dying`] a put between its two steps.
//! - [`Snapshot`] is the logical state. Its pure transitions are the specification of the schemes.
//!
//! The crate has no way to store the count 0, no memory of its own, no lock and no unsafe code. It
//! is `no_std`.
//!
//! # Rules
//!
//! The code cites them by number; ARCHITECTURE.md states them in full.
//!
//! - **R1** `try_get` fails on a free, frozen or tail frame, from any thread.
//! - **R2** Only `init` and `unfreeze` clear the frozen state.
//! - **R3** Each Live → Frozen edge has exactly one winner.
//! - **R4** The winner chooses the destructor after it has won.
//! - **R5** Stale increments are bounded. A count saturates and never reaches the frozen encoding.
//! - **R6** The destructor sees the writes of every holder, a new holder those of the owner.
//! - **R7** The word stays a word while a put is between its two steps.
//! - **R8** A reader re-checks, after its `try_get`, that the frame is the one it looked up.
//!
//! # Features
//!
//! - `checks`: checks callers and invariants in release builds too; see [`CHECKS`]. Off by default.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, shuttle, broken))]
extern crate std;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

#[macro_use]
mod broken;
mod busy;
#[cfg(target_has_atomic = "64")]
mod claim;
mod handle;
mod page_ref;
mod page_ref_in;
mod refused;
pub mod schemes;
mod snapshot;
mod sync;
mod tag;
#[cfg(shuttle)]
#[doc(hidden)]
pub mod testing;

#[cfg(broken)]
#[doc(hidden)]
pub use broken::Site;
pub use busy::Busy;
pub use handle::{Detached, Dying, Frozen};
pub use page_ref::PageRef;
pub use page_ref_in::PageRefIn;
pub use refused::Refused;
pub use schemes::{DefaultScheme, Scheme};
pub use snapshot::Snapshot;
pub use tag::Tag;

/// True if operations check their callers and their own invariants: in debug builds, and in any
/// build with the feature `checks`. A check that fails panics with the reason.
pub const CHECKS: bool = cfg!(any(debug_assertions, feature = "checks"));

/// The maximum number of references that one call takes or returns.
///
/// It keeps R5's bound on stale increments. Past [`STALE_LIMIT`] each thread adds at most this much
/// before it resets them, so 2^20 threads together stay below the next bit.
pub const MAX_AT_ONCE: u32 = 1 << 10;

/// The number of stale increments at which a refused [`PageRef::try_get`] resets them (R5).
///
/// Under loom it is 2, so that a model of three threads reaches it.
pub const STALE_LIMIT: u32 = if cfg!(loom) { 2 } else { 1 << 30 };

/// The number of references at which the count saturates: the frame is leaked, and the count never
/// overflows (R5).
pub const SATURATED: u32 = 1 << 30;
