//! Many reads by one call: one thread keeps a disk busy.

use std::io;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::api::distant::Into;
use crate::api::file::File;
use crate::backing::error::copy;
use crate::read::batch;
use crate::rt::block_on::block_on;
use crate::state::units::{MOST_PAGES, page_of, pages_of};

/// The share of a cache's memory that the misses of one call may have in flight: one part in so
/// many.
const SHARE: usize = 8;

/// One read of [`File::read_many`]: buffer, offset, and result.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use folio_cache::{Cache, ReadRequest, testing::Memory};
///
/// # fn main() -> std::io::Result<()> {
/// let cache = Cache::new(4 << 20)?;
/// let file = cache.open_backing(Arc::new(Memory::new(&[7; 1 << 20])))?;
/// let mut bufs = [[0; 512]; 100];
/// let mut reads: Vec<ReadRequest<'_>> = (0..).step_by(8192).zip(&mut bufs)
///     .map(|(offset, buf)| ReadRequest::new(buf, offset))
///     .collect();
/// file.read_many(&mut reads);
/// for read in reads {
///     assert_eq!(read.result?, 512);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct ReadRequest<'b> {
    /// The buffer to fill.
    pub buf: &'b mut [u8],
    /// The offset in the file.
    pub offset: u64,
    /// The number of bytes read, or the error, as [`File::read_at`] returns it. `Ok(0)` before.
    pub result: io::Result<usize>,
}

impl<'b> ReadRequest<'b> {
    /// Returns a read that has not been made yet.
    pub fn new(buf: &'b mut [u8], offset: u64) -> Self {
        Self { buf, offset, result: Ok(0) }
    }
}

/// A read of missing pages.
struct Missing<'r, 'b> {
    read: &'r mut ReadRequest<'b>,
    page: u32,
    pages: u32,
    /// The truncation count and the length before the fill: see `read_optimistic`.
    truncate_seq: u64,
    len: u64,
}

impl<S: Scheme> File<S> {
    /// Makes many reads, and sets the result of each. Returns when all have one.
    ///
    /// Cached pages are copied. The missing pages of many reads are requested at once
    /// ([`Backing::fill_all`](crate::Backing::fill_all)), up to an eighth of the capacity at a
    /// time; [`read_at`](Self::read_at) waits for one read after the other. A local file is read
    /// through `io_uring` if the system allows it. Nothing is read ahead, except for a read of more
    /// than 1 MiB, or of an eighth of the capacity: it is made alone, as `read_at` makes it. To
    /// keep a disk busy throughout, pass a few hundred reads.
    pub fn read_many(&self, reads: &mut [ReadRequest<'_>]) {
        if self.is_distant() {
            return self.read_many_distant(reads);
        }
        let mapping = &*self.opened.mapping;
        // Without memory, all wait for it once.
        let _call = mapping.shared.searches.scope(None);
        let most = (mapping.shared.capacity() / FRAME_SIZE / SHARE) as u32;
        let mut missing = Vec::new();
        let mut pages = 0;
        for read in reads {
            let (truncate_seq, len) = (mapping.truncate_seq(), mapping.len());
            let wanted = pages_of(read.offset, read.buf.len());
            match page_of(read.offset) {
                // The page is cached, or in progress.
                Ok(page) if mapping.index.get(page).is_some_and(|slot| !slot.is_empty()) => {
                    read.result = self.read_at(read.buf, read.offset);
                }
                Ok(page) if read.offset < len && (1..=MOST_PAGES.min(most)).contains(&wanted) => {
                    pages += wanted;
                    missing.push(Missing { read, page, pages: wanted, truncate_seq, len });
                    if pages >= most {
                        self.fill_many(&mut missing);
                        pages = 0;
                    }
                }
                _ => read.result = self.read_at(read.buf, read.offset),
            }
        }
        self.fill_many(&mut missing);
    }

    fn read_many_distant(&self, reads: &mut [ReadRequest<'_>]) {
        let mut into: Vec<_> =
            reads.iter_mut().map(|read| Into::new(read.buf, read.offset)).collect();
        let done = block_on(self.read_distant(&mut into, self.blocking()));
        let results: Vec<_> = into.into_iter().map(Into::finish).collect();
        for (read, result) in reads.iter_mut().zip(results) {
            read.result = match &done {
                Ok(()) => result,
                Err(error) => Err(copy(error)),
            };
        }
    }

    fn fill_many(&self, missing: &mut Vec<Missing<'_, '_>>) {
        let mapping = &*self.opened.mapping;
        let wanted: Vec<_> = missing.iter().map(|missing| (missing.page, missing.pages)).collect();
        let first_pages = batch::fill_many(mapping, &wanted, self.advice);
        for (missing, page) in missing.drain(..).zip(first_pages) {
            let Missing { read, truncate_seq, len, .. } = missing;
            let within = read.offset as usize % FRAME_SIZE;
            let end = within + read.buf.len();
            read.result = match page {
                Some(page)
                    if end <= FRAME_SIZE
                        && read.buf.len() as u64 <= len - read.offset
                        && mapping.is_untruncated(len, truncate_seq) =>
                {
                    mapping.record((read.offset / FRAME_SIZE as u64) as u32);
                    read.buf.copy_from_slice(&page.frame()[within..end]);
                    Ok(read.buf.len())
                }
                // It spans several pages, or the end of the file, or another thread filled its
                // page, or the fill failed.
                _ => self.read_at(read.buf, read.offset),
            };
        }
    }
}
