//! The registry: finds a mapping by its key, or by its number in a descriptor.
//!
//! It holds weak references, so pages live while the file is open. A lookup here may create the
//! last strong reference, and the drop of a mapping takes these locks. **Invariant:** no mapping is
//! dropped under them.
//!
//! A mapping has its key, and the registry only 32 bits of the key's hash: the keys of those with
//! the same hash are compared without a lock.
//!
//! Lock order: `by_key`, then `by_id`; `dirty` alone, below the dirty pages of a mapping.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use folio_ref::{Scheme, broken};
use hashbrown::HashTable;

use crate::backing::FileId;
use crate::backing::remote::Key;
use crate::rt::lock::{Mutex, RwLock};
use crate::state::groups::{GroupState, file_of, group_of};
use crate::state::mapping::Mapping;

/// The mappings of a cache.
pub(crate) struct Registry<S: Scheme> {
    hasher: RandomState,
    /// The numbers of the mappings, by the hashes of their keys.
    by_key: Mutex<HashTable<u32>>,
    by_id: RwLock<Numbers<S>>,
    /// The number of mappings that were removed.
    removals: AtomicU64,
    /// The mappings with dirty pages.
    pub(crate) dirty: DirtyFiles,
}

/// The state in which [`Registry::get_or_insert`] found a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A mapping of the key.
    Open,
    /// None.
    Nothing,
    /// None, but one may have been closed lately: its last writes may be newer than what the caller
    /// knows of the file.
    Closed,
}

/// Returns a hash in the width of the table, which uses its lowest and its highest bits.
fn wide(hash: u32) -> u64 {
    u64::from(hash) | u64::from(hash) << u32::BITS
}

/// The mappings by number, for each group.
struct Numbers<S: Scheme>(Vec<ById<S>>);

/// The mappings of one group by number.
struct ById<S: Scheme> {
    /// Those of unused numbers lead nowhere.
    mappings: Vec<Weak<Mapping<S>>>,
    /// The hashes of their keys.
    hashes: Vec<u32>,
    /// The unused numbers, in the order in which they became so.
    unused: VecDeque<u32>,
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
        Self {
            hasher: RandomState::new(),
            by_key: Mutex::default(),
            by_id: RwLock::default(),
            removals: AtomicU64::new(0),
            dirty: DirtyFiles::default(),
        }
    }
}

impl<S: Scheme> Default for ById<S> {
    fn default() -> Self {
        Self { mappings: Vec::new(), hashes: Vec::new(), unused: VecDeque::new() }
    }
}

impl<S: Scheme> Default for Numbers<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: Scheme> Numbers<S> {
    fn get(&self, id: u32) -> Option<Arc<Mapping<S>>> {
        self.0.get(group_of(id))?.mappings.get(file_of(id))?.upgrade()
    }

    /// Returns the hash of the key of a mapping that is there.
    fn hash(&self, id: u32) -> u32 {
        self.0[group_of(id)].hashes[file_of(id)]
    }

    /// Inserts the mapping that `make` returns for an unused number of a group. Returns it.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if the group has no more numbers.
    fn insert(
        &mut self,
        group: &GroupState,
        hash: u32,
        make: impl FnOnce(u32) -> Mapping<S>,
    ) -> io::Result<Arc<Mapping<S>>> {
        if self.0.len() <= group.number {
            self.0.resize_with(group.number + 1, ById::default);
        }
        let by_id = &mut self.0[group.number];
        // The number that was unused for the longest time.
        let id = match by_id.unused.front() {
            Some(&id) => id,
            None => group.id_of(by_id.mappings.len())?,
        };
        by_id.unused.pop_front();
        let mapping = Arc::new(make(id));
        put(&mut by_id.mappings, file_of(id), Arc::downgrade(&mapping));
        put(&mut by_id.hashes, file_of(id), hash);
        Ok(mapping)
    }

    /// Removes the mapping with a number. Frees all memory of its group after the last one.
    fn remove(&mut self, id: u32) {
        let by_id = &mut self.0[group_of(id)];
        by_id.mappings[file_of(id)] = Weak::new();
        by_id.unused.push_back(id);
        if by_id.unused.len() == by_id.mappings.len() {
            *by_id = ById::default();
        }
    }
}

