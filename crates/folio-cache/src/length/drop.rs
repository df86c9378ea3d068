//! The end of a mapping: its pages leave with it.

use folio_ref::Scheme;

use crate::length::refresh;
use crate::memory::capacity;
use crate::state::mapping::Mapping;

impl<S: Scheme> Drop for Mapping<S> {
    fn drop(&mut self) {
        if self.shared.leak_if_inherited() {
            self.index.leak();
            return;
        }
        // No other thread is here: a visit to a slot, by page number or by frame number, holds the
        // mapping.
        refresh::drop_pages(self, 0..u64::MAX);
        self.shared.registry.remove(&self.key(), self.id);
        // Its leaves were paid from the capacity, which grows by that.
        capacity::fit_after_close(&self.shared);
    }
}
