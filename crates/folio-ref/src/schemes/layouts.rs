//! The layouts of all schemes with a bit, for `cargo x c-header`.

use super::bit::Encoding;
use super::layout::Layout;
use super::{FrozenBit, Generational, LiveBitHigh, LiveBitLow, Tagged};

/// Returns the name and the layout of each scheme with a bit.
pub const fn layouts() -> [(&'static str, Layout); 5] {
    [
        named::<FrozenBit>(),
        named::<LiveBitHigh>(),
        named::<LiveBitLow>(),
        named::<Generational>(),
        named::<Tagged>(),
    ]
}

const fn named<E: Encoding>() -> (&'static str, Layout) {
    (E::NAME, E::LAYOUT)
}