/// Puts a value in the place of an old one, or at the end. So the list grows by a quarter: of a
/// million files, each byte counts.
fn put<T>(list: &mut Vec<T>, at: usize, value: T) {
    if let Some(old) = list.get_mut(at) {
        *old = value;
        return;
    }
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(16));
    }
    list.push(value);
}

impl<S: Scheme> Registry<S> {
    fn hash(&self, key: &Key) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// Returns the number of mappings that were removed.
    pub(crate) fn removals(&self) -> u64 {
        // Acquire: pairs with Release in `remove`: what is read after this is newer than the last
        // writes of those mappings.
        self.removals.load(Ordering::Acquire)
    }

    /// Returns the mapping of a key, and what was found. If there is none, `make` creates it with
    /// the given number, which is one of a group. `removals` is their number before the caller
    /// looked at the file.
    ///
    /// # Errors
    ///
    /// `OutOfMemory` if the group has no number left.
    pub(crate) fn get_or_insert(
        &self,
        key: &Key,
        group: &GroupState,
        removals: u64,
        make: impl FnOnce(u32) -> Mapping<S>,
    ) -> io::Result<(Arc<Mapping<S>>, Found)> {
        let hash = self.hash(key);
        // Held: their numbers stay theirs.
        let mut others: Vec<Arc<Mapping<S>>> = Vec::new();
        loop {
            let mut by_key = self.by_key.lock();
            let found = self.with_hash(&by_key, hash);
            if found.iter().all(|it| others.iter().any(|other| Arc::ptr_eq(it, other))) {
                // There is none, or the last close of the old one is in progress.
                let mut by_id = self.by_id.write();
                let same = by_key.iter_hash(wide(hash)).filter(|&&id| by_id.hash(id) == hash);
                let is_lately = !broken!("close-unseen-by-open")
                    && (same.count() > found.len() || self.removals() != removals);
                let found_it = if is_lately { Found::Closed } else { Found::Nothing };
                let inserted = by_id.insert(group, hash, make);
                if let Ok(mapping) = &inserted {
                    by_key.insert_unique(wide(hash), mapping.id, |&id| wide(by_id.hash(id)));
                }
                drop(by_id);
                // Before `found` and `others`, which may have the last references.
                drop(by_key);
                return inserted.map(|mapping| (mapping, found_it));
            }
            drop(by_key);
            if let Some(mapping) = found.iter().find(|mapping| mapping.key() == *key) {
                return Ok((Arc::clone(mapping), Found::Open));
            }
            others = found;
        }
    }

    /// Returns the mappings of which the keys have a hash. The caller drops them without the lock.
    fn with_hash(&self, by_key: &HashTable<u32>, hash: u32) -> Vec<Arc<Mapping<S>>> {
        let by_id = self.by_id.read();
        let ids = by_key.iter_hash(wide(hash)).filter(|&&id| by_id.hash(id) == hash);
        ids.filter_map(|&id| by_id.get(id)).collect()
    }

    /// Removes a mapping after its last reference is gone, but not a newer one of the same key.
    pub(crate) fn remove(&self, id: u32) {
        let mut by_key = self.by_key.lock();
        let mut by_id = self.by_id.write();
        // Release: pairs with Acquire in `removals`.
        self.removals.fetch_add(1, Ordering::Release);
        if let Ok(entry) = by_key.find_entry(wide(by_id.hash(id)), |&it| it == id) {
            entry.remove();
        }
        if by_key.len() < by_key.capacity() / 8 {
            let len = by_key.len();
            by_key.shrink_to(2 * len, |&id| wide(by_id.hash(id)));
        }
        by_id.remove(id);
    }

    /// Returns the number of mappings. Racy.
    pub(crate) fn len(&self) -> usize {
        self.by_key.lock().len()
    }

