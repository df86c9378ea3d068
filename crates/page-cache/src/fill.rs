//! Filling: a miss reads its page, once, however many threads miss it.
//!
//! | step | if it fails |
//! | --- | --- |
//! | 1. allocate a frozen folio, reclaiming if need be | error; nothing was done |
//! | 2. note mapping and page in its descriptor | |
//! | 3. install it: from now on others find it, and sleep | somebody was first: free it, look again |
//! | 4. have the backing fill it | it is taken out and freed; sleepers wake, look again, get their own error |
//! | 5. compare with the lengths of file and backing | as 4 |
//! | 6. publish it: it opens, sleepers wake; tell the policy | |

use std::io::{self, IoSliceMut};
use std::sync::atomic::{Ordering, fence};

use page_frames::{FRAME_SIZE, FolioRef, Slot, UserSpace};
use page_ref::Scheme;

use crate::cache::CACHED;
use crate::mapping::Mapping;

/// What came of a fill.
pub(crate) enum Filled<S: Scheme> {
    /// The page is in the cache; here is a reference.
    Page(FolioRef<UserSpace<S>>),
    /// Somebody else was first: look again.
    Lost,
    /// The file ended before its length did: look at the length, then again.
    Short {
        /// Where it ended.
        at: u64,
    },
}

impl<S: Scheme> Mapping<S> {
    /// Reads a page into an empty slot. Call without a claim: it may reclaim, so drop another mapping.
    pub(crate) fn fill(&self, slot: &Slot<UserSpace<S>>, page: u32) -> io::Result<Filled<S>> {
        let mut folio = self.inner.allocate()?;
        folio.set_owner(CACHED, self.private(page));
        let mut claim = match slot.install(folio) {
            Ok(claim) => claim,
            Err(folio) => {
                folio.free();
                return Ok(Filled::Lost);
            }
        };
        // SeqCst, Dekker with the fences in set_len: either it sees this claim and waits, or what follows, the
        // read of the file and the look at the length, comes after its own.
        fence(Ordering::SeqCst);
        let counters = &self.inner.counters;
        counters.misses.add(1);
        let start = u64::from(page) * FRAME_SIZE as u64;
        let bytes = claim.folio_mut().as_mut_slice();
        let read = self.backing.fill(start, &mut [IoSliceMut::new(bytes)])?.min(FRAME_SIZE);
        bytes[read..].fill(0);
        counters.filled_bytes.add(read as u64);
        // What the file has of it; the backing may have less, if the rest was written and is dirty elsewhere.
        let expected = self.len().saturating_sub(start).min(FRAME_SIZE as u64);
        // Relaxed: a hint; if it says too much, the look that follows says so.
        let backed = self.backed.load(Ordering::Relaxed).saturating_sub(start);
        if expected == 0 || (read as u64) < expected.min(backed) {
            // Dropping the claim empties the slot: the caller, who will look at the size, holds none.
            drop(claim);
            return Ok(Filled::Short { at: start + read as u64 });
        }
        let folio = claim.publish_and_get(self.zone);
        self.inner.admit(folio.pfn(), self.private(page));
        Ok(Filled::Page(folio))
    }
}
