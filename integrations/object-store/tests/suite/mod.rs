//! The tests of `object_store` itself over servers, without the cache and in each mode of it; and
//! what a get costs over S3.
//!
//! A server may fail some of them without the cache too. It must not fail more with it.

use super::VERSION;
use super::cached::CachedStore;
use super::cached::object_store as os;

use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use folio_loopback::{KEYS, Moto, Server, Traffic};
use folio_object_store::{Cache, Consistency, Options};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use os::aws::{AmazonS3, AmazonS3Builder, S3CopyIfNotExists};
use os::integration::*;
use os::{ObjectStore, ObjectStoreExt, RetryConfig};

type Test = (&'static str, fn(&dyn ObjectStore) -> BoxFuture<'_, ()>);

macro_rules! tests {
    ($($name:ident),*) => {
        &[$((stringify!($name), |store| Box::pin($name(store)) as _)),*]
    };
}

async fn put_opts_with_updates(store: &dyn ObjectStore) {
    put_opts(store, true).await;
}

async fn race_of_uploads(store: &dyn ObjectStore) {
    multipart_race_condition(store, true).await;
}

const S3: &[Test] = tests![
    put_get_delete_list,
    get_opts,
    put_opts_with_updates,
    put_get_attributes,
    stream_get,
    list_uses_directories_correctly,
    list_with_delimiter,
    rename_and_copy,
    copy_if_not_exists,
    copy_rename_nonexistent_object,
    multipart_out_of_order,
    race_of_uploads
];

const HTTP: &[Test] = tests![
    put_get_delete_list,
    get_opts,
    list_uses_directories_correctly,
    list_with_delimiter,
    rename_and_copy,
    copy_if_not_exists
];

fn modes() -> [(&'static str, Option<Consistency>); 5] {
    let soon = Consistency::ValidatedAfter(Duration::ZERO);
    let late = Consistency::ValidatedAfter(Duration::from_hours(1));
    [
        ("bare", None),
        ("immutable", Some(Consistency::Immutable)),
        ("after 1 h", Some(late)),
        ("after 0 s", Some(soon)),
        ("validated", Some(Consistency::Validated)),
    ]
}

/// Retries are the store's: without them a test fails at once.
fn never() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn s3(address: &str, bucket: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(address)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(bucket)
        .with_access_key_id(KEYS.0)
        .with_secret_access_key(KEYS.1)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .with_retry(never())
        .build()
        .expect("a store")
}

/// Runs each test in each mode, over a new store each time. Returns the table.
async fn table(
    server: &str,
    tests: &[Test],
    mut make: impl AsyncFnMut(String) -> Arc<dyn ObjectStore>,
) -> String {
    let (mut text, mut worse) = (String::new(), Vec::new());
    let names = modes().map(|(name, _)| name);
    writeln!(text, "### {server}, object_store {VERSION}\n\n| test | {} |", names.join(" | "))
        .unwrap();
    writeln!(text, "| --- |{}", " --- |".repeat(names.len())).unwrap();
    for (number, (name, test)) in tests.iter().enumerate() {
        let mut row = Vec::new();
        for (mode, (_, consistency)) in modes().into_iter().enumerate() {
            let mut passed = false;
            // A server fails at random too: what passes without the cache is tried again with it.
            for attempt in 0..if row.first() == Some(&true) { 3 } else { 1 } {
                let inner = make(format!("bucket-{number}-{mode}-{attempt}")).await;
                let store: Arc<dyn ObjectStore> = match consistency {
                    None => inner,
                    Some(consistency) => {
                        let cache = Cache::new(64 << 20).expect("memory");
                        let options = Options::new().consistency(consistency);
                        Arc::new(CachedStore::with_options(inner, &cache, options))
                    }
                };
                let run = AssertUnwindSafe(test(&*store)).catch_unwind();
                let ended = tokio::time::timeout(Duration::from_mins(2), run).await;
                passed = matches!(ended, Ok(Ok(())));
                if passed {
                    break;
                }
            }
            row.push(passed);
        }
        let marks: Vec<_> =
            row.iter().map(|&passed| if passed { "passes" } else { "fails" }).collect();
        writeln!(text, "| `{name}` | {} |", marks.join(" | ")).unwrap();
        if row[0] && row.contains(&false) {
            worse.push(*name);
        }
    }
    println!("{text}");
    assert!(worse.is_empty(), "{worse:?} fail with the cache alone:\n{text}");
    text
}

/// Appends a table to the file that `FOLIO_TABLES` names, if it is set.
fn record(table: &str) {
    if let Some(path) = std::env::var_os("FOLIO_TABLES") {
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, before + table + "\n").expect("the file can be written");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

#[test]
fn s3s_passes_the_same_tests_with_the_cache() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::s3(folder.path(), Duration::ZERO).await.expect("a server");
        let make = async |bucket: String| -> Arc<dyn ObjectStore> {
            std::fs::create_dir(folder.path().join(&bucket)).expect("a bucket");
            Arc::new(s3(server.address(), &bucket)) as _
        };
        record(&table("S3 by s3s-fs", S3, make).await);
    });
}

