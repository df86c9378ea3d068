//! Workers of `datafusion-distributed` on loopback, each with a cache of its own: a second run of
//! queries reads nothing from the store.

#![cfg(feature = "distributed")]

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::object_store::{DefaultObjectStoreRegistry, ObjectStoreRegistry};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_distributed::{DistributedExt, SessionStateBuilderExt, Worker, WorkerResolver};
use folio_ballista::{SharedCache, route_tasks};
use folio_datafusion::{QUERIES, answer, register_tables, upload_tables, write_tables};
use folio_object_store::v013::object_store::memory::InMemory;
use folio_object_store::{Cache, Consistency, Options};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use url::Url;

const PLACE: &str = "memory://tables/";

struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>> {
        Ok(self.0.clone())
    }
}

fn registry(store: &Arc<InMemory>) -> Arc<dyn ObjectStoreRegistry> {
    let registry = DefaultObjectStoreRegistry::new();
    registry.register_store(&Url::parse(PLACE).expect("a URL"), Arc::<InMemory>::clone(store));
    Arc::new(registry)
}

/// Starts a worker. Returns its URL and its cache.
async fn start(store: &Arc<InMemory>) -> (Url, SharedCache) {
    let cache = Cache::new(32 << 20).expect("memory");
    let options = Options::new().consistency(Consistency::Immutable);
    let shared = SharedCache::new(&cache, registry(store), options);
    let produce = shared.runtime_producer(std::env::temp_dir());
    let runtime = produce(&SessionConfig::new()).expect("a runtime");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let worker = Worker::default().with_runtime_env(runtime).into_worker_server();
    let serve = Server::builder().add_service(worker);
    tokio::spawn(serve.serve_with_incoming(TcpIncoming::from(listener)));
    (Url::parse(&format!("http://{address}")).expect("a URL"), shared)
}

/// Returns a session that sends its tasks to the workers.
async fn session(store: &Arc<InMemory>, workers: &[Url]) -> SessionContext {
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(registry(store));
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(SessionConfig::new().with_target_partitions(2))
        .with_runtime_env(runtime.build_arc().expect("a runtime"))
        .with_distributed_planner()
        .with_distributed_worker_resolver(Workers(workers.to_vec()))
        .with_distributed_file_scan_config_bytes_per_partition(1)
        .expect("a setting")
        .with_distributed_route_tasks_handler(route_tasks)
        .build();
    let session = SessionContext::new_with_state(state);
    register_tables(&session, PLACE).await.expect("tables");
    session
}

fn fetched(caches: &[SharedCache]) -> Vec<u64> {
    let of = |cache: &SharedCache| cache.stats().iter().map(|(_, stats)| stats.bytes_fetched).sum();
    caches.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_read_each_part_of_a_file_once() {
    let folder = tempfile::tempdir().expect("a folder");
    write_tables(folder.path(), 0.01, 2_000).expect("tables");
    let store = Arc::new(InMemory::new());
    upload_tables(folder.path(), store.as_ref()).await.expect("tables");
    let local = SessionContext::new();
    register_tables(&local, &format!("{}/", folder.path().display())).await.expect("tables");

    let (mut workers, mut caches) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (url, cache) = start(&store).await;
        workers.push(url);
        caches.push(cache);
    }
    let mut first = Vec::new();
    for run in 1..=3 {
        // The workers may be listed in any order.
        workers.rotate_left(1);
        let session = session(&store, &workers).await;
        for number in [1, 4, 6, 12, 14] {
            let query = QUERIES[number - 1];
            let found = answer(&session, query).await.expect("an answer");
            let expected = answer(&local, query).await.expect("an answer");
            assert_eq!(found, expected, "query {number}, run {run}");
        }
        if run == 1 {
            first = fetched(&caches);
            assert!(first.iter().all(|&bytes| bytes > 100_000), "each has its parts: {first:?}");
        }
        assert_eq!(fetched(&caches), first, "run {run} reads from caches");
    }
}
