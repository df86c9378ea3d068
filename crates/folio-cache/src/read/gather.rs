//! Gathering: the pages of ranges of a distant object, in order, with all that is missing requested
//! at once.
//!
//! A gather looks some way ahead: it requests what is missing in a window of the ranges, and hands
//! out the pages in order as they come. The window bounds what it has in flight and pinned.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use folio_frames::{FRAME_SIZE, Lookup};
use folio_ref::Scheme;
use smallvec::SmallVec;

use crate::backing::error;
use crate::coherence::{drop_pages, version};
use crate::policy::Advice;
use crate::read::lookup;
use crate::read::prefetch;
use crate::read::request::{self, How, Part};
use crate::read::walk::{self, Walk};
use crate::rt::flight::Waiter;
use crate::rt::ready_set::{Member, ReadySet};
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::remote::{Outcome, Remote};
use crate::state::units::{Found, page_of};

/// The share of a cache's memory that one reader requests ahead of what it has taken.
const WINDOW_SHARE: usize = 4;

/// The number of times that a page is requested again without progress, before that is an error.
const MAX_TRIES: u32 = 16;

/// The number of pieces after which a reader that only hits lets other tasks run.
const YIELD_AFTER: u32 = 256;

/// Page numbers end here, and with them what can be cached of a file.
const END: u64 = 1 << u32::BITS;

/// A range: an offset and a number of bytes.
pub(crate) type Wanted = (u64, usize);

/// The next result of a gather.
pub(crate) enum Step<S: Scheme> {
    /// The number of the range, a folio, and the bytes of it.
    Piece(usize, FolioRef<S>, Range<usize>),
    /// A range ends with an error.
    Failed(usize, io::Error),
    /// The object changed: what came so far may be of another version than what follows.
    Changed,
    End,
}

/// The state of the page at an offset.
enum Look<S: Scheme> {
    Found(FolioRef<S>, Range<usize>),
    /// The object ends before.
    End,
    Missing(u64),
    /// A page that is about to leave: the object changes.
    Changing,
}

struct InFlight<S: Scheme> {
    pages: Range<u64>,
    is_new: bool,
    waiter: Waiter<Outcome<S>>,
    waker: Waker,
    member: Arc<Member>,
}

/// The progress of one reader.
pub(crate) struct Gather<S: Scheme> {
    mapping: Arc<Mapping<S>>,
    how: How,
    ranges: SmallVec<[Wanted; 1]>,
    /// The range that is handed out, and the position in it.
    range: usize,
    walk: Option<Walk>,
    /// The range, and the page in it, up to which everything was requested.
    planned: (usize, u64),
    in_flight: Vec<Option<InFlight<S>>>,
    unused: Vec<usize>,
    /// The numbers of those in flight, by their first page.
    by_page: BTreeMap<u64, usize>,
    /// The pages requested and not yet handed out.
    ahead: u64,
    /// Made at the first request.
    ready: Option<ReadySet>,
    pub(crate) epoch: u64,
    tries: u32,
    pieces: u32,
}

impl<S: Scheme> Gather<S> {
    pub(crate) fn new(mapping: &Arc<Mapping<S>>, how: How, ranges: &[Wanted]) -> Self {
        Self {
            mapping: Arc::clone(mapping),
            how,
            ranges: ranges.iter().copied().collect(),
            range: 0,
            walk: None,
            planned: (0, 0),
            in_flight: Vec::new(),
            unused: Vec::new(),
            by_page: BTreeMap::new(),
            ahead: 0,
            ready: None,
            epoch: mapping.truncate_seq(),
            tries: 0,
            pieces: 0,
        }
    }

    fn remote(&self) -> &Remote<S> {
        self.mapping.remote().expect("only distant objects are gathered")
    }

