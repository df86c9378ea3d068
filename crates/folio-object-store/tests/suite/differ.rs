//! Random calls, one after the other, beside the bare store: the answers are the same.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt};

use super::os::path::Path;
use super::os::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, Result, UpdateVersion,
};
use super::tricky::Tags;
use super::{Cache, CachedStore, Consistency, HOUR, MODES, Options, Tricky, pattern, run};

/// Returns what a result says, in a word where the texts of errors may differ.
fn said<T>(result: &Result<T>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(Error::NotFound { .. }) => "not found".into(),
        Err(Error::Precondition { .. }) => "precondition".into(),
        Err(Error::NotModified { .. }) => "not modified".into(),
        Err(Error::AlreadyExists { .. }) => "exists".into(),
        Err(error) => error.to_string(),
    }
}

/// One cached store beside its bare store.
struct Play {
    rng: fastrand::Rng,
    bare: Arc<Tricky>,
    store: CachedStore,
    tags: Tags,
    /// Some writes go past the cache.
    others: bool,
    held: Vec<Bytes>,
    seen: Vec<ObjectMeta>,
    /// The settings, for messages.
    case: String,
}

const PATHS: [&str; 5] = ["a", "a/b", "a/bc", "c d", "ü"];

impl Play {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mode = MODES[rng.usize(..4)];
        let tags = [Tags::Strong, Tags::Weak, Tags::None][rng.usize(..3)];
        let others = !matches!(mode, Consistency::Immutable | HOUR);
        let mut bare = Tricky::in_memory();
        bare.tags = tags;
        let modified = [None, Some("2020-01-01T00:00:00Z"), Some("1970-01-01T00:00:00Z")];
        // A time that stays is a lie if others write.
        let time = if others && tags != Tags::Strong { 0 } else { rng.usize(..3) };
        *bare.modified.lock().unwrap() = modified[time];
        let bare = Arc::new(bare);
        let options = Options::new()
            .consistency(mode)
            .metadata_entries([0, 1, 3, 1000][rng.usize(..4)])
            .request_bytes([1, 100_000, 1 << 20][rng.usize(..3)])
            .gap_bytes([0, 10_000, 1 << 20][rng.usize(..3)])
            .in_flight([1, 256][rng.usize(..2)]);
        let cache = Cache::new([4 << 20, 16 << 20][rng.usize(..2)]).unwrap();
        let inner: Arc<dyn ObjectStore> = bare.clone();
        let case = format!("seed {seed} {mode:?} {tags:?} {time} {options:?}");
        let store = CachedStore::with_options(inner, &cache, options);
        Self { rng, bare, store, tags, others, held: Vec::new(), seen: Vec::new(), case }
    }

    fn path(&mut self) -> Path {
        Path::from(PATHS[self.rng.usize(..PATHS.len())])
    }

    fn len(&mut self) -> usize {
        [0, 1, 4096, 5000, 70_000, 1 << 20, (1 << 20) + 5, 3_000_000][self.rng.usize(..8)]
    }

    fn offset(&mut self) -> u64 {
        let edge = [0, 4096, 1 << 20, 3_000_000, u64::MAX][self.rng.usize(..5)];
        match self.rng.u32(..3) {
            0 => edge,
            1 => edge.saturating_add(self.rng.u64(..6000)),
            _ => self.rng.u64(..3_100_000),
        }
    }

    fn range(&mut self) -> std::ops::Range<u64> {
        let start = self.offset();
        let len = [1, 10, 5000, 300_000, 2_000_000][self.rng.usize(..5)];
        start..start.saturating_add(len)
    }

    fn options(&mut self) -> GetOptions {
        let range = match self.rng.u32(..6) {
            0 => Some(GetRange::Bounded(self.range())),
            1 => Some(GetRange::Offset(self.offset())),
            2 => Some(GetRange::Suffix(self.offset())),
            _ => None,
        };
        let mut options = GetOptions { range, ..GetOptions::default() };
        options.head = self.rng.u32(..6) == 0;
        if self.rng.u32(..8) == 0 {
            options.version = Some("null".into());
        }
        if !self.seen.is_empty() {
            let meta = self.seen[self.rng.usize(..self.seen.len())].clone();
            let tag = match self.rng.u32(..4) {
                0 => Some("*".to_owned()),
                1 => meta.e_tag.clone().map(|tag| format!("\"x\", {tag}")),
                _ => meta.e_tag.clone(),
            };
            if self.tags == Tags::Strong && self.rng.u32(..5) == 0 {
                options.if_match.clone_from(&tag);
            }
            if self.rng.u32(..5) == 0 {
                options.if_none_match = tag;
            }
            let shift = std::time::Duration::from_secs(self.rng.u64(..2));
            let is_true_time = self.bare.modified.lock().unwrap().is_none();
            if is_true_time && self.rng.u32(..6) == 0 {
                options.if_modified_since = Some(meta.last_modified - shift);
            }
            if is_true_time && self.rng.u32(..6) == 0 {
                options.if_unmodified_since = Some(meta.last_modified - shift);
            }
        }
        options
    }

    async fn get(&mut self) {
        let (path, options) = (self.path(), self.options());
        let case = format!("{} {path} {options:?}", self.case);
        let expected = self.bare.get_opts(&path, options.clone()).await;
        let result = self.store.get_opts(&path, options.clone()).await;
        if options.range.is_none() || result.is_ok() || expected.is_ok() {
            assert_eq!(said(&result), said(&expected), "{case}");
        }
        let (Ok(result), Ok(expected)) = (result, expected) else { return };
        assert_eq!(result.meta, expected.meta, "{case}");
        assert_eq!(result.attributes, expected.attributes, "{case}");
        assert_eq!(result.range, expected.range, "{case}");
        self.seen.push(result.meta.clone());
        if !options.head {
            let expected = expected.bytes().await.unwrap();
            if self.rng.u32(..5) == 0 {
                let first = result.into_stream().next().await;
                assert!(first.is_none_or(|it| expected.starts_with(&it.unwrap())), "{case}");
                return;
            }
            let bytes = result.bytes().await.unwrap();
            assert!(bytes == expected, "{case}");
            if self.rng.u32(..3) == 0 {
                self.held.push(bytes);
            }
        }
    }

    async fn get_ranges(&mut self) {
        let path = self.path();
        let ranges: Vec<_> = (0..self.rng.usize(..6)).map(|_| self.range()).collect();
        let case = format!("{} {path} {ranges:?}", self.case);
        let expected = self.bare.get_ranges(&path, &ranges).await;
        let result = self.store.get_ranges(&path, &ranges).await;
        assert_eq!(result.is_ok(), expected.is_ok(), "{case} {:?}", said(&result));
        let (Ok(result), Ok(expected)) = (result, expected) else { return };
        assert!(result == expected, "{case}");
        if self.rng.u32(..3) == 0 {
            self.held.extend(result);
        }
    }

    async fn write(&mut self) {
        let store: Arc<dyn ObjectStore> = if self.others && self.rng.bool() {
            self.bare.inner.clone()
        } else {
            Arc::new(self.store.clone())
        };
        let (path, to) = (self.path(), self.path());
        let bytes = pattern(self.rng.u8(..), self.len());
        match self.rng.u32(..8) {
            0 => drop(store.delete(&path).await),
            1 => drop(store.copy(&path, &to).await),
            2 => drop(store.rename(&path, &to).await),
            3 => {
                let mut upload = store.put_multipart(&path).await.unwrap();
                upload.put_part(bytes.into()).await.unwrap();
                if self.rng.bool() {
                    upload.complete().await.unwrap();
                }
            }
            4 => {
                let options = CopyOptions::new().with_mode(CopyMode::Create);
                drop(store.copy_opts(&path, &to, options).await);
            }
            5 => {
                let mode = if let Some(meta) = self.seen.last() {
                    let version = UpdateVersion { e_tag: meta.e_tag.clone(), version: None };
                    PutMode::Update(version)
                } else {
                    PutMode::Create
                };
                drop(store.put_opts(&path, bytes.into(), PutOptions::from(mode)).await);
            }
            6 => {
                let paths = PATHS.map(|path| Ok(Path::from(path)));
                let paths = futures_util::stream::iter(paths).take(self.rng.usize(..5));
                let _: Vec<_> = store.delete_stream(paths.boxed()).collect().await;
            }
            _ => drop(store.put(&path, bytes.into()).await.unwrap()),
        }
    }

    async fn list(&mut self) {
        let prefix = self.path();
        let prefix = self.rng.bool().then_some(&prefix);
        let expected: Vec<_> = self.bare.list(prefix).try_collect().await.unwrap();
        let listed: Vec<_> = self.store.list(prefix).try_collect().await.unwrap();
        assert_eq!(listed, expected);
        let expected = self.bare.list_with_delimiter(prefix).await.unwrap();
        let listed = self.store.list_with_delimiter(prefix).await.unwrap();
        assert_eq!(
            (listed.objects, listed.common_prefixes),
            (expected.objects, expected.common_prefixes)
        );
    }

    async fn step(&mut self) {
        match self.rng.u32(..16) {
            0..=6 => self.get().await,
            7..=9 => self.get_ranges().await,
            10..=12 => self.write().await,
            13 => self.list().await,
            14 => {
                let path = self.path();
                match self.rng.u32(..3) {
                    0 => self.store.invalidate(&path),
                    1 => self.store.invalidate_prefix(&path),
                    _ => self.held.clear(),
                }
            }
            _ => {
                // Dropped after a few polls.
                let (path, range) = (self.path(), self.range());
                let mut get = Box::pin(self.store.get_range(&path, range));
                let _ = (&mut get).now_or_never();
            }
        }
        let stats = self.store.stats();
        assert!(
            stats.bytes_hit + stats.bytes_passed <= stats.bytes_wanted,
            "{} {stats:?}",
            self.case
        );
    }
}

/// `SEEDS` sets the number of plays.
#[test]
fn each_answer_is_that_of_the_bare_store() {
    let seeds = std::env::var("SEEDS").map_or(30, |n| n.parse().unwrap());
    for seed in 0..seeds {
        let mut play = Play::new(seed);
        run(async {
            for _ in 0..80 {
                play.step().await;
            }
        });
    }
}
