//! The pages of a range, one after the other.

use std::io;
use std::mem;
use std::ops::Range;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::coherence::refresh;
use crate::memory::large_folio;
use crate::policy::Advice;
use crate::read::lookup;
use crate::read::prefetch;
use crate::state::frames::{FolioRef, Slot};
use crate::state::mapping::Mapping;
use crate::state::units::{Found, check_offset, page_of, pages_of};

/// The position in a range of pages. The caller looks each page up: a thread that waits, or a
/// future.
pub(crate) struct Walk {
    offset: u64,
    left: usize,
    /// The range is one page. If that page lies in a large folio, a long-lived handle should not
    /// pin the whole folio: then the page is looked up a second time.
    is_alone: bool,
}

impl Walk {
    /// Returns a walk over `len` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an offset past the maximum file offset.
    pub(crate) fn new(offset: u64, len: usize) -> io::Result<Self> {
        check_offset(offset)?;
        Ok(Self { offset, left: len, is_alone: pages_of(offset, len) == 1 })
    }

    /// Returns what to look up next: an offset, and the number of bytes wanted from there on.
    /// Returns `None` at the end of the range.
    pub(crate) fn next(&self) -> Option<(u64, usize)> {
        (self.left > 0).then_some((self.offset, self.left))
    }

    /// Moves past the page that was found at the offset of [`next`](Self::next). Returns a folio
    /// and the bytes of it that belong to the range, counted from the frame by which it was looked
    /// up. Returns `None` if the caller has to look at what is next.
    #[inline]
    pub(crate) fn pass<S: Scheme>(
        &mut self,
        mapping: &Mapping<S>,
        mut found: Found<S>,
    ) -> Found<S> {
        if mem::take(&mut self.is_alone) {
            if !large_folio::split_if_subpage(mapping, self.offset, &mut found) {
                self.left = 0;
            }
            return found;
        }
        let Some(found) = found else {
            self.left = 0;
            return None;
        };
        let (folio, range) = extend_over_folio(mapping, self.offset, self.left, found);
        self.offset += range.len() as u64;
        // The wanted range or the file ends in the middle of a page.
        self.left = if range.end.is_multiple_of(FRAME_SIZE) { self.left - range.len() } else { 0 };
        Some((folio, range))
    }
}

/// Extends a page that was found over the pages behind it that are wanted, lie in its folio, and
/// lie wholly in the file. Returns the folio and the bytes of it, counted from the page on.
pub(crate) fn extend_over_folio<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
    (folio, range): (FolioRef<S>, Range<usize>),
) -> (FolioRef<S>, Range<usize>) {
    if range.len() >= wanted || range.end < FRAME_SIZE {
        return (folio, range);
    }
    let behind = folio.frames_behind();
    if behind == 0 {
        return (folio, range);
    }
    let (truncate_seq, len) = (mapping.truncate_seq(), mapping.len());
    let page = offset / FRAME_SIZE as u64;
    let in_file = (len / FRAME_SIZE as u64).saturating_sub(page + 1);
    let more = (wanted - range.len()).div_ceil(FRAME_SIZE) as u64;
    let max = more.min(in_file).min(u64::from(behind)) as u32;
    let there = count_behind(mapping, &folio, page as u32, max);
    if !mapping.is_untruncated(len, truncate_seq) {
        return (folio, range);
    }
    if let Some(n) = folio.set_referenced_behind(there) {
        prefetch::read_ahead_at_marker(mapping, page as u32 + n);
    }
    mapping.hit(u64::from(there));
    if mapping.is_recorded() {
        (1..=there).for_each(|n| mapping.record(page as u32 + n));
    }
    let end = range.end + (there as usize * FRAME_SIZE).min(wanted - range.len());
    (folio, range.start..end)
}

