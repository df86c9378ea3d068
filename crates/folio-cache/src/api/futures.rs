//! Reads as futures, for any executor.
//!
//! What is in the cache is there at the first poll. What is not is fetched by the threads that read
//! ahead, which wake the future: it needs no runtime, and no thread of it waits. A future may be
//! dropped at any time: what was begun for it ends and stays in the cache like any other page.
//!
//! Where a backing has many requests under way at once, as a local file does where there is
//! `io_uring`, what many futures miss goes to it in few calls: 256 futures that one thread polls
//! keep a disk as busy as a bare ring does (`folio bench disk`: 1.07 of it on two quiet CPUs, 0.84
//! to 0.87 beside other work on both); a `pread` by a thread for each reached 0.49 to 0.65 there.
//! With a few dozen futures the two are alike.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::api::file::File;
use crate::api::range;
use crate::api::range::RangeHandle;
use crate::read::async_miss::Progress;
use crate::read::copy;
use crate::read::walk::Walk;
use crate::state::frames::FolioRef;
use crate::state::handle::PageHandle;

impl<S: Scheme> File<S> {
    /// As [`read_at`](Self::read_at), without blocking. When it is dropped before its end, any part
    /// of `buf` may be written.
    ///
    /// # Errors
    ///
    /// As `read_at`.
    pub async fn read_at_async(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if copy::read_optimistic(&self.mapping, offset, buf) {
            return Ok(buf.len());
        }
        let mut done = 0;
        let read = self.for_each_page_async(offset, buf.len(), |folio, range| {
            buf[done..done + range.len()]
                .copy_from_slice(&folio.as_slice_from_frame()[range.clone()]);
            done += range.len();
        });
        // What was read counts, and the next read says the error.
        match read.await {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// As [`page`](Self::page), without blocking.
    ///
    /// # Errors
    ///
    /// As `page`.
    pub async fn page_async(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        let mut page = None;
        self.for_each_page_async(
            offset,
            FRAME_SIZE - offset as usize % FRAME_SIZE,
            |folio, range| {
                page = Some(PageHandle::new(folio, range.start, range.end));
            },
        )
        .await?;
        Ok(page)
    }

    /// As [`range`](Self::range), without blocking.
    ///
    /// # Errors
    ///
    /// As `range`.
    pub async fn range_async(&self, offset: u64, len: usize) -> io::Result<RangeHandle<S>> {
        let mut pieces = range::begin_range(&self.mapping, offset, len);
        self.for_each_page_async(offset, len, |folio, range| pieces.push(folio, range)).await?;
        Ok(pieces.finish())
    }

    /// As [`bytes`](Self::bytes), without blocking.
    ///
    /// # Errors
    ///
    /// As `bytes`.
    pub async fn bytes_async(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut piece = range::begin_bytes(&self.mapping, offset, len);
        self.for_each_page_async(offset, len, |folio, range| piece.push(folio, range)).await?;
        Ok(piece.finish())
    }

    /// Calls `each` with the folios of a range in order, as the synchronous one does.
    async fn for_each_page_async(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(FolioRef<S>, Range<usize>),
    ) -> io::Result<()> {
        let (mut walk, mut progress) = (Walk::new(offset, len)?, Progress::new());
        while let Some((offset, wanted)) = walk.next() {
            if let Some((folio, range)) =
                walk.pass(&self.mapping, progress.page(&self.mapping, offset, wanted).await?)
            {
                each(folio, range);
            }
        }
        Ok(())
    }
}
