//! The counters of a store, and of each prefix that is counted apart.

use std::fmt;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The counters of a store or of a prefix. A difference of two says what happened between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Calls that read an object: a get, a head, or a get of many ranges.
    pub gets: u64,
    /// Requests sent to the store for them, with and without bytes.
    pub requests: u64,
    /// Those of the requests that carry no bytes: heads and validations.
    pub heads: u64,
    /// Bytes that the gets returned: cached before, fetched for them, or past the cache.
    pub bytes_wanted: u64,
    /// Those of them that belong to ranges, or to pieces of streams, of which all was cached.
    pub bytes_hit: u64,
    /// Bytes that the store sent, those past the cache among them.
    pub bytes_fetched: u64,
    /// Those of the wanted bytes that came past the cache: of objects beyond 16 TiB, without
    /// memory, or of a stream beside another request for the same pages.
    pub bytes_passed: u64,
    /// Changes of objects by others that were found.
    pub changed: u64,
    /// Requests that the store answered with an error. A condition that does not hold is none.
    pub errors: u64,
    /// Puts, uploads, copies, renames and deletes.
    pub writes: u64,
    /// Objects of which the metadata is kept now. 0 for a prefix.
    pub objects: u64,
    /// The size of that metadata in bytes. 0 for a prefix.
    pub metadata_bytes: u64,
    /// Objects of which the metadata was evicted. 0 for a prefix.
    pub metadata_evicted: u64,
}

impl Sub for StoreStats {
    type Output = Self;

    /// Subtracts the counters, and keeps the sizes of now.
    fn sub(self, before: Self) -> Self {
        Self {
            gets: self.gets.saturating_sub(before.gets),
            requests: self.requests.saturating_sub(before.requests),
            heads: self.heads.saturating_sub(before.heads),
            bytes_wanted: self.bytes_wanted.saturating_sub(before.bytes_wanted),
            bytes_hit: self.bytes_hit.saturating_sub(before.bytes_hit),
            bytes_fetched: self.bytes_fetched.saturating_sub(before.bytes_fetched),
            bytes_passed: self.bytes_passed.saturating_sub(before.bytes_passed),
            changed: self.changed.saturating_sub(before.changed),
            errors: self.errors.saturating_sub(before.errors),
            writes: self.writes.saturating_sub(before.writes),
            metadata_evicted: self.metadata_evicted.saturating_sub(before.metadata_evicted),
            ..self
        }
    }
}

impl fmt::Display for StoreStats {
    /// Writes a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} returned {}, {:.1} % of it from the cache, by {} that fetched {}",
            number(self.gets, "get"),
            Bytes(self.bytes_wanted),
            percent(self.bytes_hit, self.bytes_wanted),
            number(self.requests, "request"),
            Bytes(self.bytes_fetched),
        )?;
        if self.changed > 0 {
            write!(f, "; {} had changed", number(self.changed, "object"))?;
        }
        if self.errors > 0 {
            write!(f, "; {} failed", number(self.errors, "request"))?;
        }
        Ok(())
    }
}

fn number(n: u64, of: &str) -> String {
    format!("{n} {of}{}", if n == 1 { "" } else { "s" })
}

fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 * 100.0 / of as f64 }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() as usize / 10).min(UNITS.len());
        let value = self.0 as f64 / (1_u64 << (10 * power)) as f64;
        write!(f, "{value:.1} {}", UNITS[power - 1])
    }
}

/// A counter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Gets,
    Requests,
    Heads,
    BytesWanted,
    BytesHit,
    BytesFetched,
    BytesPassed,
    Changed,
    Errors,
    Writes,
}

const EVENTS: usize = Event::Writes as usize + 1;

/// The counters of a store and its prefixes.
#[derive(Debug)]
pub(crate) struct Counters {
    all: Set,
    /// Sorted from the longest prefix to the shortest.
    prefixes: Vec<(String, Set)>,
}

#[derive(Debug, Default)]
struct Set([AtomicU64; EVENTS]);

/// The place of a path among the counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(Option<usize>);

impl Counters {
    pub(crate) fn new(prefixes: &[String]) -> Self {
        let mut prefixes: Vec<_> = prefixes
            .iter()
            .map(|prefix| (prefix.trim_matches('/').to_owned(), Set::default()))
            .collect();
        prefixes.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        prefixes.dedup_by(|(a, _), (b, _)| a == b);
        Self { all: Set::default(), prefixes }
    }

    /// Returns where events of this path are counted.
    pub(crate) fn place(&self, path: &str) -> Place {
        Place(self.prefixes.iter().position(|(prefix, _)| is_below(path, prefix)))
    }

    pub(crate) fn count(&self, place: Place, event: Event, n: u64) {
        self.all.0[event as usize].fetch_add(n, Relaxed);
        if let Some(index) = place.0 {
            self.prefixes[index].1.0[event as usize].fetch_add(n, Relaxed);
        }
    }

    pub(crate) fn stats(&self) -> StoreStats {
        self.all.stats()
    }

    pub(crate) fn prefix_stats(&self) -> Vec<(String, StoreStats)> {
        self.prefixes.iter().map(|(prefix, set)| (prefix.clone(), set.stats())).collect()
    }
}

impl Set {
    fn stats(&self) -> StoreStats {
        let value = |event: Event| self.0[event as usize].load(Relaxed);
        StoreStats {
            gets: value(Event::Gets),
            requests: value(Event::Requests),
            heads: value(Event::Heads),
            bytes_wanted: value(Event::BytesWanted),
            bytes_hit: value(Event::BytesHit),
            bytes_fetched: value(Event::BytesFetched),
            bytes_passed: value(Event::BytesPassed),
            changed: value(Event::Changed),
            errors: value(Event::Errors),
            writes: value(Event::Writes),
            ..StoreStats::default()
        }
    }
}

/// Returns `true` if a path is a prefix, or lies below it, by whole segments.
pub(crate) fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix);
    prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_count_for_the_longest_prefix_and_for_all() {
        let counters = Counters::new(&["a".into(), "/a/b/".into(), "a".into(), "ab".into()]);
        for path in ["a/b/c", "a/bc", "a", "abc", "x"] {
            counters.count(counters.place(path), Event::Gets, 1);
        }
        assert_eq!(counters.stats().gets, 5);
        let gets: Vec<_> = counters.prefix_stats().into_iter().map(|(p, s)| (p, s.gets)).collect();
        assert_eq!(gets, [("a/b".to_owned(), 1), ("ab".to_owned(), 0), ("a".to_owned(), 2)]);
    }

    #[test]
    fn stats_read_like_a_sentence() {
        let stats = StoreStats {
            gets: 1,
            requests: 3,
            bytes_wanted: 1 << 20,
            bytes_hit: 1 << 19,
            bytes_fetched: 1536,
            ..StoreStats::default()
        };
        assert_eq!(
            stats.to_string(),
            "1 get returned 1.0 MiB, 50.0 % of it from the cache, by 3 requests that fetched \
             1.5 KiB"
        );
        let more = StoreStats { changed: 1, errors: 2, ..StoreStats::default() };
        assert_eq!(
            more.to_string(),
            "0 gets returned 0 B, 0.0 % of it from the cache, by 0 requests that fetched 0 B; \
             1 object had changed; 2 requests failed"
        );
        assert_eq!((stats - stats).gets, 0);
    }
}
