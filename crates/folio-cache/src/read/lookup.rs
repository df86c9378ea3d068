//! Lookup: from a page number to a reference, with what there is to do when the slot says no.

use std::io;

use folio_frames::{FRAME_SIZE, Lookup};
use folio_ref::{CHECKS, Scheme};

use crate::read::fill::Filled;
use crate::state::frames::{FolioRef, Slot};
use crate::state::mapping::Mapping;

/// How often a file may turn out shorter than its size says before that is an error.
const SHORT_FILLS: u32 = 8;

impl<S: Scheme> Mapping<S> {
    /// The page, if it is in the cache and nobody is at work on it.
    #[inline(always)]
    pub(crate) fn find(&self, page: u32) -> Option<FolioRef<S>> {
        match self.index.get(page)?.get(self.zone) {
            Lookup::Hit(folio) => Some(self.hit(folio, page)),
            _ => None,
        }
    }

    /// The same, if it is no part of a large folio.
    #[inline(always)]
    pub(crate) fn find_alone(&self, page: u32) -> Option<FolioRef<S>> {
        self.index.get(page)?.get_alone(self.zone).map(|folio| self.hit(folio, page))
    }

    #[inline(always)]
    fn hit(&self, folio: FolioRef<S>, page: u32) -> FolioRef<S> {
        self.check(&folio, page);
        if folio.set_referenced() {
            self.read_ahead_of(page);
        }
        self.shared.counters.hit();
        folio
    }

    /// What a slot gives is the page that it was asked for.
    #[inline(always)]
    pub(crate) fn check(&self, folio: &FolioRef<S>, page: u32) {
        assert!(
            !CHECKS || folio.owner_data() == self.owner_data(page),
            "a lookup of page {page} got {folio:?}, which holds another page (R8)"
        );
    }

    /// The page, read if need be, and then in one request with those of the `pages` pages from
    /// there on that are missing too. `None`: the file ends before it.
    pub(crate) fn find_or_fill(&self, page: u32, pages: u32) -> io::Result<Option<FolioRef<S>>> {
        match self.find(page) {
            Some(folio) => Ok(Some(folio)),
            None => self.find_slowly(page, pages),
        }
    }

    #[cold]
    fn find_slowly(&self, page: u32, pages: u32) -> io::Result<Option<FolioRef<S>>> {
        self.shared.check_process()?;
        let counters = &self.shared.counters;
        let slot = self.index.get_or_make(page)?;
        let start = u64::from(page) * FRAME_SIZE as u64;
        let mut fills = 0;
        let mut short_fills = 0;
        while start < self.len() {
            match slot.get(self.zone) {
                Lookup::Hit(folio) => {
                    self.check(&folio, page);
                    if folio.set_referenced() {
                        self.read_ahead_of(page);
                    }
                    return Ok(Some(folio));
                }
                Lookup::Empty => {
                    let left = (self.len().saturating_sub(start)).div_ceil(FRAME_SIZE as u64);
                    let pages = pages.min(u32::try_from(left).unwrap_or(u32::MAX));
                    if fills == 0 {
                        self.read_ahead_of_miss(page, pages);
                    }
                    fills += 1;
                    match self.fill(page, pages)? {
                        Filled::Page(folio) => return Ok(Some(folio)),
                        Filled::Lost => {}
                        Filled::Short { at } => {
                            let len = self.refresh_len_to_read()?;
                            short_fills += 1;
                            if short_fills == SHORT_FILLS {
                                let message =
                                    format!("the file ends at {at} though its size is {len} bytes");
                                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                            }
                        }
                    }
                }
                Lookup::InProgress => {
                    counters.refused_frozen.add(1);
                    self.wait_for(slot, page);
                }
                Lookup::Moved => counters.refused_moved.add(1),
                Lookup::Saturated => self.desaturate(slot, page)?,
            }
        }
        Ok(None)
    }

    /// Waits for who is at work on a page. If that is readahead, and nobody has begun, it is ours
    /// to read.
    pub(crate) fn wait_for(&self, slot: &Slot<S>, page: u32) {
        if let Some(extent) = self.shared.io_pool.take(self.id, page) {
            extent.fill();
        } else {
            self.shared.counters.waits.add(1);
            slot.wait();
        }
    }

    /// Puts a copy in the place of a folio whose count is saturated: that one is leaked.
    fn desaturate(&self, slot: &Slot<S>, page: u32) -> io::Result<()> {
        let mut new = self.spare(page)?;
        if let Some(locked) = slot.try_lock(self.zone) {
            new.as_mut_slice().copy_from_slice(locked.folio().frame());
            new.set_dirty(locked.folio().is_dirty());
            let pfn = new.pfn();
            drop(locked.replace(new));
            self.shared.insert(pfn, self.owner_data(page));
        } else {
            new.free();
            slot.wait();
        }
        Ok(())
    }
}