    /// Returns what comes next.
    ///
    /// # Errors
    ///
    /// `Unsupported` in a child process.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Step<S>>> {
        loop {
            if self.mapping.truncate_seq() != self.epoch {
                return Poll::Ready(Ok(Step::Changed));
            }
            let Some(&(begins, len)) = self.ranges.get(self.range) else {
                return Poll::Ready(Ok(Step::End));
            };
            let walk = match &self.walk {
                Some(walk) => walk,
                None => match Walk::new(begins, len) {
                    Ok(walk) => self.walk.insert(walk),
                    Err(error) => return Poll::Ready(Ok(self.fail(error))),
                },
            };
            let Some((offset, wanted)) = walk.next() else {
                self.next_range();
                continue;
            };
            let missing = match self.look(offset, wanted) {
                Err(error) => return Poll::Ready(Ok(self.fail(error))),
                Ok(Look::Found(folio, bytes)) => {
                    if self.is_tired(context) {
                        return Poll::Pending;
                    }
                    if self.planned != (0, 0) {
                        self.request_ahead(context);
                    }
                    match self.pass(Some((folio, bytes))) {
                        Some(piece) => return Poll::Ready(Ok(piece)),
                        None => continue,
                    }
                }
                Ok(Look::End) => {
                    self.next_range();
                    continue;
                }
                Ok(Look::Missing(page)) => page,
                Ok(Look::Changing) => {
                    self.mapping.shared.check_process()?;
                    // Until the change ends.
                    drop(version::lock(&self.mapping, self.remote()));
                    continue;
                }
            };
            self.mapping.shared.check_process()?;
            self.request_ahead(context);
            self.drive(context);
            match self.answer(missing) {
                Some(Answer::Pending) => return Poll::Pending,
                Some(Answer::Page(folio)) => {
                    if let Ok(page) = u32::try_from(missing) {
                        self.mapping.record(page);
                        if folio.set_referenced() {
                            prefetch::read_ahead_at_marker(&self.mapping, page);
                        }
                    }
                    if let Some(bytes) = walk::known_bytes(&self.mapping, offset, wanted)
                        && let Some(piece) = self.pass(Some((folio, bytes)))
                    {
                        return Poll::Ready(Ok(piece));
                    }
                }
                Some(Answer::Failed(error)) => return Poll::Ready(Ok(self.fail(error))),
                // The object may end before it: look again.
                Some(Answer::Nothing) => {}
                // It left the cache since it was planned: once more.
                None => {
                    self.tries += 1;
                    if self.tries > MAX_TRIES {
                        let message = format!("page {missing} leaves the cache before it is read");
                        let error = error::error(io::ErrorKind::OutOfMemory, message);
                        return Poll::Ready(Ok(self.fail(error)));
                    }
                    self.request_again(missing, context);
                }
            }
        }
    }

    /// Returns `true` if the reader had many pages without a wait, and has another task run.
    fn is_tired(&mut self, context: &Context<'_>) -> bool {
        self.pieces += 1;
        let is_tired = self.pieces.is_multiple_of(YIELD_AFTER);
        if is_tired {
            context.waker().wake_by_ref();
        }
        is_tired
    }

    fn fail(&mut self, error: io::Error) -> Step<S> {
        let range = self.range;
        self.next_range();
        Step::Failed(range, error)
    }

    fn next_range(&mut self) {
        self.range += 1;
        self.walk = None;
        // The requests of a batch of ranges serve them in any order.
        if self.range >= self.planned.0 {
            self.forget_before(END);
        }
    }

    /// Passes what was found.
    fn pass(&mut self, found: Found<S>) -> Option<Step<S>> {
        let walk = self.walk.as_mut()?;
        let (folio, bytes) = walk.pass(&self.mapping, found)?;
        let next = walk.next().map(|(offset, _)| offset / FRAME_SIZE as u64);
        self.tries = 0;
        if self.ranges.len() == 1
            && let Some(next) = next
        {
            self.forget_before(next);
        }
        Some(Step::Piece(self.range, folio, bytes))
    }

    /// Drops the waiters of pages before this one.
    fn forget_before(&mut self, page: u64) {
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
            // Its pages came for this reader alone.
            if self.how.advice == Advice::Once && it.is_new {
                drop_pages::evict_clean(&self.mapping, it.pages, drop_pages::Keep::Used);
            }
        }
    }

    /// Looks at an offset.
    ///
    /// # Errors
    ///
    /// `FileTooLarge` from 16 TiB on, inside the object; `OutOfMemory` if a saturated page cannot
    /// be copied.
    fn look(&self, offset: u64, wanted: usize) -> io::Result<Look<S>> {
        let len = self.mapping.known_len();
        if len.is_some_and(|len| offset >= len) {
            return Ok(Look::End);
        }
        let page = match page_of(offset) {
            Ok(page) => page,
            // The answer to a request for the last page tells the length.
            Err(_) if len.is_none() => return Ok(Look::Missing(END - 1)),
            Err(error) => return Err(error),
        };
        while let Some(slot) = self.mapping.index.get(page) {
            match slot.get(self.mapping.zone()) {
                Lookup::Hit(folio) => {
                    lookup::check(&self.mapping, &folio, page);
                    if self.counts_as_use(u64::from(page)) && folio.set_referenced() {
                        prefetch::read_ahead_at_marker(&self.mapping, page);
                    }
                    self.mapping.hit(1);
                    self.mapping.record(page);
                    let bytes = walk::known_bytes(&self.mapping, offset, wanted);
                    return Ok(bytes.map_or(Look::Changing, |bytes| Look::Found(folio, bytes)));
                }
                Lookup::Empty => break,
                _ if self.mapping.shared.is_inherited() => break,
                // For the moment in which the page is published, moved or evicted. No page lock is
                // held while a store is waited for.
                Lookup::InProgress => slot.wait(),
                Lookup::Moved => {}
                Lookup::Saturated => lookup::desaturate(&self.mapping, slot, page)?,
            }
        }
        Ok(Look::Missing(u64::from(page)))
    }

    /// Returns `true` if the use of a page is to be noted. A reader that reads once notes only the
    /// uses that its own pages came for.
    fn counts_as_use(&self, page: u64) -> bool {
        let is_own = || {
            let (_, &number) = self.by_page.range(..=page).next_back()?;
            self.in_flight[number].as_ref().filter(|it| it.is_new && it.pages.contains(&page))
        };
        self.how.advice != Advice::Once || is_own().is_some()
    }

    /// Polls the requests that are due.
    fn drive(&mut self, context: &Context<'_>) {
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
    fn answer(&mut self, page: u64) -> Option<Answer<S>> {
        let (_, &number) = self.by_page.range(..=page).next_back()?;
        let it = self.in_flight[number].as_ref().filter(|it| it.pages.contains(&page))?;
        let answer = it.waiter.result(|outcome| match outcome {
            Outcome::Done(published) => published.get(page).map_or(Answer::Nothing, Answer::Page),
            Outcome::Again => Answer::Nothing,
            Outcome::Failed(error) => Answer::Failed(error::copy(error)),
        });
        let answer = answer.unwrap_or(Answer::Pending);
        if matches!(answer, Answer::Nothing | Answer::Failed(_)) {
            self.forget(number);
        }
        Some(answer)
    }

    /// Requests what is missing in the window ahead, if enough of it is free.
    fn request_ahead(&mut self, context: &Context<'_>) {
        let window = (self.mapping.shared.capacity() / FRAME_SIZE / WINDOW_SHARE).max(1) as u64;
        if self.ahead > window / 2 {
            return;
        }
        let is_first = self.planned == (0, 0);
        let wanted = self.next_batch(window - self.ahead);
        self.request(&wanted, context);
        if is_first && self.ranges.len() == 1 {
            self.read_ahead();
        }
    }

    /// Requests a page again, and what follows in its range as far as it was planned.
    fn request_again(&mut self, page: u64, context: &Context<'_>) {
        let all = self.pages_of(self.range);
        let end = if self.planned.0 > self.range { all.end } else { self.planned.1 };
        let most = request::limits(&self.mapping, &*self.remote().backing()).request;
        let behind = self.by_page.range(page..).next().map_or(END, |(&first, _)| first);
        let end = end.min(page + most).min(behind).max(page + 1);
        self.request(slice::from_ref(&(page..end)), context);
    }

    /// Requests what the reader of one range may want next.
    fn read_ahead(&self) {
        let pages = self.pages_of(0);
        if let Ok(first) = u32::try_from(pages.start)
            && !pages.is_empty()
        {
            let pages = (pages.end - pages.start) as u32;
            prefetch::read_ahead_distant(&self.mapping, first, pages, self.how);
        }
    }

    fn request(&mut self, wanted: &[Range<u64>], context: &Context<'_>) {
        if wanted.is_empty() {
            return;
        }
        let parts = request::request(&self.mapping, self.remote(), wanted, self.how);
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
            self.in_flight[number] = Some(InFlight { pages, is_new, waiter, waker, member });
            begun.push(number);
        }
        // All go out at once.
        for number in due.into_iter().chain(begun) {
            self.poll_one(number);
        }
    }

    /// Returns the pages of a range, as far as the object is known to have them.
    fn pages_of(&self, range: usize) -> Range<u64> {
        let Some(&(offset, len)) = self.ranges.get(range) else { return 0..0 };
        let page_size = FRAME_SIZE as u64;
        let end =
            offset.saturating_add(len as u64).min(self.mapping.known_len().unwrap_or(u64::MAX));
        if offset >= end {
            return 0..0;
        }
        offset / page_size..end.div_ceil(page_size).min(END).max(offset / page_size)
    }

    /// Returns the next pages of the ranges that were not planned yet, up to `most`, sorted and
    /// merged.
    fn next_batch(&mut self, most: u64) -> Vec<Range<u64>> {
        let mut left = most;
        let mut batch = Vec::new();
        if self.planned.0 < self.range {
            self.planned = (self.range, 0);
        }
        // Requests for several ranges are dropped together.
        if self.ranges.len() > 1 && self.ahead > 0 {
            return batch;
        }
        while left > 0 && self.planned.0 < self.ranges.len() {
            let all = self.pages_of(self.planned.0);
            let first = all.start.max(self.planned.1);
            if first >= all.end {
                self.planned = (self.planned.0 + 1, 0);
                continue;
            }
            let mut end = all.end.min(first + left);
            if end < all.end && self.mapping.known_len().is_none() {
                // The object may end long before: the first answer tells.
                if !batch.is_empty() {
                    break;
                }
                let most = request::limits(&self.mapping, &*self.remote().backing()).request;
                end = end.min(first + most);
                left = end - first;
                if self.ahead > 0 {
                    break;
                }
            }
            batch.push(first..end);
            left -= end - first;
            self.planned.1 = end;
        }
        crate::read::plan::merge(batch)
    }
}

impl<S: Scheme> Drop for Gather<S> {
    fn drop(&mut self) {
        if self.in_flight.iter().any(Option::is_some) && self.mapping.shared.is_inherited() {
            // Their locks may be held by threads that do not exist here.
            std::mem::forget(std::mem::take(&mut self.in_flight));
        } else if self.how.advice == Advice::Once {
            self.forget_before(END);
        }
    }
}

/// The answer of a request for a page.
enum Answer<S: Scheme> {
    Pending,
    Page(FolioRef<S>),
    /// It ended without the page.
    Nothing,
    Failed(io::Error),
}
