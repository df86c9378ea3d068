//! Walking by frame number: descriptor, head, `try_get`, re-check.
//!
//! The walker owns nothing and holds no lock. Other threads may allocate, free or split every frame
//! that it visits. So it reads the descriptor, takes a reference, and reads the descriptor again
//! (R8).

use core::fmt;
use core::iter;

use folio_ref::{CHECKS, MAX_AT_ONCE, Refused, SATURATED, Snapshot};

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order, Pfn, PfnRange};
use crate::base::platform::Platform;
use crate::base::seeded_bugs::no_recheck;
use crate::base::trace::Event;
use crate::memmap::blocks::State;
use crate::memmap::memmap::{Kind, Shape};
use crate::memmap::seeded_bugs::volatile_walked;
use crate::memmap::uses::Uses;
use crate::zone::folio::{FolioRef, put};
use crate::zone::refs::{self, FolioRefs, check_count};
use crate::zone::zone::Zone;

/// The reason why a walker got no reference. It is expected: the walker goes on to the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// An exclusive handle of it exists: it is being filled, moved or reclaimed, or is a plain
    /// block.
    Frozen,
    /// It is free: in the buddy, in a per-CPU list, or isolated.
    Free,
    /// It is a tail of a larger block.
    Tail,
    /// It is offline, a hole of the memory map, or not a frame of this zone.
    Offline,
    /// It was split, freed, or allocated again meanwhile. No reference is kept.
    Moved,
    /// Its count is saturated, so it is leaked; or the count has no room for so many references.
    Saturated,
    /// Its bytes may change while there are references: [`Zone::try_get_volatile`] takes one.
    Volatile,
    /// Its bytes do not change while there are references: [`Zone::try_get`] takes one.
    NotVolatile,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frozen => "the frame is frozen",
            Self::Free => "the frame is free",
            Self::Tail => "the frame is a tail of a larger block",
            Self::Offline => "the frame is offline, or not in the memory map of this zone",
            Self::Moved => "the frame changed meanwhile",
            Self::Saturated => "the count of the frame is saturated, or has no room for so many",
            Self::Volatile => "the bytes of the frame may change",
            Self::NotVolatile => "the bytes of the frame do not change",
        })
    }
}

impl core::error::Error for Refusal {}

/// A snapshot of one frame's descriptor, stale as soon as it is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peek {
    /// The kind.
    pub kind: Kind,
    /// The order, if it is a head.
    pub order: Order,
    /// The owner data, if it is allocated.
    pub owner_data: u64,
    /// `true` if its bytes are newer than their source.
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

// Zone::head_of goes from the one to the other.
const _: () = assert!(MAX_ORDER.as_u8() == BLOCK_ORDER.as_u8() + 1);