/// Returns how many of the `max` pages behind a page have the next frames of the page's folio.
///
/// The folio is pinned: it is not split, and its bytes do not change. So if the slot of a page has
/// its frame, that frame has the bytes of the page.
fn count_behind<S: Scheme>(mapping: &Mapping<S>, folio: &FolioRef<S>, page: u32, max: u32) -> u32 {
    let mut there = 0;
    while there < max {
        let Some(next) = page.checked_add(there + 1) else { break };
        let slots = mapping.index.slots_from(next, (max - there) as usize);
        let found = Slot::count_following(slots, folio, there + 1);
        there += found as u32;
        // No slot, or the end of those that lie together.
        if found == 0 || found < slots.len() {
            break;
        }
    }
    there
}

/// Calls `each` with the folios of a range in order, and with the bytes of each that belong to the
/// range: see [`Walk::pass`].
///
/// # Errors
///
/// `InvalidInput` for an offset past the maximum file offset, otherwise what a fill or `each`
/// returns.
pub(crate) fn for_each_page<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    len: usize,
    advice: Advice,
    mut each: impl FnMut(FolioRef<S>, Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut walk = Walk::new(offset, len)?;
    while let Some((offset, wanted)) = walk.next() {
        let found = next_page(mapping, offset, wanted, advice)?;
        if let Some((folio, range)) = walk.pass(mapping, found) {
            each(folio, range)?;
        }
    }
    Ok(())
}

/// The number of looks at the length for one page. Each may find another length, if others change
/// the file or the backing says anything: then the file ends where the last look found its end.
pub(crate) const MAX_LOOKS: u32 = 16;

/// Returns the page around an offset, and which of its bytes are among the `wanted` from there on.
/// Returns `None` if the file ends before the offset.
///
/// # Errors
///
/// `FileTooLarge` from 16 TiB on, otherwise what a fill returns.
pub(crate) fn next_page<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
    advice: Advice,
) -> io::Result<Found<S>> {
    let mut looks = 0;
    loop {
        looks += 1;
        match lookup::find_with_end(mapping, offset, wanted, advice)? {
            Some((folio, end)) => {
                let range = within(offset, wanted, end);
                // Cut short by the end of the file, which may have grown or shrunk by now.
                if !is_short(&range, wanted, end)
                    || refresh::refresh_len_to_read(mapping)? == offset + range.len() as u64
                    || looks == MAX_LOOKS
                {
                    return Ok(Some((folio, range)));
                }
            }
            None if refresh::refresh_len_to_read(mapping)? <= offset || looks == MAX_LOOKS => {
                return Ok(None);
            }
            None => {}
        }
    }
}

/// Returns the page around an offset, and which of its bytes are wanted, without waiting. Returns
/// `None` if the answer needs a wait.
pub(crate) fn next_page_at_once<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
) -> Found<S> {
    // In this order, as in read_optimistic.
    let truncate_seq = mapping.truncate_seq();
    let len = mapping.len();
    let end = len.checked_sub(offset - offset % FRAME_SIZE as u64)?.min(FRAME_SIZE as u64) as usize;
    let range = within(offset, wanted, end);
    if range.is_empty() || is_short(&range, wanted, end) {
        return None;
    }
    let folio = lookup::find(mapping, page_of(offset).ok()?)?;
    mapping.is_untruncated(len, truncate_seq).then_some((folio, range))
}

/// Returns the page around an offset if it is cached, and which of its bytes are wanted. Unlike
/// [`next_page_at_once`], takes the length that is known for the end of the file.
pub(crate) fn next_page_cached<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
) -> Found<S> {
    let range = known_bytes(mapping, offset, wanted)?;
    Some((lookup::find(mapping, page_of(offset).ok()?)?, range))
}

/// Returns the bytes of the page around an offset that are wanted and lie in the file, if its
/// length is known and there are any.
pub(crate) fn known_bytes<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    wanted: usize,
) -> Option<Range<usize>> {
    bytes_before(mapping.known_len()?, offset, wanted)
}

