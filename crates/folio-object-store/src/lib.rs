//! A cache for object stores: an `ObjectStore` around any other, on the pages of a [`Cache`].
//!
//! `CachedStore` exists once for each version of `object_store`: in the module `v013`, for
//! `DataFusion` 55 and Ballista 55, and in `v014`. A feature turns each on. They share all else.
//!
//! ```
//! # #[cfg(feature = "object_store_014")] {
//! use std::sync::Arc;
//! use folio_object_store::v014::{CachedStore, object_store};
//! use folio_object_store::{Cache, Consistency, Options};
//! use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let cache = Cache::new(64 << 20)?; // 64 MiB, for files and other stores too
//! let options = Options::new().consistency(Consistency::Immutable).id("greetings");
//! let store = CachedStore::with_options(Arc::new(InMemory::new()), &cache, options);
//!
//! store.put(&"a".into(), "hello".into()).await?;
//! let ranges = store.get_ranges(&"a".into(), &[0..2, 3..5]).await?; // one request
//! assert_eq!(ranges, ["he", "lo"]);
//! assert_eq!(store.get_range(&"a".into(), 1..4).await?, "ell"); // none
//! assert_eq!(store.stats().requests, 1);
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! # What a read returns
//!
//! [`Consistency`] says how soon a change by others is seen. Under each rule:
//!
//! - **One version.** Each version of an object has pages under a name of its own, made of the
//!   store, the path and the validator. A request for missing pages asks for that version
//!   (`if_match`), and the answer is compared. A get that finds another version begins anew. If the
//!   fifth attempt finds one as well, `get_opts` sends the get to the store as it is, past the
//!   cache, and `get_ranges` fails with `Precondition`. A stream that finds another version ends
//!   with that error.
//! - **Own writes.** A read that begins after a put, a copy, a rename, a delete or a completed
//!   upload through the same store has returned sees that write, or a later one. It does not matter
//!   which gets ran beside the write. A write that failed without a clear answer, or was dropped,
//!   may take effect later: for two minutes, gets of its object ask the store.
//! - **Errors** are those of the store, with their variants, texts and sources. Nothing is retried.
//!   An error of a request that several readers may share has the source of the store one step
//!   further down its chain of sources. A text may name the range of whole pages. A failed request
//!   makes the next get of its object ask the store. Missing objects are asked for
//!   each time.
//!
//! # Validators
//!
//! | the store gives | its versions are told apart by | |
//! | --- | --- | --- |
//! | a strong `ETag`, or a version | it, and the size | |
//! | a weak `ETag`, or none | that, the time of the last change, and the size | an object that changed less than two seconds ago, or has no time, is not kept |
//!
//! A validation has no condition: a tag may stay as it is while the bytes, the time or the
//! attributes change. Its answer replaces the metadata of the object. Under
//! [`Consistency::Immutable`] objects without a time are kept.
//!
//! A store may ignore conditions, refuse them, or refuse its own tags: the answers are compared all
//! the same, and the conditions of the caller are judged by them. Their tags are compared without
//! quotes and `W/`, as some stores leave them out in listings. A store that refuses its own tag is
//! asked without conditions for ten minutes. The `ETag` of a local file is its
//! inode, time and size: two changes by others within one tick of the clock may look alike. Writes
//! through the store itself never do.
//!
//! # What a get costs
//!
//! - A first get of an object is one request, the get itself over whole pages. It tells length and
//!   validator. Other readers of the object wait for it and drive it, except under
//!   [`Consistency::Validated`]. A reader that begins after a write or an invalidation, or when the
//!   request is more than five seconds old, sends one of its own.
//! - A later get requests what is missing. Ranges that lie close are joined, and all requests go
//!   out at once: see [`Options::gap_bytes`] and [`Options::request_bytes`].
//! - A validation is one request without bytes, or for one byte if the store has no heads. It runs
//!   beside the read. It comes before a stream, and before a get with conditions of its own.
//! - If the store refuses ranges, a missing part is taken out of a request for all of the object.
//!   Later streams of whole objects of such a store go past the cache.
//! - Ranges of at most 8 MiB, and whole objects of at most 1 MiB, are read before the get returns,
//!   in one piece. The rest is streamed. A stream longer than [`Options::once_above`] does not keep
//!   its pages.
//! - The store may have few connections, as `LimitStore` has permits: each stays with an answer
//!   until that is read or dropped. No get keeps an answer that is not read while it waits for
//!   another request. First answers are read at once, into memory of at most a quarter of the
//!   cache's capacity, or a single answer of 8 MiB. Beyond that their bytes are requested again. A
//!   stream keeps one answer between its pieces, and a piece of 1 MiB at most while it reads one.
//! - Short reads at the end of an object are footers: they are sent before others
//!   ([`Priority::High`]).
//! - `GetOptions::extensions` may hold an [`Advice`] and a [`Priority`]. They go to the store too
//!   if the get is the first of its object, or passes by the cache, and only then.
//!   `GetResult::extensions` of the store are kept where bytes pass by the cache, and dropped
//!   otherwise.
//! - Without free memory, and beyond 16 TiB of an object, bytes pass by the cache.
//!
//! # Runtimes
//!
//! Any. A request that a thread of the cache polls, or a reader that blocks, enters the runtime of
//! tokio in which a reader was last, as long as that runs. For this, each store has one idle task
//! in that runtime. Give the cache a spawner to have such requests run there.
//!
//! # Features
//!
//! - `object_store_014` (default), `object_store_013`: the modules.
//! - `metrics`: `CachedStore::record_metrics`.

#![forbid(unsafe_code)]
#![allow(clippy::duplicate_mod, reason = "the store is compiled once for each version")]

mod base;
#[cfg(feature = "object_store_013")]
pub mod v013;
#[cfg(feature = "object_store_014")]
pub mod v014;

#[cfg(not(any(feature = "object_store_013", feature = "object_store_014")))]
compile_error!(
    "choose the version of object_store: the feature object_store_013 (DataFusion 55, Ballista 55) \
     or object_store_014"
);

pub use base::counters::StoreStats;
pub use base::options::{Consistency, Options};
pub use folio_cache::{Advice, Cache, Priority};

/// The example of the README is a test as well.
#[cfg(all(doctest, feature = "object_store_014"))]
#[doc = include_str!("../README.md")]
struct Readme;
