//! The index of a mapping: a slot for each page, found without a lock, at an address that stays.
//!
//! ```text
//!  first    [0][1] ... [7]                   in the index itself
//!  near     [8][9] ...         [2^k - 1]     a range of slots, reserved at the first use
//!  far k    [2^k] ...      [2^(k+1) - 1]     a range of slots for pages that the file grew by
//!  far k+1  [2^(k+1)] ...
//! ```
//!
//! A range is addresses, with memory only where its leaves are open (`SlotSpace` of folio-frames).
//! A leaf is a page of memory, the slots of 2 MiB of the file. So from the number of a page to its
//! slot there is one load, that of the range. Sparse files cost what their cached pages need, and
//! the system's page tables do the work of an index of several levels.
//!
//! A leaf is opened for its first page ([`Index::make`]), and closed when it has no page any more
//! ([`Index::give_back`]). A reference to a slot stays good: a closed slot is empty and refuses a
//! folio, and the slot of a page is never that of another one. **So one rule is enough: a thread
//! that fills a slot opens its leaf before, and does so again if the slot refuses.**

use std::iter;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use folio_frames::UserSpace;
use folio_ref::Scheme;
use once_cell::race::OnceBox;

use crate::state::frames::Slot;
use crate::state::leaves::{LEAF, LEAF_BYTES, LeafOwner, Leaves};

type SlotRange<S> = folio_frames::SlotRange<UserSpace<S>>;

/// The number of pages of which the slots lie in the index: a file of at most 32 KiB has no leaf.
const FIRST: usize = if cfg!(shuttle) { 1 } else { 8 };

/// The minimum number of near slots: a file may grow to 128 MiB before it has far ones.
const MIN_NEAR: usize = 64 * LEAF;

/// The number of pages of the largest file.
const MAX_PAGES: u64 = 1 << 32;

/// The ranges of far slots: range `k` begins at page 2^k.
type Far<S> = [OnceLock<SlotRange<S>>; 32];

/// Slots that share no cache line with other fields, as page locks change them.
#[repr(align(64))]
struct First<S: Scheme>([Slot<S>; FIRST]);

/// Slots by page number.
pub(crate) struct Index<S: Scheme> {
    first: First<S>,
    near: OnceLock<SlotRange<S>>,
    far: OnceBox<Far<S>>,
    leaves: Arc<Leaves<S>>,
    mapping: u32,
    /// The memory belongs to another process.
    is_inherited: bool,
}

/// All indexes of the cache have as much memory as they may, or there are no addresses.
#[derive(Debug)]
pub(crate) struct NoRoom;

impl<S: Scheme> Drop for Index<S> {
    fn drop(&mut self) {
        if self.is_inherited {
            return;
        }
        let far = if self.far.get().is_some() { size_of::<Far<S>>() } else { 0 };
        self.leaves.uncount(size_of::<First<S>>() + far);
    }
}

impl<S: Scheme> Index<S> {
    /// Returns the index of the mapping with this number.
    pub(crate) fn new(mapping: u32, leaves: &Arc<Leaves<S>>) -> Self {
        leaves.count(size_of::<First<S>>());
        Self {
            first: First([const { Slot::new() }; FIRST]),
            near: OnceLock::new(),
            far: OnceBox::new(),
            leaves: Arc::clone(leaves),
            mapping,
            is_inherited: false,
        }
    }

    /// Leaks the ranges, in a child process: the locks of their space may be held for ever.
    pub(crate) fn leak(&mut self) {
        self.is_inherited = true;
        std::mem::forget(self.near.take());
        std::mem::forget(std::mem::take(&mut self.far));
    }

    /// Returns the slot of a page, or `None` if it was never used. The slot may be closed.
    #[inline(always)]
    pub(crate) fn get(&self, page: u32) -> Option<&Slot<S>> {
        if let Some(slot) = self.first.0.get(page as usize) {
            return Some(slot);
        }
        match self.near.get().and_then(|near| near.get(page as usize)) {
            Some(slot) => Some(slot),
            None => self.far(page),
        }
    }

    /// Returns slots of neighbouring pages, from a page on, at most `most`. They may be closed, and
    /// there may be none although the next page has one.
    #[inline]
    pub(crate) fn slots_from(&self, page: u32, most: usize) -> &[Slot<S>] {
        if let Some(slots) = self.first.0.get(page as usize..).filter(|slots| !slots.is_empty()) {
            return &slots[..most.min(slots.len())];
        }
        match self.near.get().filter(|near| (page as usize) < near.len()) {
            Some(near) => near.slots_from(page as usize, most),
            None => self.far_place(page).map_or(&[], |(range, slot)| range.slots_from(slot, most)),
        }
    }

