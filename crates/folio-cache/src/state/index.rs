//! The index of a mapping: a slot for each page, found without a lock, never relocated.
//!
//! ```text
//!  near      [leaf 0][leaf 1] ... [leaf n - 1]     a leaf: 512 slots, 2 MiB of the file
//!  chunk 0   [leaf n]
//!  chunk 1   [leaf n + 1][leaf n + 2]              a chunk: twice the leaves of the one before
//!  chunk 2   [leaf n + 3] ...
//!  ...
//!  chunk 23                                        enough for 16 TiB
//! ```
//!
//! The near leaves cover the file's length at its first open, up to [`NEAR_MAX`] leaves: from the
//! number of a page to its slot there are two loads. The chunks cover later growth, and the rest of
//! huge files. Chunks and leaves appear on first use and stay, so the address of a slot is valid
//! for as long as the index. One table for all pages would need no chunks, and would take 64 MiB
//! for each sparse file of 16 TiB.

use std::collections::{BTreeSet, TryReserveError};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use folio_frames::{FRAME_SIZE, Platform, Slot};
use once_cell::race::OnceBox;
use parking_lot::Mutex;

use crate::backing::error;

/// The number of slots in a leaf.
const LEAF: usize = 512;

/// The minimum number of near leaves: a file may grow to 128 MiB without chunks.
const NEAR_MIN: usize = 64;

/// The maximum number of near leaves: 64 GiB of the file, a table of 256 KiB.
const NEAR_MAX: usize = 1 << 15;

/// The number of chunks, enough for 2^32 pages: 2^23 leaves, plus one because chunk `k` begins at
/// leaf `2^k - 1`.
const CHUNKS: usize = 24;

const _: () = assert!(((1_u64 << CHUNKS) - 1) * LEAF as u64 > u32::MAX as u64);

/// A leaf, as one word to keep its table small. Null until it is allocated.
type Leaf<P> = OnceBox<[Slot<P>; LEAF]>;

/// Slots by page number.
pub(crate) struct Index<P: Platform> {
    near: Box<[Leaf<P>]>,
    chunks: [OnceLock<Box<[Leaf<P>]>>; CHUNKS],
    /// The numbers of the leaves that exist, so that a visit costs what its range holds. A leaf is
    /// entered before it can be found.
    leaves: Mutex<BTreeSet<u32>>,
    /// The memory of the tables and leaves of this index.
    bytes: AtomicUsize,
    /// The memory of all indexes of the cache.
    total: Arc<AtomicUsize>,
}

impl<P: Platform> Drop for Index<P> {
    fn drop(&mut self) {
        self.uncount();
    }
}

/// Returns the place of a leaf past the near ones: its chunk, and its number in the chunk.
fn locate(leaf: usize) -> (usize, usize) {
    let chunk = (leaf + 1).ilog2() as usize;
    (chunk, leaf + 1 - (1 << chunk))
}

impl<P: Platform> Index<P> {
    /// Returns the index of a file that has `file_bytes` bytes now. Its memory is added to `total`,
    /// and subtracted when it is dropped.
    pub(crate) fn new(file_bytes: u64, total: Arc<AtomicUsize>) -> Self {
        let leaves =
            usize::try_from(file_bytes / (LEAF * FRAME_SIZE) as u64).unwrap_or(NEAR_MAX) + 1;
        let near: Box<[Leaf<P>]> =
            (0..leaves.clamp(NEAR_MIN, NEAR_MAX)).map(|_| Leaf::new()).collect();
        let index = Self {
            near,
            chunks: [const { OnceLock::new() }; CHUNKS],
            leaves: Mutex::default(),
            bytes: AtomicUsize::new(0),
            total,
        };
        index.count(size_of_val(&*index.near));
        index
    }

    /// Returns the slot of a page, or `None` if its leaf does not exist.
    #[inline(always)]
    pub(crate) fn get(&self, page: u32) -> Option<&Slot<P>> {
        let (leaf, slot) = (page as usize / LEAF, page as usize % LEAF);
        Some(&self.leaf(leaf)?[slot])
    }

    #[inline(always)]
    fn leaf(&self, leaf: usize) -> Option<&[Slot<P>; LEAF]> {
        match self.near.get(leaf) {
            Some(near) => near.get(),
            None => self.far(leaf),
        }
    }

    /// Returns a leaf in a chunk, or `None` if it does not exist.
    #[inline(never)]
    fn far(&self, leaf: usize) -> Option<&[Slot<P>; LEAF]> {
        let (chunk, leaf) = locate(leaf - self.near.len());
        self.chunks[chunk].get()?[leaf].get()
    }

