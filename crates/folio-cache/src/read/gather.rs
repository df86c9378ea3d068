//! Gathering: the pages of ranges of a distant object, in order, with all that is missing requested
//! at once.
//!
//! A gather looks some way ahead: it requests what is missing in a window of the ranges, and hands
//! out the pages in order as they come. The window bounds what it has in flight and pinned.
//!
//! What it hands out is of one version. The answer of a request says of which version it is, also
//! if the object was invalidated meanwhile: then the cache does not keep the pages, and the waiters
//! of the request get them. So each answer is progress, however often others invalidate.

use std::io;
use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::task::{Context, Poll};

use folio_frames::{FRAME_SIZE, Lookup};
use folio_ref::{Scheme, broken};
use smallvec::SmallVec;

use crate::backing::error;
use crate::backing::remote::RemoteVersion;
use crate::coherence::version;
use crate::policy::Advice;
use crate::read::lookup;
use crate::read::plan;
use crate::read::prefetch;
use crate::read::request::How;
use crate::read::walk::{self, Walk};
use crate::read::window::{Answer, END, Window};
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::remote::Remote;
use crate::state::units::{Found, page_of};

/// The share of a cache's memory that one reader requests ahead of what it has taken.
const WINDOW_SHARE: usize = 4;

/// The number of times that a page is requested again without progress, before that is an error.
const MAX_TRIES: u32 = 16;

/// The number of pieces after which a reader that only hits lets other tasks run.
const YIELD_AFTER: u32 = 256;

/// A range: an offset and a number of bytes.
pub(crate) type Wanted = (u64, usize);

