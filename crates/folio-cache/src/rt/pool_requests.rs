//! The requests of the I/O pool that wait or are in flight, found by the pages that they read.
//!
//! To register, to find and to end a request costs the same however many there are. A request is
//! entered under its size class, by the one or two aligned ranges of that size that it touches. A
//! page is looked for once in each size class that is in use.

use std::collections::{HashMap, HashSet};
use std::ptr;
use std::task::Waker;

use smallvec::SmallVec;

use crate::rt::io_request::Pages;

/// The number of a request. Later requests have larger numbers.
pub(super) type RequestId = u64;

/// An aligned range of pages: its mapping, the logarithm of its size, and its number.
type AlignedRange = (u32, u32, u64);

/// Maps that were made for more requests than this are freed when the last request ends.
const KEPT_CAPACITY: usize = 1024;

/// The wakers that wait for one request, each once.
#[derive(Default)]
struct Wakers {
    wakers: Vec<Waker>,
    /// The addresses of data and table of each: equal for wakers that wake the same task.
    known: HashSet<(usize, usize)>,
}

impl Wakers {
    /// Takes the waker, unless one for the same task is here.
    fn insert(&mut self, waker: &mut Option<Waker>) {
        let address = |waker: &Waker| (waker.data().addr(), ptr::from_ref(waker.vtable()).addr());
        if waker.as_ref().is_some_and(|waker| self.known.insert(address(waker))) {
            self.wakers.extend(waker.take());
        }
    }
}

struct Request {
    pages: Pages,
    /// `None` while no waker waits for it.
    joined: Option<Box<Wakers>>,
}

/// Requests by number and by page.
#[derive(Default)]
pub(super) struct PoolRequests {
    next: RequestId,
    requests: HashMap<RequestId, Request>,
    by_range: HashMap<AlignedRange, SmallVec<[RequestId; 1]>>,
    /// The number of requests of each size class.
    classes: Vec<usize>,
}

/// Returns the logarithm of the smallest power of two that is at least the number of pages.
fn class(pages: &Pages) -> u32 {
    (pages.pages.end - pages.pages.start).next_power_of_two().ilog2()
}

/// Returns the aligned ranges of the size class of `pages` that they touch: at most two.
fn ranges(pages: &Pages) -> impl Iterator<Item = AlignedRange> {
    let (mapping, class) = (pages.mapping, class(pages));
    let ends = pages.pages.end.div_ceil(1 << class);
    let first = if pages.pages.is_empty() { ends } else { pages.pages.start >> class };
    let ranges = first..ends;
    ranges.map(move |range| (mapping, class, range))
}

impl PoolRequests {
    /// Registers a request and returns its number.
    pub(super) fn insert(&mut self, pages: Pages) -> RequestId {
        let id = self.next;
        self.next += 1;
        for range in ranges(&pages) {
            self.by_range.entry(range).or_default().push(id);
        }
        let class = class(&pages) as usize;
        self.classes.resize(self.classes.len().max(class + 1), 0);
        self.classes[class] += 1;
        self.requests.insert(id, Request { pages, joined: None });
        id
    }

    /// Registers a waker to be woken at the end of a request that reads a page. Returns `false` if
    /// there is none. Leaves the waker if it is not needed: to clone or drop it calls foreign code,
    /// which the caller must not do under its lock.
    pub(super) fn join(&mut self, mapping: u32, page: u64, waker: &mut Option<Waker>) -> bool {
        let Some(id) = self.find(mapping, page) else { return false };
        let request = self.requests.get_mut(&id).expect("it is in `by_range` until it ends");
        request.joined.get_or_insert_default().insert(waker);
        true
    }

    fn find(&self, mapping: u32, page: u64) -> Option<RequestId> {
        let covers = |id: &&RequestId| self.requests[*id].pages.cover(mapping, page);
        let classes = (0..).zip(&self.classes).filter(|&(_, &requests)| requests > 0);
        classes
            .filter_map(|(class, _)| self.by_range.get(&(mapping, class, page >> class)))
            .find_map(|ids| ids.iter().find(covers).copied())
    }

    /// Ends a request, and returns the wakers that wait for it.
    pub(super) fn remove(&mut self, id: RequestId) -> Vec<Waker> {
        let Some(Request { pages, joined }) = self.requests.remove(&id) else { return Vec::new() };
        for range in ranges(&pages) {
            if let Some(ids) = self.by_range.get_mut(&range) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.by_range.remove(&range);
                }
            }
        }
        self.classes[class(&pages) as usize] -= 1;
        if self.requests.is_empty() && self.requests.capacity() > KEPT_CAPACITY {
            (self.requests, self.by_range) = (HashMap::new(), HashMap::new());
        }
        joined.map_or_else(Vec::new, |joined| joined.wakers)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;
    use std::task::Wake;

    use super::*;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    fn of(mapping: u32, pages: Range<u64>) -> Pages {
        Pages { mapping, pages }
    }

    #[test]
    fn a_page_is_found_as_by_a_search_of_all_requests() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut in_flight, mut naive) = (PoolRequests::default(), Vec::new());
        for _ in 0..20_000 {
            if naive.len() < 20 && random.bool() {
                let (first, len) = (random.u64(..600), random.u64(..300) >> random.u32(..9));
                let pages = of(random.u32(..2), first..first + len);
                naive.push((in_flight.insert(pages.clone()), pages));
            } else if !naive.is_empty() {
                let (id, _) = naive.swap_remove(random.usize(..naive.len()));
                in_flight.remove(id);
            }
            let (mapping, page) = (random.u32(..2), random.u64(..1000));
            let found = in_flight.find(mapping, page);
            let covering = |&(other, ref pages): &(RequestId, Pages)| {
                found.is_none_or(|id| id == other) && pages.cover(mapping, page)
            };
            assert_eq!(naive.iter().any(covering), found.is_some(), "seed {seed}");
        }
        for (id, _) in naive {
            in_flight.remove(id);
        }
        assert!(in_flight.by_range.is_empty() && in_flight.classes.iter().all(|&n| n == 0));
    }

    #[test]
    fn each_waker_is_woken_once() {
        let mut in_flight = PoolRequests::default();
        let id = in_flight.insert(of(0, 3..5));
        let tasks = [(); 2].map(|()| Waker::from(Arc::new(Task)));
        for waker in tasks.iter().chain(&tasks) {
            let mut waker = Some(waker.clone());
            assert!(!in_flight.join(0, 5, &mut waker) && waker.is_some());
            assert!(in_flight.join(0, 4, &mut waker));
        }
        assert_eq!(in_flight.remove(id).len(), 2);
        assert!(!in_flight.join(0, 4, &mut Some(tasks[0].clone())));
    }
}
