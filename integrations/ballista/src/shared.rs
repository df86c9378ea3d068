//! One cache for all sessions of an executor.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ballista_core::RuntimeProducer;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use folio_object_store::v013::CachedStore;
use folio_object_store::v013::object_store::ObjectStore;
use folio_object_store::{Cache, Options, StoreStats};
use url::{Position, Url};

/// A cache that all sessions of a process share, before the stores of a registry.
///
/// Each store is wrapped once, when it is first used. Local files (`file://`) are read as they are.
///
/// All sessions read with the rights of the registry, whatever they bring themselves: one session
/// gets bytes that another one had fetched. Where sessions have different rights, they must not
/// share a cache.
#[derive(Clone, Debug)]
pub struct SharedCache {
    stores: Arc<CachedStores>,
}

/// A registry of which the stores are cached.
#[derive(Debug)]
struct CachedStores {
    inner: Arc<dyn ObjectStoreRegistry>,
    cache: Cache,
    options: Options,
    wrapped: Mutex<HashMap<String, CachedStore>>,
}

impl SharedCache {
    /// Puts a cache before the stores of a registry. The options are those of each store, except
    /// its [`id`](Options::id), which is the scheme and the host of its URL.
    pub fn new(cache: &Cache, inner: Arc<dyn ObjectStoreRegistry>, options: Options) -> Self {
        let wrapped = Mutex::default();
        Self { stores: Arc::new(CachedStores { inner, cache: cache.clone(), options, wrapped }) }
    }

    /// Returns what `ExecutorProcessConfig::override_runtime_producer` takes. Sessions spill to
    /// `work_dir`.
    pub fn runtime_producer(&self, work_dir: impl Into<PathBuf>) -> RuntimeProducer {
        let (stores, work_dir) = (Arc::clone(&self.stores), work_dir.into());
        Arc::new(move |_| {
            RuntimeEnvBuilder::new()
                .with_object_store_registry(Arc::<CachedStores>::clone(&stores))
                .with_temp_file_path(work_dir.clone())
                .build_arc()
        })
    }

    /// Returns the counters of each store that was used, by its URL.
    pub fn stats(&self) -> Vec<(String, StoreStats)> {
        let wrapped = self.stores.wrapped.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stats: Vec<_> =
            wrapped.iter().map(|(url, store)| (url.clone(), store.stats())).collect();
        stats.sort_by(|(a, _), (b, _)| a.cmp(b));
        stats
    }
}

/// Returns the scheme and the host, without a user and a password.
fn name(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[Position::BeforeHost..Position::AfterPort])
}

impl ObjectStoreRegistry for CachedStores {
    fn register_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        let mut wrapped = self.wrapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = wrapped.remove(&name(url)) {
            // Its bytes may differ from those of the new one.
            before.invalidate_all();
        }
        self.inner.register_store(url, store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let mut wrapped = self.wrapped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = wrapped.remove(&name(url)) {
            before.invalidate_all();
        }
        self.inner.deregister_store(url)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        if url.scheme() == "file" {
            return self.inner.get_store(url);
        }
        let mut wrapped = self.wrapped.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name(url);
        if let Some(store) = wrapped.get(&name) {
            return Ok(Arc::new(store.clone()));
        }
        let options = self.options.clone().id(name.clone());
        let store = CachedStore::with_options(self.inner.get_store(url)?, &self.cache, options);
        wrapped.insert(name, store.clone());
        Ok(Arc::new(store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreUrl};
    use datafusion::prelude::SessionConfig;
    use folio_object_store::Consistency;
    use folio_object_store::v013::object_store::{ObjectStoreExt, memory::InMemory};

    fn url(text: &str) -> ObjectStoreUrl {
        ObjectStoreUrl::parse(text).unwrap()
    }

    fn shared() -> (SharedCache, Arc<InMemory>, Url) {
        let memory = Arc::new(InMemory::new());
        let url = Url::parse("s3://user:word@b:9").unwrap();
        let registry = DefaultObjectStoreRegistry::new();
        registry.register_store(&url, Arc::<InMemory>::clone(&memory));
        let options = Options::new().consistency(Consistency::Immutable);
        let cache = Cache::new(8 << 20).unwrap();
        (SharedCache::new(&cache, Arc::new(registry), options), memory, url)
    }

    #[tokio::test]
    async fn sessions_share_the_bytes_of_a_store() {
        let (shared, memory, url) = shared();
        memory.put(&"a".into(), "some bytes".into()).await.unwrap();
        let produce = shared.runtime_producer(std::env::temp_dir());
        for session in 1..=2 {
            let runtime = produce(&SessionConfig::new()).unwrap();
            let store = runtime.object_store(self::url(url.as_str())).unwrap();
            assert_eq!(store.get_range(&"a".into(), 0..4).await.unwrap(), "some");
            let [(name, stats)] = &shared.stats()[..] else { panic!("one store") };
            assert_eq!((stats.gets, stats.requests), (session, 1));
            assert_eq!(name, "s3://b:9", "no user, no password");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_replaced_is_read_anew() {
        let (shared, memory, url) = shared();
        memory.put(&"a".into(), "old".into()).await.unwrap();
        let runtime = shared.runtime_producer(std::env::temp_dir())(&SessionConfig::new()).unwrap();
        let read = async || {
            let store = runtime.object_store(self::url(url.as_str())).unwrap();
            store.get_range(&"a".into(), 0..3).await.unwrap()
        };
        assert_eq!(read().await, "old");
        let other = InMemory::new();
        other.put(&"a".into(), "new".into()).await.unwrap();
        runtime.register_object_store(&url, Arc::new(other));
        assert_eq!(read().await, "new");
    }

    #[test]
    fn local_files_are_read_as_they_are() {
        let (shared, _, _) = shared();
        let runtime = shared.runtime_producer(std::env::temp_dir())(&SessionConfig::new()).unwrap();
        runtime.object_store(url("file://")).unwrap();
        assert!(shared.stats().is_empty());
        let error = runtime.object_store(url("s3://unknown")).unwrap_err();
        assert!(error.to_string().contains("unknown"), "{error}");
    }
}
