//! The end of a mapping: its pages leave with it.

use folio_ref::Scheme;

use crate::state::mapping::Mapping;

impl<S: Scheme> Drop for Mapping<S> {
    fn drop(&mut self) {
        if self.shared.leak_if_inherited() {
            return;
        }
        // Nobody else is here: whoever visits a slot, by name or by frame number, holds the
        // mapping.
        self.drop_pages(0..u64::MAX);
        self.shared.registry.remove(self.file_id, self.id);
        // What its index was paid with comes back.
        self.index.uncount();
        self.shared.fit_after_close();
    }
}
