//! Evacuation: empties a range of frames. The one mechanism under offline, contiguous allocation,
//! compaction and shrinking.
//!
//! | step | backs out by |
//! | --- | --- |
//! | 1. isolate the 2 MiB blocks that the range touches: nothing is allocated from them, and their free frames are captured | 4 |
//! | 2. drain the per-CPU lists: their frames of the range are captured | 4 |
//! | 3. migrate the folios in use, one by one, in a few rounds; each old frame is captured when it is freed; if no frame is free elsewhere, the owner is asked for some | folios that moved stay moved |
//! | 4. end the isolation: captured frames that were not taken go back to the buddy, and merge | |
//!
//! ```text
//!   offline      1 2 3, and the block is taken whole
//!   contiguous   1 2 3, the range is taken as exclusive handles, 4
//!   compaction   1 2 3 4: the emptied frames merge into a whole block
//! ```

use core::ops::Range;

use folio_ref::CHECKS;

use crate::base::ids::{BLOCK_ORDER, MAX_ORDER, Order, Pfn, aligned};
use crate::base::platform::Platform;
use crate::base::trace::Event;
use crate::memmap::blocks::State;
use crate::memmap::memmap::{Kind, Shape};
use crate::memmap::seeded_bugs;
use crate::moving::migrate::{MigrateError, Owner, migrate_within};
use crate::zone::buddy::{Buddy, Reach};
use crate::zone::zone::Zone;

/// Number of rounds of migration before the remaining frames are reported as busy.
const ROUNDS: usize = 4;

/// The number of times that the owner may free frames for one folio. Other threads may take them
/// first.
const MAX_ROOM: usize = 16;

/// The frames that are left after a failed evacuation.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    /// The number of frames in use, or on their way from one list to another.
    pub(crate) frames: u32,
    /// The first of these frames.
    pub(crate) first: Pfn,
    /// The index of the last of them.
    pub(crate) last: u32,
    /// `true` if there were no free frames elsewhere for their contents.
    pub(crate) out_of_frames: bool,
}

/// Blocks that this value has isolated. Dropping it ends the isolation.
pub(crate) struct Isolated<P: Platform> {
    zone: &'static Zone<P>,
    blocks: Range<usize>,
}

impl<P: Platform> Isolated<P> {
    /// Isolates all of these blocks. Returns `None` if one of them does not exist, is not online,
    /// or is isolated by another call.
    pub(crate) fn new(zone: &'static Zone<P>, blocks: Range<usize>) -> Option<Self> {
        if blocks.end > zone.blocks() {
            return None;
        }
        zone.init_deferred_through(&blocks);
        let mut isolated = Self { zone, blocks: blocks.start..blocks.start };
        for block in blocks {
            if !isolate(zone, block) {
                // Dropping `isolated` ends the isolation of the blocks before.
                return None;
            }
            isolated.blocks.end = block + 1;
        }
        Some(isolated)
    }

    /// Empties these frames, which lie in the isolated blocks: at the end all are captured.
    ///
    /// # Errors
    ///
    /// Returns the frames that are left.
    pub(crate) fn evacuate(
        &self,
        frames: Range<u32>,
        owner: &dyn Owner<P>,
        reach: Reach,
    ) -> Result<(), Left> {
        let zone = self.zone;
        let mut out_of_frames = false;
        for _ in 0..ROUNDS {
            zone.drain();
            out_of_frames = self.migrate_all(frames.clone(), owner, reach);
            zone.drain();
            if self.left(frames.clone()).is_none() {
                return Ok(());
            }
            if out_of_frames {
                break;
            }
        }
        match self.left(frames) {
            None => Ok(()),
            Some(left) => Err(Left { out_of_frames, ..left }),
        }
    }

    /// Captures these frames, which lie in the isolated blocks, without moving a folio.
    ///
    /// # Errors
    ///
    /// Returns the frames that are in use.
    pub(crate) fn capture(&self, frames: Range<u32>) -> Result<(), Left> {
        self.zone.drain();
        self.left(frames).map_or(Ok(()), Err)
    }

