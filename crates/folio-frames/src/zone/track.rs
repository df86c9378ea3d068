//! Who holds a frame (feature `track`): each reference remembers the line of code that took it.
//!
//! A [`Site`] travels with every reference, and the platform is told when one begins and ends: it
//! keeps the table, as it has the memory and the locks for it. Without the feature a site has no
//! size, and nothing here leaves an instruction.
//!
//! A slot's own reference has no site: who wants to know has the slot. An entry begins after its
//! reference and ends before it, so none is ever in the table that is not held.

use crate::base::platform::Platform;
use crate::zone::zone::Zone;
#[cfg(feature = "track")]
pub use pin_owners::PinOwners;

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
    /// Of a slot's own reference.
    pub(crate) const NONE: Self = Self {
        #[cfg(feature = "track")]
        at: None,
    };

    /// The caller's caller, as far as functions are `track_caller`.
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub(crate) fn here() -> Self {
        Self {
            #[cfg(feature = "track")]
            at: Some(core::panic::Location::caller()),
        }
    }

    /// References were taken here.
    #[inline(always)]
    pub(crate) fn began<P: Platform>(self, zone: &'static Zone<P>, index: u32, references: u32) {
        #[cfg(feature = "track")]
        if let Some(site) = self.at {
            P::reference_began(zone.key(), zone.pfn(index), site, references);
        }
        #[cfg(not(feature = "track"))]
        let _ = (zone, index, references);
    }

    /// References that were taken here are about to end.
    #[inline(always)]
    pub(crate) fn ended<P: Platform>(self, zone: &'static Zone<P>, index: u32, references: u32) {
        #[cfg(feature = "track")]
        if let Some(site) = self.at {
            P::reference_ended(zone.key(), zone.pfn(index), site, references);
        }
        #[cfg(not(feature = "track"))]
        let _ = (zone, index, references);
    }

    /// One reference counts as taken elsewhere from now on.
    #[inline(always)]
    pub(crate) fn moved<P: Platform>(self, to: Self, zone: &'static Zone<P>, index: u32) -> Self {
        self.ended(zone, index, 1);
        to.began(zone, index, 1);
        to
    }
}

#[cfg(feature = "track")]
mod pin_owners {
    use core::fmt;
    use core::panic::Location;

    use crate::base::ids::{Pfn, PfnRange};
    use crate::base::platform::Platform;
    use crate::zone::zone::Zone;

    /// Sites that are told apart.
    const SITES: usize = 8;

    /// Who holds some frames, most references first: `2 from a.rs:1:2, 1 from b.rs:3:4`. Racy.
    pub struct PinOwners<P: Platform> {
        zone: &'static Zone<P>,
        frames: PfnRange,
    }

    impl<P: Platform> PinOwners<P> {
        /// Each site at which references of a folio of these frames were taken, with how many. A
        /// site may come again with another folio.
        pub fn for_each(&self, mut visit: impl FnMut(Pfn, &'static Location<'static>, u32)) {
            for pfn in self.frames.clone() {
                P::pin_owners(self.zone.key(), pfn, &mut |site, references| {
                    visit(pfn, site, references)
                });
            }
        }
    }

    impl<P: Platform> fmt::Display for PinOwners<P> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut sites: [Option<(&Location<'_>, u32)>; SITES] = [None; SITES];
            let mut others = 0;
            self.for_each(|_, site, references| {
                let place =
                    sites.iter().position(|known| known.is_none_or(|known| known.0 == site));
                match place {
                    Some(place) => {
                        sites[place] =
                            Some((site, sites[place].map_or(0, |known| known.1) + references))
                    }
                    None => others += references,
                }
            });
            sites.sort_by_key(|site| core::cmp::Reverse(site.map_or(0, |site| site.1)));
            let mut said = false;
            for (site, references) in sites.into_iter().flatten() {
                let comma = if said { ", " } else { "" };
                write!(f, "{comma}{references} from {site}")?;
                said = true;
            }
            match others {
                0 if said => Ok(()),
                0 => f.write_str("nobody but slots"),
                _ => write!(f, ", {others} from elsewhere"),
            }
        }
    }

    impl<P: Platform> fmt::Debug for PinOwners<P> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self}")
        }
    }

    impl<P: Platform> Zone<P> {
        /// Who holds references of the folio at this frame, head or tail: for when it is busy.
        pub fn pin_owners(&'static self, pfn: Pfn) -> PinOwners<P> {
            let head = self
                .index(pfn)
                .and_then(|index| self.head_of(index))
                .map_or(pfn, |(head, _)| self.pfn(head));
            self.pin_owners_of(PfnRange { start: head, end: Pfn::new(head.as_u64() + 1) })
        }

        /// Who holds references of the folios whose heads are among these frames.
        pub fn pin_owners_of(&'static self, frames: PfnRange) -> PinOwners<P> {
            PinOwners { zone: self, frames }
        }

        /// What tells zones apart in the platform's table.
        pub(crate) fn key(&self) -> usize {
            core::ptr::from_ref(self).addr()
        }
    }
}
