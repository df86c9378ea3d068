//! The seven schemes: the encoding of the logical states in a word, and its instructions.
//!
//! | scheme | Live(n) | Frozen | zeroed memory means | `try_get` |
//! | --- | --- | --- | --- | --- |
//! | [`ZeroFrozen`] | n | 0 | frozen | load, then compare-and-swap loop |
//! | [`GuessOne`] | n | 0 | frozen | compare-and-swap loop that first guesses 1 |
//! | [`FrozenBit`] | n | bit 31 + stale | **Dying** | one fetch-add |
//! | [`LiveBitHigh`] | bit 31 + n | stale | frozen | one fetch-add |
//! | [`LiveBitLow`] | 2n + 1 | 2 · stale | frozen | one fetch-add |
//! | [`Generational`] | bit 63, generation, n | generation, stale | frozen | one fetch-add, 64 bits |
//! | [`Tagged`] | bit 63, generation, n | tag, generation, stale | frozen | one fetch-add, 64 bits |
//!
//! *stale* is the number of stale increments: those that refused attempts left on a frozen word.
//! Targets without atomics of 64 bits lack the two schemes of that width.
//!
//! # Examples
//!
//! The same life of a frame under each scheme:
//!
//! ```
//! use folio_ref::schemes::*;
//! use folio_ref::PageRef;
//!
//! fn life<S: Scheme>() {
//!     let word = PageRef::<S>::frozen();
//!     assert!(word.try_get(1).is_err());
//!     word.take_frozen().init();
//!     assert!(word.try_get(1).is_ok());
//!     assert!(word.put().is_none());
//!     word.put().expect("the last reference").leave_frozen();
//! }
//!
//! life::<ZeroFrozen>();
//! life::<GuessOne>();
//! life::<FrozenBit>();
//! life::<LiveBitHigh>();
//! life::<LiveBitLow>();
//! life::<Generational>();
//! life::<Tagged>();
//! ```

mod bit;
mod frozen_bit;
#[cfg(target_has_atomic = "64")]
mod generational;
mod layout;
#[cfg(target_has_atomic = "64")]
mod layouts;
mod live_bit_high;
mod live_bit_low;
mod seeded_bugs;
#[cfg(target_has_atomic = "64")]
mod tagged;
mod zero;

pub use frozen_bit::FrozenBit;
#[cfg(target_has_atomic = "64")]
pub use generational::Generational;
#[doc(hidden)]
pub use layout::Layout;
#[cfg(target_has_atomic = "64")]
#[doc(hidden)]
pub use layouts::layouts;
pub use live_bit_high::LiveBitHigh;
pub use live_bit_low::LiveBitLow;
#[cfg(target_has_atomic = "64")]
pub use tagged::Tagged;
pub use zero::{GuessOne, ZeroFrozen};

use crate::sync::Word;
use crate::{Refused, Snapshot};

/// The default scheme.
///
/// Taking a reference is one fetch-add, zeroed memory is frozen, and the generation ends the reuse
/// race (R4): a late put cannot win a later life of its frame. The price is a word of 8 bytes
/// instead of 4. A target without atomics of 64 bits has [`LiveBitHigh`] instead.
#[cfg(target_has_atomic = "64")]
pub type DefaultScheme = Generational;

/// The default scheme of a target without atomics of 64 bits.
///
/// Taking a reference is one fetch-add, and zeroed memory is frozen. There is no generation, so a
/// destructor must be chosen after the win (R4).
#[cfg(not(target_has_atomic = "64"))]
pub type DefaultScheme = LiveBitHigh;

/// An encoding of the logical states in a word. The trait is sealed: the schemes of
/// [`schemes`](self) implement it.
///
/// # Examples
///
/// Code that is generic over the scheme reads what the scheme promises:
///
/// ```
/// use folio_ref::{DefaultScheme, PageRef, Refused, Scheme, Snapshot};
///
/// fn stale_after_one_refusal<S: Scheme>() -> u32 {
///     let word = PageRef::<S>::frozen();
///     assert_eq!(word.try_get(1), Err(Refused::Frozen));
///     match word.snapshot() {
///         Snapshot::Frozen { stale } => stale,
///         state => unreachable!("{state:?}"),
///     }
/// }
///
/// assert!(DefaultScheme::ZERO_IS_FROZEN && DefaultScheme::LEAVES_STALE);
/// assert_eq!(stale_after_one_refusal::<DefaultScheme>(), 1);
/// ```
pub trait Scheme: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The name of the scheme, on the command line and in results.
    const NAME: &'static str;
    /// True if zeroed memory is a frozen word: a memmap then needs no initialisation.
    const ZERO_IS_FROZEN: bool;
    /// True if a refused `try_get` leaves a stale increment.
    const LEAVES_STALE: bool;
    /// True if a late `put` cannot win a later life of its frame (R4).
    const HAS_GENERATION: bool;
    /// The atomic integer of the word: core's `AtomicU32` or `AtomicU64`.
    type Atomic: Word;

    /// A new frozen word.
    #[doc(hidden)]
    #[cfg(not(loom))]
    const NEW: Self::Atomic;
    /// Creates a new frozen word: loom's atomics have no constant.
    #[doc(hidden)]
    #[cfg(loom)]
    fn new_frozen() -> Self::Atomic;
    #[doc(hidden)]
    fn try_get(word: &Self::Atomic, n: u32) -> Result<(), Refused>;
    /// Returns the state before the call.
    #[doc(hidden)]
    fn get(word: &Self::Atomic, n: u32) -> Snapshot;
    /// Returns the word's value if the count reached 0.
    #[doc(hidden)]
    fn put_first(word: &Self::Atomic, n: u32) -> Option<u64>;
    /// Returns the word's value if the caller froze the frame.
    #[doc(hidden)]
    fn put_second(word: &Self::Atomic, dying: u64) -> Option<u64>;
    /// Returns the word's value if the caller froze the frame.
    #[doc(hidden)]
    fn freeze(word: &Self::Atomic, expected: u32) -> Result<u64, Snapshot>;
    /// Ends the exclusive handle of a frame. `frozen` is a value that the word had during it.
    #[doc(hidden)]
    fn unfreeze(word: &Self::Atomic, frozen: u64, n: u32);
    /// Begins the exclusive handle of a frame that was left frozen. Returns the word's value.
    #[doc(hidden)]
    fn take_frozen(word: &Self::Atomic) -> u64;
    /// Returns the word's value, for the caller with the exclusive handle.
    #[doc(hidden)]
    fn held(word: &Self::Atomic) -> u64;
    #[doc(hidden)]
    fn snapshot(word: &Self::Atomic) -> Snapshot;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ZeroFrozen {}
    impl Sealed for super::GuessOne {}
    impl<E: super::bit::Encoding> Sealed for E {}
}
