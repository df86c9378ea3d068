//! Every operation of each scheme with a bit, a function each, so that `cargo x c-header` can
//! compare its atomic instructions with those of the C header.
//!
//! This library is never linked: only its assembly is read.

#![no_std]
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "named by the operations")]

use folio_ref::schemes::{FrozenBit, Generational, LiveBitHigh, LiveBitLow, Tagged};
use folio_ref::{Detached, Frozen, PageRef, Tag};

macro_rules! operations {
    ($($module:ident: $scheme:ident;)*) => { $(
        pub mod $module {
            use super::{Detached, Frozen, PageRef, $scheme};

            type Word = PageRef<$scheme>;

            #[inline(never)]
            pub fn try_get(word: &Word, n: u32) -> bool {
                word.try_get(n).is_ok()
            }
            #[inline(never)]
            pub fn try_get_unless_frozen(word: &Word, n: u32) -> bool {
                word.try_get_unless_frozen(n).is_ok()
            }
            #[inline(never)]
            pub fn get(word: &Word, n: u32) {
                word.get(n);
            }
            #[inline(never)]
            pub fn put(word: &Word, n: u32) -> bool {
                word.put_many(n).map(Frozen::leave_frozen).is_some()
            }
            #[inline(never)]
            pub fn put_expecting_last(word: &Word) -> bool {
                word.put_expecting_last().map(Frozen::leave_frozen).is_some()
            }
            #[inline(never)]
            pub fn freeze(word: &Word, expected: u32) -> bool {
                word.freeze(expected).map(Frozen::leave_frozen).is_ok()
            }
            #[inline(never)]
            pub fn unfreeze(word: &Word, control: Detached<$scheme>, n: u32) {
                word.attach(control).unfreeze(n);
            }
        }
    )* };
}

operations! {
    frozen_bit: FrozenBit;
    live_bit_high: LiveBitHigh;
    live_bit_low: LiveBitLow;
    generational: Generational;
    tagged: Tagged;
}

/// The operations with a tag.
pub mod tags {
    use super::{Detached, Frozen, PageRef, Tag, Tagged};

    #[inline(never)]
    pub fn try_claim(word: &PageRef<Tagged>, tag: Tag) -> bool {
        word.try_claim(tag).map(Frozen::leave_frozen).is_ok()
    }

    #[inline(never)]
    pub fn leave_frozen_as(word: &PageRef<Tagged>, control: Detached<Tagged>, tag: Tag) {
        word.attach(control).leave_frozen_as(tag);
    }
}
