//! The dirty pages of a mapping: those that are newer than the backing.
//!
//! A page is dirty if its folio's flag is set. Then its number is in this set: both change under
//! the page lock of its slot. Reclaim checks the flag. Writeback finds neighbours in the set, in
//! order. The set also gives the end of the data that the backing does not have yet.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::rt::lock::Mutex;
use folio_frames::FRAME_SIZE;

/// The numbers of dirty pages.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pages: Mutex<BTreeSet<u32>>,
    /// The file is sick: its pages do not count against the limits of others. Written under the
    /// lock of `pages`.
    is_sick: AtomicBool,
}

impl Dirty {
    /// Inserts a page. Calls `first` if no page was dirty before, in order with all other calls.
    /// Returns `true` if the file is sick. Call while the page is locked.
    pub(crate) fn insert(&self, page: u32, first: impl FnOnce()) -> bool {
        let mut pages = self.pages.lock();
        if pages.is_empty() {
            first();
        }
        pages.insert(page);
        self.is_sick()
    }

    /// Removes a page. Calls `last` if no page is dirty any more, in order with all other calls.
    /// Returns `true` if the file is sick. Call while the page is locked.
    pub(crate) fn remove(&self, page: u32, last: impl FnOnce()) -> bool {
        let mut pages = self.pages.lock();
        if pages.remove(&page) && pages.is_empty() {
            last();
        }
        self.is_sick()
    }

    /// Returns the number of dirty pages.
    pub(crate) fn count(&self) -> u64 {
        self.pages.lock().len() as u64
    }

    /// Returns all dirty pages.
    pub(crate) fn all(&self) -> Vec<u32> {
        self.pages.lock().iter().copied().collect()
    }

    /// Returns `true` if the file is sick.
    pub(crate) fn is_sick(&self) -> bool {
        // Relaxed: exact under the lock, a hint elsewhere.
        self.is_sick.load(Ordering::Relaxed)
    }

    /// Notes that the file is sick, or no longer. Returns the number of dirty pages if that is a
    /// change.
    pub(crate) fn set_sick(&self, is_sick: bool) -> Option<u64> {
        if self.is_sick() == is_sick {
            return None;
        }
        let pages = self.pages.lock();
        (self.is_sick.swap(is_sick, Ordering::Relaxed) != is_sick).then_some(pages.len() as u64)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.lock().is_empty()
    }

    /// Returns the end of the last dirty page in bytes, or 0 if there is none.
    pub(crate) fn end(&self) -> u64 {
        self.pages.lock().last().map_or(0, |&page| (u64::from(page) + 1) * FRAME_SIZE as u64)
    }

    /// Returns the first dirty range within `pages`: up to `most` neighbouring dirty pages. It is
    /// empty if there are none.
    pub(crate) fn range(&self, pages: Range<u64>, most: u64) -> Range<u64> {
        let set = self.pages.lock();
        let Ok(first) = u32::try_from(pages.start) else { return 0..0 };
        let mut range = 0..0;
        for page in
            set.range(first..).map(|&page| u64::from(page)).take_while(|page| pages.contains(page))
        {
            if range.is_empty() {
                range = page..page + 1;
            } else if page == range.end && range.end - range.start < most {
                range.end += 1;
            } else {
                break;
            }
        }
        range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_ranges_are_neighbours_within_the_given_pages() {
        let dirty = Dirty::default();
        for page in [3, 4, 5, 9, u32::MAX] {
            dirty.insert(page, || ());
        }
        assert_eq!(dirty.range(0..10, 100), 3..6);
        assert_eq!(dirty.range(0..10, 2), 3..5);
        assert_eq!(dirty.range(4..5, 2), 4..5);
        assert_eq!(dirty.range(6..9, 2), 0..0);
        assert_eq!(dirty.range(6..u64::MAX, 2), 9..10);
        assert_eq!(dirty.range(10..u64::MAX, 2), u64::from(u32::MAX)..1 << 32);
        assert_eq!(dirty.range(1 << 32..u64::MAX, 2), 0..0);
        assert_eq!(dirty.end(), 1 << 44);
        dirty.remove(u32::MAX, || ());
        assert_eq!((dirty.end(), dirty.pages.lock().contains(&9)), (10 << 12, true));
    }
}
