//! The widest vector registers that a copy may use.

/// The vector registers that code may use on this processor.
///
/// Of interest on x86-64, where the processor may have more than the program was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors(Width);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Bits128,
    Bits256,
    Bits512,
}

impl Vectors {
    /// SSE2: registers of 128 bits.
    pub const BITS_128: Self = Self(Width::Bits128);

    /// Returns AVX: registers of 256 bits.
    ///
    /// # Safety
    ///
    /// This processor has registers of 256 bits, and all other code that runs on it leaves them as
    /// they were.
    pub const unsafe fn bits_256() -> Self {
        Self(Width::Bits256)
    }

    /// Returns AVX-512: registers of 512 bits.
    ///
    /// # Safety
    ///
    /// This processor has AVX-512F and its registers of 512 bits, and all other code that runs on
    /// it leaves them as they were.
    pub const unsafe fn bits_512() -> Self {
        Self(Width::Bits512)
    }

    #[inline(always)]
    #[cfg_attr(
        not(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle))),
        expect(dead_code, reason = "other copies use no vector registers")
    )]
    pub(crate) const fn width(self) -> Width {
        self.0
    }
}
