//! A fetch: what a future does when its next page is not there. It blocks, so a thread of the cache
//! does it.
//!
//! The future and the queue share it. Who drops the future takes nothing away from anybody: a fetch
//! that nobody has begun is not made then, one that was begun ends, and the page that it holds goes
//! with it.

use std::any::Any;
use std::future;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;
use parking_lot::Mutex;

use crate::read::batch;
use crate::read::prefetch;
use crate::read::walk;
use crate::rt::io_pool::{self, Pages};
use crate::state::frames::Slot;
use crate::state::mapping::Mapping;
use crate::state::units::{Found, MOST_PAGES, pages_of};

/// The share of a cache's memory that is read together for futures.
const BATCH_SHARE: usize = 32;

enum State<S: Scheme> {
    /// Whom to wake.
    Waiting(Waker),
    Done(io::Result<Found<S>>),
    Taken,
}

/// One page to find, with those that follow.
pub(crate) struct Fetch<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    offset: u64,
    /// Bytes that its reader will ask for.
    wanted: usize,
    pages: Pages,
    together: bool,
    state: Mutex<State<S>>,
}

impl<S: Scheme> Fetch<S> {
    fn new(mapping: &Arc<Mapping<S>>, offset: u64, wanted: usize, waker: &Waker) -> Arc<Self> {
        let first = offset / FRAME_SIZE as u64;
        let count =
            if offset < mapping.len() { pages_of(offset, wanted).min(MOST_PAGES) } else { 0 };
        let pages = Pages { mapping: mapping.id, pages: first..first + u64::from(count) };
        let state = Mutex::new(State::Waiting(waker.clone()));
        // Not what is about the end of the file.
        let together = count > 0 && mapping.backing.fills_together();
        Arc::new(Self { mapping: Arc::clone(mapping), offset, wanted, pages, together, state })
    }

    fn end(&self, found: io::Result<Found<S>>) {
        let before = mem::replace(&mut *self.state.lock(), State::Done(found));
        if let State::Waiting(waker) = before {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<io::Result<Found<S>>> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Waiting(waker) => {
                waker.clone_from(context.waker());
                Poll::Pending
            }
            State::Done(_) => match mem::replace(&mut *state, State::Taken) {
                State::Done(found) => Poll::Ready(found),
                State::Waiting(_) | State::Taken => unreachable!("it was done"),
            },
            State::Taken => unreachable!("who takes the answer drops the fetch"),
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

    fn most_together(&self) -> u64 {
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
        /// A backing that panics leaves its reader an error.
        struct Finish<'f, S: Scheme>(&'f Fetch<S>, Option<io::Result<Found<S>>>);
        impl<S: Scheme> Drop for Finish<'_, S> {
            fn drop(&mut self) {
                let panicked = || Err(io::Error::other("the backing panicked"));
                self.0.end(self.1.take().unwrap_or_else(panicked));
            }
        }
        let mut finish = Finish(self, None);
        finish.1 = Some(walk::next_page(&self.mapping, self.offset, self.wanted));
    }

    fn fill_together(&self, wanted: &[Range<u64>]) -> Box<dyn Any> {
        let mapping = &self.mapping;
        let missing = wanted.iter().filter_map(|pages| {
            let page = u32::try_from(pages.start).ok()?;
            let count = (pages.end - pages.start) as u32;
            let is_missing = mapping.index.get(page).is_none_or(Slot::is_empty);
            is_missing
                .then(|| prefetch::read_ahead_after_miss(mapping, page, count))
                .map(|()| (page, count))
        });
        let missing: Vec<_> = missing.collect();
        // References, so that no page leaves again before its future has it.
        if missing.is_empty() {
            Box::new(())
        } else {
            Box::new(batch::fill_many(mapping, &missing))
        }
    }
}

/// Where a future is: between two pages, or with one on its way.
pub(crate) struct Progress<S: Scheme>(Option<Arc<Fetch<S>>>);

impl<S: Scheme> Progress<S> {
    pub(crate) fn new() -> Self {
        Self(None)
    }

    /// The page around an offset, at once if it is in the cache. It is told the same until it is
    /// ready.
    pub(crate) fn poll_page(
        &mut self,
        mapping: &Arc<Mapping<S>>,
        offset: u64,
        wanted: usize,
        context: &Context<'_>,
    ) -> Poll<io::Result<Found<S>>> {
        if self.0.is_some() && mapping.shared.is_inherited() {
            // Its thread is in another process.
            self.0 = None;
        }
        if let Some(fetch) = &self.0 {
            let found = fetch.poll(context);
            if found.is_ready() {
                self.0 = None;
            }
            return found;
        }
        if let Some(found) = walk::next_page_at_once(mapping, offset, wanted) {
            return Poll::Ready(Ok(Some(found)));
        }
        mapping.shared.check_process()?;
        let fetch = Fetch::new(mapping, offset, wanted, context.waker());
        if mapping.shared.io_pool.fetch(Arc::clone(&fetch) as _, context.waker()) {
            // It may be done: where there are no threads, it is.
            let found = fetch.poll(context);
            if found.is_pending() {
                self.0 = Some(fetch);
            }
            return found;
        }
        Poll::Pending
    }

    /// The same as a future.
    pub(crate) fn page<'p>(
        &'p mut self,
        mapping: &'p Arc<Mapping<S>>,
        offset: u64,
        wanted: usize,
    ) -> impl Future<Output = io::Result<Found<S>>> + Send + 'p {
        future::poll_fn(move |context| self.poll_page(mapping, offset, wanted, context))
    }
}