    /// Does one round of migration. Returns `true` if it ended because there are no free frames
    /// elsewhere.
    fn migrate_all(&self, frames: Range<u32>, owner: &dyn Owner<P>, reach: Reach) -> bool {
        let zone = self.zone;
        // The first folio may begin before the range.
        let mut index = zone.head_of(frames.start).map_or(frames.start, |(head, _)| head);
        while index < frames.end {
            let shape = zone.descriptor(index).shape();
            if shape.kind.is_allocated() && !self.migrate_one(index, owner, reach) {
                return true;
            }
            // A captured block does not change. All else may, so each frame is inspected.
            index += if shape.kind == Kind::ISOLATED { shape.order.frames() } else { 1 };
        }
        false
    }

    /// Migrates the folio at a frame, if it can be moved. The owner may have to free frames first,
    /// unless only holes may be taken. Returns `false` if there are no free frames elsewhere.
    fn migrate_one(&self, index: u32, owner: &dyn Owner<P>, reach: Reach) -> bool {
        let zone = self.zone;
        for _ in 0..MAX_ROOM {
            if migrate_within(zone, zone.pfn(index), owner, (zone, reach))
                != Err(MigrateError::OutOfFrames)
            {
                return true;
            }
            if reach == Reach::Holes || !owner.make_room(zone.descriptor(index).shape().order) {
                return false;
            }
        }
        false
    }

    /// Returns the frames that are not captured, if there are some. Needs no lock: a captured frame
    /// stays captured until the isolation ends.
    fn left(&self, frames: Range<u32>) -> Option<Left> {
        let mut left: Option<Left> = None;
        for_each_captured(self.zone, frames, |index, captured| {
            if captured.is_none() {
                let (before, first) =
                    left.map_or((0, self.zone.pfn(index)), |left| (left.frames, left.first));
                let frames = before + 1;
                left = Some(Left { frames, first, last: index, out_of_frames: false });
            }
        });
        left
    }

    /// Takes all frames of the range, which are captured, as blocks that are aligned and as large
    /// as possible. Calls `each` with the heads, which have no shape yet. Returns `false` if the
    /// zone is closed: then nothing was taken.
    #[must_use]
    pub(crate) fn take(&self, frames: Range<u32>, mut each: impl FnMut(u32, Order)) -> bool {
        let zone = self.zone;
        let mut buddy = zone.lock();
        if buddy.is_closed {
            return false;
        }
        let mut index = frames.start;
        // Split the blocks that lie across the edges.
        for edge in [frames.start, frames.end] {
            while let Some((head, order)) = captured_around(zone, edge) {
                let half =
                    Order::new(order.as_u8() - 1).expect("a block across an edge has two halves");
                zone.descriptor(head).set_shape(Kind::ISOLATED, half);
                zone.descriptor(head + half.frames()).set_shape(Kind::ISOLATED, half);
            }
        }
        while index < frames.end {
            let order = zone.descriptor(index).shape().order;
            assert!(
                !CHECKS || zone.descriptor(index).shape().kind == Kind::ISOLATED,
                "frame {index} is not captured"
            );
            assert!(
                !CHECKS || zone.descriptor(index).word.snapshot().is_frozen(),
                "a captured frame is live (R1)"
            );
            zone.descriptor(index).set_shape(Kind::INTERIOR, Order::ZERO);
            zone.blocks.of(index).release(order);
            buddy.captured -= order.frames();
            index += order.frames();
        }
        aligned(frames).for_each(|(head, order)| each(head, order));
        true
    }

    /// Isolated → offline, after every frame of the one block was captured. Returns `false` if the
    /// zone is closed: then the block stays in the closed zone.
    #[must_use]
    pub(crate) fn finish_offline(self) -> bool {
        let zone = self.zone;
        let mut buddy = zone.lock();
        if buddy.is_closed {
            drop(buddy);
            return false;
        }
        put_offline(zone, &mut buddy, self.blocks.start);
        core::mem::forget(self);
        true
    }
}