#[test]
fn moto_passes_the_same_tests_with_the_cache() {
    runtime().block_on(async {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("moto-{VERSION}"));
        let moto = match Moto::start(&folder).await {
            Ok(moto) => moto,
            Err(error) => {
                println!("skipped, for lack of moto: {error:#}");
                return;
            }
        };
        let make = async |bucket: String| -> Arc<dyn ObjectStore> {
            moto.make_bucket(&bucket).await.expect("a bucket");
            Arc::new(s3(&moto.address(), &bucket)) as _
        };
        record(&table("S3 by moto", S3, make).await);
    });
}

#[test]
fn webdav_passes_the_same_tests_with_the_cache() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::webdav(folder.path(), Duration::ZERO).await.expect("a server");
        let make = async |name: String| -> Arc<dyn ObjectStore> {
            std::fs::create_dir(folder.path().join(&name)).expect("a folder");
            let options = os::ClientOptions::new().with_allow_http(true);
            let store = os::http::HttpBuilder::new()
                .with_url(format!("{}/{name}", server.address()))
                .with_client_options(options)
                .with_retry(never())
                .build();
            Arc::new(store.expect("a store")) as _
        };
        record(&table("WebDAV by dav-server", HTTP, make).await);
    });
}

/// Starts S3 with one object in a bucket. Returns its folder too, which the server needs.
async fn with_object(len: usize, delay: Duration) -> (tempfile::TempDir, Server, AmazonS3) {
    let folder = tempfile::tempdir().expect("a folder");
    let bucket: PathBuf = folder.path().join("bucket");
    std::fs::create_dir(bucket).expect("a bucket");
    let server = Server::s3(folder.path(), delay).await.expect("a server");
    let store = s3(server.address(), "bucket");
    let bytes: Vec<u8> = (0..len).map(|at| (at / 4096) as u8 ^ at as u8).collect();
    store.put(&"a".into(), bytes.into()).await.expect("put");
    (folder, server, store)
}

#[test]
fn a_warm_range_over_s3_makes_no_request() {
    runtime().block_on(async {
        let (_folder, server, bare) = with_object(9 << 20, Duration::from_millis(5)).await;
        let cache = Cache::new(64 << 20).expect("memory");
        let options = Options::new().consistency(Consistency::Immutable);
        let store = CachedStore::with_options(Arc::new(bare), &cache, options);
        let path = "a".into();
        let ranges = [0..100, 4_000_000..4_500_000, 9_000_000..9_000_001];
        let before = server.requests();
        let cold = store.get_ranges(&path, &ranges).await.expect("cold");
        assert_eq!(server.requests() - before, 3);
        let warm = store.get_ranges(&path, &ranges).await.expect("warm");
        assert_eq!((cold, server.requests() - before), (warm.clone(), 3));
        let bare = store.inner().get_ranges(&path, &ranges).await.expect("bare");
        assert_eq!(warm, bare);
        assert!(!format!("{store:?} {store}").contains(KEYS.1));
    });
}

#[test]
fn traffic_is_the_same_for_any_process() {
    runtime().block_on(async {
        let (_folder, server, store) = with_object(1000, Duration::ZERO).await;
        let (path, before) = ("a".into(), server.traffic());
        store.get_range(&path, 10..110).await.expect("a range");
        store.head(&path).await.expect("a head");
        assert_eq!(store.list(None).count().await, 1);
        assert!(store.get_range(&"b".into(), 0..9).await.is_err());
        let traffic = Traffic::of(server.address()).await.expect("an answer");
        assert_eq!(traffic, server.traffic(), "the question is not counted");
        assert_eq!(traffic - before, Traffic { gets: 2, others: 2, bytes: 100 });
        assert!(Traffic::of("http://127.0.0.1:1").await.is_err(), "no server has this port");
    });
}

#[test]
fn a_stream_in_order_is_read_ahead_outside_of_the_runtime() {
    runtime().block_on(async {
        let (_folder, _server, bare) = with_object(24 << 20, Duration::from_millis(5)).await;
        // A thread of the cache polls the requests for readahead, and enters the runtime.
        let cache = Cache::new(64 << 20).expect("memory");
        let options = Options::new().consistency(Consistency::Immutable).request_bytes(1 << 20);
        let store = CachedStore::with_options(Arc::new(bare), &cache, options);
        let path = "a".into();
        let mut read = Vec::new();
        while read.len() < 24 << 20 {
            let at = read.len() as u64;
            let range = store.get_range(&path, at..at + 65_536).await.expect("a range");
            read.extend_from_slice(&range);
        }
        let whole = store.inner().get(&path).await.expect("get").bytes().await.expect("bytes");
        assert_eq!(whole, read);
        assert_eq!(store.stats().errors, 0);
    });
}
