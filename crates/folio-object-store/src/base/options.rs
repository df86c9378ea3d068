//! The settings of a cached store.

use std::time::Duration;

/// The rule that says when the store is asked about an object that is cached.
///
/// Each rule has the same base: a get returns the bytes of one version of the object. A read that
/// begins after a write through the same [`CachedStore`](crate) has returned sees that write, or a
/// later one. The rules differ in how soon a change by others is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Objects never change. What is known about an object is never asked again. A change by others
    /// is seen once the metadata of the object is evicted or invalidated, or a listing shows it.
    Immutable,
    /// Metadata is used for this long. Then the next get asks the store, by one
    /// request without bytes, which other gets of the object share if the time is at least a
    /// second. A get returns a version that was the newest at some moment since this long before
    /// its call.
    ValidatedAfter(Duration),
    /// Each get asks the store, by one request without bytes, beside the reads. It
    /// returns a version that was the newest at some moment between its call and its return.
    #[default]
    Validated,
}

/// The settings of a cached store: its rule of consistency, its requests, its bounds.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use folio_object_store::{Consistency, Options};
///
/// let options = Options::new()
///     .consistency(Consistency::ValidatedAfter(Duration::from_secs(60)))
///     .id("s3://sales")
///     .count_prefix("orders");
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    pub(crate) consistency: Consistency,
    pub(crate) id: Option<String>,
    pub(crate) request_bytes: Option<u64>,
    pub(crate) gap_bytes: u64,
    pub(crate) in_flight: usize,
    pub(crate) metadata_entries: usize,
    pub(crate) metadata_bytes: usize,
    pub(crate) once_above: Option<u64>,
    pub(crate) prefixes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            consistency: Consistency::default(),
            id: None,
            request_bytes: None,
            gap_bytes: 1 << 20,
            in_flight: 256,
            metadata_entries: 1 << 16,
            metadata_bytes: 32 << 20,
            once_above: None,
            prefixes: Vec::new(),
        }
    }
}

impl Options {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets when the store is asked about an object that is cached. The default is
    /// [`Consistency::Validated`].
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// Names the store. Cached stores with one name in one cache share their pages, so they must be
    /// of the same bucket. By default each has a number of its own, and shares with no other.
    ///
    /// After a write or an invalidation of an object through one of them, that store keeps pages of
    /// its own for the object. After an invalidation of a prefix, or of all, it does so for all
    /// objects. A cached store must not wrap another one with its name in its cache: a get would
    /// wait for itself.
    ///
    /// The name is shown in counters and spans: it must not hold a secret.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the maximum length of a request in bytes. The default is a sixteenth of the cache, at
    /// least 1 MiB and at most 64 MiB.
    pub fn request_bytes(mut self, bytes: u64) -> Self {
        self.request_bytes = Some(bytes.max(1));
        self
    }

    /// Sets the largest gap between two wanted ranges that is read through, in bytes. The default
    /// is 1 MiB, as in `object_store` itself. Once the cache is full, it is a fourth of that: the
    /// pages of gaps are the first that are evicted.
    pub fn gap_bytes(mut self, bytes: u64) -> Self {
        self.gap_bytes = bytes;
        self
    }

    /// Sets the maximum number of requests of one object in flight. The default is 256; 0 counts
    /// as 1.
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = requests.max(1);
        self
    }

    /// Sets the maximum number of objects of which the metadata is kept. The default is 65,536.
    pub fn metadata_entries(mut self, entries: usize) -> Self {
        self.metadata_entries = entries;
        self
    }

    /// Sets the maximum size of the metadata that is kept, in bytes. The default is 32 MiB. It is
    /// no part of the cache's capacity.
    pub fn metadata_bytes(mut self, bytes: usize) -> Self {
        self.metadata_bytes = bytes;
        self
    }

    /// Sets the length of a stream in bytes above which its pages are not kept, unless it brings
    /// an [`Advice`](folio_cache::Advice). The default is an eighth of the cache.
    pub fn once_above(mut self, bytes: u64) -> Self {
        self.once_above = Some(bytes);
        self
    }

    /// Counts the gets below this prefix apart. A get belongs to the longest prefix that it
    /// matches.
    pub fn count_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefixes.push(prefix.into());
        self
    }
}
