//! Truncation: taking pages out of the index, because the file changed or somebody asks for it.
//!
//! A page that is held leaves all the same: it belongs to its holders then, and is freed by the last of them.

use std::io;
use std::sync::atomic::{Ordering, fence};

use page_frames::{FRAME_SIZE, Platform, Slot, Zone};
use page_ref::Scheme;

use crate::mapping::Mapping;

impl<S: Scheme> Mapping<S> {
    /// Looks at the file's size, and applies it. The length now.
    #[cold]
    pub(crate) fn refresh_len(&self) -> io::Result<u64> {
        let _version = self.version.lock();
        // Under the lock: of two looks the later one must be applied last.
        let len = self.backing.version()?.len;
        self.set_len(len);
        Ok(len)
    }

    /// Looks whether the file changed since it was opened or last looked at, and drops everything if so.
    pub(crate) fn revalidate(&self) -> io::Result<bool> {
        let mut version = self.version.lock();
        let now = self.backing.version()?;
        let changed = now != *version;
        self.set_len(now.len);
        if changed {
            self.drop_pages_from(0);
            *version = now;
        }
        Ok(changed)
    }

    /// Drops every page of the file.
    pub(crate) fn invalidate(&self) {
        self.drop_pages_from(0);
    }

    /// Makes `new` the length. Under the lock `version`.
    fn set_len(&self, new: u64) {
        // Relaxed: written under the lock only.
        let old = self.len.load(Ordering::Relaxed);
        if new > old {
            // The old last page ends with zeroes where there are bytes now: it goes before any reader
            // may see the new length.
            // SeqCst, the fence in fill: a fill that this visit does not see reads the file after the
            // look at its size, so it gets the new bytes.
            fence(Ordering::SeqCst);
            self.drop_pages_from(old / FRAME_SIZE as u64);
            // Release: pairs with Acquire in `len`.
            self.len.store(new, Ordering::Release);
        } else if new < old {
            // The other way round: from now on fills past the end decline, and readers notice.
            self.len.store(new, Ordering::Release);
            // After the length, before the pages go; Release: pairs with Acquire in `cuts`. No other writer.
            self.cuts.store(self.cuts.load(Ordering::Relaxed) + 1, Ordering::Release);
            // SeqCst, Dekker with the fence in fill: either this visit sees the fill's claim and waits for it,
            // or the fill sees the new length and takes its page out by itself.
            fence(Ordering::SeqCst);
            self.drop_pages_from(new / FRAME_SIZE as u64);
        }
    }

    /// Empties every slot from a page on. Waits for those in progress.
    pub(crate) fn drop_pages_from(&self, page: u64) {
        self.index.for_each_from(page, |slot| drop_page(slot, self.zone));
    }
}

/// Empties a slot.
fn drop_page<P: Platform>(slot: &Slot<P>, zone: &'static Zone<P>) {
    loop {
        if let Some(claim) = slot.claim(zone) {
            match claim.freeze() {
                Ok(frozen) => frozen.remove().free(),
                // Somebody holds it: the index's reference goes, theirs stay.
                Err(claim) => drop(claim.remove()),
            }
            return;
        }
        if slot.is_empty() {
            return;
        }
        slot.wait();
    }
}
