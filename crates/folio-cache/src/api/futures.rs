//! Reads as futures, for any executor.
//!
//! A hit is ready at the first poll, except for one in about 500: then other tasks run first. The
//! threads of the cache that read ahead also fetch misses, and wake the future: it needs no
//! runtime, and blocks none of its threads. A future may be dropped at any time: a fetch that was
//! begun for it completes, and its pages stay in the cache. A request to a distant store is
//! cancelled instead.
//!
//! A backing may handle many requests at once, as a local file does through `io_uring`. Then the
//! misses of many futures go to it in few calls: 256 futures polled by one thread keep a disk as
//! busy as a bare ring does (`folio bench disk`: 1.07 of it on two quiet CPUs, 0.84 to 0.87 beside
//! other work on both). A `pread` by a thread for each future reached 0.49 to 0.65 there. With a
//! few dozen futures the two are alike.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::api::file::File;
use crate::api::range;
use crate::api::range::RangeHandle;
use crate::memory::short_handle;
use crate::read::async_miss::Progress;
use crate::read::copy;
use crate::read::walk::Walk;
use crate::rt::coop;
use crate::state::frames::FolioRef;
use crate::state::handle::PageHandle;

impl<S: Scheme> File<S> {
    /// Reads into `buf` from `offset` on, without blocking. Returns the number of bytes read: 0 at
    /// or past the end of the file. If it is dropped before its end, any part of `buf` may be
    /// written.
    ///
    /// A short count means the end of the file, or an error part-way that the next read returns.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted: all are pinned, or dirty and cannot be written.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub async fn read_at_async(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if copy::read_optimistic(&self.opened.mapping, offset, buf) {
            coop::passed().await;
            return Ok(buf.len());
        }
        if self.is_distant() {
            return self.read_at_distant(buf, offset, self.how()).await;
        }
        let mut done = 0;
        let read = self.for_each_page_async(offset, buf.len(), |folio, range| {
            buf[done..done + range.len()]
                .copy_from_slice(&folio.as_slice_from_frame()[range.clone()]);
            done += range.len();
            Ok(())
        });
        // A short count: the next read returns the error.
        match read.await {
            Err(error) if done == 0 => Err(error),
            _ => Ok(done),
        }
    }

    /// Returns the bytes from `offset` to the end of its page or of the file, without blocking.
    /// Returns `None` at or past the end. Copies as [`page`](Self::page) does.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted: all are pinned, or dirty and cannot be written.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub async fn page_async(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        if self.is_distant() {
            return self.page_of_distant(offset, self.how()).await;
        }
        let mut page = None;
        self.for_each_page_async(
            offset,
            FRAME_SIZE - offset as usize % FRAME_SIZE,
            |folio, range| {
                page = Some(short_handle::page_handle(&self.opened.mapping, offset, folio, &range));
                Ok(())
            },
        )
        .await?;
        Ok(page)
    }

    /// Returns up to `len` bytes from `offset` on, without blocking: fewer only at the end of the
    /// file. Copies as [`range`](Self::range) does.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted, or the range is longer than what can be pinned.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub async fn range_async(&self, offset: u64, len: usize) -> io::Result<RangeHandle<S>> {
        if self.is_distant() {
            return Ok(self.pieces_distant(offset, len, self.how()).await?.finish());
        }
        let mut pieces = range::begin_range(&self.opened.mapping, offset, len);
        self.for_each_page_async(offset, len, |folio, range| {
            pieces.push(folio, range);
            Ok(())
        })
        .await?;
        Ok(pieces.finish())
    }

    /// Returns up to `len` bytes from `offset` on in one piece, without blocking: fewer only at the
    /// end of the file. Copies as [`bytes`](Self::bytes) does.
    ///
    /// # Errors
    ///
    /// - `InvalidInput` if the offset exceeds `i64::MAX`.
    /// - `FileTooLarge` if it is 16 TiB or more, and inside the file.
    /// - `OutOfMemory` if no page can be evicted, or no memory is left for a copy.
    /// - `Unsupported` on a miss in a child forked after the cache was built.
    /// - Otherwise the error of the backing.
    pub async fn bytes_async(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.is_distant() {
            if let Some(bytes) = self.cached_bytes_distant(offset, len) {
                coop::passed().await;
                return Ok(bytes);
            }
            let bytes = self.bytes_distant(&[(offset, len)], self.how()).await?;
            return Ok(bytes.into_iter().next().unwrap_or_default());
        }
        let mut piece = range::begin_bytes(&self.opened.mapping, offset, len);
        self.for_each_page_async(offset, len, |folio, range| piece.push(folio, range)).await?;
        Ok(piece.finish())
    }

    /// Calls `each` with the folios of a range in order, as `walk::for_each_page`.
    async fn for_each_page_async(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(FolioRef<S>, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        coop::passed().await;
        let (mut walk, mut progress) = (Walk::new(offset, len)?, Progress::new());
        while let Some((offset, wanted)) = walk.next() {
            let found = progress.page(&self.opened.mapping, offset, wanted, self.advice).await?;
            if let Some((folio, range)) = walk.pass(&self.opened.mapping, found) {
                each(folio, range)?;
            }
        }
        self.passed(offset, len);
        Ok(())
    }
}
