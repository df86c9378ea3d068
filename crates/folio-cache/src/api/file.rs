//! An open file.

use std::fmt;
use std::io;
use std::sync::Arc;

use folio_frames::{FRAME_SIZE, FolioRef, Lookup, UserSpace};
use folio_ref::{CHECKS, DefaultScheme, Scheme};

use crate::api::cache::Shared;
use crate::api::open::Opened;
use crate::backing::Backing;
use crate::state::handle::PageHandle;
use crate::state::mapping::{Mapping, page_of};

/// A file, open through the cache. Clones, and other opens of the same file, share its pages.
#[derive(Clone)]
pub struct File<S: Scheme = DefaultScheme> {
    pub(crate) mapping: Arc<Mapping<S>>,
    pub(crate) opened: Arc<Opened<S>>,
}

impl<S: Scheme> File<S> {
    pub(crate) fn new(shared: &Arc<Shared<S>>, backing: Arc<dyn Backing>) -> io::Result<Self> {
        let mapping = Mapping::of(shared, Arc::clone(&backing))?;
        Ok(Self { opened: Arc::new(Opened::new(&mapping, backing)), mapping })
    }

    /// Reads into `buf` from `offset` on. How many bytes: fewer than asked only at the end of the
    /// file, or where the rest can not be read, as the next read will say; 0 at or past the
    /// end.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an offset past `i64::MAX`, `FileTooLarge` for one from 16 TiB on that is
    /// inside the file, `OutOfMemory` when handles pin the whole cache, else what the system
    /// says.
    #[inline]
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.mapping.read_optimistic(offset, buf);
        if read { Ok(buf.len()) } else { self.mapping.read_pages(offset, buf) }
    }

    /// The bytes from `offset` to the end of its page, or of the file, without a copy. `None` at or
    /// past the end.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    #[inline(always)]
    #[cfg_attr(feature = "track", track_caller)]
    pub fn page(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        let page = match self.mapping.whole_page(offset) {
            Some(page) => page,
            None => match self.mapping.page(offset)? {
                Some(page) => page,
                None => return Ok(None),
            },
        };
        Ok(Some(page.taken_here()))
    }

    /// The file's length in bytes, as it was when last looked at.
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks whether the version of the backing (of a file size, mtime and ctime) changed since it
    /// was opened or last revalidated by anybody but this cache, and drops all its pages if so,
    /// but for those that are dirty.
    ///
    /// # Errors
    ///
    /// What the system says; nothing was dropped then.
    pub fn revalidate(&self) -> io::Result<bool> {
        self.mapping.revalidate()
    }

    /// Drops all cached pages of the file that are not dirty. Handles keep theirs.
    ///
    /// In a child that was forked since the cache was made, each read of the file fails from then
    /// on ([After a fork](crate#after-a-fork)).
    pub fn invalidate(&self) {
        self.mapping.invalidate();
    }
}

impl<S: Scheme> fmt::Debug for File<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("backing", &self.mapping.backing)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<S: Scheme> Mapping<S> {
    /// Reads all of `buf` without a reference, if it lies within the file and one page that is in
    /// the cache.
    ///
    /// The hot path: the slot is loaded, the length, the bytes copied, the slot loaded again.
    /// Nothing is written but a mark that is not set.
    ///
    /// The length between the looks at the slot, so it is that of the page: of a file that grows,
    /// the old last page, with zeroes where there are bytes now, leaves before the new length
    /// is there, which the second look sees. Of one that is cut and grows again, a page that
    /// was read again was opened after the shorter length, which a look after the first sees.
    #[inline(always)]
    pub(crate) fn read_optimistic(&self, offset: u64, buf: &mut [u8]) -> bool {
        let within = offset as usize % FRAME_SIZE;
        if buf.len() > FRAME_SIZE - within {
            return false;
        }
        let Ok(page) = u32::try_from(offset / FRAME_SIZE as u64) else { return false };
        let Some(slot) = self.index.get(page) else { return false };
        // Neither is more than 2^44.
        let end = offset + buf.len() as u64;
        let in_file = || end <= self.len();
        let Some(marker) = slot.read(self.mapped.direct_map(), within, buf, in_file) else {
            return false;
        };
        if marker {
            self.read_ahead_of(page);
        }
        if CHECKS && let Lookup::Hit(folio) = slot.get(self.zone) {
            self.check(&folio, page);
        }
        self.shared.counters.hit();
        true
    }

