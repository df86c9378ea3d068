//! The registry: finds a mapping by its key, or by its number in a descriptor.
//!
//! It holds weak references, so pages live while the file is open. A lookup here may create the
//! last strong reference, and the drop of a mapping takes these locks. **Invariant:** no mapping is
//! dropped under them.
//!
//! Lock order: `by_key`, then `by_id`; `dirty` alone, below the dirty pages of a mapping.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use folio_ref::Scheme;
use parking_lot::{Mutex, RwLock};

use crate::backing::FileId;
use crate::backing::remote::Key;
use crate::state::groups::GroupState;
use crate::state::mapping::Mapping;

/// A mapping, which lives as long as its files are open, and its number.
type Numbered<S> = (u32, Weak<Mapping<S>>);

/// The mappings of a cache.
pub(crate) struct Registry<S: Scheme> {
    by_key: Mutex<HashMap<Key, Numbered<S>>>,
    by_id: RwLock<HashMap<u32, Weak<Mapping<S>>>>,
    /// The mappings with dirty pages.
    pub(crate) dirty: DirtyFiles,
}

/// The numbers of the mappings that have dirty pages. A mapping enters and leaves under the lock of
/// its own set of dirty pages.
#[derive(Default)]
pub(crate) struct DirtyFiles {
    ids: Mutex<BTreeSet<u32>>,
    /// Where the next search for memory begins.
    turn: AtomicU32,
}

impl DirtyFiles {
    pub(crate) fn insert(&self, id: u32) {
        self.ids.lock().insert(id);
    }

    pub(crate) fn remove(&self, id: u32) {
        self.ids.lock().remove(&id);
    }

    fn first_from(&self, id: u32) -> Option<u32> {
        self.ids.lock().range(id..).next().copied()
    }
}

impl<S: Scheme> Default for Registry<S> {
    fn default() -> Self {
        Self { by_key: Mutex::default(), by_id: RwLock::default(), dirty: DirtyFiles::default() }
    }
}

impl<S: Scheme> Registry<S> {
    /// Returns the mapping of a key, and `true` if it existed. Otherwise `make` creates it with the
    /// given number, which is one of a group.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if the group has no number left.
    pub(crate) fn get_or_insert(
        &self,
        key: Key,
        group: &GroupState,
        make: impl FnOnce(u32) -> Mapping<S>,
    ) -> io::Result<(Arc<Mapping<S>>, bool)> {
        let mut by_key = self.by_key.lock();
        if let Some(mapping) = by_key.get(&key).and_then(|(_, mapping)| mapping.upgrade()) {
            return Ok((mapping, true));
        }
        // There is none, or the last close of the old one is in progress: the new one replaces its
        // entry.
        let mut by_id = self.by_id.write();
        let id = group.next_id(|id| by_id.contains_key(&id))?;
        let mapping = Arc::new(make(id));
        by_id.insert(id, Arc::downgrade(&mapping));
        by_key.insert(key, (id, Arc::downgrade(&mapping)));
        Ok((mapping, false))
    }

    /// Removes a mapping after its last reference is gone, but not a newer one of the same key.
    pub(crate) fn remove(&self, key: &Key, id: u32) {
        let mut by_key = self.by_key.lock();
        if by_key.get(key).is_some_and(|&(current, _)| current == id) {
            by_key.remove(key);
        }
        self.by_id.write().remove(&id);
    }

    /// Returns all mappings.
    pub(crate) fn all(&self) -> Vec<Arc<Mapping<S>>> {
        // Collected under the lock, dropped by the caller: see the invariant of this module.
        self.by_id.read().values().filter_map(Weak::upgrade).collect()
    }

    /// Returns the mappings that have dirty pages now.
    pub(crate) fn dirty(&self) -> Vec<Arc<Mapping<S>>> {
        let ids: Vec<_> = self.dirty.ids.lock().iter().copied().collect();
        ids.into_iter().filter_map(|id| self.by_id(id)).collect()
    }

    /// Visits the mappings that have dirty pages, beginning behind the last one for which `visit`
    /// returned `true`, until it does so again. Returns `true` then. Costs nothing for other
    /// mappings.
    pub(crate) fn any_dirty(&self, mut visit: impl FnMut(&Arc<Mapping<S>>) -> bool) -> bool {
        // Relaxed, here and below: a hint.
        let start = self.dirty.turn.load(Ordering::Relaxed);
        for (mut from, end) in [(start, None), (0, Some(start))] {
            while let Some(id) = self.dirty.first_from(from)
                && end.is_none_or(|end| id < end)
            {
                if self.by_id(id).is_some_and(|mapping| visit(&mapping)) {
                    self.dirty.turn.store(id.wrapping_add(1), Ordering::Relaxed);
                    return true;
                }
                let Some(next) = id.checked_add(1) else { break };
                from = next;
            }
        }
        false
    }

    /// Returns the mapping of a file, or `None` if it is not open and has nothing to write.
    pub(crate) fn by_file_id(&self, file_id: FileId) -> Option<Arc<Mapping<S>>> {
        self.by_key(&file_id.into())
    }

    /// Returns the mapping of a key, or `None` if it is not in memory.
    pub(crate) fn by_key(&self, key: &Key) -> Option<Arc<Mapping<S>>> {
        self.by_key.lock().get(key)?.1.upgrade()
    }

    /// Returns the mapping with a number, or `None` if it does not exist any more.
    pub(crate) fn by_id(&self, id: u32) -> Option<Arc<Mapping<S>>> {
        self.by_id.read().get(&id)?.upgrade()
    }
}
