//! The index of a mapping: a slot for each page, found without a lock, never relocated.
//!
//! ```text
//!  chunk 0   [leaf 0]
//!  chunk 1   [leaf 1][leaf 2]                      a leaf: 512 slots, 2 MiB of the file
//!  chunk 2   [leaf 3][leaf 4][leaf 5][leaf 6]      a chunk: twice the leaves of the one before
//!  ...
//!  chunk 23                                        the last leaf ends at 16 TiB
//! ```
//!
//! Chunks and leaves appear on first use and stay, so a slot's address is good for as long as the index.
//! Chunks of slots without leaves between would save one load, and cost 8 GiB to touch the end of a
//! large sparse file.

use std::collections::TryReserveError;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use page_frames::{Platform, Slot};

/// Slots in a leaf.
const LEAF: usize = 512;

/// Enough for 2^32 pages: 2^23 leaves, plus one because chunk `k` begins at leaf `2^k - 1`.
const CHUNKS: usize = 24;

const _: () = assert!(((1_u64 << CHUNKS) - 1) * LEAF as u64 > u32::MAX as u64);

type Leaf<P> = OnceLock<Box<[Slot<P>; LEAF]>>;

/// Slots by page number.
pub(crate) struct Index<P: Platform> {
    chunks: [OnceLock<Box<[Leaf<P>]>>; CHUNKS],
    /// Memory of chunks and leaves.
    bytes: AtomicUsize,
}

/// Where a page's slot lies: chunk, leaf in the chunk, slot in the leaf.
#[inline(always)]
fn locate(page: u32) -> (usize, usize, usize) {
    let page = page as usize;
    let leaf = page / LEAF + 1;
    let chunk = leaf.ilog2() as usize;
    (chunk, leaf - (1 << chunk), page % LEAF)
}

impl<P: Platform> Index<P> {
    pub(crate) fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], bytes: AtomicUsize::new(0) }
    }

    /// The slot of a page, if its leaf exists.
    #[inline(always)]
    pub(crate) fn get(&self, page: u32) -> Option<&Slot<P>> {
        let (chunk, leaf, slot) = locate(page);
        Some(&self.chunks[chunk].get()?.get(leaf)?.get()?[slot])
    }

    /// The slot of a page; its leaf is made if need be.
    pub(crate) fn get_or_make(&self, page: u32) -> io::Result<&Slot<P>> {
        if let Some(slot) = self.get(page) {
            return Ok(slot);
        }
        let (chunk, leaf, slot) = locate(page);
        let leaves = get_or_set(&self.chunks[chunk], || self.boxed(1 << chunk, OnceLock::new))?;
        let slots = get_or_set(&leaves[leaf], || {
            let slots = self.boxed(LEAF, Slot::new)?;
            Ok(slots.try_into().expect("a leaf has its length"))
        })?;
        Ok(&slots[slot])
    }

    /// The memory of chunks and leaves. What two made at once, and one dropped, is counted twice.
    pub(crate) fn bytes(&self) -> usize {
        // Relaxed: for reports and budgets.
        self.bytes.load(Ordering::Relaxed)
    }

    fn boxed<T>(&self, len: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, TryReserveError> {
        let mut items = Vec::new();
        items.try_reserve_exact(len)?;
        items.resize_with(len, make);
        self.bytes.fetch_add(len * size_of::<T>(), Ordering::Relaxed);
        Ok(items.into_boxed_slice())
    }

    /// Calls `visit` with every slot of a range of pages that exists.
    pub(crate) fn for_each_in(&self, pages: Range<u64>, mut visit: impl FnMut(&Slot<P>)) {
        for (number, chunk) in self.chunks.iter().enumerate() {
            for (leaf, slots) in chunk.get().into_iter().flatten().enumerate() {
                let begins = (((1 << number) - 1 + leaf) * LEAF) as u64;
                let within = |page: u64| page.saturating_sub(begins).min(LEAF as u64) as usize;
                let range = within(pages.start)..within(pages.end);
                slots.get().into_iter().flat_map(|slots| &slots[range.clone()]).for_each(&mut visit);
            }
        }
    }
}

/// The value of a cell; made by `make` if there is none. If two make it, one is dropped.
fn get_or_set<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, TryReserveError>) -> io::Result<&T> {
    if cell.get().is_none() {
        let value = make().map_err(|error| {
            io::Error::new(io::ErrorKind::OutOfMemory, format!("no memory for the index of the file: {error}"))
        })?;
        // Lost to another thread: its value is as good.
        let _ = cell.set(value);
    }
    Ok(cell.get().expect("it was just set, and is never taken"))
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use page_frames::UserSpace;

    use super::*;

    #[test]
    fn every_page_has_a_place_of_its_own() {
        // Next to each other across every chunk's border, the next page is the next slot.
        for leaf in (0..24).map(|n| (1_u32 << n) - 1).chain([5, 1000]) {
            let Some(first) = leaf.checked_mul(LEAF as u32) else { continue };
            for page in first.saturating_sub(2)..first + 2 {
                let (chunk, leaf, slot) = locate(page);
                assert!(chunk < CHUNKS && leaf < 1 << chunk && slot < LEAF);
                assert_eq!(((1 << chunk) - 1 + leaf) * LEAF + slot, page as usize);
            }
        }
        assert_eq!(locate(u32::MAX), (23, 0, 511));
    }

    #[test]
    fn slots_appear_on_first_use_and_stay() {
        let index = Index::<UserSpace>::new();
        assert!(index.get(70_000).is_none());
        let slot = index.get_or_make(70_000).unwrap();
        assert!(ptr::eq(slot, index.get_or_make(70_000).unwrap()));
        assert!(ptr::eq(slot, index.get(70_000).unwrap()));
        assert!(index.get(70_000 + LEAF as u32).is_none());
        assert!(index.get(0).is_none());
    }

    #[test]
    fn a_visit_sees_the_slots_from_its_first_page_on() {
        let index = Index::<UserSpace>::new();
        for page in [0, 513, 5000] {
            index.get_or_make(page).unwrap();
        }
        let count = |first| {
            let mut slots = 0;
            index.for_each_in(first..u64::MAX, |_| slots += 1);
            slots
        };
        assert_eq!(count(0), 3 * LEAF);
        assert_eq!(count(1), 3 * LEAF - 1);
        assert_eq!(count(512), 2 * LEAF);
        assert_eq!(count(1000), LEAF + 24);
        assert_eq!(count(u64::MAX), 0);
        let mut slots = 0;
        index.for_each_in(511..514, |_| slots += 1);
        assert_eq!(slots, 3);
    }
}