/// Isolated or closed → offline. Under the zone's lock, after every frame of the block was
/// captured.
pub(crate) fn put_offline<P: Platform>(zone: &Zone<P>, buddy: &mut Buddy, block: usize) {
    let first = block as u32 * BLOCK_ORDER.frames();
    let entry = zone.blocks.of(first);
    assert!(
        !CHECKS || entry.captured() == entry.frames(),
        "a block goes offline with frames in use"
    );
    for index in first..first + BLOCK_ORDER.frames() {
        let descriptor = zone.descriptor(index);
        assert!(
            !CHECKS || descriptor.word.snapshot().is_frozen(),
            "{:?} goes offline (R1)",
            descriptor.word
        );
        // Holes stay what they are.
        if descriptor.shape() != Shape::INTERIOR && descriptor.shape().kind != Kind::HOLE {
            descriptor.set_shape(Kind::INTERIOR, Order::ZERO);
        }
        seeded_bugs::zero_descriptor(&zone.memmap, index);
    }
    buddy.captured -= entry.take_captured();
    entry.set_state(State::Offline);
    P::trace(Event::Offline, || zone.pfn(first));
    zone.gauge.subtract_online(entry.frames());
}

impl<P: Platform> Drop for Isolated<P> {
    /// Frees the captured frames. In a closed zone they stay captured.
    fn drop(&mut self) {
        let zone = self.zone;
        for block in self.blocks.clone() {
            let mut buddy = zone.lock();
            let first = block as u32 * BLOCK_ORDER.frames();
            let entry = zone.blocks.of(first);
            if buddy.is_closed {
                entry.set_state(State::Closed);
                continue;
            }
            buddy.captured -= entry.take_captured();
            entry.set_state(State::Online);
            for_each_captured(zone, first..first + BLOCK_ORDER.frames(), |index, captured| {
                if let Some(order) = captured {
                    zone.free_locked(&mut buddy, index, order);
                }
            });
        }
    }
}

/// Online → isolated: no frame of the block is allocated any more, and the free ones are captured.
fn isolate<P: Platform>(zone: &Zone<P>, block: usize) -> bool {
    let mut buddy = zone.lock();
    // The block table of a closed zone may belong to another zone by now.
    !buddy.is_closed && withhold(zone, &mut buddy, block, State::Isolated)
}

/// Online → isolated or closed, under the zone's lock. Returns `false` if the block is not online.
pub(crate) fn withhold<P: Platform>(
    zone: &Zone<P>,
    buddy: &mut Buddy,
    block: usize,
    state: State,
) -> bool {
    let first = block as u32 * BLOCK_ORDER.frames();
    let entry = zone.blocks.of(first);
    if entry.state() != State::Online {
        return false;
    }
    split_around(zone, buddy, first);
    entry.set_state(state);
    let mut index = first;
    while index < first + BLOCK_ORDER.frames() {
        let shape = zone.descriptor(index).shape();
        let is_free = shape.kind == Kind::FREE;
        if is_free {
            buddy.lists.remove(zone.map(), index, shape.order);
            zone.free_locked(buddy, index, shape.order);
        }
        index += if is_free { shape.order.frames() } else { 1 };
    }
    true
}

/// Splits free blocks that are larger than 2 MiB, so that none lies across the edges of this block.
fn split_around<P: Platform>(zone: &Zone<P>, buddy: &mut Buddy, first: u32) {
    if let Some(huge) = zone.huge_order() {
        let head = first & !(huge.frames() - 1);
        if zone.map().shape(head) == (Shape { kind: Kind::FREE, order: huge }) {
            buddy.split_huge_at(zone.map(), head, huge);
        }
    }
    let pair = first & !(MAX_ORDER.frames() - 1);
    if zone.map().shape(pair) == (Shape { kind: Kind::FREE, order: MAX_ORDER }) {
        buddy.lists.remove(zone.map(), pair, MAX_ORDER);
        buddy.lists.push(zone.map(), pair, BLOCK_ORDER);
        buddy.lists.push(zone.map(), pair + BLOCK_ORDER.frames(), BLOCK_ORDER);
    }
}

/// Returns the captured block that contains a frame and the one before: its head and order.
fn captured_around<P: Platform>(zone: &Zone<P>, index: u32) -> Option<(u32, Order)> {
    // A captured block lies in one 2 MiB block. The next one may have no metadata, or not exist.
    if index.is_multiple_of(BLOCK_ORDER.frames()) {
        return None;
    }
    zone.head_of(index)
        .filter(|&(head, shape)| head < index && shape.kind == Kind::ISOLATED)
        .map(|(head, shape)| (head, shape.order))
}

