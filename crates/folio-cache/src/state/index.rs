//! The index of a mapping: a slot for each page, found without a lock, at an address that stays.
//!
//! ```text
//!  first    [0]                              in the index itself
//!  few      [1][2] ... [7]                   seven slots, made at the first use of one
//!  near     [8][9] ...         [2^k - 1]     a range of slots, reserved at the first use
//!  far k    [2^k] ...      [2^(k+1) - 1]     a range of slots for pages that the file grew by
//!  far k+1  [2^(k+1)] ...
//! ```
//!
//! A range is addresses, with memory only where its leaves are open (`SlotSpace` of folio-frames).
//! A leaf is a page of memory, the slots of 2 MiB of the file. So from the number of a page to its
//! slot there are two loads from one line, the length and the address of the range (`LazyRange`).
//! Sparse files cost what their cached pages need, and the system's page tables do the work of an
//! index of several levels.
//!
//! A leaf is opened for its first page ([`Index::make`]), and closed when it has no page any more
//! ([`Index::give_back`]). A reference to a slot stays good: a closed slot is empty and refuses a
//! folio, and the slot of a page is never that of another one. **So one rule is enough: a thread
//! that fills a slot opens its leaf before, and does so again if the slot refuses.**

use std::iter;
use std::ops::Range;
use std::slice;
use std::sync::OnceLock;

use folio_frames::{LazyRange, UserSpace};
use folio_ref::Scheme;
use once_cell::race::OnceBox;

use crate::state::frames::Slot;
use crate::state::leaves::{LEAF, LEAF_BYTES, LeafOwner, Leaves};

type SlotRange<S> = folio_frames::SlotRange<UserSpace<S>>;

/// The number of pages of which the slots lie in no leaf: a file of at most 32 KiB has none.
const FIRST: usize = if cfg!(shuttle) { 1 } else { 8 };

/// The minimum number of near slots: a file may grow to 128 MiB before it has far ones.
const MIN_NEAR: usize = 64 * LEAF;

/// The number of pages of the largest file.
const MAX_PAGES: u64 = 1 << 32;

/// The slots of the first pages behind page 0.
type Few<S> = [Slot<S>; FIRST - 1];

/// The ranges of far slots: range `k` begins at page 2^k.
type Far<S> = [OnceLock<SlotRange<S>>; 32];

/// Slots by page number. The slot of page 0 is a part of it: a file of one page needs no other
/// memory.
pub(crate) struct Index<S: Scheme> {
    first: Slot<S>,
    few: OnceBox<Few<S>>,
    near: LazyRange<UserSpace<S>, OnceBox<Far<S>>>,
}

/// The room that an index may take its memory from.
pub(crate) struct IndexRoom<'l, S: Scheme> {
    pub(crate) leaves: &'l Leaves<S>,
    /// The number of the mapping.
    pub(crate) mapping: u32,
    /// The maximum number of bytes of all indexes.
    pub(crate) limit: usize,
}

/// All indexes of the cache have as much memory as they may, or there are no addresses.
#[derive(Debug)]
pub(crate) struct NoRoom;

impl<S: Scheme> Default for Index<S> {
    fn default() -> Self {
        Self { first: Slot::new(), few: OnceBox::new(), near: LazyRange::new() }
    }
}

impl<S: Scheme> Index<S> {
    /// Leaks the ranges, in a child process: the locks of their space may be held for ever.
    pub(crate) fn leak(&mut self) {
        self.near.leak();
    }

    /// Returns the bytes that were counted for it, beside its leaves.
    pub(crate) fn counted_bytes(&self) -> usize {
        let few = if self.few.get().is_some() { size_of::<Few<S>>() } else { 0 };
        few + if self.all_far().is_some() { size_of::<Far<S>>() } else { 0 }
    }

    /// Returns the slot of a page, or `None` if it was never used. The slot may be closed.
    #[inline(always)]
    pub(crate) fn get(&self, page: u32) -> Option<&Slot<S>> {
        if page as usize >= FIRST {
            match self.near.get(page as usize) {
                Some(slot) => Some(slot),
                None => self.far(page),
            }
        } else if page == 0 {
            Some(&self.first)
        } else {
            self.few.get()?.get(page as usize - 1)
        }
    }

    /// Returns the slot of a page, if its leaf is open.
    #[inline]
    pub(crate) fn get_open(&self, page: u32) -> Option<&Slot<S>> {
        self.get(page).filter(|slot| !slot.is_closed())
    }

