//! Mappings of distant stores that are closed and still have pages: they stay as long as they do,
//! and as long as a `Cache` can open them again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use folio_ref::Scheme;

use crate::rt::shim::Mutex;
use crate::state::mapping::Mapping;
use crate::state::remote::Remote;

/// The mappings that are kept, and the handles on the cache.
pub(crate) struct Kept<S: Scheme> {
    /// The clones of the `Cache`.
    handles: AtomicUsize,
    mappings: Mutex<HashMap<u32, Arc<Mapping<S>>>>,
}

impl<S: Scheme> Default for Kept<S> {
    fn default() -> Self {
        Self { handles: AtomicUsize::new(1), mappings: Mutex::default() }
    }
}

impl<S: Scheme> Kept<S> {
    /// Counts a handle on the cache.
    pub(crate) fn cloned(&self) {
        // Relaxed: the caller has a handle.
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one handle less. After the last one, drops what is kept, and cancels the requests
    /// that no caller waits for.
    pub(crate) fn dropped(&self, mappings: impl FnOnce() -> Vec<Arc<Mapping<S>>>) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        for mapping in mappings() {
            mapping.cancel_detached();
        }
        let kept = std::mem::take(&mut *self.mappings.lock());
        drop(kept);
    }

    /// Returns `true` if no mapping is kept. Racy.
    pub(crate) fn is_empty(&self) -> bool {
        self.mappings.lock().is_empty()
    }

    fn has_handle(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }
}

/// Keeps a mapping that is closed and has pages, and no other. Call after the last close, and after
/// pages came to a closed mapping.
pub(crate) fn keep<S: Scheme>(mapping: &Arc<Mapping<S>>) {
    let Some(remote) = mapping.remote() else { return };
    // SeqCst, Dekker with the fence in `left`: either this sees the page gone, or that sees the
    // file closed.
    fence(Ordering::SeqCst);
    let kept = &mapping.shared.kept;
    let unneeded = {
        let mut mappings = kept.mappings.lock();
        // Relaxed: ordered by the fence and the lock.
        let has_pages = remote.object.pages.load(Ordering::Relaxed) > 0;
        if has_pages && !mapping.is_open() && kept.has_handle() {
            mappings.insert(mapping.id, Arc::clone(mapping))
        } else {
            mappings.remove(&mapping.id)
        }
    };
    // Not under the lock: this may be the last reference but the caller's.
    drop(unneeded);
}

/// Counts pages that left a mapping. Without pages, a closed mapping is kept no longer. The caller
/// has a reference to the mapping.
#[inline(never)]
pub(super) fn left<S: Scheme>(mapping: &Mapping<S>, remote: &Remote<S>, pages: u32) {
    let before = remote.object.pages.fetch_sub(pages, Ordering::Relaxed);
    if before > pages {
        return;
    }
    // SeqCst: see `keep`.
    fence(Ordering::SeqCst);
    if !mapping.is_open() {
        let unneeded = {
            let mut mappings = mapping.shared.kept.mappings.lock();
            if remote.object.pages.load(Ordering::Relaxed) == 0 {
                mappings.remove(&mapping.id)
            } else {
                None
            }
        };
        drop(unneeded);
    }
}

impl<S: Scheme> Mapping<S> {
    /// Cancels the requests that no caller waits for.
    pub(crate) fn cancel_detached(&self) {
        let Some(remote) = self.remote() else { return };
        let flights = remote.with_any_active(|active| active.table.flights()).unwrap_or_default();
        for flight in flights.iter().filter_map(std::sync::Weak::upgrade) {
            flight.cancel_detached();
        }
    }
}
