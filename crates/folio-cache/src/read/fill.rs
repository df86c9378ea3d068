//! Filling: a miss reads its page and the neighbours that its reader wants, once, however many
//! threads miss them.
//!
//! | step | if it fails |
//! | --- | --- |
//! | 1. allocate frozen folios: one, reclaiming if need be, and more if there are any | error; nothing was done |
//! | 2. note mapping and page in their descriptors | |
//! | 3. install them: from now on others find them, and sleep | somebody was first: free the rest; without the first page, look again |
//! | 4. have the backing fill them in one request | they are taken out and freed, all but the first, which is tried alone |
//! | 5. compare with the lengths of file and backing | what is short is taken out and freed; sleepers wake, look again, get their own error |
//! | 6. publish them: they open, sleepers wake; tell the policy | |

use std::io;
use std::iter;

use folio_ref::Scheme;

use crate::read::extent::Extent;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::units::MOST_PAGES;

/// What came of a fill.
pub(crate) enum Filled<S: Scheme> {
    /// The page is in the cache; here is a reference.
    Page(FolioRef<S>),
    /// Somebody else was first: look again.
    Lost,
    /// The file ended before its length did: look at the length, then again.
    Short {
        /// Where it ended.
        at: u64,
    },
}

impl<S: Scheme> Mapping<S> {
    /// Reads a page into an empty slot, and with it as many of the `pages` pages from there on as
    /// one request has and empty slots follow. Call without a claim: it may reclaim, so drop
    /// another mapping.
    pub(crate) fn fill(&self, page: u32, pages: u32) -> io::Result<Filled<S>> {
        let folios = match pages.min(MOST_PAGES) {
            0 | 1 => Vec::new(),
            several => self.shared.allocate_some(several as usize),
        };
        let mut extent = if folios.is_empty() {
            Extent::lock(self, page, iter::once(self.shared.allocate()?))
        } else {
            Extent::lock(self, page, folios)
        };
        if extent.len() == 0 {
            return Ok(Filled::Lost);
        }
        extent.set_readahead(1, None);
        let read = match extent.fill() {
            // It may be the error of another page, which nobody asked for yet.
            Err(_) if extent.len() > 1 => {
                extent.keep_first();
                extent.fill()?
            }
            other => other?,
        };
        let at = extent.offset() + read as u64;
        Ok(extent.publish(read).map_or(Filled::Short { at }, Filled::Page))
    }
}
