//! The bytes of free frames: by default those of their last use.
//!
//! | | the bytes of a freed folio |
//! | --- | --- |
//! | [`Zone::set_scrub`] | are zeroed |
//! | otherwise, on a platform with [`POISON`](Platform::POISON) | are overwritten with it |
//! | otherwise | stay |
//!
//! Frames that were never used are as the system gave them: zeroes.

use core::sync::atomic::Ordering;

use crate::base::platform::Platform;
use crate::zone::folio::FrozenFolio;
use crate::zone::zone::Zone;

impl<P: Platform> Zone<P> {
    /// Sets whether the bytes of folios are zeroed when they are freed: from now on no byte of an
    /// earlier use is found in a frame that is allocated, or in memory that nothing uses.
    pub fn set_scrub(&self, scrub: bool) {
        // Relaxed: a switch; what is freed at this moment may be on either side.
        self.scrub.store(u32::from(scrub), Ordering::Relaxed);
    }
}

impl<P: Platform> FrozenFolio<P> {
    /// Overwrites the bytes before the folio is freed, if that is wanted. Returns the folio.
    #[inline]
    pub(crate) fn scrubbed(mut self) -> Self {
        // Relaxed: as above.
        if self.zone().scrub.load(Ordering::Relaxed) != 0 {
            return zeroed(self);
        }
        if let Some(poison) = P::POISON {
            self.as_mut_slice().fill(poison);
        }
        self
    }
}

/// Zeroes a folio and returns it. A function of its own that takes the handle by value, so that a
/// free without it keeps the handle in registers.
#[cold]
#[inline(never)]
fn zeroed<P: Platform>(mut folio: FrozenFolio<P>) -> FrozenFolio<P> {
    folio.zero();
    folio
}
