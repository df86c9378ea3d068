//! The end of a mapping: its pages leave with it.

use folio_ref::{Scheme, broken};

use crate::coherence::drop_pages;
use crate::memory::capacity;
use crate::rt::foreign::catch_panic;
use crate::state::mapping::Mapping;
use crate::writeback::unlinked;

impl<S: Scheme> Drop for Mapping<S> {
    fn drop(&mut self) {
        if self.shared.leak_if_inherited() {
            self.index.leak();
            return;
        }
        // No other thread is here: a visit to a slot, by page number or by frame number, holds the
        // mapping.
        drop_pages::drop_pages(self, 0..u64::MAX);
        self.shared.registry.remove(self.id);
        leave_unsynced(self);
        self.uncount();
        // It was paid from the capacity, which grows by that.
        capacity::fit_after_close(&self.shared);
    }
}

/// Keeps what is not durable for the next open of the file. A new mapping of it may be there
/// already.
fn leave_unsynced<S: Scheme>(mapping: &Mapping<S>) {
    let room = mapping.shared.unsynced_room();
    let left = mapping.writing().and_then(|writing| writing.unsynced.take(room));
    let Some(bytes) = left else { return };
    // If the backing panics, it is not known to be unlinked. A destructor must not panic.
    let is_unlinked = || catch_panic(|| unlinked::is_unlinked(mapping)).unwrap_or(false);
    if broken!("close-forgets-unsynced") || is_unlinked() {
        return bytes.uncount(room);
    }
    let bytes = bytes.of(catch_panic(|| mapping.backing().generation()).ok().flatten());
    let key = mapping.key();
    let mut left = mapping.shared.left_unsynced.lock();
    // Under the lock: a mapping that is made after this look takes what is left here.
    let newer = mapping.shared.registry.by_key(&key);
    match &newer {
        Some(newer) => newer.make_writing().unsynced.inherit(bytes, room),
        None => left.insert(key, bytes, room),
    }
    // Before `newer`, which may be the last reference to its mapping.
    drop(left);
}