    /// Returns slots of neighbouring pages, from a page on, at most `most`. They may be closed, and
    /// there may be none although the next page has one.
    #[inline]
    pub(crate) fn slots_from(&self, page: u32, most: usize) -> &[Slot<S>] {
        if page == 0 {
            return &slice::from_ref(&self.first)[..most.min(1)];
        }
        if (page as usize) < FIRST {
            let few = self.few.get().map_or(&[][..], |few| &few[page as usize - 1..]);
            return &few[..most.min(few.len())];
        }
        match self.near.reserved().filter(|(near, _)| (page as usize) < near.len()) {
            Some((near, _)) => near.slots_from(page as usize, most),
            None => self.far_place(page).map_or(&[], |(range, slot)| range.slots_from(slot, most)),
        }
    }

    /// Returns the slot of a page past the near ones.
    #[inline(never)]
    fn far(&self, page: u32) -> Option<&Slot<S>> {
        let (range, slot) = self.far_place(page)?;
        range.get(slot)
    }

    fn all_far(&self) -> Option<&Far<S>> {
        self.near.reserved()?.1.get()
    }

    fn far_place(&self, page: u32) -> Option<(&SlotRange<S>, usize)> {
        let order = page.checked_ilog2()? as usize;
        Some((self.all_far()?[order].get()?, page as usize - (1 << order)))
    }

    /// Returns the range in which a page has its slot, and the number of the slot there. `None`: it
    /// has none, or it is one of the first.
    fn place(&self, page: u32) -> Option<(&SlotRange<S>, usize)> {
        if (page as usize) < FIRST {
            return None;
        }
        match self.near.reserved() {
            Some((near, _)) if (page as usize) < near.len() => Some((near, page as usize)),
            _ => self.far_place(page),
        }
    }

    /// Returns the slot of a page, of which the leaf is open. Opens it if all indexes have less
    /// than the limit. `pages` is the number of pages of the file. Waits for nothing, so it may be
    /// called with page locks.
    ///
    /// # Errors
    ///
    /// See [`NoRoom`].
    pub(crate) fn make(
        &self,
        page: u32,
        pages: u64,
        room: &IndexRoom<'_, S>,
    ) -> Result<&Slot<S>, NoRoom> {
        if let Some(slot) = self.get_open(page) {
            return Ok(slot);
        }
        if (page as usize) < FIRST {
            if self.few.set(Box::new([const { Slot::new() }; FIRST - 1])).is_ok() {
                room.leaves.count(size_of::<Few<S>>());
            }
            return Ok(self.get(page).expect("the first slots were just set, and stay"));
        }
        let (range, slot) = match self.place(page) {
            Some(place) => place,
            None => self.reserve(page, pages, room)?,
        };
        let leaf = slot / LEAF;
        if room.leaves.has_room(room.limit) {
            // Before the lock, as the system takes its time.
            range.prepare(leaf);
        }
        let mut leaves = range.lock();
        if !leaves.is_open(leaf) {
            if !room.leaves.has_room(room.limit) {
                return Err(NoRoom);
            }
            let first = page - (slot % LEAF) as u32;
            leaves.open(leaf, LeafOwner { mapping: room.mapping, first }.to_tag());
        }
        Ok(range.get(slot).expect("the range has the slot"))
    }

    /// Reserves the range of a page. If two threads do, one drops its range.
    fn reserve(
        &self,
        page: u32,
        pages: u64,
        room: &IndexRoom<'_, S>,
    ) -> Result<(&SlotRange<S>, usize), NoRoom> {
        let leaves = room.leaves;
        if let Some((_, far)) = self.near.reserved() {
            if far.get().is_none() {
                if !leaves.has_room(room.limit) {
                    return Err(NoRoom);
                }
                if far.set(Box::new([const { OnceLock::new() }; 32])).is_ok() {
                    leaves.count(size_of::<Far<S>>());
                }
            }
            let order = page.ilog2() as usize;
            let far = far.get().expect("it was just set, and stays");
            let _ = far[order].set(leaves.reserve(1 << order).ok_or(NoRoom)?);
        } else {
            let wanted = pages.min(MAX_PAGES) as usize;
            let slots = wanted.max(page as usize + 1).max(MIN_NEAR).next_power_of_two();
            self.near.get_or_set(leaves.reserve(slots).ok_or(NoRoom)?, OnceBox::new());
        }
        // The near range of another thread may be too short for the page.
        self.place(page).map_or_else(|| self.reserve(page, pages, room), Ok)
    }

