//! A fetch: what a future does when its next page is not there. It blocks, so a thread of the cache
//! does it.
//!
//! The future and the queue share it. Who drops the future takes nothing away from anybody: a fetch
//! that nobody has begun is not made then, one that was begun ends, and the page that it holds goes
//! with it.

use std::future;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use folio_frames::{FRAME_SIZE, FolioRef, Slot, UserSpace};
use folio_ref::Scheme;
use parking_lot::Mutex;

use crate::api::file::pages_of;
use crate::read::extent::MOST_PAGES;
use crate::rt::io_pool::Pages;
use crate::state::mapping::{Mapping, page_of};

/// The share of a cache's memory that is read together for futures.
const SHARE: usize = 32;

/// A page, and its bytes that were asked for. `None`: the file ends before it.
pub(crate) type Found<S> = Option<(FolioRef<UserSpace<S>>, Range<usize>)>;

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

    /// The pages that come with it. None: it is about the end of the file.
    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Whether others may be made with it, by [`fill_together`].
    pub(crate) fn is_together(&self) -> bool {
        self.together
    }

    /// Pages that may be read together for its mapping.
    pub(crate) fn most_together(&self) -> u64 {
        (self.mapping.shared.capacity() / FRAME_SIZE / SHARE) as u64
    }

    /// Ends it with what is in the cache now. `false`: its page is not; nothing was done. What
    /// nobody wants has ended.
    pub(crate) fn end_at_once(self: &Arc<Self>) -> bool {
        let found = self.mapping.next_page_at_once(self.offset, self.wanted);
        if found.is_some() {
            self.end(Ok(found));
            return true;
        }
        Arc::strong_count(self) == 1
    }

    fn end(&self, found: io::Result<Found<S>>) {
        let before = mem::replace(&mut *self.state.lock(), State::Done(found));
        if let State::Waiting(waker) = before {
            waker.wake();
        }
    }

    /// Does it, unless nobody wants it any more. Blocks.
    pub(crate) fn work(self: &Arc<Self>) {
        /// A backing that panics leaves its reader an error.
        struct Finish<'f, S: Scheme>(&'f Fetch<S>, Option<io::Result<Found<S>>>);
        impl<S: Scheme> Drop for Finish<'_, S> {
            fn drop(&mut self) {
                let panicked = || Err(io::Error::other("the backing panicked"));
                self.0.end(self.1.take().unwrap_or_else(panicked));
            }
        }
        // One more is the future's.
        if Arc::strong_count(self) > 1 {
            let mut finish = Finish(self, None);
            finish.1 = Some(self.mapping.next_page(self.offset, self.wanted));
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

/// Has the pages of some fetches of one mapping read, all requested at once. References, so that
/// none goes again.
pub(crate) fn fill_together<S: Scheme>(
    fetches: &[Arc<Fetch<S>>],
) -> Vec<Option<FolioRef<UserSpace<S>>>> {
    let Some(mapping) = fetches.first().map(|fetch| &fetch.mapping) else { return Vec::new() };
    let wanted = fetches.iter().filter(|fetch| Arc::strong_count(fetch) > 1).filter_map(|fetch| {
        let page = page_of(fetch.offset).ok()?;
        let pages = (fetch.pages.pages.end - fetch.pages.pages.start) as u32;
        let is_missing = mapping.index.get(page).is_none_or(Slot::is_empty);
        is_missing.then(|| mapping.read_ahead_of_miss(page, pages)).map(|()| (page, pages))
    });
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() { Vec::new() } else { mapping.fill_many(&wanted) }
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
        if let Some(found) = mapping.next_page_at_once(offset, wanted) {
            return Poll::Ready(Ok(Some(found)));
        }
        mapping.shared.check_process()?;
        let fetch = Fetch::new(mapping, offset, wanted, context.waker());
        if mapping.shared.background.fetch(&fetch, context.waker()) {
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
