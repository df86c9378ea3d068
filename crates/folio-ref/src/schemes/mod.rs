//! The six schemes: how the logical states are written into a word, and by which instructions.
//!
//! | scheme | Live(n) | Frozen | zeroed memory means | `try_get` |
//! | --- | --- | --- | --- | --- |
//! | [`ZeroFrozen`] | n | 0 | frozen | load, then compare-and-swap loop |
//! | [`GuessOne`] | n | 0 | frozen | compare-and-swap loop that first guesses 1 |
//! | [`FrozenBit`] | n | bit 31 + noise | **Dying** | one fetch-add |
//! | [`LiveBitHigh`] | bit 31 + n | noise | frozen | one fetch-add |
//! | [`LiveBitLow`] | 2n + 1 | 2 · noise | frozen | one fetch-add |
//! | [`Generational`] | bit 63, generation, n | generation, noise | frozen | one fetch-add, 64 bits |

mod bit;
mod frozen_bit;
mod generational;
mod live_bit_high;
mod live_bit_low;
mod seeded_bugs;
mod zero;

pub use frozen_bit::FrozenBit;
pub use generational::Generational;
pub use live_bit_high::LiveBitHigh;
pub use live_bit_low::LiveBitLow;
pub use zero::{GuessOne, ZeroFrozen};

use crate::sync::Word;
use crate::{Refused, Snapshot};

/// The scheme that everything uses when nothing else is asked for.
///
/// One fetch-add, zeroed memory is frozen, and the generation ends the reuse race (R4): a put whose
/// frame moved on can not win it any more. The price is a word of 8 bytes instead of 4.
pub type DefaultScheme = Generational;

/// One way to write the states into a word. Sealed: the six here are all there are.
pub trait Scheme: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The name on a command line and in results.
    const NAME: &'static str;
    /// Whether zeroed memory is a frozen word: then a memmap needs no initialisation.
    const ZERO_IS_FROZEN: bool;
    /// Whether a refused `try_get` leaves its increment behind.
    const LEAVES_STALE: bool;
    /// The atomic integer.
    #[doc(hidden)]
    type Atomic: Word;

    #[doc(hidden)]
    fn new_frozen() -> Self::Atomic;
    #[doc(hidden)]
    fn try_get(word: &Self::Atomic, n: u32) -> Result<(), Refused>;
    /// The state before.
    #[doc(hidden)]
    fn get(word: &Self::Atomic, n: u32) -> Snapshot;
    /// `Some`: the count came to 0, the word's value then.
    #[doc(hidden)]
    fn put_first(word: &Self::Atomic, n: u32) -> Option<u64>;
    /// Whether the caller froze it.
    #[doc(hidden)]
    fn put_second(word: &Self::Atomic, dying: u64) -> bool;
    #[doc(hidden)]
    fn freeze(word: &Self::Atomic, expected: u32) -> Result<(), Snapshot>;
    #[doc(hidden)]
    fn unfreeze(word: &Self::Atomic, n: u32);
    #[doc(hidden)]
    fn snapshot(word: &Self::Atomic) -> Snapshot;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ZeroFrozen {}
    impl Sealed for super::GuessOne {}
    impl<E: super::bit::Encoding> Sealed for E {}
}
