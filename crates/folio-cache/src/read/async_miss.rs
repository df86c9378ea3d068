//! A fetch: what a future does when its next page is not in the cache. A fetch blocks, so a thread
//! of the cache runs it.
//!
//! The future and the queue share the fetch. Dropping the future does not affect any other reader:
//! a fetch that has not begun is not made, and one that has begun ends, and drops the page that it
//! holds.

use std::any::Any;
use std::future;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::policy::Advice;
use crate::read::batch;
use crate::read::prefetch;
use crate::read::walk;
use crate::rt::foreign::wake;
use crate::rt::io_pool::{self, Pages};
use crate::rt::lock::Mutex;
use crate::rt::searches::Beginning;
use crate::state::fill_waiters::FillWaiter;
use crate::state::frames::Slot;
use crate::state::mapping::Mapping;
use crate::state::units::{Found, MOST_PAGES, pages_of};

/// The share of a cache's memory that is read together for futures.
const BATCH_SHARE: usize = 32;

/// The share of a cache's memory that results may pin until their futures are polled.
const UNPOLLED_SHARE: usize = 8;

enum State<S: Scheme> {
    /// The waker to call at the end.
    Waiting(Waker),
    /// The result, with the number of its pages that count as not polled.
    Done(io::Result<Found<S>>, usize),
    /// The page was found, and is to be looked up again: too many results wait to be polled.
    Found,
    Taken,
}

/// One page to find, with those that follow.
pub(crate) struct Fetch<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    offset: u64,
    /// The number of bytes that the reader will ask for.
    wanted: usize,
    advice: Advice,
    pages: Pages,
    together: bool,
    /// Futures that find no memory at the same time wait for it once, not one after the other.
    beginning: Beginning,
    state: Mutex<State<S>>,
}

impl<S: Scheme> Fetch<S> {
    fn new(
        mapping: &Arc<Mapping<S>>,
        offset: u64,
        wanted: usize,
        advice: Advice,
        waker: &Waker,
    ) -> Arc<Self> {
        let first = offset / FRAME_SIZE as u64;
        let count =
            if offset < mapping.len() { pages_of(offset, wanted).min(MOST_PAGES) } else { 0 };
        let pages = Pages { mapping: mapping.id, pages: first..first + u64::from(count) };
        let state = Mutex::new(State::Waiting(waker.clone()));
        // No fetch that concerns the end of the file.
        let together = count > 0 && mapping.backing().fills_together();
        let beginning = mapping.shared.searches.now();
        let mapping = Arc::clone(mapping);
        Arc::new(Self { mapping, offset, wanted, advice, pages, together, beginning, state })
    }

    fn end(&self, found: io::Result<Found<S>>) {
        let pages = match &found {
            // At the end of the file a page is not found at once.
            Ok(Some((folio, range))) if range.len() >= self.wanted || range.end == FRAME_SIZE => {
                folio.order().frames() as usize
            }
            _ => 0,
        };
        let shared = &self.mapping.shared;
        let most = shared.capacity() / FRAME_SIZE / UNPOLLED_SHARE;
        let is_kept = pages == 0 || shared.memory_wait.keep_unpolled(pages, most);
        let state = if is_kept { State::Done(found, pages) } else { State::Found };
        let before = mem::replace(&mut *self.state.lock(), state);
        if let State::Waiting(waker) = before {
            wake([waker]);
        }
    }

    /// Returns the result, or `None` if the page must be looked up again.
    fn poll(&self, context: &Context<'_>) -> Poll<Option<io::Result<Found<S>>>> {
        // Foreign code: cloned before the lock, and dropped after it.
        let mut waker = context.waker().clone();
        let mut state = self.state.lock();
        match &mut *state {
            State::Waiting(before) => {
                mem::swap(before, &mut waker);
                Poll::Pending
            }
            State::Found => Poll::Ready(None),
            State::Done(..) => match mem::replace(&mut *state, State::Taken) {
                State::Done(found, pages) => {
                    self.mapping.shared.memory_wait.polled(pages);
                    Poll::Ready(Some(found))
                }
                _ => unreachable!("the state was Done"),
            },
            State::Taken => unreachable!("the fetch is dropped once its result is taken"),
        }
    }
}

impl<S: Scheme> Drop for Fetch<S> {
    fn drop(&mut self) {
        if let State::Done(_, pages) = self.state.get_mut() {
            self.mapping.shared.memory_wait.polled(*pages);
        }
    }
}

impl<S: Scheme> io_pool::Fetch for Fetch<S> {
    fn pages(&self) -> &Pages {
        &self.pages
    }

    fn is_together(&self) -> bool {
        self.together
    }