impl<P: Platform> Zone<P> {
    /// Takes a reference to the folio with this frame as its *head*.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the frame is not the head of an open folio; tails refuse.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get(&'static self, pfn: Pfn) -> Result<FolioRef<P>, Refusal> {
        let index = self.index(pfn).ok_or(Refusal::Offline)?;
        let head = self.descriptor(index);
        self.try_get_index(index, head.shape(), head.owner_data())
    }

    /// Takes a reference to the folio with this frame as its head if kind, order and owner data are
    /// still those of `seen`. For a scan that acts later on frames that it peeked at.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the frame is not the head of an open folio, or has changed.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get_as(&'static self, pfn: Pfn, seen: &Peek) -> Result<FolioRef<P>, Refusal> {
        let index = self.index(pfn).ok_or(Refusal::Offline)?;
        self.try_get_index(index, Shape { kind: seen.kind, order: seen.order }, seen.owner_data)
    }

    /// Takes a reference to the folio that this frame belongs to, as head or tail.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the frame does not belong to an open folio.
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get_head(&'static self, pfn: Pfn) -> Result<FolioRef<P>, Refusal> {
        let (_, head, shape) = self.around(pfn)?;
        self.try_get_index(head, shape, self.descriptor(head).owner_data())
    }

    /// Takes `n` references to the folio that this frame belongs to, as head or tail: up to
    /// [`MAX_AT_ONCE`] by one atomic operation. The bytes of the folio may change or not.
    ///
    /// For the fork of a page table, and for a pin that counts as many references.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] if the frame does not belong to an open folio. [`Refusal::Saturated`] also if
    /// the count has no room for so many: then none is taken. Where other threads take references
    /// at the same moment, the count may still saturate, which leaks the folio (R5).
    ///
    /// # Panics
    ///
    /// Panics if `n` is 0, or not below [`SATURATED`].
    ///
    /// ```
    /// use folio_frames::{Arena, Kind, Order, UserSpace};
    ///
    /// let arena = Arena::<UserSpace>::new(2 << 20, &[])?;
    /// let zone = arena.zone();
    /// let folio = zone.alloc(Order::ZERO, Kind::owner(0), 42)?;
    /// let pin = zone.try_get_many(folio.pfn(), 1024)?;
    /// assert_eq!(pin.count(), 1024);
    /// drop(pin);
    /// assert!(folio.freeze().map(|frozen| frozen.free()).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(feature = "track", track_caller)]
    pub fn try_get_many(&'static self, pfn: Pfn, n: u32) -> Result<FolioRefs<P>, Refusal> {
        check_count(n);
        let (_, head, shape) = self.around(pfn)?;
        // The word itself saturates where an attempt crosses the limit. So look before the attempt.
        let seen = self.descriptor(head).word.snapshot();
        if matches!(seen, Snapshot::Live(have) if have >= SATURATED - n) {
            return Err(Refusal::Saturated);
        }
        let first = n.min(MAX_AT_ONCE);
        self.try_take(head, first, shape, self.descriptor(head).owner_data())?;
        refs::get(self, head, n - first);
        Ok(FolioRefs::from_index(self, head, n))
    }

    /// Returns the index of a frame, and the head and the shape of the block around it, which seems
    /// to be allocated.
    pub(crate) fn around(&'static self, pfn: Pfn) -> Result<(u32, u32, Shape), Refusal> {
        let at = self.index(pfn).ok_or(Refusal::Offline)?;
        let (head, shape) = self.head_of(at).ok_or_else(|| self.why_headless(at))?;
        match shape.kind {
            Kind::HOLE => Err(Refusal::Offline),
            kind if kind.is_free() => Err(Refusal::Free),
            _ => Ok((at, head, shape)),
        }
    }

    /// Takes one reference to bytes that do not change.
    #[cfg_attr(feature = "track", track_caller)]
    fn try_get_index(
        &'static self,
        index: u32,
        before: Shape,
        owner_data: u64,
    ) -> Result<FolioRef<P>, Refusal> {
        self.try_take(index, 1, before, owner_data)?;
        // Exact, as there is a reference.
        if self.descriptor(index).is_volatile() && !volatile_walked() {
            put(self, index, 1);
            return Err(Refusal::Volatile);
        }
        Ok(FolioRef::from_index(self, index))
    }

    /// Takes `n` references to the folio with this head, which the caller accounts for, if it is
    /// what it was.
    pub(crate) fn try_take(
        &'static self,
        index: u32,
        n: u32,
        before: Shape,
        owner_data: u64,
    ) -> Result<(), Refusal> {
        let head = self.descriptor(index);
        match head.word.try_get(n) {
            Err(Refused::Frozen) => {
                P::trace(Event::Refused, || self.pfn(index));
                Err(self.why_frozen(index, head.shape()))
            }
            Err(Refused::Saturated) => Err(Refusal::Saturated),
            Ok(()) => {
                // The frame may belong to this zone's successor: the put happens there.
                if self.has_successor() {
                    put(self, index, n);
                    return Err(Refusal::Offline);
                }
                // R8: the folio must be unchanged. From now on the reference keeps it so.
                if (head.shape() != before || head.owner_data() != owner_data) && !no_recheck() {
                    P::trace(Event::Moved, || self.pfn(index));
                    put(self, index, n);
                    return Err(Refusal::Moved);
                }
                assert!(
                    !CHECKS || before.kind.is_allocated(),
                    "try_get succeeded on {pfn:?}, which is {kind:?} (R1)",
                    pfn = self.pfn(index),
                    kind = before.kind
                );
                P::trace(Event::Got, || self.pfn(index));
                Ok(())
            }
        }
    }

    /// Returns the reason of a refusal, by the descriptors.
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
            Some((_, shape)) if shape.kind == Kind::HOLE => Refusal::Offline,
            Some(_) => Refusal::Tail,
        }
    }

    /// Returns the reason why no head was found.
    #[cold]
    fn why_headless(&self, index: u32) -> Refusal {
        if self.blocks.of(index).state() == State::Offline {
            Refusal::Offline
        } else {
            Refusal::Moved
        }
    }

    /// Returns the head of the block around a frame: the nearest aligned candidate with a block
    /// that extends to this frame. Returns `None` if there is none, or if the block was just
    /// changing. The answer lasts only with a reference to the head and the check after it.
    pub(crate) fn head_of(&self, index: u32) -> Option<(u32, Shape)> {
        let at = |n: u8| {
            let candidate = index & !((1 << n) - 1);
            (candidate, self.descriptor(candidate).shape())
        };
        let covers = |(head, shape): (u32, Shape)| {
            (index - head < shape.order.frames()).then_some((head, shape))
        };
        for n in 0..=BLOCK_ORDER.as_u8() {
            let candidate = at(n);
            if candidate.1 != Shape::INTERIOR {
                return covers(candidate);
            }
        }
        // The order of two 2 MiB blocks, and the huge one.
        for n in iter::once(MAX_ORDER.as_u8()).chain(self.huge_order().map(Order::as_u8)) {
            // A larger block has metadata throughout. So without it the frame is in none.
            if !self.blocks.has_metadata(index & !((1 << n) - 1)) {
                return None;
            }
            let candidate = at(n);
            if candidate.1 != Shape::INTERIOR {
                return covers(candidate);
            }
        }
        None
    }

    /// Returns a snapshot of one frame's descriptor, without taking a reference.
    ///
    /// # Panics
    ///
    /// Panics if the frame is not in this zone, or is in a 2 MiB block of which the memory map has
    /// no frame.
    #[inline]
    pub fn peek(&self, pfn: Pfn) -> Peek {
        let Some(index) = self.index(pfn) else {
            panic!("{pfn:?} is not in the zone of {:?}", self.pfns())
        };
        self.peek_index(index, self.descriptor(index).shape())
    }

    #[inline]
    fn peek_index(&self, index: u32, shape: Shape) -> Peek {
        let descriptor = self.descriptor(index);
        Peek {
            kind: shape.kind,
            order: shape.order,
            owner_data: descriptor.owner_data(),
            dirty: descriptor.is_dirty(),
            snapshot: descriptor.word.snapshot(),
        }
    }

    /// Returns the first folio of a kind with its head in a range that seems to be clean, and to
    /// have no more references than frames: those of its index. Reads the descriptors, and nothing
    /// else. Racy.
    ///
    /// # Panics
    ///
    /// Panics if the range does not lie in this zone.
    pub fn find_unpinned(&self, kind: Kind, frames: &PfnRange) -> Option<Pfn> {
        let count = u32::try_from(frames.frames()).unwrap_or(u32::MAX);
        let first = self.index_in_span(frames.start).filter(|first| count <= self.frames() - first);
        let Some(first) = first.or((count == 0).then_some(0)) else {
            panic!("{frames:?} is not in the zone of {:?}", self.pfns())
        };
        let (mut index, end) = (first, first + count);
        while index < end {
            let next_block = (index / BLOCK_ORDER.frames() + 1) * BLOCK_ORDER.frames();
            let block = index..end.min(next_block);
            index = block.end;
            if block.start >= self.unbroken && !self.blocks.has_metadata(block.start) {
                continue;
            }
            let is_one = self.descriptor(block.start).shape().order >= BLOCK_ORDER;
            let mut looked_at = if is_one { block.start..block.start + 1 } else { block };
            // Tails are looked at as well, as they are of another kind: so no look waits for the
            // order that the one before found.
            if let Some(found) = looked_at.find(|&index| self.is_unpinned(index, kind)) {
                return Some(self.pfn(found));
            }
        }
        None
    }

    #[inline(always)]
    fn is_unpinned(&self, index: u32, kind: Kind) -> bool {
        let descriptor = self.descriptor(index);
        let shape = descriptor.shape();
        shape.kind == kind
            && matches!(descriptor.word.snapshot(), Snapshot::Live(n) if n <= shape.order.frames())
            && !descriptor.is_dirty()
    }

    /// Returns the head of the folio around a frame, and a snapshot of the head's descriptor,
    /// without taking a reference. Returns `None` if there is no such folio.
    #[inline]
    pub fn peek_around(&self, pfn: Pfn) -> Option<(Pfn, Peek)> {
        let index = self.index(pfn)?;
        let shape = self.descriptor(index).shape();
        // Most frames are their own heads.
        let (head, shape) =
            if shape == Shape::INTERIOR { self.head_of(index)? } else { (index, shape) };
        Some((self.pfn(head), self.peek_index(head, shape)))
    }

    /// Returns `true` if this frame was used since the last
    /// [`take_referenced`](Self::take_referenced), or was read ahead and not used yet.
    #[inline]
    pub fn is_referenced(&self, pfn: Pfn) -> bool {
        self.index(pfn).is_some_and(|index| self.memmap.is_referenced(index))
    }

    /// Returns `true` if this frame was read ahead and not used yet.
    #[inline]
    pub fn is_readahead(&self, pfn: Pfn) -> bool {
        self.index(pfn).is_some_and(|index| self.memmap.is_readahead(index))
    }

    /// Clears the referenced bit. Returns the uses since it was last cleared. Returns `None` and
    /// changes nothing if this frame was read ahead and not used yet.
    #[inline]
    pub fn take_uses(&self, pfn: Pfn) -> Option<Uses> {
        self.index(pfn).map_or(Some(Uses::default()), |index| self.memmap.take_uses(index))
    }

    /// Returns the time of uses, of which [`Uses::age`] is a difference.
    #[inline]
    pub fn uses_now(&self) -> u32 {
        self.memmap.clock().now()
    }

    /// Returns the unit of the time of uses: a 32nd to a 16th of all frames.
    #[inline]
    pub fn uses_unit(&self) -> u32 {
        self.memmap.clock().unit()
    }

    /// Advances the time of uses by one unit, for the pages that came: call it for each
    /// [`uses_unit`](Self::uses_unit) of them. An advance of two threads at once may be lost.
    pub fn advance_uses(&self) {
        self.memmap.clock().advance();
    }

    /// Clears the referenced bit. Returns its old value: `true` if this frame was used since the
    /// last call, or was read ahead and not used yet.
    #[inline]
    pub fn take_referenced(&self, pfn: Pfn) -> bool {
        let Some(index) = self.index(pfn) else { return false };
        let was_referenced = self.memmap.is_referenced(index);
        self.memmap.clear_referenced(index);
        was_referenced
    }
}
