//! The table of metadata: bounded by entries and by bytes, and apart from the pages.
//!
//! What was used since the clock's hand passed it last stays; the rest goes in the order of its
//! arrival.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

const SHARDS: usize = 16;

/// Below this number of entries there is one shard, so that the bound is exact.
const SMALL: usize = 1024;

/// Below this number of bytes too, so that an entry with long attributes fits into a shard.
const SMALL_BYTES: usize = SHARDS << 16;

/// The name of an object, or of one version of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) path: Arc<str>,
    pub(crate) version: Option<Arc<str>>,
}

impl Name {
    pub(crate) fn new(path: &str, version: Option<&str>) -> Self {
        Self { path: path.into(), version: version.map(Into::into) }
    }
}

/// The metadata of objects.
#[derive(Debug)]
pub(crate) struct Table<E> {
    shards: Box<[Mutex<Shard<E>>]>,
    /// The bounds of a shard.
    most_entries: usize,
    most_bytes: usize,
    evicted: AtomicU64,
}

#[derive(Debug)]
struct Shard<E> {
    objects: HashMap<Arc<str>, usize>,
    versions: HashMap<Name, usize>,
    slots: Vec<Option<Slot<E>>>,
    free: Vec<usize>,
    hand: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Slot<E> {
    name: Name,
    entry: Arc<E>,
    bytes: usize,
    used: AtomicBool,
}

impl<E> Table<E> {
    pub(crate) fn new(entries: usize, bytes: usize) -> Self {
        let is_small = entries < SMALL || bytes < SMALL_BYTES;
        let shards = if is_small { 1 } else { SHARDS };
        Self {
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
            most_entries: entries / shards,
            most_bytes: bytes / shards,
            evicted: AtomicU64::new(0),
        }
    }

    /// Returns the entry of an object, or of a version of it.
    pub(crate) fn get(&self, path: &str, version: Option<&str>) -> Option<Arc<E>> {
        let shard = self.shard(path).lock();
        let slot = shard.slots[shard.find(path, version)?].as_ref()?;
        slot.used.store(true, Relaxed);
        Some(Arc::clone(&slot.entry))
    }

    /// Keeps an entry in the place of another, if `may_keep` says so. It is called with the other
    /// under the lock that [`remove`](Self::remove) takes too. Returns the other.
    pub(crate) fn insert(
        &self,
        name: Name,
        entry: Arc<E>,
        bytes: usize,
        may_keep: impl FnOnce(Option<&E>) -> bool,
    ) -> Option<Arc<E>> {
        let mut shard = self.shard(&name.path).lock();
        let before = shard.find(&name.path, name.version.as_deref());
        let before = before.and_then(|index| shard.slots[index].as_ref());
        if !may_keep(before.map(|slot| &*slot.entry)) {
            return None;
        }
        let before = shard.remove(&name.path, name.version.as_deref());
        if self.most_entries == 0 || bytes > self.most_bytes {
            return before;
        }
        let mut evicted = Vec::new();
        while shard.len() >= self.most_entries || shard.bytes + bytes > self.most_bytes {
            let Some(entry) = shard.evict() else { break };
            evicted.push(entry);
        }
        self.evicted.fetch_add(evicted.len() as u64, Relaxed);
        shard.insert(Slot { name, entry, bytes, used: AtomicBool::new(false) });
        drop(shard);
        before
    }

    /// Removes the entry of an object. Returns it.
    pub(crate) fn remove(&self, path: &str) -> Option<Arc<E>> {
        self.shard(path).lock().remove(path, None)
    }

    /// Removes an entry, unless another has taken its place.
    pub(crate) fn remove_same(&self, path: &str, version: Option<&str>, entry: &Arc<E>) {
        let mut shard = self.shard(path).lock();
        let same = |shard: &Shard<E>| {
            let slot = shard.slots[shard.find(path, version)?].as_ref()?;
            Arc::ptr_eq(&slot.entry, entry).then_some(())
        };
        if same(&shard).is_some() {
            shard.remove(path, version);
        }
    }

    /// Removes the entries that `goes` accepts. Returns them.
    pub(crate) fn remove_if(&self, mut goes: impl FnMut(&Name) -> bool) -> Vec<Arc<E>> {
        let mut removed = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            let names: Vec<_> = shard
                .slots
                .iter()
                .flatten()
                .filter(|slot| goes(&slot.name))
                .map(|slot| slot.name.clone())
                .collect();
            removed.extend(
                names.iter().filter_map(|name| shard.remove(&name.path, name.version.as_deref())),
            );
        }
        removed
    }

    /// Returns the numbers of entries and bytes, and of entries evicted so far.
    pub(crate) fn sizes(&self) -> [u64; 3] {
        let (mut entries, mut bytes) = (0, 0);
        for shard in &self.shards {
            let shard = shard.lock();
            entries += shard.len();
            bytes += shard.bytes;
        }
        [entries as u64, bytes as u64, self.evicted.load(Relaxed)]
    }

