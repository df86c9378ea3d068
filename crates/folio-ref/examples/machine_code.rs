//! The operations of every scheme, one function each, so that `cargo x machine-code` can list their
//! machine code.
//!
//! This library is never linked: its assembly is the content of results/machine-code.md.

#![no_std]
#![forbid(unsafe_code)]

use folio_ref::{PageRef, schemes};

macro_rules! operations {
    ($($scheme:ident: $try_get:ident $put:ident $freeze:ident;)*) => {$(
        /// Returns `true` if a reference was taken.
        #[inline(never)]
        pub fn $try_get(word: &PageRef<schemes::$scheme>) -> bool {
            word.try_get(1).is_ok()
        }

        /// Returns `true` if it was the last one: the caller now owns the frame.
        #[inline(never)]
        pub fn $put(word: &PageRef<schemes::$scheme>) -> bool {
            word.put().map(folio_ref::Frozen::leave_frozen).is_some()
        }

        /// Returns `true` if the caller now owns the frame. It expects one reference, its own.
        #[inline(never)]
        pub fn $freeze(word: &PageRef<schemes::$scheme>) -> bool {
            word.freeze(1).map(folio_ref::Frozen::leave_frozen).is_ok()
        }
    )*};
}

operations! {
    ZeroFrozen: zero_frozen_try_get zero_frozen_put zero_frozen_freeze;
    GuessOne: guess_one_try_get guess_one_put guess_one_freeze;
    FrozenBit: frozen_bit_try_get frozen_bit_put frozen_bit_freeze;
    LiveBitHigh: live_bit_high_try_get live_bit_high_put live_bit_high_freeze;
    LiveBitLow: live_bit_low_try_get live_bit_low_put live_bit_low_freeze;
    Generational: generational_try_get generational_put generational_freeze;
    Tagged: tagged_try_get tagged_put tagged_freeze;
}
