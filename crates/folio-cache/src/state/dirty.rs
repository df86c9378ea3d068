//! Which pages of a mapping are dirty: newer than the backing.
//!
//! A page is dirty when its folio's flag says so, and then its number is in this set: both change
//! under the claim on the page's slot. The flag answers reclaim; the set finds neighbours for
//! writeback, in order, and tells how far the file reaches that the backing does not know yet.

use std::collections::BTreeSet;
use std::ops::Range;

use folio_frames::FRAME_SIZE;
use parking_lot::Mutex;

/// The numbers of dirty pages.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pages: Mutex<BTreeSet<u32>>,
}

impl Dirty {
    /// Inserts a page. Calls `first` if no page was dirty before, in order with all other calls.
    /// Call while the page is locked.
    pub(crate) fn insert(&self, page: u32, first: impl FnOnce()) {
        let mut pages = self.pages.lock();
        if pages.is_empty() {
            first();
        }
        pages.insert(page);
    }

    /// Removes a page. Calls `last` if no page is dirty any more, in order with all other calls.
    /// Call while the page is locked.
    pub(crate) fn remove(&self, page: u32, last: impl FnOnce()) {
        let mut pages = self.pages.lock();
        if pages.remove(&page) && pages.is_empty() {
            last();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages.lock().is_empty()
    }

    /// Where the last dirty page ends, in bytes; 0 when there is none.
    pub(crate) fn end(&self) -> u64 {
        self.pages.lock().last().map_or(0, |&page| (u64::from(page) + 1) * FRAME_SIZE as u64)
    }

    /// The first dirty pages within a range that are neighbours, up to `most`. Empty: there are
    /// none.
    pub(crate) fn run(&self, pages: Range<u64>, most: u64) -> Range<u64> {
        let set = self.pages.lock();
        let Ok(first) = u32::try_from(pages.start) else { return 0..0 };
        let mut run = 0..0;
        for page in
            set.range(first..).map(|&page| u64::from(page)).take_while(|page| pages.contains(page))
        {
            if run.is_empty() {
                run = page..page + 1;
            } else if page == run.end && run.end - run.start < most {
                run.end += 1;
            } else {
                break;
            }
        }
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_neighbours_within_their_range() {
        let dirty = Dirty::default();
        for page in [3, 4, 5, 9, u32::MAX] {
            dirty.insert(page, || ());
        }
        assert_eq!(dirty.run(0..10, 100), 3..6);
        assert_eq!(dirty.run(0..10, 2), 3..5);
        assert_eq!(dirty.run(4..5, 2), 4..5);
        assert_eq!(dirty.run(6..9, 2), 0..0);
        assert_eq!(dirty.run(6..u64::MAX, 2), 9..10);
        assert_eq!(dirty.run(10..u64::MAX, 2), u64::from(u32::MAX)..1 << 32);
        assert_eq!(dirty.run(1 << 32..u64::MAX, 2), 0..0);
        assert_eq!(dirty.end(), 1 << 44);
        dirty.remove(u32::MAX, || ());
        assert_eq!((dirty.end(), dirty.pages.lock().contains(&9)), (10 << 12, true));
    }
}
