//! A scan as a stream: the bytes of a range, one piece after the other, pinned.

use std::fmt;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};
use futures_core::Stream;

use crate::api::file::File;
use crate::api::piece::{begin, bytes_of, join};
use crate::coherence::version;
use crate::memory::short_handle::PinnedCount;
use crate::read::async_miss::Progress;
use crate::read::gather::{Gather, Step};
use crate::read::request::How;
use crate::read::walk;
use crate::state::units::{Found, MOST_PAGES, check_offset};

/// The share of a cache's memory that one piece may pin: one part in so many.
const SHARE: usize = 64;

/// The bytes of a range of a file, in order. [`File::stream`] returns it. The stream ends after an
/// error, and at the end of the range or of the file.
///
/// A piece has as many of the next pages as are adjacent in memory, at most a 64th of the capacity
/// and 1 MiB. A piece of an object of a distant store has pages of one folio, at most 64 KiB. A
/// piece is a snapshot of its pages, and may outlive the stream. It pins at most four times its
/// length, or two pages: a shorter piece of a larger folio is a copy. A slice of a piece keeps the
/// whole piece pinned.
///
/// # Examples
///
/// ```
/// use std::{future::poll_fn, pin::Pin, sync::Arc};
/// use folio_cache::{Cache, testing::Memory};
/// use futures_core::Stream;
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.open_backing(Arc::new(Memory::new(&[7; 100_000])))?;
/// # pollster::block_on(async {
/// let mut stream = file.stream(50_000, u64::MAX);
/// let mut total = 0;
/// while let Some(piece) = poll_fn(|context| Pin::new(&mut stream).poll_next(context)).await {
///     total += piece?.len();
/// }
/// assert_eq!(total, 50_000);
/// # Ok(())
/// # })
/// # }
/// ```
pub struct ByteStream<S: Scheme = DefaultScheme> {
    file: File<S>,
    offset: u64,
    left: u64,
    /// A poll for the next piece was not ready.
    is_waiting: bool,
    progress: Progress<S>,
    /// The requests ahead of the reader of a distant object.
    gather: Option<Box<Gather<S>>>,
}

impl<S: Scheme> File<S> {
    /// Returns a stream of up to `len` bytes from `offset` on: pass `u64::MAX` to reach the end of
    /// the file. It keeps the file open. Readahead sees a sequential reader. Errors come when it is
    /// polled.
    pub fn stream(&self, offset: u64, len: u64) -> ByteStream<S> {
        let gather = self.is_distant().then(|| {
            let range = (offset, usize::try_from(len).unwrap_or(usize::MAX));
            let how = How { pauses: true, ..self.how() };
            let mut gather = Gather::new(&self.opened.mapping, how, &[range]);
            gather.check_from_the_start();
            Box::new(gather)
        });
        ByteStream {
            file: self.clone(),
            offset,
            left: len,
            is_waiting: false,
            progress: Progress::new(),
            gather,
        }
    }
}

impl<S: Scheme> ByteStream<S> {
    /// Returns the offset of the next piece.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns the next piece of a distant object. All pieces are of one version: if the object was
    /// only invalidated, the stream goes on.
    fn poll_distant(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Some(gather) = &mut self.gather else { return Poll::Ready(None) };
        let mapping = &self.file.opened.mapping;
        if !mem::replace(&mut self.is_waiting, true) {
            gather.begin_call();
        }
        let step = ready!(gather.poll_next(context))?;
        self.is_waiting = false;
        let (folio, range) = match step {
            Step::Piece(_, folio, range) => (folio, range),
            Step::Failed(_, error) => return Poll::Ready(Some(Err(error))),
            Step::Changed => return Poll::Ready(Some(Err(version::changed(mapping)))),
            Step::End => return Poll::Ready(None),
        };
        let pinned = PinnedCount::default().with(&folio);
        let len = range.len();
        let piece = begin(folio, &range);
        self.offset += len as u64;
        self.left -= len as u64;
        Poll::Ready(Some(Ok(bytes_of(mapping, piece, range, &pinned))))
    }

    fn poll_piece(&mut self, context: &Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        check_offset(self.offset)?;
        let mapping = &self.file.opened.mapping;
        let most =
            (mapping.shared.capacity() / SHARE).clamp(FRAME_SIZE, MOST_PAGES as usize * FRAME_SIZE);
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(most);
        let advice = self.file.how().advice;
        let found: Found<S> =
            ready!(self.progress.poll_page(mapping, self.offset, wanted, advice, context))?;
        let Some(found) = found else { return Poll::Ready(Ok(None)) };
        let (folio, range) = walk::extend_over_folio(mapping, self.offset, wanted, found);
        let (start, mut len) = (range.start, range.len());
        let mut pinned = PinnedCount::default().with(&folio);
        let mut piece = begin(folio, &range);
        while len < wanted
            && let (offset, left) = (self.offset + len as u64, wanted - len)
            && let Some(found) = walk::next_page_at_once(mapping, offset, left)
            && let (folio, range) = walk::extend_over_folio(mapping, offset, left, found)
            && let more = pinned.with(&folio)
            && join(&mut piece, folio, &range).is_ok()
        {
            pinned = more;
            len += range.len();
        }
        self.file.passed(self.offset, len);
        self.offset += len as u64;
        self.left -= len as u64;
        Poll::Ready(Ok(Some(bytes_of(mapping, piece, start..start + len, &pinned))))
    }
}

impl<S: Scheme> Stream for ByteStream<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = if self.gather.is_some() {
            ready!(self.poll_distant(context))
        } else {
            ready!(self.poll_piece(context)).transpose()
        };
        if !matches!(piece, Some(Ok(_))) {
            self.left = 0;
            self.gather = None;
        }
        Poll::Ready(piece)
    }
}

impl<S: Scheme> fmt::Debug for ByteStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream")
            .field("offset", &self.offset)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