    /// Returns the slot of a page past the near ones.
    #[inline(never)]
    fn far(&self, page: u32) -> Option<&Slot<S>> {
        let (range, slot) = self.far_place(page)?;
        range.get(slot)
    }

    fn far_place(&self, page: u32) -> Option<(&SlotRange<S>, usize)> {
        let order = page.checked_ilog2()? as usize;
        Some((self.far.get()?[order].get()?, page as usize - (1 << order)))
    }

    /// Returns the range in which a page has its slot, and the number of the slot there. `None`: it
    /// has none, or it is one of the first.
    fn place(&self, page: u32) -> Option<(&SlotRange<S>, usize)> {
        if (page as usize) < FIRST {
            return None;
        }
        match self.near.get() {
            Some(near) if (page as usize) < near.len() => Some((near, page as usize)),
            _ => self.far_place(page),
        }
    }

    /// Returns the slot of a page, of which the leaf is open. Opens it if all indexes have less
    /// than `limit` bytes. `pages` is the number of pages of the file. Waits for nothing, so it may
    /// be called with page locks.
    ///
    /// # Errors
    ///
    /// See [`NoRoom`].
    pub(crate) fn make(&self, page: u32, pages: u64, limit: usize) -> Result<&Slot<S>, NoRoom> {
        if let Some(slot) = self.get(page)
            && !slot.is_closed()
        {
            return Ok(slot);
        }
        let (range, slot) = match self.place(page) {
            Some(place) => place,
            None => self.reserve(page, pages, limit)?,
        };
        let leaf = slot / LEAF;
        let mut leaves = range.lock();
        if !leaves.is_open(leaf) {
            if !self.leaves.has_room(limit) {
                return Err(NoRoom);
            }
            let first = page - (slot % LEAF) as u32;
            leaves.open(leaf, LeafOwner { mapping: self.mapping, first }.to_tag());
        }
        Ok(range.get(slot).expect("the range has the slot"))
    }

    /// Reserves the range of a page. If two threads do, one drops its range.
    fn reserve(
        &self,
        page: u32,
        pages: u64,
        limit: usize,
    ) -> Result<(&SlotRange<S>, usize), NoRoom> {
        if self.near.get().is_none() {
            let wanted = pages.min(MAX_PAGES) as usize;
            let slots = wanted.max(page as usize + 1).max(MIN_NEAR).next_power_of_two();
            let _ = self.near.set(self.leaves.reserve(slots).ok_or(NoRoom)?);
        } else {
            if self.far.get().is_none() {
                if !self.leaves.has_room(limit) {
                    return Err(NoRoom);
                }
                if self.far.set(Box::new([const { OnceLock::new() }; 32])).is_ok() {
                    self.leaves.count(size_of::<Far<S>>());
                }
            }
            let order = page.ilog2() as usize;
            let far = self.far.get().expect("it was just set, and stays");
            let _ = far[order].set(self.leaves.reserve(1 << order).ok_or(NoRoom)?);
        }
        Ok(self.place(page).expect("its range was just reserved, and stays"))
    }