/// The next result of a gather.
pub(crate) enum Step<S: Scheme> {
    /// The number of the range, a folio, and the bytes of it.
    Piece(usize, FolioRef<S>, Range<usize>),
    /// A range ends with an error.
    Failed(usize, io::Error),
    /// The object changed: what was handed out is of another version than what follows.
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

/// The comparison of the version with that of the pages that are cached in this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// From the first miss on, as it takes a lock.
    Later,
    Due,
    Done,
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
    window: Window<S>,
    /// The version of what is handed out.
    version: Option<RemoteVersion>,
    /// An answer has told the version in this call of the reader.
    is_current: bool,
    /// The number of changes and invalidations up to the last look at the version.
    epoch: u64,
    check: Check,
    /// A piece or an end of the version was told to the reader.
    has_told: bool,
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
            window: Window::new(mapping, how),
            version: None,
            is_current: false,
            epoch: mapping.truncate_seq(),
            check: Check::Later,
            has_told: false,
            tries: 0,
            pieces: 0,
        }
    }

    fn remote(&self) -> &Remote<S> {
        self.mapping.remote().expect("only distant objects are gathered")
    }

    /// Compares the version before anything is handed out, and not only from the first miss on.
    pub(crate) fn check_from_the_start(&mut self) {
        self.check = Check::Due;
    }

    /// Begins a further call of the reader: what was requested before an invalidation that came
    /// before the call is no answer to it.
    pub(crate) fn begin_call(&mut self) {
        let now = self.mapping.truncate_seq();
        self.is_current &= self.window.since == now;
        self.window.since = now;
    }

    /// Returns what comes next.
    ///
    /// # Errors
    ///
    /// `Unsupported` in a child process.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Step<S>>> {
        loop {
            if !self.look_at_epoch() {
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
            if self.version.as_ref().is_some_and(|it| self.is_current && offset >= it.len) {
                self.has_told = true;
                self.next_range();
                continue;
            }
            let look = self.look(offset, wanted);
            if matches!(look, Ok(Look::Found(..) | Look::End)) {
                match self.check_cached() {
                    Some(true) => {}
                    Some(false) => return Poll::Ready(Ok(Step::Changed)),
                    None => continue,
                }
            }
            let missing = match look {
                Err(error) => return Poll::Ready(Ok(self.fail(error))),
                Ok(Look::Found(folio, bytes)) => {
                    if self.is_tired(context) {
                        return Poll::Pending;
                    }
                    if self.planned != (0, 0) && !self.mapping.shared.is_inherited() {
                        self.request_ahead(context);
                    }
                    match self.pass(Some((folio, bytes))) {
                        Some(piece) => return Poll::Ready(Ok(piece)),
                        None => continue,
                    }
                }
                Ok(Look::End) => {
                    self.has_told = true;
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
            if self.check == Check::Later {
                self.check = Check::Due;
                match self.has_told.then(|| self.check_cached()) {
                    Some(Some(false)) => return Poll::Ready(Ok(Step::Changed)),
                    Some(None) => continue,
                    _ => {}
                }
            }
            self.request_ahead(context);
            self.window.drive(context);
            match self.window.answer(missing) {
                Some(Answer::Pending) => return Poll::Pending,
                Some(Answer::Failed(error)) => return Poll::Ready(Ok(self.fail(error))),
                Some(Answer::Done(folio, version)) => {
                    // A part past what can be cached is asked for by the last page that can.
                    let folio = folio.filter(|_| offset / FRAME_SIZE as u64 == missing);
                    if let Some(step) = self.take((offset, wanted), folio, version) {
                        return Poll::Ready(Ok(step));
                    }
                }
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

    /// Looks if the object changed or was invalidated. Returns `false` if what was told to the
    /// reader cannot be compared.
    fn look_at_epoch(&mut self) -> bool {
        if self.mapping.truncate_seq() == self.epoch {
            return true;
        }
        // The change in progress, if there is one, ends before. In a child it may never.
        self.epoch = if self.mapping.shared.is_inherited() {
            self.mapping.truncate_seq()
        } else {
            version::lock(&self.mapping, self.remote()).epoch()
        };
        self.forget_check();
        !self.has_told || self.version.is_some()
    }

    /// Takes the answer for the bytes at an offset. Returns `None` if there is nothing to hand out:
    /// the object ends before, or the request did not keep the page, which may be in the cache.
    fn take(
        &mut self,
        (offset, wanted): Wanted,
        folio: Option<FolioRef<S>>,
        version: RemoteVersion,
    ) -> Option<Step<S>> {
        if !self.is_same(&version) {
            return Some(Step::Changed);
        }
        let bytes = walk::bytes_before(version.len, offset, wanted);
        if self.version.as_ref() != Some(&version) {
            self.forget_check();
        }
        (self.version, self.is_current) = (Some(version), true);
        let Some(bytes) = bytes else {
            self.has_told = true;
            self.next_range();
            return None;
        };
        let folio = folio?;
        if let Ok(page) = page_of(offset) {
            self.mapping.record(page);
            if folio.set_referenced() {
                prefetch::read_ahead_at_marker(&self.mapping, page);
            }
        }
        self.pass(Some((folio, bytes)))
    }

    /// Returns `true` if what was found in the cache in this epoch is of the version that is handed
    /// out, as far as that is looked at, and `None` if it is to be looked up again.
    fn check_cached(&mut self) -> Option<bool> {
        let is_due = self.check == Check::Due;
        let known = if is_due { self.mapping.known_version() } else { None };
        // Acquire: pairs with Release where it is counted up, before any page of the old version
        // leaves. The page was found before.
        if self.mapping.truncate_seq() != self.epoch {
            return None;
        }
        if !is_due {
            return Some(true);
        }
        if known.is_none() && self.mapping.shared.is_inherited() {
            // In a child no version is learned.
            return Some(!self.has_told || self.version.is_none());
        }
        let Some(known) = known else {
            // It is being forgotten.
            drop(version::lock(&self.mapping, self.remote()));
            return None;
        };
        let is_same = self.is_same(&known);
        self.version = Some(known);
        if is_same {
            self.check = Check::Done;
        }
        Some(is_same)
    }

    fn forget_check(&mut self) {
        if self.check == Check::Done {
            self.check = Check::Due;
        }
    }

    /// Returns `true` if nothing of another version was told to the reader.
    fn is_same(&self, version: &RemoteVersion) -> bool {
        let before = self.version.as_ref().filter(|_| self.has_told);
        before.is_none_or(|before| before == version) || broken!("versions-mixed")
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
            self.window.forget_before(END);
        }
    }

    /// Passes what was found.
    fn pass(&mut self, found: Found<S>) -> Option<Step<S>> {
        let walk = self.walk.as_mut()?;
        let (folio, bytes) = walk.pass(&self.mapping, found)?;
        let next = walk.next().map(|(offset, _)| offset / FRAME_SIZE as u64);
        (self.tries, self.has_told) = (0, true);
        if self.ranges.len() == 1
            && let Some(next) = next
        {
            self.window.forget_before(next);
        }
        Some(Step::Piece(self.range, folio, bytes))
    }

    /// Looks at an offset.
    ///
    /// # Errors
    ///
    /// `FileTooLarge` from 16 TiB on, inside the object; `OutOfMemory` if a saturated page cannot
    /// be copied.
    fn look(&self, offset: u64, wanted: usize) -> io::Result<Look<S>> {
        if self.mapping.known_len().is_some_and(|len| offset >= len) {
            return Ok(Look::End);
        }
        let page = match page_of(offset) {
            Ok(page) => page,
            // The answer to a request for the last page tells the length.
            Err(_) if self.known_len().is_none() => return Ok(Look::Missing(END - 1)),
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
        self.how.advice != Advice::Once || self.window.is_own(page)
    }

    /// Returns the length if it is known.
    fn known_len(&self) -> Option<u64> {
        self.mapping.known_len().or_else(|| Some(self.version.as_ref()?.len))
    }

    /// Requests what is missing in the window ahead, if enough of it is free.
    fn request_ahead(&mut self, context: &Context<'_>) {
        let window = (self.mapping.shared.capacity() / FRAME_SIZE / WINDOW_SHARE).max(1) as u64;
        if self.window.ahead > window / 2 {
            return;
        }
        let is_first = self.planned == (0, 0);
        let wanted = self.next_batch(window - self.window.ahead);
        self.window.request(&wanted, context);
        if is_first && self.ranges.len() == 1 {
            self.read_ahead();
        }
    }

    /// Requests a page again, and what follows in its range as far as it was planned.
    fn request_again(&mut self, page: u64, context: &Context<'_>) {
        let all = self.pages_of(self.range);
        let end = if self.planned.0 > self.range { all.end } else { self.planned.1 };
        let most = plan::limits(&self.mapping, &*self.remote().backing()).request;
        let end = end.min(page + most).min(self.window.first_from(page)).max(page + 1);
        self.window.request(slice::from_ref(&(page..end)), context);
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

    /// Returns the pages of a range, as far as the object is known to have them.
    fn pages_of(&self, range: usize) -> Range<u64> {
        let Some(&(offset, len)) = self.ranges.get(range) else { return 0..0 };
        let page_size = FRAME_SIZE as u64;
        let end = offset.saturating_add(len as u64).min(self.known_len().unwrap_or(u64::MAX));
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
        if self.ranges.len() > 1 && self.window.ahead > 0 {
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
            if end < all.end && self.known_len().is_none() {
                // The object may end long before: the first answer tells.
                if !batch.is_empty() {
                    break;
                }
                let most = plan::limits(&self.mapping, &*self.remote().backing()).request;
                end = end.min(first + most);
                left = end - first;
                if self.window.ahead > 0 {
                    break;
                }
            }
            batch.push(first..end);
            left -= end - first;
            self.planned.1 = end;
        }
        plan::merge(batch)
    }
}
