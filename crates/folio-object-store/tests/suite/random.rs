//! Random operations of several clients on one store, with and without the cache, in each mode.
//!
//! The rule that each read is checked against. A write is under way from its call to its return,
//! and the version that it makes is *alive* from its call until another write, which was called
//! after it had returned, returns. A read returns all its bytes from one version, and that version
//!
//! - was alive at some moment before the read returned, and
//! - was alive at its call, as far as the writes through the same cached store tell, and
//! - was alive at its call, or during the last invalidation of the object before it, or within the
//!   time before its call that [`Consistency::ValidatedAfter`] names, as far as all writes tell.
//!   Under [`Consistency::Immutable`] the last invalidation counts alone.
//!
//! A write that fails with an unknown outcome never ends, so its version stays alive.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;

use super::os::memory::InMemory;
use super::os::path::Path;
use super::os::{Error, GetOptions, ObjectStore, ObjectStoreExt};
use super::tricky::{Conditions, Jitter, Tags};
use super::{Cache, CachedStore, Consistency, Options, Tricky};

const CLIENTS: usize = 4;
const STEPS: usize = 25;
const PATHS: [&str; 3] = ["a", "b/c", "b/d"];

/// A write, or the absence of an object before the first.
#[derive(Clone, Debug)]
struct Written {
    path: usize,
    /// The number of the version. 0 for an absent object.
    version: u64,
    called: Instant,
    /// `None` while it is under way, or if its outcome is unknown.
    returned: Option<Instant>,
    /// It went through the store that is checked.
    own: bool,
}

#[derive(Default)]
struct History {
    writes: Vec<Written>,
    /// The call and the return of the last invalidation.
    invalidated: [Option<(Instant, Instant)>; PATHS.len()],
    next: u64,
    reads: usize,
    failed: usize,
}

struct World {
    bare: Arc<Tricky>,
    store: Arc<dyn ObjectStore>,
    /// The store is a cached one.
    cached: Option<CachedStore>,
    mode: Consistency,
    history: Mutex<History>,
}

/// The size of an object, if the read tells it, and the pieces read with their offsets.
type Read = (Option<u64>, Vec<(u64, bytes::Bytes)>);

/// Returns the contents of a version: each 8 bytes tell it, and their offset.
fn contents(version: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(version);
    let most = if rng.u8(..8) == 0 { 1_500_000 } else { 30_000 };
    let len = if rng.u8(..16) == 0 { 0 } else { rng.usize(..most) };
    let version = version.to_le_bytes();
    super::cycle(len, |at| version[at % 8] ^ (at / 251) as u8 ^ (at % 251) as u8)
}

impl World {
    fn begin(&self, path: usize, version: Option<u64>, own: bool) -> (usize, u64) {
        let mut history = self.history.lock().unwrap();
        history.next += 1;
        let version = version.unwrap_or(history.next);
        let called = Instant::now();
        history.writes.push(Written { path, version, called, returned: None, own });
        (history.writes.len() - 1, version)
    }

    fn end(&self, write: usize) {
        self.history.lock().unwrap().writes[write].returned = Some(Instant::now());
    }

    async fn step(&self, rng: &mut fastrand::Rng) {
        let index = rng.usize(..PATHS.len());
        let path = Path::from(PATHS[index]);
        let own = rng.bool();
        let writer: &dyn ObjectStore = if own { &*self.store } else { &*self.bare };
        match rng.u8(..20) {
            0..3 => {
                let (write, version) = self.begin(index, None, own);
                if writer.put(&path, contents(version).into()).await.is_ok() {
                    self.end(write);
                }
            }
            3 => {
                let (write, _) = self.begin(index, Some(0), own);
                if writer.delete(&path).await.is_ok() {
                    self.end(write);
                }
            }
            4 => {
                let (write, version) = self.begin(index, None, own);
                let result = async {
                    let mut upload = writer.put_multipart(&path).await?;
                    upload.put_part(contents(version).into()).await?;
                    upload.complete().await
                };
                if result.await.is_ok() {
                    self.end(write);
                }
            }
            5 => {
                if let Some(cached) = &self.cached {
                    let called = Instant::now();
                    cached.invalidate(&path);
                    let returned = Instant::now();
                    self.history.lock().unwrap().invalidated[index] = Some((called, returned));
                }
            }
            6 => self.store.list(None).for_each(async |_| ()).await,
            kind => self.read(rng, index, &path, kind).await,
        }
    }

    async fn read(&self, rng: &mut fastrand::Rng, index: usize, path: &Path, kind: u8) {
        let called = Instant::now();
        let ranges: Vec<_> = (0..rng.usize(1..4))
            .map(|_| {
                let start = rng.u64(..20_000);
                start..start + rng.u64(1..20_000)
            })
            .collect();
        let read = match kind {
            7..9 => self.store.head(path).await.map(|meta| (Some(meta.size), Vec::new())),
            9..13 => match self.store.get_ranges(path, &ranges).await {
                Ok(bytes) => {
                    Ok((None, ranges.iter().map(|range| range.start).zip(bytes).collect()))
                }
                Err(error) => Err(error),
            },
            _ => {
                let range = (kind < 17).then(|| ranges[0].clone().into());
                let options = GetOptions { range, ..GetOptions::default() };
                match self.store.get_opts(path, options).await {
                    Ok(result) => {
                        let (size, start) = (result.meta.size, result.range.start);
                        result.bytes().await.map(|bytes| (Some(size), vec![(start, bytes)]))
                    }
                    Err(error) => Err(error),
                }
            }
        };
        self.check(index, called, read);
    }