    /// Reads one page after the other.
    #[inline(never)]
    fn read_pages(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            // It lies in the file, so it is no overflow, if it is not the first.
            let at = offset + done as u64;
            let n = (buf.len() - done).min(FRAME_SIZE - at as usize % FRAME_SIZE);
            if !self.read_optimistic(at, &mut buf[done..done + n]) {
                break;
            }
            done += n;
        }
        if done > 0 && done == buf.len() {
            return Ok(done);
        }
        match self.read_slowly(offset + done as u64, &mut buf[done..]) {
            Ok(more) => Ok(done + more),
            Err(_) if done > 0 => Ok(done),
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn read_slowly(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        check_offset(offset)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let n = (buf.len() - done).min(FRAME_SIZE - at as usize % FRAME_SIZE);
            if done > 0 && self.read_optimistic(at, &mut buf[done..done + n]) {
                done += n;
                continue;
            }
            let step = match self.read_in_page(at, &mut buf[done..]) {
                // The end, unless the file grew.
                Ok(0) => self.refresh_len_to_read().map(|len| (len > at).then_some(0)),
                other => other.map(Some),
            };
            match step {
                Ok(Some(n)) => done += n,
                Err(error) if done == 0 => return Err(error),
                Ok(None) | Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Reads up to the end of the page, of the file, or of `buf`. 0: the file ends here.
    fn read_in_page(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let Some((folio, end)) = self.find_with_end(offset, buf.len())? else { return Ok(0) };
        let within = offset as usize % FRAME_SIZE;
        let n = buf.len().min(end - within);
        buf[..n].copy_from_slice(&folio.frame()[within..within + n]);
        Ok(n)
    }

    /// The page around an offset, and where in it the file's bytes end: past the offset. `None`:
    /// the file ends before it. `wanted` bytes are what the caller will ask for: they are read
    /// at once if they are missing.
    pub(crate) fn find_with_end(
        &self,
        offset: u64,
        wanted: usize,
    ) -> io::Result<Option<(FolioRef<UserSpace<S>>, usize)>> {
        loop {
            let truncate_seq = self.truncate_seq();
            let len = self.len();
            if offset >= len {
                return Ok(None);
            }
            let Some(folio) = self.find_or_fill(page_of(offset)?, pages_of(offset, wanted))? else {
                return Ok(None);
            };
            // See `Mapping::truncate_seq`; the folio's bytes do not change any more.
            if self.is_untruncated(len, truncate_seq) {
                let begins = offset - offset % FRAME_SIZE as u64;
                return Ok(Some((folio, (len - begins).min(FRAME_SIZE as u64) as usize)));
            }
        }
    }

    /// The hit, and nothing else: a page that is there, and lies in the file with all of its bytes.
    /// Inlined everywhere, as [`File::page`] is, so that a handle goes through registers,
    /// however many callers there are (docs/machine-code.md, "In a handle").
    #[inline(always)]
    fn whole_page(&self, offset: u64) -> Option<PageHandle<S>> {
        let (truncate_seq, len) = (self.truncate_seq(), self.len());
        let begins = offset - offset % FRAME_SIZE as u64;
        if len.saturating_sub(begins) < FRAME_SIZE as u64 {
            return None;
        }
        let folio = self.find_alone(u32::try_from(offset / FRAME_SIZE as u64).ok()?)?;
        // See `Mapping::truncate_seq`; the folio's bytes do not change any more.
        self.is_untruncated(len, truncate_seq)
            .then(|| PageHandle::new(folio, (offset - begins) as usize, FRAME_SIZE))
    }

    #[cold]
    #[inline(never)]
    fn page(&self, offset: u64) -> io::Result<Option<PageHandle<S>>> {
        let mut page = None;
        self.for_each_page(offset, FRAME_SIZE - offset as usize % FRAME_SIZE, |folio, range| {
            page = Some(PageHandle::new(folio, range.start, range.end));
        })?;
        Ok(page)
    }
}

/// The pages that some bytes lie in.
pub(crate) fn pages_of(offset: u64, len: usize) -> u32 {
    let end = (offset % FRAME_SIZE as u64).saturating_add(len as u64);
    u32::try_from(end.div_ceil(FRAME_SIZE as u64)).unwrap_or(u32::MAX)
}

pub(crate) fn check_offset(offset: u64) -> io::Result<()> {
    if i64::try_from(offset).is_ok() {
        return Ok(());
    }
    let message = format!("offset {offset} is more than any file's, {} at the most", i64::MAX);
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
