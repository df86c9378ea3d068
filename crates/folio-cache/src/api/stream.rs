//! A scan as a stream: the bytes of a range, one piece after the other, without a copy.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};
use futures_core::Stream;

use crate::api::file::File;
use crate::api::range::{begin, bytes_of, join};
use crate::read::async_miss::Progress;
use crate::read::walk;
use crate::state::units::{Found, MOST_PAGES, check_offset};

/// The share of a cache's memory that one piece may pin.
const SHARE: usize = 64;

/// The bytes of a range of a file, in order: what [`File::stream`] gives. After an error, and after
/// the end, nothing comes.
///
/// A piece is as many of the next pages as lie one behind the other in memory, a page at least and
/// 1 MiB at the most. It is a snapshot of its pages, keeps them, and may outlive the stream.
pub struct ByteStream<S: Scheme = DefaultScheme> {
    file: File<S>,
    offset: u64,
    left: u64,
    progress: Progress<S>,
}

impl<S: Scheme> File<S> {
    /// Streams up to `len` bytes from `offset` on: to the end of the file for `u64::MAX`. The file
    /// stays open meanwhile. Readahead sees a sequential reader. The stream gives no error
    /// before it is polled.
    pub fn stream(&self, offset: u64, len: u64) -> ByteStream<S> {
        ByteStream { file: self.clone(), offset, left: len, progress: Progress::new() }
    }
}

impl<S: Scheme> ByteStream<S> {
    /// Where the next piece begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn poll_piece(&mut self, context: &Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        check_offset(self.offset)?;
        let mapping = &self.file.mapping;
        let most =
            (mapping.shared.capacity() / SHARE).clamp(FRAME_SIZE, MOST_PAGES as usize * FRAME_SIZE);
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(most);
        let found: Found<S> =
            ready!(self.progress.poll_page(mapping, self.offset, wanted, context))?;
        let Some(found) = found else { return Poll::Ready(Ok(None)) };
        let (folio, range) = walk::extend_over_folio(mapping, self.offset, wanted, found);
        let (start, mut len) = (range.start, range.len());
        let mut piece = begin(folio, &range);
        while len < wanted
            && let (offset, left) = (self.offset + len as u64, wanted - len)
            && let Some(found) = walk::next_page_at_once(mapping, offset, left)
            && let (folio, range) = walk::extend_over_folio(mapping, offset, left, found)
            && join(&mut piece, folio, &range).is_ok()
        {
            len += range.len();
        }
        self.offset += len as u64;
        self.left -= len as u64;
        Poll::Ready(Ok(Some(bytes_of(piece, start..start + len))))
    }
}

impl<S: Scheme> Stream for ByteStream<S> {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = ready!(self.poll_piece(context)).transpose();
        if !matches!(piece, Some(Ok(_))) {
            self.left = 0;
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