    fn max_together(&self) -> u64 {
        (self.mapping.shared.capacity() / FRAME_SIZE / BATCH_SHARE) as u64
    }

    fn end_at_once(&self) -> bool {
        let found = walk::next_page_at_once(&self.mapping, self.offset, self.wanted);
        let is_found = found.is_some();
        if is_found {
            self.end(Ok(found));
        }
        is_found
    }

    fn work(&self) {
        /// If the backing panics, the reader gets an error.
        struct Finish<'f, S: Scheme>(&'f Fetch<S>, Option<io::Result<Found<S>>>);
        impl<S: Scheme> Drop for Finish<'_, S> {
            fn drop(&mut self) {
                let panicked = || Err(io::Error::other("the backing panicked"));
                self.0.end(self.1.take().unwrap_or_else(panicked));
            }
        }
        let _call = self.mapping.shared.searches.scope(Some(self.beginning));
        let mut finish = Finish(self, None);
        finish.1 = Some(walk::next_page(&self.mapping, self.offset, self.wanted, self.advice));
    }

    fn fill_together(&self, wanted: &[Range<u64>]) -> Box<dyn Any> {
        let mapping = &self.mapping;
        let missing = wanted.iter().filter_map(|pages| {
            let page = u32::try_from(pages.start).ok()?;
            let count = (pages.end - pages.start) as u32;
            let is_missing = mapping.index.get(page).is_none_or(Slot::is_empty);
            is_missing
                .then(|| prefetch::read_ahead_after_miss(mapping, page, count, self.advice))
                .map(|()| (page, count))
        });
        let missing: Vec<_> = missing.collect();
        // References, so that no page leaves the cache before its future has it.
        if missing.is_empty() {
            Box::new(())
        } else {
            Box::new(batch::fill_many(mapping, &missing, self.advice))
        }
    }
}

/// The state of a future between two polls.
enum Under<S: Scheme> {
    /// Nothing that it waits for.
    Nothing,
    /// A fetch of its own.
    Fetch(Arc<Fetch<S>>),
    /// The request of another reader for the same page.
    Other(FillWaiter),
}

/// The state of a future: between two pages, or with a request under way.
pub(crate) struct Progress<S: Scheme>(Under<S>);

impl<S: Scheme> Progress<S> {
    pub(crate) fn new() -> Self {
        Self(Under::Nothing)
    }

    /// Returns the page around an offset, at once if it is in the cache. Call with the same
    /// arguments until it is ready.
    ///
    /// # Errors
    ///
    /// What the fill returns, and `Unsupported` in a child process.
    pub(crate) fn poll_page(
        &mut self,
        mapping: &Arc<Mapping<S>>,
        offset: u64,
        wanted: usize,
        advice: Advice,
        context: &Context<'_>,
    ) -> Poll<io::Result<Found<S>>> {
        if !matches!(self.0, Under::Nothing) && mapping.shared.is_inherited() {
            // The thread of the fetch is in another process.
            self.0 = Under::Nothing;
        }
        loop {
            if let Under::Fetch(fetch) = &self.0 {
                let Poll::Ready(found) = fetch.poll(context) else { return Poll::Pending };
                self.0 = Under::Nothing;
                if let Some(found) = found {
                    return Poll::Ready(found);
                }
            } else if let Under::Other(waiter) = mem::replace(&mut self.0, Under::Nothing)
                && let Some(error) = waiter.error()
            {
                return Poll::Ready(Err(error));
            }
            if let Some(found) = walk::next_page_at_once(mapping, offset, wanted) {
                return Poll::Ready(Ok(Some(found)));
            }
            mapping.shared.check_process()?;
            let fetch = Fetch::new(mapping, offset, wanted, advice, context.waker());
            if !mapping.shared.io_pool.fetch(Arc::clone(&fetch) as _, context.waker()) {
                // If that has just failed, the waker was called: the page is then looked up again.
                let page = fetch.pages.pages.start as u32;
                self.0 = Under::Other(mapping.shared.fill_waiters.register(mapping.id, page));
                return Poll::Pending;
            }
            // It may have ended: without threads, it has.
            self.0 = Under::Fetch(fetch);
        }
    }

    /// Returns the page around an offset: [`poll_page`](Self::poll_page) as a future.
    pub(crate) fn page<'p>(
        &'p mut self,
        mapping: &'p Arc<Mapping<S>>,
        offset: u64,
        wanted: usize,
        advice: Advice,
    ) -> impl Future<Output = io::Result<Found<S>>> + Send + 'p {
        future::poll_fn(move |context| self.poll_page(mapping, offset, wanted, advice, context))
    }
}