    /// Returns the memory of the index, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let open = |range: &SlotRange<S>| {
            let next = |leaf: &usize| range.next_open(leaf + 1..usize::MAX);
            iter::successors(range.next_open(0..usize::MAX), next).count()
        };
        let leaves: usize = self.ranges().map(|(_, range)| open(range)).sum();
        size_of_val(&self.first) + self.counted_bytes() + leaves * LEAF_BYTES
    }

    /// Closes the leaf of a page of a mapping if it has no page any more.
    pub(crate) fn give_back(&self, leaves: &Leaves<S>, mapping: u32, page: u32) {
        let Some((range, slot)) = self.place(page) else { return };
        let owner = LeafOwner { mapping, first: page - (slot % LEAF) as u32 };
        if !has_pages(leaves, owner, range, slot) {
            range.lock().close(slot / LEAF);
        }
    }

    /// Requests the cache line of the slot that [`give_back`](Self::give_back) reads first.
    #[inline]
    pub(crate) fn prefetch_to_give_back(&self, leaves: &Leaves<S>, mapping: u32, page: u32) {
        let Some((range, slot)) = self.place(page) else { return };
        let in_leaf = slot % LEAF;
        let owner = LeafOwner { mapping, first: page - in_leaf as u32 };
        if let Some(slot) = range.get(slot - in_leaf + leaves.used_slot(owner)) {
            slot.prefetch();
        }
    }

    /// Returns the pages in the leaf that begins with a page, each with its slot.
    pub(crate) fn pages_of_leaf(&self, first: u32) -> impl Iterator<Item = (u32, &Slot<S>)> {
        // The first pages of a file have no slot in a leaf.
        let last = self.place(first + (LEAF as u32 - 1));
        let slots = last.map(|(range, slot)| range.slots_from(slot - slot % LEAF, LEAF));
        let pages = (first..).zip(slots.into_iter().flatten());
        pages.filter(|(_, slot)| !slot.is_empty())
    }

    /// Calls `visit` with each slot of a range of pages that is not closed, and closes each leaf
    /// that has no page after that. Costs nothing for closed leaves.
    pub(crate) fn for_each_in(&self, pages: Range<u64>, mut visit: impl FnMut(&Slot<S>)) {
        let within =
            |page: u64, first: u64, len: usize| page.saturating_sub(first).min(len as u64) as usize;
        let (begins, ends) = (within(pages.start, 0, FIRST), within(pages.end, 0, FIRST));
        (begins..ends).filter_map(|page| self.get(page as u32)).for_each(&mut visit);
        for (first, range) in self.ranges() {
            let begins = within(pages.start.max(FIRST as u64), first, range.len());
            let slots = begins..within(pages.end, first, range.len());
            let mut next = slots.start / LEAF;
            while let Some(leaf) = range.next_open(next..slots.end.div_ceil(LEAF)) {
                let begins = slots.start.max(leaf * LEAF);
                let ends = slots.end.min((leaf + 1) * LEAF);
                (begins..ends).filter_map(|slot| range.get(slot)).for_each(&mut visit);
                if used_slot_near(range, begins).is_none() {
                    range.lock().close(leaf);
                }
                next = leaf + 1;
            }
        }
    }

    /// Returns all ranges, each with the page at which it begins.
    fn ranges(&self) -> impl Iterator<Item = (u64, &SlotRange<S>)> {
        let far = self.all_far().into_iter().flatten().enumerate();
        let far = far.filter_map(|(order, range)| Some((1 << order, range.get()?)));
        self.near.reserved().map(|(near, _)| (0, near)).into_iter().chain(far)
    }
}

/// Returns a slot with a page in the leaf of a slot. Begins with the neighbours of the slot on both
/// sides, as pages mostly leave in order.
fn used_slot_near<S: Scheme>(range: &SlotRange<S>, slot: usize) -> Option<usize> {
    let (begins, at) = (slot - slot % LEAF, slot % LEAF);
    let has_page = |&at: &usize| range.get(begins + at).is_some_and(|slot| !slot.is_empty());
    let behind = |n: usize| Some(at + n).filter(|&at| at < LEAF).filter(has_page);
    let before = |n: usize| at.checked_sub(n).filter(has_page);
    (0..LEAF).find_map(|n| behind(n).or_else(|| before(n)))
}