/// Visits a range: each captured block once, with its order, and each other frame with `None`.
/// Leaves holes out.
fn for_each_captured<P: Platform>(
    zone: &Zone<P>,
    frames: Range<u32>,
    mut each: impl FnMut(u32, Option<Order>),
) {
    let mut index = frames.start;
    while index < frames.end {
        let around = zone.head_of(index).map(|(head, shape)| (head + shape.order.frames(), shape));
        index = match around {
            Some((end, shape)) if shape.kind == Kind::HOLE => end,
            Some((end, shape)) if shape.kind == Kind::ISOLATED => {
                each(index, Some(shape.order));
                end
            }
            _ => {
                each(index, None);
                index + 1
            }
        };
    }
}

impl<P: Platform> Zone<P> {
    /// Returns `true` if the range has no plain block, no offline block and no hole, which cannot
    /// move. Racy and without a lock: it only saves an attempt.
    pub(crate) fn looks_movable(&self, frames: Range<u32>) -> bool {
        self.unmovable(frames).next().is_none()
    }

    /// Returns the last frame of each plain block, offline block and hole in the range, from the
    /// first on. The last of them may lie behind the range. Racy, as `looks_movable` is.
    pub(crate) fn unmovable(&self, frames: Range<u32>) -> impl Iterator<Item = u32> {
        // The first block may begin before the range.
        let is_there = frames.start < frames.end && self.blocks.has_metadata(frames.start);
        let around = is_there.then(|| self.head_of(frames.start)).flatten();
        let mut index = around.map_or(frames.start, |(head, _)| head);
        let mut checked = None;
        core::iter::from_fn(move || {
            while index < frames.end {
                let block = index / BLOCK_ORDER.frames();
                if checked != Some(block) {
                    checked = Some(block);
                    let is_online = self.blocks.of(index).state() == State::Online;
                    // Of a block without metadata no descriptor is read, deferred or not.
                    if !self.blocks.has_metadata(index) || !is_online && !self.deferred.has(index) {
                        index = (block + 1) * BLOCK_ORDER.frames();
                        return Some(index - 1);
                    }
                }
                let shape = self.descriptor(index).shape();
                index += shape.order.frames();
                if shape.kind == Kind::PLAIN || shape.kind == Kind::HOLE {
                    return Some(index - 1);
                }
            }
            None
        })
    }

    /// Visits the online blocks until `each` returns `false`, the emptier ones first: those that
    /// are free as a whole, then in steps of an eighth. `each` gets the block and the number of its
    /// frames that are not free.
    pub(crate) fn by_emptiness(&self, mut each: impl FnMut(usize, u32) -> bool) {
        let eighth = BLOCK_ORDER.frames() / 8;
        for step in 0..=8 {
            for block in 0..self.blocks() {
                let entry = &self.blocks.all()[block];
                let used = entry.frames().saturating_sub(entry.free());
                if used.div_ceil(eighth) == step
                    && entry.state() == State::Online
                    && !each(block, used)
                {
                    return;
                }
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use std::vec::Vec;

    use crate::{Arena, Slot, UserSpace};

    use super::*;

    struct NoOwner;

    impl Owner<UserSpace> for NoOwner {
        fn with_slot(&self, _: Pfn, _: u64, _: &mut dyn FnMut(&Slot<UserSpace>)) -> bool {
            false
        }
    }

    #[test]
    fn frames_taken_from_an_isolated_block_are_not_free() {
        let arena = Arena::<UserSpace>::new(4 << 20, &[]).unwrap();
        let zone = arena.zone();
        let isolated = Isolated::new(zone, 0..1).unwrap();
        assert!(isolated.evacuate(5..100, &NoOwner, Reach::Any).is_ok());
        assert_eq!(zone.stats().free_frames, 1024);
        let mut taken = Vec::new();
        assert!(isolated.take(5..100, |head, order| taken.push((head, order))));
        assert_eq!(zone.stats().free_frames, 1024 - 95);
        drop(isolated);
        assert_eq!(zone.stats().free_frames, 1024 - 95);
        for (head, order) in taken {
            zone.hand_out(head, order).free();
        }
        zone.drain();
        zone.assert_sound();
        assert_eq!(zone.stats().whole_blocks, 2);
    }
}