    fn shard(&self, path: &str) -> &Mutex<Shard<E>> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        &self.shards[hasher.finish() as usize % self.shards.len()]
    }
}

impl<E> Shard<E> {
    fn new() -> Self {
        Self {
            objects: HashMap::new(),
            versions: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
        }
    }

    fn len(&self) -> usize {
        self.objects.len() + self.versions.len()
    }

    fn find(&self, path: &str, version: Option<&str>) -> Option<usize> {
        match version {
            None => self.objects.get(path).copied(),
            Some(_) if self.versions.is_empty() => None,
            version => self.versions.get(&Name::new(path, version)).copied(),
        }
    }

    fn insert(&mut self, slot: Slot<E>) {
        self.bytes += slot.bytes;
        let index = self.free.pop().unwrap_or(self.slots.len());
        match &slot.name.version {
            None => self.objects.insert(Arc::clone(&slot.name.path), index),
            Some(_) => self.versions.insert(slot.name.clone(), index),
        };
        if index == self.slots.len() {
            self.slots.push(Some(slot));
        } else {
            self.slots[index] = Some(slot);
        }
    }

    fn remove(&mut self, path: &str, version: Option<&str>) -> Option<Arc<E>> {
        let index = self.find(path, version)?;
        self.take(index)
    }

    fn take(&mut self, index: usize) -> Option<Arc<E>> {
        let slot = self.slots[index].take()?;
        self.free.push(index);
        self.bytes -= slot.bytes;
        match slot.name.version {
            None => self.objects.remove(&slot.name.path),
            Some(_) => self.versions.remove(&slot.name),
        };
        Some(slot.entry)
    }

    /// Removes an entry that was not used since the hand passed it, or the first if all were.
    fn evict(&mut self) -> Option<Arc<E>> {
        if self.len() == 0 {
            return None;
        }
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            match &self.slots[self.hand] {
                Some(slot) if !slot.used.swap(false, Relaxed) => return self.take(self.hand),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(table: &Table<u32>, path: &str, entry: u32, bytes: usize) -> Option<Arc<u32>> {
        table.insert(Name::new(path, None), Arc::new(entry), bytes, |_| true)
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let table = Table::new(3, 100);
        for i in 0..10 {
            insert(&table, &i.to_string(), i, 20);
        }
        assert_eq!(table.sizes(), [3, 60, 7]);
        insert(&table, "large", 0, 80);
        assert_eq!(table.sizes()[..2], [2, 100]);
        insert(&table, "too large", 0, 101);
        assert!(table.get("too large", None).is_none());
        assert_eq!(table.sizes()[..2], [2, 100]);
        assert!(insert(&Table::new(0, 100), "a", 1, 1).is_none());
    }

    #[test]
    fn a_small_bound_of_bytes_is_not_divided() {
        let table = Table::new(1 << 16, 10_000);
        insert(&table, "a", 1, 9_000);
        assert_eq!(table.sizes()[..2], [1, 9_000]);
    }

    #[test]
    fn used_entries_outlive_a_scan() {
        let table = Table::new(10, 1000);
        insert(&table, "hot", 7, 1);
        for i in 0..1000 {
            insert(&table, &i.to_string(), i, 1);
            assert_eq!(table.get("hot", None).as_deref(), Some(&7));
        }
        assert_eq!(table.sizes()[0], 10);
    }

    #[test]
    fn versions_are_apart_from_the_object() {
        let table = Table::new(10, 1000);
        insert(&table, "a", 1, 5);
        table.insert(Name::new("a", Some("v")), Arc::new(2), 5, |_| true);
        assert_eq!(table.get("a", Some("v")).as_deref(), Some(&2));
        assert_eq!(table.remove("a").as_deref(), Some(&1));
        assert!(table.get("a", None).is_none() && table.get("a", Some("w")).is_none());
        assert_eq!(table.remove_if(|name| &*name.path == "a"), [Arc::new(2)]);
        assert_eq!(table.sizes()[..2], [0, 0]);
    }

    #[test]
    fn a_refused_entry_leaves_what_was_there() {
        let table = Table::new(10, 1000);
        insert(&table, "a", 1, 5);
        assert!(table.insert(Name::new("a", None), Arc::new(2), 5, |_| false).is_none());
        assert_eq!(table.get("a", None).as_deref(), Some(&1));
        assert_eq!(insert(&table, "a", 3, 6).as_deref(), Some(&1));
        let [one, three] = [Arc::new(3), table.get("a", None).unwrap()];
        table.remove_same("a", None, &one);
        assert!(table.get("a", None).is_some());
        table.remove_same("a", None, &three);
        assert!(table.get("a", None).is_none());
    }
}
