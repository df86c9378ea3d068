//! The fetches that wait for a thread, first come, first served.
//!
//! Fetches that go together have a queue for each mapping. A mapping with enough threads is passed
//! over until one of them ends. No step depends on the number of fetches that wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::rt::in_flight::RequestId;
use crate::rt::io_request::Fetch;

/// The maximum number of threads that fetch together for one mapping. While one thread publishes
/// its pages, the requests of the others are in flight.
const TOGETHER_THREADS: usize = 8;

/// A thread that fetches together takes one in this many of the waiting fetches, so that the
/// threads do not all end at once.
const TOGETHER_SHARE: usize = 4;

/// The number of fetches that it takes.
const TOGETHER: RangeInclusive<usize> = 4..=64;

/// A fetch that waits for a thread, or was begun by one.
pub(super) struct Waiting {
    /// Its request, which says when it came.
    pub(super) id: RequestId,
    pub(super) fetch: Arc<dyn Fetch>,
}

impl Waiting {
    fn mapping(&self) -> u32 {
        self.fetch.pages().mapping
    }

    fn len(&self) -> u64 {
        let pages = &self.fetch.pages().pages;
        pages.end - pages.start
    }
}

/// The fetches of one mapping that go together.
#[derive(Default)]
struct Together {
    waiting: VecDeque<Waiting>,
    /// The number of threads that fetch for it.
    threads: usize,
}

impl Together {
    fn is_throttled(&self) -> bool {
        self.threads >= TOGETHER_THREADS
    }

    /// Returns the request that a thread may begin next.
    fn first(&self) -> Option<RequestId> {
        self.waiting.front().filter(|_| !self.is_throttled()).map(|waiting| waiting.id)
    }

    /// Takes the first fetch, with those behind it that fit into one call: at most `most`.
    fn take(&mut self, most: usize) -> Vec<Waiting> {
        let Some(first) = self.waiting.pop_front() else { return Vec::new() };
        let mut left = first.fetch.max_together().saturating_sub(first.len());
        let mut these = vec![first];
        while these.len() < most
            && let Some(next) = self.waiting.pop_front_if(|next| next.len() <= left)
        {
            left -= next.len();
            these.push(next);
        }
        these
    }
}

/// The next work of a thread that fetches.
pub(super) enum Next {
    Alone(Waiting),
    /// Of one mapping.
    Together(Vec<Waiting>),
}

/// Waiting fetches.
#[derive(Default)]
pub(super) struct FetchQueue {
    len: usize,
    alone: VecDeque<Waiting>,
    together: HashMap<u32, Together>,
    /// The mappings with a fetch that may begin, by their first request.
    ready: BTreeMap<RequestId, u32>,
}

impl FetchQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if a fetch waits that a thread may begin.
    pub(super) fn is_ready(&self) -> bool {
        !self.alone.is_empty() || !self.ready.is_empty()
    }

    /// Queues a fetch that needs a call of its own.
    pub(super) fn push_alone(&mut self, waiting: Waiting) {
        self.len += 1;
        self.alone.push_back(waiting);
    }

    /// Queues a fetch: with others of its mapping, if they may go together.
    pub(super) fn push(&mut self, waiting: Waiting) {
        if waiting.fetch.is_together() {
            self.len += 1;
            self.change(waiting.mapping(), |together| together.waiting.push_back(waiting));
        } else {
            self.push_alone(waiting);
        }
    }

    /// Returns `true` if a thread that works for the mapping of a fetch, or was woken to, will take
    /// the fetch as well.
    pub(super) fn joins_others(&self, fetch: &dyn Fetch) -> bool {
        fetch.is_together()
            && self
                .together
                .get(&fetch.pages().mapping)
                .is_some_and(|together| together.is_throttled() || !together.waiting.is_empty())
    }

    /// Takes the first fetch that may begin, with the others that go with it. If they go together,
    /// the caller calls [`end_together`](Self::end_together) after their end.
    pub(super) fn pop(&mut self) -> Option<Next> {
        let alone = self.alone.front().map(|waiting| waiting.id);
        let next = match self.ready.first_key_value() {
            Some((&id, &mapping)) if alone.is_none_or(|alone| id < alone) => {
                let most = (self.len - 1).div_ceil(TOGETHER_SHARE);
                let most = most.clamp(*TOGETHER.start(), *TOGETHER.end());
                Next::Together(self.change(mapping, |together| {
                    together.threads += 1;
                    together.take(most)
                }))
            }
            _ => Next::Alone(self.alone.pop_front()?),
        };
        self.len -= match &next {
            Next::Alone(_) => 1,
            Next::Together(fetches) => fetches.len(),
        };
        Some(next)
    }

    /// Ends the work of a thread that fetched together for a mapping.
    pub(super) fn end_together(&mut self, mapping: u32) {
        self.change(mapping, |together| together.threads -= 1);
    }

    /// Changes the fetches of a mapping, and keeps `ready` right.
    fn change<T>(&mut self, mapping: u32, change: impl FnOnce(&mut Together) -> T) -> T {
        let together = self.together.entry(mapping).or_default();
        let before = together.first();
        let result = change(together);
        let after = together.first();
        if together.waiting.is_empty() && together.threads == 0 {
            self.together.remove(&mapping);
        }
        if before != after {
            before.map(|id| self.ready.remove(&id));
            after.map(|id| self.ready.insert(id, mapping));
        }
        result
    }
}
