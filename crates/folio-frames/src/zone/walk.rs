//! Walking by frame number: descriptor, head, `try_get`, re-check.
//!
//! The walker owns nothing and holds no lock; every frame it meets may be allocated, freed or cut
//! up under it. So: a look, a get, a second look (R8).

use core::fmt;

use folio_ref::{CHECKS, Refused, Snapshot};

use crate::base::ids::{MAX_ORDER, Order, Pfn};
use crate::base::platform::Platform;
use crate::base::seeded_bugs::NO_RECHECK;
use crate::base::trace::Event;
use crate::memmap::blocks::State;
use crate::memmap::memmap::{Kind, Shape};
use crate::zone::folio::FolioRef;
use crate::zone::zone::Zone;

/// Why a walker did not get a reference. Expected: it goes on to the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Somebody has exclusive control: it is being filled, moved, reclaimed, or is a plain block.
    Frozen,
    /// It is free: in the buddy, in a per-CPU list, or isolated.
    Free,
    /// It is a tail of a larger block.
    Tail,
    /// It is offline, or no frame of this zone.
    Offline,
    /// It became something else meanwhile: it was cut, freed, allocated anew. Nothing is held.
    Moved,
    /// Its count is saturated; it is leaked.
    Saturated,
}

/// A look at one frame, stale as soon as it is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Peek {
    /// What its descriptor says it is.
    pub kind: Kind,
    /// The order, if it is a head.
    pub order: Order,
    /// The owner's note, if it is allocated.
    pub owner_data: u64,
    /// Whether its bytes are newer than where they came from.
    pub dirty: bool,
    /// Its reference count.
    pub snapshot: Snapshot,
}

impl fmt::Debug for Peek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirty = if self.dirty { ", dirty" } else { "" };
        write!(f, "{:?}, {:?}, {:?}{dirty}", self.kind, self.order, self.snapshot)
    }
}

impl<P: Platform> Zone<P> {
    /// Takes a reference on the folio whose *head* is this very frame. Tails refuse.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get(&'static self, pfn: Pfn) -> Result<FolioRef<P>, Refusal> {
        let index = self.index(pfn).ok_or(Refusal::Offline)?;
        let head = self.descriptor(index);
        self.try_get_index(index, head.shape(), head.owner_data())
    }

    /// As [`Zone::try_get`], if the frame still is what it was when `seen` was taken: kind, order
    /// and the owner's note. For a scan that looks first and acts on what it found later.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get_as(&'static self, pfn: Pfn, seen: &Peek) -> Result<FolioRef<P>, Refusal> {
        let index = self.index(pfn).ok_or(Refusal::Offline)?;
        self.try_get_index(index, Shape { kind: seen.kind, order: seen.order }, seen.owner_data)
    }

    /// Takes a reference on the folio that this frame belongs to, head or tail.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get_head(&'static self, pfn: Pfn) -> Result<FolioRef<P>, Refusal> {
        let index = self.index(pfn).ok_or(Refusal::Offline)?;
        let (head, shape) = self.head_of(index).ok_or_else(|| self.why_headless(index))?;
        if shape.kind.is_free() {
            return Err(Refusal::Free);
        }
        self.try_get_index(head, shape, self.descriptor(head).owner_data())
    }

    #[cfg_attr(feature = "track", track_caller)]
    fn try_get_index(
        &'static self,
        index: u32,
        before: Shape,
        owner_data: u64,
    ) -> Result<FolioRef<P>, Refusal> {
        let head = self.descriptor(index);
        match head.word.try_get(1) {
            Err(Refused::Frozen) => {
                P::trace(Event::Refused, || self.pfn(index));
                Err(self.why_frozen(index, head.shape()))
            }
            Err(Refused::Saturated) => Err(Refusal::Saturated),
            Ok(()) => {
                let folio = FolioRef::from_index(self, index);
                // The frame may be of this zone's heir; what is dropped here then is put there.
                if self.has_heir() {
                    return Err(Refusal::Offline);
                }
                // R8: is it still what it was? The reference now keeps it so.
                if (head.shape() != before || head.owner_data() != owner_data) && !NO_RECHECK {
                    P::trace(Event::Moved, || self.pfn(index));
                    return Err(Refusal::Moved);
                }
                assert!(
                    !CHECKS || before.kind.is_allocated(),
                    "try_get succeeded on {pfn:?}, which is {kind:?} (R1)",
                    pfn = self.pfn(index),
                    kind = before.kind
                );
                P::trace(Event::Got, || self.pfn(index));
                Ok(folio)
            }
        }
    }

    /// Names the reason for a refusal by what the descriptors say.
    #[cold]
    fn why_frozen(&self, index: u32, shape: Shape) -> Refusal {
        if shape.kind.is_free() {
            return Refusal::Free;
        }
        if shape.kind.is_allocated() {
            return Refusal::Frozen;
        }
        match self.head_of(index) {
            None => self.why_headless(index),
            Some((_, shape)) if shape.kind.is_free() => Refusal::Free,
            Some(_) => Refusal::Tail,
        }
    }

    /// Names the reason why no head was found.
    #[cold]
    fn why_headless(&self, index: u32) -> Refusal {
        if self.blocks.of(index).state() == State::Offline {
            Refusal::Offline
        } else {
            Refusal::Moved
        }
    }

    /// The head of the block around a frame: the nearest aligned candidate that says it reaches
    /// this far. `None`: there is none, or the block was being changed. Only a reference on the
    /// head, and the re-check after it, make the answer lasting.
    pub(crate) fn head_of(&self, index: u32) -> Option<(u32, Shape)> {
        for n in (0..=MAX_ORDER.as_u8()).chain(self.huge_order().map(Order::as_u8)) {
            let candidate = index & !((1 << n) - 1);
            let shape = self.descriptor(candidate).shape();
            if shape != Shape::INTERIOR {
                return (index - candidate < shape.order.frames()).then_some((candidate, shape));
            }
        }
        None
    }

    /// Looks at one frame without taking a reference.
    ///
    /// # Panics
    ///
    /// When the frame is not of this zone.
    pub fn peek(&self, pfn: Pfn) -> Peek {
        let Some(index) = self.index(pfn) else {
            panic!("{pfn:?} is no frame of {:?}", self.pfns())
        };
        let descriptor = self.descriptor(index);
        let shape = descriptor.shape();
        Peek {
            kind: shape.kind,
            order: shape.order,
            owner_data: descriptor.owner_data(),
            dirty: descriptor.is_dirty(),
            snapshot: descriptor.word.snapshot(),
        }
    }

    /// Looks at the folio around a frame, head or tail, without taking a reference: its head, and a
    /// look at that. `None`: there is none.
    pub fn peek_around(&self, pfn: Pfn) -> Option<(Pfn, Peek)> {
        let (head, shape) = self.head_of(self.index(pfn)?)?;
        let head = self.pfn(head);
        Some((head, Peek { kind: shape.kind, order: shape.order, ..self.peek(head) }))
    }

    /// Whether this frame was used since [`take_referenced`](Self::take_referenced) was last called, or was
    /// read ahead of a use that is still to come.
    pub fn is_referenced(&self, pfn: Pfn) -> bool {
        self.index(pfn).is_some_and(|index| self.memmap.is_referenced(index))
    }

    /// As [`is_referenced`](Self::is_referenced), and forgets it.
    pub fn take_referenced(&self, pfn: Pfn) -> bool {
        let Some(index) = self.index(pfn) else { return false };
        let marked = self.memmap.is_referenced(index);
        self.memmap.clear_referenced(index);
        marked
    }
}