    /// Returns the memory of the index, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let far = if self.far.get().is_some() { size_of::<Far<S>>() } else { 0 };
        let open = |range: &SlotRange<S>| {
            let next = |leaf: &usize| range.next_open(leaf + 1..usize::MAX);
            iter::successors(range.next_open(0..usize::MAX), next).count()
        };
        let leaves: usize = self.ranges().map(|(_, range)| open(range)).sum();
        size_of::<First<S>>() + far + leaves * LEAF_BYTES
    }

    /// Closes the leaf of a page if it has no page any more.
    pub(crate) fn give_back(&self, page: u32) {
        let Some((range, slot)) = self.place(page) else { return };
        if !self.has_pages(range, page, slot) {
            range.lock().close(slot / LEAF);
        }
    }

    /// Returns `true` if the leaf of a page has a page. Looks first where it found one the last time.
    fn has_pages(&self, range: &SlotRange<S>, page: u32, slot: usize) -> bool {
        let (begins, first) = (slot - slot % LEAF, page - (slot % LEAF) as u32);
        let owner = LeafOwner { mapping: self.mapping, first };
        let has_page = |slot: usize| range.get(slot).is_some_and(|slot| !slot.is_empty());
        if has_page(begins + self.leaves.used_slot(owner)) {
            return true;
        }
        let used = used_slot_near(range, slot);
        used.inspect(|&used| self.leaves.set_used_slot(owner, used)).is_some()
    }

    /// Calls `visit` with each slot of a range of pages that is not closed, and closes each leaf
    /// that has no page after that. Costs nothing for closed leaves.
    pub(crate) fn for_each_in(&self, pages: Range<u64>, mut visit: impl FnMut(&Slot<S>)) {
        let within =
            |page: u64, first: u64, len: usize| page.saturating_sub(first).min(len as u64) as usize;
        let (begins, ends) = (within(pages.start, 0, FIRST), within(pages.end, 0, FIRST));
        self.first.0[begins..ends.max(begins)].iter().for_each(&mut visit);
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
        let far = self.far.get().into_iter().flatten().enumerate();
        let far = far.filter_map(|(order, range)| Some((1 << order, range.get()?)));
        self.near.get().map(|near| (0, near)).into_iter().chain(far)
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

#[cfg(test)]
mod tests {
    use std::ptr;

    use folio_ref::DefaultScheme;

    use super::*;
    const ALL: usize = usize::MAX;

    fn index(leaves: &Arc<Leaves<DefaultScheme>>) -> Index<DefaultScheme> {
        Index::new(1, leaves)
    }

    #[test]
    fn slots_appear_on_first_use_and_keep_their_address() {
        let leaves = Arc::new(Leaves::default());
        for (pages, near) in [(0, 1 << 15), (40_000, 1 << 16), (MAX_PAGES, 1 << 32)] {
            let index = index(&leaves);
            let last_near = (near - 1) as u32;
            let used = [0, 7, 8, 600, last_near, last_near.saturating_add(1), u32::MAX - 9];
            for page in used {
                let before = index.get(page).map(ptr::from_ref);
                let slot = index.make(page, pages, ALL).unwrap();
                assert!(before.is_none_or(|before| ptr::eq(slot, before)), "page {page}");
                assert!(ptr::eq(slot, index.make(page, pages, ALL).unwrap()), "page {page}");
                assert!(ptr::eq(slot, index.get(page).unwrap()), "page {page}");
                index.give_back(page);
                assert!(ptr::eq(slot, index.get(page).unwrap()), "page {page}");
                assert_eq!(slot.is_closed(), page >= 8);
            }
            assert_eq!(index.near.get().unwrap().len(), near);
            assert_eq!(leaves.bytes(), size_of::<First<DefaultScheme>>() + far_bytes(&index));
        }
        assert_eq!(leaves.bytes(), 0);
    }

    fn far_bytes(index: &Index<DefaultScheme>) -> usize {
        if index.far.get().is_some() { size_of::<Far<DefaultScheme>>() } else { 0 }
    }

    #[test]
    fn neighbouring_slots_are_those_of_their_pages() {
        let leaves = Arc::new(Leaves::default());
        let index = index(&leaves);
        assert!(index.slots_from(8, 4).is_empty() && index.slots_from(u32::MAX, 4).is_empty());
        let far = MIN_NEAR as u32;
        for page in [9, far, 3 * far] {
            index.make(page, 0, ALL).unwrap();
        }
        for (page, most, found) in [
            (0, 3, 3),
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
        let leaves = Arc::new(Leaves::default());
        let index = index(&leaves);
        let far = MIN_NEAR as u64;
        let open = |pages: &[u32]| {
            for &page in pages {
                index.make(page, 0, ALL).unwrap();
            }
        };
        let count = |pages: Range<u64>| {
            open(&[8, 513, 5000, far as u32 + 600]);
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
        let leaves = Arc::new(Leaves::default());
        let index = index(&leaves);
        index.make(8, 0, ALL).unwrap();
        let limit = leaves.bytes() + 2 * LEAF_BYTES;
        assert!(index.make(9, 0, 0).is_ok());
        index.make(600, 0, limit).unwrap();
        assert!(index.make(2000, 0, limit).is_err());
        assert!(index.get(2000).unwrap().is_closed());
        index.give_back(8);
        index.make(2000, 0, limit).unwrap();
    }
}
