//! Many ranges by one call, and what is cached without a wait.

use std::io::{self, IoSliceMut};
use std::ops::Range;

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::api::distant::Into;
use crate::api::file::File;
use crate::api::range::{OnePiece, Pieces, begin_bytes, begin_range};
use crate::memory::short_handle;
use crate::policy::Advice;
use crate::read::collect::{Sink, gather};
use crate::read::copy;
use crate::read::request::How;
use crate::read::walk::{self, Walk};
use crate::rt::block_on::block_on;
use crate::state::frames::FolioRef;
use crate::state::handle::PageHandle;
use crate::state::mapping::Mapping;
use crate::state::units::Found;

impl<S: Scheme> File<S> {
    /// Returns the bytes of many ranges, in their order. A range past the end of the file is
    /// shorter, or empty. Ranges may be empty, overlap and repeat. Each has `Bytes` of its own, as
    /// those of [`bytes`](Self::bytes).
    ///
    /// Of an object of a distant store, all that is missing is requested at once, in as few
    /// requests as the store prefers.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use folio_cache::{Cache, testing::Distant};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let cache = Cache::new(4 << 20)?;
    /// let file = cache.open_async(Arc::new(Distant::new(&[7; 100_000])))?;
    /// let ranges = file.read_ranges(&[90_000..200_000, 0..10, 5..5])?;
    /// let lengths: Vec<_> = ranges.iter().map(|range| range.len()).collect();
    /// assert_eq!(lengths, [10_000, 10, 0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first error of a range. Nothing is pinned then.
    ///
    /// - `InvalidInput` if the start of a range that is not empty exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted, or the ranges are longer than what can be
    ///   pinned and copied.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub fn read_ranges(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        if self.is_distant() {
            return block_on(self.ranges_distant(ranges, self.blocking()));
        }
        let wanted = ranges.iter().map(wanted);
        wanted.map(|(offset, len)| self.bytes(offset, len)).collect()
    }

    /// Returns the bytes of many ranges like [`read_ranges`](Self::read_ranges), without blocking.
    ///
    /// # Errors
    ///
    /// The first error of a range. Nothing is pinned then.
    ///
    /// - `InvalidInput` if the start of a range that is not empty exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted, or the ranges are longer than what can be
    ///   pinned and copied.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub async fn read_ranges_async(&self, ranges: &[Range<u64>]) -> io::Result<Vec<Bytes>> {
        if self.is_distant() {
            return self.ranges_distant(ranges, self.how()).await;
        }
        let mut bytes = Vec::with_capacity(ranges.len());
        for (offset, len) in ranges.iter().map(wanted) {
            bytes.push(self.bytes_async(offset, len).await?);
        }
        Ok(bytes)
    }

    async fn ranges_distant(&self, ranges: &[Range<u64>], how: How) -> io::Result<Vec<Bytes>> {
        let ranges: Vec<_> = ranges.iter().map(wanted).collect();
        self.bytes_distant(&ranges, how).await
    }

    /// Returns the bytes of ranges of a distant object, in one piece each.
    pub(crate) async fn bytes_distant(
        &self,
        ranges: &[(u64, usize)],
        how: How,
    ) -> io::Result<Vec<Bytes>> {
        let mut sink = ManyBytes { mapping: &*self.opened.mapping, ranges, pieces: Vec::new() };
        gather(&self.opened.mapping, how, ranges, &mut sink).await?;
        Ok(sink.pieces.into_iter().map(OnePiece::finish).collect())
    }

    /// Returns bytes of a distant object that are cached. Returns `None` if they are not, or if
    /// their use is not to be noted.
    pub(crate) fn cached_bytes_distant(&self, offset: u64, len: usize) -> Option<Bytes> {
        let counts = self.how().advice != Advice::Once;
        // Empty ones may be an error.
        counts.then(|| self.try_bytes(offset, len)).flatten().filter(|bytes| !bytes.is_empty())
    }

    /// Collects the pages of a range of a distant object.
    pub(crate) async fn pieces_distant(
        &self,
        offset: u64,
        len: usize,
        how: How,
    ) -> io::Result<Pieces<'_, S>> {
        let mapping = &*self.opened.mapping;
        let mut sink = OneRange { mapping, offset, len, pieces: begin_range(mapping, offset, len) };
        gather(&self.opened.mapping, how, &[(offset, len)], &mut sink).await?;
        Ok(sink.pieces)
    }

    /// Returns the rest of the page of a distant object around an offset.
    pub(crate) async fn page_of_distant(
        &self,
        offset: u64,
        how: How,
    ) -> io::Result<Option<PageHandle<S>>> {
        let len = FRAME_SIZE - offset as usize % FRAME_SIZE;
        let Some((folio, range)) = self.page_distant(offset, len, how).await? else {
            return Ok(None);
        };
        Ok(Some(short_handle::page_handle(&self.opened.mapping, offset, folio, &range)))
    }

    /// Returns the rest of the page of a distant object around an offset, and waits for it.
    pub(crate) fn page_distant_blocking(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        block_on(self.page_of_distant(offset, self.blocking()))
    }

    /// Returns the page of a distant object around an offset, with the wanted bytes of it.
    async fn page_distant(
        &self,
        offset: u64,
        len: usize,
        how: How,
    ) -> io::Result<Option<(FolioRef<S>, Range<usize>)>> {
        let mut sink = OnePage(None);
        gather(&self.opened.mapping, how, &[(offset, len)], &mut sink).await?;
        Ok(sink.0)
    }

    /// Reads from a distant object into buffers, one after the other.
    pub(crate) fn read_vectored_distant(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let mut at = offset;
        let mut into = Vec::with_capacity(bufs.len());
        for buf in bufs {
            let len = buf.len() as u64;
            into.push(Into::new(buf, at));
            at = at.saturating_add(len);
        }
        block_on(self.read_distant(&mut into, self.blocking()))?;
        let mut done = 0;
        for into in into {
            let wanted = into.wanted();
            match into.finish() {
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
                Ok(read) => {
                    done += read;
                    if read < wanted {
                        break;
                    }
                }
            }
        }
        Ok(done)
    }

    /// Reads what is cached into `buf` from `offset` on. Returns the number of bytes, which is less
    /// than the length of `buf` only at the end of the file. Returns `None` if a page is missing or
    /// in progress, or if the file may have grown. Never waits, and requests nothing.
    pub fn try_read(&self, buf: &mut [u8], offset: u64) -> Option<usize> {
        copy::read_cached(&self.opened.mapping, offset, buf)
    }

    /// Returns up to `len` bytes from `offset` on if all of them are cached: fewer only at the end
    /// of the file. Returns `None` otherwise. Never waits, and requests nothing. Copies as
    /// [`bytes`](Self::bytes) does.
    pub fn try_bytes(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mapping = &*self.opened.mapping;
        let (epoch, end) = (mapping.truncate_seq(), mapping.known_len()?);
        let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let mut piece = begin_bytes(mapping, offset, len);
        let mut walk = Walk::new(offset, len).ok()?;
        while let Some((at, wanted)) = walk.next() {
            let found = walk::next_page_cached(mapping, at, wanted)?;
            if let Some((folio, range)) = walk.pass(mapping, Some(found)) {
                piece.push(folio, range).ok()?;
            }
        }
        let is_same = mapping.is_untruncated(end, epoch) && mapping.known_len().is_some();
        is_same.then(|| piece.finish())
    }
}

