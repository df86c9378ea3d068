//! The pin owners of frames (feature `track`): where the references were taken that still exist.

use core::fmt;
use core::panic::Location;

use crate::base::ids::{Pfn, PfnRange};
use crate::base::platform::Platform;
use crate::zone::zone::Zone;

/// The number of sites that are listed one by one.
const SITES: usize = 8;

/// The pin owners of some frames. Displays as the lines of code that took their references, most
/// references first: `2 from a.rs:1:2, 1 from b.rs:3:4`. Racy.
pub struct PinOwners<P: Platform> {
    zone: &'static Zone<P>,
    frames: PfnRange,
}

impl<P: Platform> PinOwners<P> {
    /// Visits each line of code at which references to a folio of these frames were taken, with the
    /// folio and the number of references. A line may come again with another folio.
    pub fn for_each(&self, mut visit: impl FnMut(Pfn, &'static Location<'static>, u32)) {
        for pfn in self.frames.clone() {
            let Some(index) = self.zone.index(pfn) else { continue };
            P::pin_owners(self.zone.place(index).zone, pfn, &mut |site, references| {
                visit(pfn, site, references);
            });
        }
    }
}

impl<P: Platform> fmt::Display for PinOwners<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sites: [Option<(&Location<'_>, u32)>; SITES] = [None; SITES];
        let mut others = 0;
        self.for_each(|_, site, references| {
            let place = sites.iter().position(|known| known.is_none_or(|known| known.0 == site));
            match place {
                Some(place) => {
                    sites[place] =
                        Some((site, sites[place].map_or(0, |known| known.1) + references));
                }
                None => others += references,
            }
        });
        sites.sort_by_key(|site| core::cmp::Reverse(site.map_or(0, |site| site.1)));
        let mut is_first = true;
        for (site, references) in sites.into_iter().flatten() {
            let comma = if is_first { "" } else { ", " };
            write!(f, "{comma}{references} from {site}")?;
            is_first = false;
        }
        match others {
            0 if is_first => f.write_str("none except slots"),
            0 => Ok(()),
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
    /// Returns the pin owners of the folio at this frame, head or tail: for a report that it is
    /// busy.
    pub fn pin_owners(&'static self, pfn: Pfn) -> PinOwners<P> {
        let head = self
            .index(pfn)
            .and_then(|index| self.head_of(index))
            .map_or(pfn, |(head, _)| self.pfn(head));
        self.pin_owners_of(PfnRange { start: head, end: Pfn::new(head.as_u64() + 1) })
    }

    /// Returns the pin owners of the folios with a head among these frames.
    pub fn pin_owners_of(&'static self, frames: PfnRange) -> PinOwners<P> {
        PinOwners { zone: self, frames }
    }
}
