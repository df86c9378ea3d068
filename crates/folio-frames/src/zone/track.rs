//! Tracking of references (feature `track`): each remembers the line of code that took it.
//!
//! A [`Site`] travels with every reference, and the platform is notified when one begins and when
//! it ends. The platform keeps the table, as it has the memory and the locks for it. Without the
//! feature a site has no size, and nothing here leaves an instruction.
//!
//! A slot's own reference has no site: its owner is the slot. An entry of the table begins after
//! its reference and ends before it, so the table never lists a reference that does not exist.

use core::marker::PhantomData;

use crate::base::ids::Pfn;
use crate::base::platform::Platform;

/// A folio, as the platform's table of references names it.
pub(crate) struct Place<P> {
    #[cfg_attr(not(feature = "track"), expect(dead_code, reason = "nothing is tracked"))]
    pub(crate) zone: usize,
    #[cfg_attr(not(feature = "track"), expect(dead_code, reason = "nothing is tracked"))]
    pub(crate) head: Pfn,
    platform: PhantomData<fn() -> P>,
}

impl<P> Clone for Place<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Place<P> {}

impl<P> Place<P> {
    #[inline(always)]
    pub(crate) fn new(zone: usize, head: Pfn) -> Self {
        Self { zone, head, platform: PhantomData }
    }
}

/// Where a reference was taken.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    #[cfg(feature = "track")]
    at: Option<&'static core::panic::Location<'static>>,
}

#[cfg_attr(
    not(feature = "track"),
    expect(clippy::unused_self, reason = "there is nothing to remember")
)]
impl Site {
    /// `true` if references are tracked.
    pub(crate) const IS_TRACKED: bool = cfg!(feature = "track");

    /// The site of a slot's own reference.
    pub(crate) const NONE: Self = Self {
        #[cfg(feature = "track")]
        at: None,
    };

    /// Returns the caller of the calling function, as far as functions are `track_caller`.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn here() -> Self {
        Self {
            #[cfg(feature = "track")]
            at: Some(core::panic::Location::caller()),
        }
    }

    /// Reports that references were taken at this site.
    #[inline(always)]
    pub(crate) fn began<P: Platform>(self, at: Place<P>, references: u32) {
        #[cfg(feature = "track")]
        if let Some(site) = self.at {
            P::reference_began(at.zone, at.head, site, references);
        }
        #[cfg(not(feature = "track"))]
        let _ = (at, references);
    }

    /// Reports that references taken at this site are about to end.
    #[inline(always)]
    pub(crate) fn ended<P: Platform>(self, at: Place<P>, references: u32) {
        #[cfg(feature = "track")]
        if let Some(site) = self.at {
            P::reference_ended(at.zone, at.head, site, references);
        }
        #[cfg(not(feature = "track"))]
        let _ = (at, references);
    }

    /// Moves one reference to another site, and returns that site.
    #[inline(always)]
    pub(crate) fn moved<P: Platform>(self, to: Self, at: Place<P>) -> Self {
        self.ended(at, 1);
        to.began(at, 1);
        to
    }
}
