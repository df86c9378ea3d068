//! The widest vector registers that a copy may use.

/// The vector registers that code may use on this processor.
///
/// Of interest on x86-64, where the processor may have more than the program was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    width: Width,
    copy_pages: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Bits128,
    Bits256,
    Bits512,
}

impl Vectors {
    /// SSE2: registers of 128 bits.
    pub const BITS_128: Self = Self::new(Width::Bits128);

    /// Returns AVX: registers of 256 bits.
    ///
    /// # Safety
    ///
    /// This processor has registers of 256 bits, and all other code that runs on it leaves them as
    /// they were.
    pub const unsafe fn bits_256() -> Self {
        Self::new(Width::Bits256)
    }

    /// Returns AVX-512: registers of 512 bits.
    ///
    /// # Safety
    ///
    /// This processor has AVX-512F and its registers of 512 bits, and all other code that runs on
    /// it leaves them as they were.
    pub const unsafe fn bits_512() -> Self {
        Self::new(Width::Bits512)
    }

    /// Returns the same registers, which copy whole pages too. Without this, a string instruction
    /// copies from 3 KiB on. With registers of 128 bits it does so from 1 KiB on in any case.
    ///
    /// Right for processors of Intel with AVX-512: a page in the caches takes 46 ns by registers on
    /// Emerald Rapids (model 207), and 56 by the instruction. On Zen 4 the instruction takes at
    /// most 53, and registers 60.
    #[must_use]
    pub const fn for_pages(self) -> Self {
        Self { copy_pages: true, ..self }
    }

    const fn new(width: Width) -> Self {
        Self { width, copy_pages: false }
    }
}

#[cfg(all(target_arch = "x86_64", target_feature = "sse2", not(miri), not(shuttle)))]
impl Vectors {
    #[inline(always)]
    pub(crate) const fn width(self) -> Width {
        self.width
    }

    /// Returns `true` if registers copy whole pages.
    #[inline(always)]
    pub(crate) const fn copy_pages(self) -> bool {
        self.copy_pages
    }
}