    /// Returns all mappings.
    pub(crate) fn all(&self) -> Vec<Arc<Mapping<S>>> {
        // Collected under the lock, dropped by the caller: see the invariant of this module.
        self.by_id
            .read()
            .0
            .iter()
            .flat_map(|by_id| &by_id.mappings)
            .filter_map(Weak::upgrade)
            .collect()
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
        let found = self.with_hash(&self.by_key.lock(), self.hash(key));
        found.into_iter().find(|mapping| mapping.key() == *key)
    }

    /// Returns the mapping with a number, or `None` if it does not exist any more.
    pub(crate) fn by_id(&self, id: u32) -> Option<Arc<Mapping<S>>> {
        self.by_id.read().get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cache::Cache;
    use crate::api::file::File;
    use crate::backing::testing::Memory;

    fn open(cache: &Cache) -> (File, u32) {
        let file = cache.open_backing(Arc::new(Memory::new(b""))).unwrap();
        let id = file.opened.mapping.id;
        (file, id)
    }

    #[test]
    fn the_number_that_was_unused_longest_is_next() {
        let cache = Cache::new(2 << 20).unwrap();
        let mut files = [(); 4].map(|()| Some(open(&cache)));
        let ids = files.each_ref().map(|file| file.as_ref().expect("it is open").1);
        let registry = &cache.shared.registry;
        assert_eq!((registry.len(), registry.all().len()), (4, 4));
        (files[2], files[0]) = (None, None);
        assert_eq!((registry.len(), registry.all().len()), (2, 2));
        assert!(registry.by_id(ids[0]).is_none() && registry.by_id(ids[1]).is_some());
        let later = [(); 3].map(|()| open(&cache));
        assert_eq!([later[0].1, later[1].1], [ids[2], ids[0]]);
        assert!(!ids.contains(&later[2].1));
        for (file, id) in files.iter().flatten().chain(&later) {
            assert_eq!(
                registry.by_file_id(file.opened.mapping.file_id()).expect("it is open").id,
                *id
            );
        }
        drop((files, later));
        assert_eq!((registry.len(), registry.all().len()), (0, 0));
        let by_id = registry.by_id.read();
        assert!(by_id.0.iter().all(|by_id| by_id.mappings.capacity() == 0));
    }

    #[test]
    fn the_memory_of_closed_files_is_freed() {
        let cache = Cache::new(8 << 20).unwrap();
        let files: Vec<_> = (0..1000).map(|_| open(&cache)).collect();
        let capacity = || cache.shared.registry.by_key.lock().capacity();
        let many = capacity();
        let kept = files.into_iter().step_by(100).collect::<Vec<_>>();
        assert!(many >= 1000 && (10..128).contains(&capacity()), "{many}, then {}", capacity());
        for (file, id) in &kept {
            let found = cache
                .shared
                .registry
                .by_file_id(file.opened.mapping.file_id())
                .expect("it is open");
            assert_eq!(found.id, *id);
        }
    }

    #[test]
    fn a_search_among_dirty_files_goes_on_behind_its_last_success() {
        let cache = Cache::new(2 << 20).unwrap();
        let files = [(); 3].map(|()| open(&cache));
        let registry = &cache.shared.registry;
        // Without dirty pages: no flusher takes them away.
        for (_, id) in &files {
            registry.dirty.insert(*id);
        }
        let visited = |wanted: Option<usize>| {
            let mut seen = Vec::new();
            let found = registry.any_dirty(|mapping| {
                seen.extend(files.iter().position(|(_, id)| *id == mapping.id));
                seen.last().copied() == wanted
            });
            (found, seen)
        };
        assert_eq!(visited(None), (false, vec![0, 1, 2]));
        assert_eq!(visited(Some(1)), (true, vec![0, 1]));
        assert_eq!(visited(None), (false, vec![2, 0, 1]));
        assert_eq!(visited(Some(0)), (true, vec![2, 0]));
        assert_eq!(visited(Some(2)), (true, vec![1, 2]));
        assert_eq!(visited(None), (false, vec![0, 1, 2]));
        registry.dirty.remove(files[1].1);
        assert_eq!(visited(None), (false, vec![0, 2]));
        assert_eq!(registry.dirty().len(), 2);
        for (_, id) in &files {
            registry.dirty.remove(*id);
        }
    }
}
