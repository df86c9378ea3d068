//! The 22 queries over S3 on loopback, through the cache: answers and requests.

use std::sync::Arc;
use std::time::Duration;

use datafusion::prelude::{SessionConfig, SessionContext};
use folio_datafusion::{BUCKET, QUERIES, answer, register_tables, s3, write_tables};
use folio_loopback::Server;
use folio_object_store::v013::CachedStore;
use folio_object_store::{Cache, Consistency, Options};
use url::Url;

fn session() -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2))
}

/// Returns the answer to each query, as text.
async fn answers(session: &SessionContext) -> Vec<String> {
    let mut answers = Vec::new();
    for query in QUERIES {
        answers.push(answer(session, query).await.expect("an answer"));
    }
    answers
}

fn compare(found: &[String], expected: &[String], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (number, (found, expected)) in (1..).zip(found.iter().zip(expected)) {
        assert_eq!(found, expected, "query {number}, {what}");
    }
}

/// Tables, a server over them, and the answers without a cache.
struct Site {
    _folder: tempfile::TempDir,
    server: Server,
    expected: Vec<String>,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tables = folder.path().join(BUCKET);
        std::fs::create_dir(&tables).expect("a bucket");
        write_tables(&tables, 0.01, 20_000).expect("tables");
        let plain = session();
        register_tables(&plain, &format!("{}/", tables.display())).await.expect("tables");
        let expected = answers(&plain).await;
        let server = Server::s3(folder.path(), Duration::from_millis(2)).await.expect("a server");
        Self { _folder: folder, server, expected }
    }

    fn store(&self, capacity: usize, consistency: Consistency) -> CachedStore {
        let s3 = s3(self.server.address()).expect("a store");
        let cache = Cache::new(capacity).expect("memory");
        CachedStore::with_options(Arc::new(s3), &cache, Options::new().consistency(consistency))
    }

    async fn session(&self, store: &CachedStore) -> SessionContext {
        let session = session();
        let url = format!("s3://{BUCKET}/");
        session.register_object_store(&Url::parse(&url).expect("a URL"), Arc::new(store.clone()));
        register_tables(&session, &url).await.expect("tables");
        session
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_equal_and_warm_queries_send_no_request() {
    let site = Site::new().await;
    let store = site.store(64 << 20, Consistency::Immutable);
    let session = site.session(&store).await;
    compare(&answers(&session).await, &site.expected, "cold");

    let (requests, stats) = (site.server.requests(), store.stats());
    compare(&answers(&session).await, &site.expected, "warm");
    let warm = store.stats() - stats;
    assert!(warm.bytes_wanted > 0, "the queries read through the cache: {warm}");
    assert_eq!(warm.bytes_hit, warm.bytes_wanted, "{warm}");
    assert_eq!(site.server.requests(), requests, "{warm}");

    // Another session over the same store has the bytes too, and asks for nothing but metadata.
    let another = site.session(&store).await;
    let before = store.stats();
    compare(&answers(&another).await, &site.expected, "another session");
    assert_eq!((store.stats() - before).bytes_fetched, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_equal_in_each_mode_and_with_little_memory() {
    let site = Site::new().await;
    let after = Consistency::ValidatedAfter(Duration::from_millis(50));
    for (capacity, consistency) in
        [(64 << 20, Consistency::Validated), (2 << 20, Consistency::Immutable), (2 << 20, after)]
    {
        let store = site.store(capacity, consistency);
        let session = site.session(&store).await;
        for pass in 1..=2 {
            let what = format!("{consistency:?}, {} MiB, pass {pass}", capacity >> 20);
            compare(&answers(&session).await, &site.expected, &what);
        }
        assert_eq!(store.stats().errors, 0, "{}", store.stats());
    }
}