/// Returns the bytes of the page around an offset that are wanted and lie before the end of the
/// file, if there are any.
pub(crate) fn bytes_before(len: u64, offset: u64, wanted: usize) -> Option<Range<usize>> {
    let end = len.checked_sub(offset - offset % FRAME_SIZE as u64)?;
    let range = within(offset, wanted, end.min(FRAME_SIZE as u64) as usize);
    (!range.is_empty()).then_some(range)
}

/// Returns the bytes of the page around an offset that are among the `wanted` from there on, if the
/// file's bytes in the page end at `end`.
fn within(offset: u64, wanted: usize, end: usize) -> Range<usize> {
    let begins = offset as usize % FRAME_SIZE;
    begins..end.max(begins).min(begins.saturating_add(wanted))
}

/// Returns `true` if the range is shorter than wanted because the file ends there.
fn is_short(range: &Range<usize>, wanted: usize, end: usize) -> bool {
    range.len() < wanted && end < FRAME_SIZE
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::testing::Memory;
    use crate::{Cache, File};

    use super::*;

    const PAGE: u64 = FRAME_SIZE as u64;

    /// Returns a file of which all bytes were read by one request.
    fn read(bytes: usize) -> File {
        let cache: Cache = Cache::new(4 << 20).unwrap();
        let file = cache.open_backing(Arc::new(Memory::new(&vec![7; bytes]))).unwrap();
        assert_eq!(file.read_at(&mut vec![0; bytes], 0).unwrap(), bytes);
        file
    }

    /// Returns the bytes that one reference covers of the `wanted` from `offset` on.
    fn range_of_one_reference(file: &File, offset: u64, wanted: usize) -> Range<usize> {
        let found =
            next_page(&file.opened.mapping, offset, wanted, Advice::Normal).unwrap().unwrap();
        extend_over_folio(&file.opened.mapping, offset, wanted, found).1
    }

    #[test]
    fn one_reference_covers_the_wanted_bytes_of_its_folio() {
        let file = read(15 * FRAME_SIZE + 50);
        assert_eq!(range_of_one_reference(&file, PAGE + 7, 5 * FRAME_SIZE), 7..7 + 5 * FRAME_SIZE);
        assert_eq!(range_of_one_reference(&file, PAGE + 7, FRAME_SIZE - 7), 7..FRAME_SIZE);
        assert_eq!(range_of_one_reference(&file, PAGE + 7, FRAME_SIZE - 6), 7..FRAME_SIZE + 1);
        assert_eq!(range_of_one_reference(&file, 3 * PAGE, 100), 0..100);
        // The last page is not a whole one.
        assert_eq!(range_of_one_reference(&file, 0, 16 * FRAME_SIZE), 0..15 * FRAME_SIZE);
        assert_eq!(range_of_one_reference(&file, 15 * PAGE, 10), 0..10);
        assert_eq!(range_of_one_reference(&file, 15 * PAGE, 2 * FRAME_SIZE), 0..50);
    }

    #[test]
    fn one_reference_stops_at_a_page_that_left_the_folio() {
        let file = read(20 * FRAME_SIZE);
        assert_eq!(range_of_one_reference(&file, 14 * PAGE, 6 * FRAME_SIZE), 0..2 * FRAME_SIZE);
        // A folio of 16 KiB, the smallest.
        assert_eq!(range_of_one_reference(&file, 16 * PAGE, 6 * FRAME_SIZE), 0..4 * FRAME_SIZE);
        let handle = file.range(0, 16 * FRAME_SIZE).unwrap();
        file.write_at(&[9], 5 * PAGE).unwrap();
        assert_eq!(range_of_one_reference(&file, PAGE, 10 * FRAME_SIZE), 0..4 * FRAME_SIZE);
        assert_eq!(range_of_one_reference(&file, 6 * PAGE, 10 * FRAME_SIZE), 0..10 * FRAME_SIZE);
        drop(handle);
    }
}