    /// Returns the slot of a page. Allocates its leaf if that does not exist.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if the leaf or its chunk cannot be allocated.
    #[inline(always)]
    pub(crate) fn get_or_make(&self, page: u32) -> io::Result<&Slot<P>> {
        match self.get(page) {
            Some(slot) => Ok(slot),
            None => self.get_made(page),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_made(&self, page: u32) -> io::Result<&Slot<P>> {
        let leaf = page as usize / LEAF;
        self.make(leaf).map_err(|error| {
            let message = format!("no memory for the index of the file: {error}");
            error::error(io::ErrorKind::OutOfMemory, message)
        })?;
        Ok(self.get(page).expect("its leaf was just allocated, and stays"))
    }

    /// Allocates a leaf and its chunk. If two threads do, one of each is dropped.
    fn make(&self, leaf: usize) -> Result<(), TryReserveError> {
        let cell = if let Some(near) = self.near.get(leaf) {
            near
        } else {
            let (chunk, leaf) = locate(leaf - self.near.len());
            if self.chunks[chunk].get().is_none() {
                let _ = self.chunks[chunk].set(self.boxed(1 << chunk, Leaf::new)?);
            }
            &self.chunks[chunk].get().expect("the chunk was just set, and stays")[leaf]
        };
        let slots = self.boxed(LEAF, Slot::new)?;
        self.leaves.lock().insert(leaf as u32);
        let _ = cell.set(slots.try_into().expect("the length is that of a leaf"));
        Ok(())
    }

    /// Counts allocated memory. A leaf that two threads allocate at once, and one drops, is counted
    /// twice. Relaxed: only reports and limits depend on it.
    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Subtracts its memory from the total, before it is freed.
    pub(crate) fn uncount(&mut self) {
        self.total.fetch_sub(std::mem::take(self.bytes.get_mut()), Ordering::Relaxed);
    }

    /// Allocates a boxed slice and counts its memory.
    ///
    /// # Errors
    ///
    /// An error if there is no memory.
    fn boxed<T>(&self, len: usize, make: impl FnMut() -> T) -> Result<Box<[T]>, TryReserveError> {
        let mut items = Vec::new();
        items.try_reserve_exact(len)?;
        items.resize_with(len, make);
        self.count(len * size_of::<T>());
        Ok(items.into_boxed_slice())
    }

    /// Calls `visit` with each existing slot of a range of pages. Costs nothing for leaves that do
    /// not exist.
    pub(crate) fn for_each_in(&self, pages: Range<u64>, mut visit: impl FnMut(&Slot<P>)) {
        let first = u32::try_from(pages.start / LEAF as u64).unwrap_or(u32::MAX);
        let mut next = self.next_leaf(first);
        while let Some(leaf) = next {
            let begins = u64::from(leaf) * LEAF as u64;
            if begins >= pages.end {
                break;
            }
            let within = |page: u64| page.saturating_sub(begins).min(LEAF as u64) as usize;
            let range = within(pages.start)..within(pages.end);
            let slots =
                self.leaf(leaf as usize).into_iter().flat_map(|slots| &slots[range.clone()]);
            slots.for_each(&mut visit);
            next = self.next_leaf(leaf + 1);
        }
    }

    /// Returns the first leaf from this number on.
    fn next_leaf(&self, leaf: u32) -> Option<u32> {
        self.leaves.lock().range(leaf..).next().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use folio_frames::UserSpace;

    use super::*;

    #[test]
    fn each_leaf_has_a_place_of_its_own() {
        // The next leaf is the next in its chunk, or the first of the next chunk.
        let mut next = (0, 0);
        for leaf in 0..1 << 16 {
            assert_eq!(locate(leaf), next);
            next = if next.1 + 1 == 1 << next.0 { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        let last = u32::MAX as usize / LEAF - NEAR_MIN;
        let (chunk, leaf) = locate(last);
        assert!(chunk < CHUNKS && leaf < 1 << chunk);
        assert_eq!((1 << chunk) - 1 + leaf, last);
    }

    #[test]
    fn slots_appear_on_first_use_and_stay() {
        let total = Arc::<AtomicUsize>::default();
        for (file_bytes, near) in
            [(0, 64), (300 << 20, 151), (1 << 40, 1 << 15), (u64::MAX, 1 << 15)]
        {
            let index = Index::<UserSpace>::new(file_bytes, Arc::clone(&total));
            assert_eq!(index.near.len(), near);
            // The first leaf, a near one, the last near one, far ones, and the last of all.
            for leaf in [0, 70, near - 1, near, near + 1, near + 1000, u32::MAX as usize / LEAF] {
                let page = (leaf * LEAF + 17) as u32;
                assert!(index.get(page).is_none(), "{leaf}");
                let slot = index.get_or_make(page).unwrap();
                assert!(ptr::eq(slot, index.get_or_make(page).unwrap()));
                assert!(ptr::eq(slot, index.get(page).unwrap()));
            }
            assert!(total.load(Ordering::Relaxed) > 3 * 4096 + near * 8);
        }
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_visit_sees_the_slots_from_its_first_page_on() {
        let index = Index::<UserSpace>::new(0, Arc::default());
        let far = (NEAR_MIN * LEAF) as u64;
        for page in [0, 513, 5000, far as u32 + 600] {
            index.get_or_make(page).unwrap();
        }
        let count = |first| {
            let mut slots = 0;
            index.for_each_in(first..u64::MAX, |_| slots += 1);
            slots
        };
        assert_eq!(count(0), 4 * LEAF);
        assert_eq!(count(1), 4 * LEAF - 1);
        assert_eq!(count(512), 3 * LEAF);
        assert_eq!(count(1000), 2 * LEAF + 24);
        assert_eq!((count(far), count(far + 1000)), (LEAF, 24));
        assert_eq!(count(u64::MAX), 0);
        let mut slots = 0;
        index.for_each_in(511..514, |_| slots += 1);
        assert_eq!(slots, 3);
    }
}
