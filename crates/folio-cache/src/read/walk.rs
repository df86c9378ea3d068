//! The pages of a range, one after the other.

use std::io;
use std::mem;
use std::ops::Range;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;
use crate::state::units::{Found, check_offset, page_of, pages_of};

/// The way through the pages of a range, whoever looks them up: who waits, or a future.
pub(crate) struct Walk {
    offset: u64,
    left: usize,
    /// The range is one page, perhaps of a large folio, which its holder should not hold with it:
    /// then it is looked up a second time.
    is_alone: bool,
}

impl Walk {
    /// # Errors
    ///
    /// `InvalidInput` for an offset past any file's.
    pub(crate) fn new(offset: u64, len: usize) -> io::Result<Self> {
        check_offset(offset)?;
        Ok(Self { offset, left: len, is_alone: pages_of(offset, len) == 1 })
    }

    /// What is to be looked up next: an offset, and how many bytes are wanted from there on.
    pub(crate) fn next(&self) -> Option<(u64, usize)> {
        (self.left > 0).then_some((self.offset, self.left))
    }

    /// Goes on by what was found there: a folio, and which of its bytes belong to the range, from
    /// the frame on that it was looked up by. `None`: look at what is next.
    #[inline]
    pub(crate) fn pass<S: Scheme>(
        &mut self,
        mapping: &Mapping<S>,
        mut found: Found<S>,
    ) -> Found<S> {
        if mem::take(&mut self.is_alone) {
            if !mapping.was_part(self.offset, &mut found) {
                self.left = 0;
            }
            return found;
        }
        let Some(found) = found else {
            self.left = 0;
            return None;
        };
        let (folio, range) = mapping.with_parts_behind(self.offset, self.left, found);
        self.offset += range.len() as u64;
        // In the middle of a page ends what is wanted, or the file.
        self.left = if range.end.is_multiple_of(FRAME_SIZE) { self.left - range.len() } else { 0 };
        Some((folio, range))
    }
}

impl<S: Scheme> Mapping<S> {
    /// Calls `each` with the folios of a range in order, and with the bytes of each that belong to
    /// it: see [`Walk::pass`].
    pub(crate) fn for_each_page(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(FolioRef<S>, Range<usize>),
    ) -> io::Result<()> {
        let mut walk = Walk::new(offset, len)?;
        while let Some((offset, wanted)) = walk.next() {
            if let Some((folio, range)) = walk.pass(self, self.next_page(offset, wanted)?) {
                each(folio, range);
            }
        }
        Ok(())
    }

    /// The page around an offset, and which of its bytes are among the `wanted` from there on.
    /// `None`: the file ends before it.
    pub(crate) fn next_page(&self, offset: u64, wanted: usize) -> io::Result<Found<S>> {
        loop {
            match self.find_with_end(offset, wanted)? {
                Some((folio, end)) => {
                    let range = within(offset, wanted, end);
                    // Cut short by the end of the file: it may have grown, or be shorter by now.
                    if !is_short(&range, wanted, end)
                        || self.refresh_len_to_read()? == offset + range.len() as u64
                    {
                        return Ok(Some((folio, range)));
                    }
                }
                None if self.refresh_len_to_read()? <= offset => return Ok(None),
                None => {}
            }
        }
    }

    /// The page around an offset, and which of its bytes are wanted, without waiting for anything.
    /// `None`: it can not be said at once.
    pub(crate) fn next_page_at_once(&self, offset: u64, wanted: usize) -> Found<S> {
        // As in read_uncounted.
        let truncate_seq = self.truncate_seq();
        let len = self.len();
        let end =
            len.checked_sub(offset - offset % FRAME_SIZE as u64)?.min(FRAME_SIZE as u64) as usize;
        let range = within(offset, wanted, end);
        if range.is_empty() || is_short(&range, wanted, end) {
            return None;
        }
        let folio = self.find(page_of(offset).ok()?)?;
        self.is_untruncated(len, truncate_seq).then_some((folio, range))
    }
}

/// The bytes of the page around an offset that are among the `wanted` from there on, when the
/// file's bytes in it end at `end`.
fn within(offset: u64, wanted: usize, end: usize) -> Range<usize> {
    let begins = offset as usize % FRAME_SIZE;
    begins..end.max(begins).min(begins.saturating_add(wanted))
}

/// Whether the end of the file is why there are fewer than are wanted.
fn is_short(range: &Range<usize>, wanted: usize, end: usize) -> bool {
    range.len() < wanted && end < FRAME_SIZE
}