/// Returns the offset and the number of bytes of a range. An empty one may begin anywhere.
fn wanted(range: &Range<u64>) -> (u64, usize) {
    match range.end.checked_sub(range.start) {
        None | Some(0) => (0, 0),
        Some(len) => (range.start, usize::try_from(len).unwrap_or(usize::MAX)),
    }
}

/// Takes one page.
struct OnePage<S: Scheme>(Found<S>);

impl<S: Scheme> Sink<S> for OnePage<S> {
    fn begin(&mut self) {
        self.0 = None;
    }

    fn push(&mut self, _: usize, folio: FolioRef<S>, bytes: Range<usize>) -> io::Result<()> {
        self.0 = Some((folio, bytes));
        Ok(())
    }

    fn failed(&mut self, _: usize, error: io::Error) -> io::Result<()> {
        Err(error)
    }
}

/// Takes the pages of one range.
struct OneRange<'f, S: Scheme> {
    mapping: &'f Mapping<S>,
    offset: u64,
    len: usize,
    pieces: Pieces<'f, S>,
}

impl<S: Scheme> Sink<S> for OneRange<'_, S> {
    fn begin(&mut self) {
        self.pieces = begin_range(self.mapping, self.offset, self.len);
    }

    fn push(&mut self, _: usize, folio: FolioRef<S>, bytes: Range<usize>) -> io::Result<()> {
        self.pieces.push(folio, bytes);
        Ok(())
    }

    fn failed(&mut self, _: usize, error: io::Error) -> io::Result<()> {
        Err(error)
    }
}

/// Takes the pages of many ranges.
struct ManyBytes<'f, S: Scheme> {
    mapping: &'f Mapping<S>,
    ranges: &'f [(u64, usize)],
    pieces: Vec<OnePiece<'f, S>>,
}

impl<S: Scheme> Sink<S> for ManyBytes<'_, S> {
    fn begin(&mut self) {
        let begin = |&(offset, len)| begin_bytes(self.mapping, offset, len);
        self.pieces = self.ranges.iter().map(begin).collect();
    }

    fn push(&mut self, range: usize, folio: FolioRef<S>, bytes: Range<usize>) -> io::Result<()> {
        self.pieces[range].push(folio, bytes)
    }

    fn failed(&mut self, _: usize, error: io::Error) -> io::Result<()> {
        Err(error)
    }
}