/// Returns `true` if the leaf of a slot has a page. Looks first where it found one before.
fn has_pages<S: Scheme>(
    leaves: &Leaves<S>,
    owner: LeafOwner,
    range: &SlotRange<S>,
    slot: usize,
) -> bool {
    let has_page = |slot: usize| range.get(slot).is_some_and(|slot| !slot.is_empty());
    if has_page(slot - slot % LEAF + leaves.used_slot(owner)) {
        return true;
    }
    let used = used_slot_near(range, slot);
    used.inspect(|&used| leaves.set_used_slot(owner, used)).is_some()
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use folio_ref::DefaultScheme;

    use super::*;
    type Index = super::Index<DefaultScheme>;

    /// Returns all of the room, or that below a limit.
    fn room(
        leaves: &Leaves<DefaultScheme>,
        limit: impl Into<Option<usize>>,
    ) -> IndexRoom<'_, DefaultScheme> {
        IndexRoom { leaves, mapping: 1, limit: limit.into().unwrap_or(usize::MAX) }
    }

    #[test]
    fn slots_appear_on_first_use_and_keep_their_address() {
        let leaves = Leaves::default();
        for (pages, near) in [(0, 1 << 15), (40_000, 1 << 16), (MAX_PAGES, 1 << 32)] {
            let index = Index::default();
            let last_near = (near - 1) as u32;
            let used = [0, 7, 8, 600, last_near, last_near.saturating_add(1), u32::MAX - 9];
            for page in used {
                let before = index.get(page).map(ptr::from_ref);
                let slot = index.make(page, pages, &room(&leaves, None)).unwrap();
                assert!(before.is_none_or(|before| ptr::eq(slot, before)), "page {page}");
                assert!(
                    ptr::eq(slot, index.make(page, pages, &room(&leaves, None)).unwrap()),
                    "page {page}"
                );
                assert!(ptr::eq(slot, index.get(page).unwrap()), "page {page}");
                index.give_back(&leaves, 1, page);
                assert!(ptr::eq(slot, index.get(page).unwrap()), "page {page}");
                assert_eq!(slot.is_closed(), page >= 8);
            }
            assert_eq!(index.near.reserved().unwrap().0.len(), near);
            let few = size_of::<Few<DefaultScheme>>();
            let far = index.all_far().map_or(0, |_| size_of::<Far<DefaultScheme>>());
            assert_eq!((leaves.bytes(), index.counted_bytes()), (few + far, few + far));
            leaves.uncount(index.counted_bytes());
        }
    }

    #[test]
    fn neighbouring_slots_are_those_of_their_pages() {
        let leaves = Leaves::default();
        let index = Index::default();
        assert!(index.slots_from(8, 4).is_empty() && index.slots_from(u32::MAX, 4).is_empty());
        let far = MIN_NEAR as u32;
        for page in [1, 9, far, 3 * far] {
            index.make(page, 0, &room(&leaves, None)).unwrap();
        }
        for (page, most, found) in [
            (0, 3, 1),
            (5, 16, 3),
            (8, 16, 16),
            (far - 2, 16, 2),
            (far, 16, 16),
            (2 * far - 1, 16, 1),
            (3 * far, 1000, 1000),
            (4 * far, 16, 0),
        ] {
            let slots = index.slots_from(page, most);
            assert_eq!(slots.len(), found, "page {page}");
            for (page, slot) in (page..).zip(slots) {
                assert!(ptr::eq(slot, index.get(page).unwrap()), "page {page}");
            }
        }
    }

    #[test]
    fn a_visit_sees_the_open_slots_of_its_range() {
        let leaves = Leaves::default();
        let index = Index::default();
        let far = MIN_NEAR as u64;
        let open = |pages: &[u32]| {
            for &page in pages {
                index.make(page, 0, &room(&leaves, None)).unwrap();
            }
        };
        let count = |pages: Range<u64>| {
            open(&[1, 8, 513, 5000, far as u32 + 600]);
            let mut slots = 0;
            index.for_each_in(pages, |_| slots += 1);
            slots
        };
        assert_eq!(count(0..u64::MAX), 4 * LEAF);
        assert_eq!(count(512..u64::MAX), 3 * LEAF);
        assert_eq!(count(1000..u64::MAX), 2 * LEAF + 24);
        assert_eq!((count(far..u64::MAX), count(far + 1000..u64::MAX)), (LEAF, 24));
        assert_eq!(count(u64::MAX..u64::MAX), 0);
        assert_eq!(count(511..514), 3);
        assert_eq!(count(3..6), 3);
    }

    #[test]
    fn no_leaf_is_opened_past_the_limit() {
        let leaves = Leaves::default();
        let index = Index::default();
        index.make(8, 0, &room(&leaves, None)).unwrap();
        let limit = leaves.bytes() + 2 * LEAF_BYTES;
        assert!(index.make(9, 0, &room(&leaves, 0)).is_ok());
        index.make(600, 0, &room(&leaves, limit)).unwrap();
        assert!(index.make(2000, 0, &room(&leaves, limit)).is_err());
        assert!(index.get(2000).unwrap().is_closed());
        index.give_back(&leaves, 1, 8);
        index.make(2000, 0, &room(&leaves, limit)).unwrap();
    }
}