    fn check(&self, path: usize, called: Instant, read: Result<Read, Error>) {
        let mut history = self.history.lock().unwrap();
        history.reads += 1;
        let read = match read {
            Ok((size, pieces)) => Some((size, pieces)),
            Err(Error::NotFound { .. }) => None,
            Err(_) => {
                history.failed += 1;
                return;
            }
        };
        let fits = |version: u64| match &read {
            None => version == 0,
            Some(_) if version == 0 => false,
            Some((size, pieces)) => {
                let all = contents(version);
                size.is_none_or(|size| size == all.len() as u64)
                    && pieces.iter().all(|(start, bytes)| {
                        let rest = all.get(*start as usize..);
                        rest.is_some_and(|rest| rest.starts_with(bytes))
                    })
            }
        };
        let allowed =
            |write: &&Written| write.path == path && self.is_allowed(&history, write, called);
        let candidates: Vec<_> = history.writes.iter().filter(allowed).collect();
        assert!(
            candidates.iter().any(|write| fits(write.version)),
            "{:?}: a read of {} returned a version that is not among {:?}; it is {:?}",
            self.mode,
            PATHS[path],
            candidates,
            history.writes.iter().filter(|write| fits(write.version)).collect::<Vec<_>>(),
        );
    }

    /// Returns `true` if a read that was called at this moment, and returns now, may return what
    /// this write has made.
    fn is_allowed(&self, history: &History, write: &Written, called: Instant) -> bool {
        let Some(returned) = write.returned else { return true };
        let dead = |own: bool| {
            let later = history.writes.iter().filter(|later| later.path == write.path);
            let later = later.filter(|later| later.called > returned && (later.own || !own));
            later.filter_map(|later| later.returned).min()
        };
        if dead(true).is_some_and(|dead| dead < called) {
            return false;
        }
        let Some(dead) = dead(false) else { return true };
        let back = match self.mode {
            _ if self.cached.is_none() => Some(called),
            Consistency::Validated => Some(called),
            Consistency::ValidatedAfter(time) => called.checked_sub(time),
            Consistency::Immutable => None,
        };
        // It takes effect at some moment between its call and its return.
        let invalidated = history.invalidated[write.path].filter(|&(_, end)| end < called);
        back.max(invalidated.map(|(begin, _)| begin)).is_none_or(|since| dead >= since)
    }
}

/// Returns a store with random waits, and the validators and conditions of this round.
fn bare(round: u64) -> Tricky {
    let tags = [Tags::Strong, Tags::Strong, Tags::Weak, Tags::None][round as usize % 4];
    let conditions = [Conditions::Kept, Conditions::Ignored, Conditions::Refused];
    let errors = if round.is_multiple_of(2) { 0.0 } else { 0.03 };
    let rng = Mutex::new(fastrand::Rng::with_seed(round));
    Tricky {
        tags,
        conditions: conditions[(round / 4) as usize % 3],
        jitter: Some(Jitter { rng, errors }),
        ..Tricky::new(InMemory::new())
    }
}

async fn round(round: u64, mode: Consistency, cached: bool, threads: bool) -> (usize, usize) {
    let bare = Arc::new(bare(round));
    let inner: Arc<dyn ObjectStore> = bare.clone();
    // A small cache, so that pages and metadata are evicted meanwhile.
    let options = Options::new().consistency(mode).metadata_entries(2 + round as usize % 3);
    let options = options.request_bytes(65_536 << (round % 5));
    let cached = cached.then(|| {
        let cache = Cache::new(4 << 20).expect("memory");
        CachedStore::with_options(Arc::clone(&inner), &cache, options)
    });
    let store: Arc<dyn ObjectStore> = match &cached {
        Some(cached) => Arc::new(cached.clone()),
        None => inner,
    };
    let world = World { bare, store, cached, mode, history: Mutex::default() };
    let world = Arc::new(world);
    for path in 0..PATHS.len() {
        let (write, _) = world.begin(path, Some(0), false);
        world.end(write);
    }
    let clients = (0..CLIENTS as u64).map(|client| {
        let world = Arc::clone(&world);
        async move {
            let mut rng = fastrand::Rng::with_seed(round * 100 + client);
            for _ in 0..STEPS {
                world.step(&mut rng).await;
            }
        }
    });
    if threads {
        for client in join_all(clients.map(tokio::spawn)).await {
            client.expect("no client panics");
        }
    } else {
        join_all(clients).await;
    }
    let history = world.history.lock().unwrap();
    (history.reads, history.failed)
}

/// The modes, and the bare store.
fn cases() -> impl Iterator<Item = (Consistency, bool)> {
    let soon = Consistency::ValidatedAfter(Duration::from_micros(500));
    let modes = [Consistency::Immutable, soon, super::HOUR, Consistency::Validated];
    modes.into_iter().map(|mode| (mode, true)).chain([(Consistency::Validated, false)])
}

fn rounds(default: u64) -> u64 {
    std::env::var("FOLIO_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}

#[test]
fn random_clients_on_one_thread_see_what_the_rule_allows() {
    for (mode, cached) in cases() {
        let (mut reads, mut failed) = (0, 0);
        for seed in 0..rounds(60) {
            let counts = super::run(round(seed, mode, cached, false));
            reads += counts.0;
            failed += counts.1;
        }
        assert!(failed * 5 < reads, "{mode:?}: {failed} of {reads} reads failed");
    }
}

#[test]
fn random_clients_on_many_threads_see_what_the_rule_allows() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(4).enable_all().build().expect("a runtime");
    for (mode, cached) in cases() {
        let (mut reads, mut failed) = (0, 0);
        for seed in 0..rounds(30) {
            let counts = runtime.block_on(round(seed, mode, cached, true));
            reads += counts.0;
            failed += counts.1;
        }
        // With threads, more reads meet a change of their object.
        assert!(failed * 4 < reads, "{mode:?}: {failed} of {reads} reads failed");
    }
}
