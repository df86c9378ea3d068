//! The cached store, written once for all versions of `object_store`.

mod answers;
mod entry;
mod error;
mod find;
mod forward;
#[cfg(feature = "metrics")]
mod metrics;
mod object;
mod piece;
mod read;
mod source;
mod stream;
mod write;

use super::{get_result, object_store as os};

use std::fmt;
use std::sync::Arc;

use folio_cache::{Cache, Key, Preferences};

use crate::base::counters::{Counters, is_below};
use crate::base::epochs::{Epochs, Ticket};
use crate::base::flights::Flights;
use crate::base::key::{self, StoreId, unique};
use crate::base::redact::redact;
use crate::base::table::{Name, Table};
use crate::{Consistency, Options, StoreStats};
use answers::{Answers, KeptPiece};
use entry::{Entry, Found};
use error::Trouble;
use os::{ObjectMeta, ObjectStore, Result, path::Path};
use source::{Source, identity_of, modified_of};

/// The smallest and the largest default of [`Options::request_bytes`].
const REQUEST_BYTES: (u64, u64) = (1 << 20, 64 << 20);

/// The share of the cache's capacity that the first answers of objects may have beside it: one part
/// in so many.
const FIRST_SHARE: u64 = 4;

/// An object store with its objects cached in a [`Cache`]. A clone is another handle on the same
/// store.
///
/// Writes go through to the store at once. See [`Consistency`] for what a read returns, and the
/// documentation of the crate for an example.
#[derive(Clone)]
pub struct CachedStore {
    core: Arc<Core>,
}

/// The state that all handles of a cached store share.
struct Core {
    source: Arc<Source>,
    cache: Cache,
    id: StoreId,
    consistency: Consistency,
    once_above: u64,
    table: Table<Entry>,
    /// The first requests. A read does not join one from before a write or an invalidation.
    flights: Flights<(Name, Ticket), Result<Found>>,
    pieces: Flights<(Key, u64), Result<Arc<KeptPiece>, Trouble>>,
    validations: Flights<(Name, Ticket), Result<Arc<Entry>>>,
    epochs: Epochs,
}

impl CachedStore {
    /// Wraps a store with the default options: each get asks the store whether what is cached is
    /// its newest version.
    pub fn new(store: Arc<dyn ObjectStore>, cache: &Cache) -> Self {
        Self::with_options(store, cache, Options::new())
    }

    /// Wraps a store. The cache may hold files and other stores as well.
    pub fn with_options(store: Arc<dyn ObjectStore>, cache: &Cache, options: Options) -> Self {
        let capacity = cache.capacity() as u64;
        let (least, most) = REQUEST_BYTES;
        let request_bytes =
            options.request_bytes.unwrap_or_else(|| (capacity / 16).clamp(least, most));
        let preferences = Preferences::default()
            .request_bytes(request_bytes)
            .gap_bytes(options.gap_bytes)
            .in_flight(options.in_flight);
        let counters = Counters::new(&options.prefixes);
        let answers = Answers::new(capacity / FIRST_SHARE);
        let core = Core {
            source: Arc::new(Source::new(store, counters, preferences, answers)),
            cache: cache.clone(),
            id: StoreId { name: options.id, number: unique() },
            consistency: options.consistency,
            once_above: options.once_above.unwrap_or(capacity / 8),
            table: Table::new(options.metadata_entries, options.metadata_bytes),
            flights: Flights::new(),
            pieces: Flights::sharing(|piece| piece.as_ref().ok().cloned().map(Ok)),
            validations: Flights::new(),
            epochs: Epochs::new(),
        };
        Self { core: Arc::new(core) }
    }

    /// Returns the wrapped store. A write through it is a change by others.
    pub fn inner(&self) -> &Arc<dyn ObjectStore> {
        &self.core.source.inner.0
    }

    /// Returns the cache.
    pub fn cache(&self) -> &Cache {
        &self.core.cache
    }

    /// Returns the rule of consistency.
    pub fn consistency(&self) -> Consistency {
        self.core.consistency
    }

    /// Returns the counters.
    pub fn stats(&self) -> StoreStats {
        let [objects, metadata_bytes, metadata_evicted] = self.core.table.sizes();
        let stats = self.core.source.counters.stats();
        StoreStats { objects, metadata_bytes, metadata_evicted, ..stats }
    }

    /// Returns the counters of each prefix that [`Options::count_prefix`] named, the longest first.
    pub fn prefix_stats(&self) -> Vec<(String, StoreStats)> {
        self.core.source.counters.prefix_stats()
    }

    /// Forgets an object: its metadata, its versions and its pages. The next get asks the store. A
    /// get under way returns the version that it has begun with.
    pub fn invalidate(&self, path: &Path) {
        self.core.source.forget_failed();
        self.core.epochs.forget(path.as_ref());
        self.core.forget_if(|name| *name.path == *path.as_ref());
    }

    /// Forgets all objects below a prefix, by whole segments of their paths. It inspects the
    /// metadata of all objects.
    pub fn invalidate_prefix(&self, prefix: &Path) {
        self.core.source.forget_failed();
        self.core.epochs.forget_all();
        self.core.forget_if(|name| is_below(&name.path, prefix.as_ref()));
    }

    /// Forgets all objects.
    pub fn invalidate_all(&self) {
        self.core.source.forget_failed();
        self.core.epochs.forget_all();
        self.core.forget_if(|_| true);
    }
}

impl Core {
    fn forget_if(&self, goes: impl FnMut(&Name) -> bool) {
        for entry in self.table.remove_if(goes) {
            self.cache.invalidate(&entry.object.key);
        }
    }

    /// Drops what is known about an object that is written. Versions that were named stay, and
    /// are validated again.
    fn drop_known(&self, path: &Path) {
        self.source.forget_failed();
        if let Some(entry) = self.table.remove(path.as_ref()) {
            self.cache.invalidate(&entry.object.key);
        }
    }

    /// Compares what a listing says with what is known. If they differ, the next get asks.
    fn listed(&self, meta: &ObjectMeta) {
        let Some(entry) = self.table.get(meta.location.as_ref(), None) else { return };
        let (known, listed) = (&entry.object.identity, identity_of(meta));
        let times = [&entry.meta, meta].map(modified_of);
        let strong =
            |text: &Option<String>| text.as_deref().map(|text| text.trim_matches('"').to_owned());
        let differ = match (strong(&known.strong), strong(&listed.strong)) {
            (Some(known), Some(listed)) => known != listed,
            _ => !key::may_be_one_time(times),
        };
        if known.size != listed.size || differ {
            entry.doubt(self.epochs.now());
        }
    }

    /// Returns the name of the store for people.
    fn name(&self) -> String {
        redact(&self.id.name.clone().unwrap_or_else(|| self.source.inner.0.to_string()))
    }
}

impl fmt::Display for CachedStore {
    /// Writes the name of the wrapped store, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = redact(&self.inner().to_string());
        write!(f, "{store}, cached by folio in {} MiB", self.cache().capacity() >> 20)
    }
}

impl fmt::Debug for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("store", &self.core.source.inner)
            .field("id", &self.core.id.name.as_deref().map(redact))
            .field("consistency", &self.core.consistency)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
