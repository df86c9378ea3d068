//! Requests to backings that are under way, and the files with requests that do not end.
//!
//! A request that takes longer than [`HUNG_AFTER`](crate::rt::busy::HUNG_AFTER) makes its file a
//! sick one until a write of the file succeeds: the pages of a sick file do not count against the
//! limits of the others.
//!
//! A round of writes waits for locks between its requests: for those of a fill or of a query that
//! hangs, too. So a round counts as a request that began with the latest change of the file.

use std::time::{Duration, Instant};

use crate::rt::lock::Mutex;

/// The requests of a cache that change a backing, or that ask it something while other threads wait
/// for the answer.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    under_way: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    requests: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Change,
    Query,
    /// Changes, and the waits before each.
    Round,
}

#[derive(Debug)]
struct Request {
    serial: u64,
    /// The number of the mapping.
    mapping: u32,
    kind: Kind,
    since: Instant,
}

/// A request that ends when this is dropped.
pub(crate) struct UnderWay<'r> {
    requests: &'r Requests,
    serial: u64,
}

impl Requests {
    /// Notes that a request begins that changes the backing of a mapping.
    pub(crate) fn begin(&self, mapping: u32) -> UnderWay<'_> {
        self.begin_any(mapping, Kind::Change)
    }

    /// Notes that a request begins that changes nothing.
    pub(crate) fn begin_query(&self, mapping: u32) -> UnderWay<'_> {
        self.begin_any(mapping, Kind::Query)
    }

    /// Notes that a round of changes begins.
    pub(crate) fn begin_round(&self, mapping: u32) -> UnderWay<'_> {
        self.begin_any(mapping, Kind::Round)
    }

    fn begin_any(&self, mapping: u32, kind: Kind) -> UnderWay<'_> {
        let since = Instant::now();
        let mut list = self.under_way.lock();
        let serial = list.next;
        list.next += 1;
        list.progressed(mapping, kind);
        list.requests.push(Request { serial, mapping, kind, since });
        UnderWay { requests: self, serial }
    }

    /// Returns the numbers of the mappings with a request that takes longer than `time`. There are
    /// none under shuttle, where no time passes.
    pub(crate) fn longer_than(&self, time: Duration) -> Vec<u32> {
        if cfg!(shuttle) {
            return Vec::new();
        }
        let list = self.under_way.lock();
        let hung = list.requests.iter().filter(|request| request.since.elapsed() > time);
        hung.map(|request| request.mapping).collect()
    }
}

impl List {
    /// Notes that a request of a mapping began or ended. A change is what its rounds wait for.
    fn progressed(&mut self, mapping: u32, kind: Kind) {
        if kind == Kind::Change {
            let is_round = |it: &&mut Request| it.kind == Kind::Round && it.mapping == mapping;
            self.requests.iter_mut().filter(is_round).for_each(|it| it.since = Instant::now());
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut list = self.requests.under_way.lock();
        let ended = list.requests.iter().position(|request| request.serial == self.serial);
        if let Some(ended) = ended.map(|at| list.requests.remove(at)) {
            list.progressed(ended.mapping, ended.kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_request_leaves_the_others_under_way() {
        let requests = Requests::default();
        let long = || requests.longer_than(Duration::ZERO);
        let [first, second, third] = [7, 8, 7].map(|mapping| requests.begin(mapping));
        while long().len() < 3 {}
        assert!(requests.longer_than(Duration::from_hours(1)).is_empty());
        drop(second);
        assert_eq!(long(), [7, 7]);
        drop(first);
        assert_eq!(long(), [7]);
        drop(third);
        assert!(long().is_empty());
    }

    #[test]
    fn a_round_is_as_old_as_the_latest_change() {
        const LONG: Duration = Duration::from_mins(1);
        let requests = Requests::default();
        let round = requests.begin_round(7);
        let age = || {
            let since = &mut requests.under_way.lock().requests[0].since;
            *since = since.checked_sub(2 * LONG).expect("the machine runs for longer");
        };
        age();
        drop((requests.begin(8), requests.begin_query(7), requests.begin_round(7)));
        assert_eq!(requests.longer_than(LONG), [7]);
        let change = requests.begin(7);
        assert!(requests.longer_than(LONG).is_empty());
        age();
        drop(change);
        assert!(requests.longer_than(LONG).is_empty());
        age();
        assert_eq!(requests.longer_than(LONG), [7]);
        drop(round);
        assert!(requests.longer_than(Duration::ZERO).is_empty());
    }
}
