//! Requests to backings that are under way, and the files with requests that do not end.
//!
//! A request that takes longer than [`HUNG_AFTER`](crate::rt::busy::HUNG_AFTER) makes its file a
//! sick one until a write of the file succeeds: the pages of a sick file do not count against the
//! limits of the others.

use std::time::{Duration, Instant};

use crate::rt::lock::Mutex;

/// The requests of a cache that change a backing, or ask for its version under a lock.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    under_way: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Request {
    serial: u64,
    /// The number of the mapping.
    mapping: u32,
    since: Instant,
}

/// A request that ends when this is dropped.
pub(crate) struct UnderWay<'r> {
    requests: &'r Requests,
    serial: u64,
}

impl Requests {
    /// Notes that a request of a mapping begins.
    pub(crate) fn begin(&self, mapping: u32) -> UnderWay<'_> {
        let since = Instant::now();
        let mut list = self.under_way.lock();
        let serial = list.next;
        list.next += 1;
        list.requests.push(Request { serial, mapping, since });
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

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.requests.under_way.lock().requests.retain(|request| request.serial != self.serial);
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
}
