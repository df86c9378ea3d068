//! The window of a reader of a distant object: the requests that it waits for, by their pages.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Waker};

use folio_ref::Scheme;

use crate::backing::error;
use crate::backing::remote::RemoteVersion;
use crate::coherence::drop_pages;
use crate::policy::Advice;
use crate::read::request::{self, How, Part};
use crate::rt::flight::Waiter;
use crate::rt::ready_set::{Member, ReadySet};
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::remote::Outcome;

/// Page numbers end here, and with them what can be cached of a file.
pub(super) const END: u64 = 1 << u32::BITS;

struct InFlight<S: Scheme> {
    pages: Range<u64>,
    is_new: bool,
    /// The number of changes and invalidations before it was requested.
    epoch: u64,
    waiter: Waiter<Outcome<S>>,
    waker: Waker,
    member: Arc<Member>,
}

/// The answer of a request for a page.
pub(super) enum Answer<S: Scheme> {
    Pending,
    /// The page, if the request still has it, and the version that it is of. The object may end
    /// before it.
    Done(Option<FolioRef<S>>, RemoteVersion),
    Failed(io::Error),
}

/// The requests that one reader waits for.
pub(super) struct Window<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    how: How,
    in_flight: Vec<Option<InFlight<S>>>,
    unused: Vec<usize>,
    /// The numbers of those in flight, by their first page.
    by_page: BTreeMap<u64, usize>,
    /// The pages requested and not yet handed out.
    pub(super) ahead: u64,
    /// Requests from before this epoch are no answers.
    pub(super) since: u64,
    /// Made at the first request.
    ready: Option<ReadySet>,
}

impl<S: Scheme> Window<S> {
    pub(super) fn new(mapping: &Arc<Mapping<S>>, how: How) -> Self {
        Self {
            mapping: Arc::clone(mapping),
            how,
            in_flight: Vec::new(),
            unused: Vec::new(),
            by_page: BTreeMap::new(),
            ahead: 0,
            since: 0,
            ready: None,
        }
    }

    /// Returns the request that has a page, and its number.
    fn at(&self, page: u64) -> Option<(usize, &InFlight<S>)> {
        let (_, &number) = self.by_page.range(..=page).next_back()?;
        let it = self.in_flight[number].as_ref().filter(|it| it.pages.contains(&page))?;
        Some((number, it))
    }

    /// Returns `true` if a page was requested for this reader alone.
    pub(super) fn is_own(&self, page: u64) -> bool {
        self.at(page).is_some_and(|(_, it)| it.is_new)
    }

    /// Returns the first page of the next request from a page on.
    pub(super) fn first_from(&self, page: u64) -> u64 {
        self.by_page.range(page..).next().map_or(END, |(&first, _)| first)
    }

    /// Requests pages, and polls the requests: all go out at once.
    pub(super) fn request(&mut self, wanted: &[Range<u64>], context: &Context<'_>) {
        if wanted.is_empty() {
            return;
        }
        // Before the requests: a request in flight that is joined is no older.
        let epoch = self.mapping.truncate_seq();
        let remote = self.mapping.remote().expect("only distant objects have requests");
        let parts = request::request(&self.mapping, remote, wanted, self.how);
        // Registered before the first poll.
        let due = self.ready.get_or_insert_default().take(context.waker());
        let mut begun = Vec::with_capacity(parts.len());
        for Part { pages, is_new, waiter } in parts {
            // A request that has other pages of an earlier part: the later one stays.
            if let Some(&before) = self.by_page.get(&pages.start) {
                self.forget(before);
            }
            let number = self.unused.pop().unwrap_or_else(|| {
                self.in_flight.push(None);
                self.in_flight.len() - 1
            });
            let (waker, member) = self.ready.get_or_insert_default().waker(number);
            self.ahead += pages.end - pages.start;
            self.by_page.insert(pages.start, number);
            if is_new && (self.is_driven() || self.how.pauses) {
                self.mapping.shared.spawn(Box::pin(waiter.driver()));
            }
            let it = InFlight { pages, is_new, epoch, waiter, waker, member };
            self.in_flight[number] = Some(it);
            begun.push(number);
        }
        for number in due.into_iter().chain(begun) {
            self.poll_one(number);
        }
    }

    /// Polls the requests that are due.
    pub(super) fn drive(&mut self, context: &Context<'_>) {
        let Some(ready) = &self.ready else { return };
        for number in ready.take(context.waker()) {
            self.poll_one(number);
        }
    }

    /// Returns `true` if a spawner drives the requests, because the reader blocks.
    fn is_driven(&self) -> bool {
        self.how.blocks && self.mapping.shared.spawner.is_some()
    }

    fn poll_one(&mut self, number: usize) {
        let is_driven = self.is_driven();
        if let Some(Some(it)) = self.in_flight.get_mut(number) {
            it.member.polled();
            let _ = if is_driven {
                it.waiter.poll_driven(&it.waker)
            } else {
                it.waiter.poll(&it.waker)
            };
        }
    }

    /// Returns what the request of a page has for it. `None`: there is no such request.
    pub(super) fn answer(&mut self, page: u64) -> Option<Answer<S>> {
        let (number, it) = self.at(page)?;
        if it.epoch < self.since {
            self.forget(number);
            return None;
        }
        let answer = it.waiter.result(|outcome| match outcome {
            Outcome::Done(published) => {
                Answer::Done(published.get(page), published.version().clone())
            }
            Outcome::Failed(error) => Answer::Failed(error::copy(error)),
        });
        let answer = answer.unwrap_or(Answer::Pending);
        if matches!(answer, Answer::Done(None, _) | Answer::Failed(_)) {
            self.forget(number);
        }
        Some(answer)
    }

    /// Drops the waiters of pages before this one.
    pub(super) fn forget_before(&mut self, page: u64) {
        while let Some((&first, &number)) = self.by_page.first_key_value() {
            let slot = &mut self.in_flight[number];
            if slot.as_ref().is_some_and(|it| it.pages.end > page) {
                break;
            }
            self.by_page.remove(&first);
            self.forget(number);
        }
    }

    fn forget(&mut self, number: usize) {
        if let Some(it) = self.in_flight[number].take() {
            self.by_page.remove(&it.pages.start);
            self.ahead -= it.pages.end - it.pages.start;
            self.unused.push(number);
            if self.mapping.shared.is_inherited() {
                // Its locks may be held by threads that do not exist here.
                mem::forget(it);
                return;
            }
            // Its pages came for this reader alone.
            if self.how.advice == Advice::Once && it.is_new {
                drop_pages::evict_clean(&self.mapping, it.pages, drop_pages::Keep::Used);
            }
        }
    }
}

impl<S: Scheme> Drop for Window<S> {
    fn drop(&mut self) {
        if self.in_flight.iter().any(Option::is_some) && self.mapping.shared.is_inherited() {
            mem::forget(mem::take(&mut self.in_flight));
        } else if self.how.advice == Advice::Once {
            self.forget_before(END);
        }
    }
}
