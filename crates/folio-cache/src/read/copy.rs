//! Bytes out of pages: by an optimistic read, with a reference, and page by page.

use std::io;

use folio_frames::{FRAME_SIZE, Lookup};
use folio_ref::{CHECKS, Scheme};

use crate::coherence::refresh;
use crate::memory::short_handle;
use crate::policy::Advice;
use crate::read::lookup;
use crate::read::prefetch;
use crate::read::walk;
use crate::state::handle::PageHandle;
use crate::state::mapping::Mapping;
use crate::state::units::check_offset;

/// Reads all of `buf` without a reference. Returns `true` if the bytes lie within the file and
/// within one page that is in the cache.
///
/// The hot path: load the slot, load the length, copy the bytes, load the slot again. Nothing is
/// written except a referenced bit that is not set.
///
/// The length is loaded between the two loads of the slot, so it belongs to the page:
///
/// - When a file grows, its old last page has zeroes where there are bytes now. That page leaves
///   before the new length is stored, and the second load of the slot sees that.
/// - When a file is truncated and grows again, a page that was read again was published after the
///   shorter length was stored. A load of the length after the first load of the slot sees that.
#[inline(always)]
pub(crate) fn read_optimistic<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    buf: &mut [u8],
) -> bool {
    let within = offset as usize % FRAME_SIZE;
    // A use is recorded where a reference is taken: here that would cost each hit registers.
    if buf.len() > FRAME_SIZE - within || mapping.is_recorded() {
        return false;
    }
    let Ok(page) = u32::try_from(offset / FRAME_SIZE as u64) else { return false };
    let Some(slot) = mapping.index.get(page) else { return false };
    // Both are at most 2^44.
    let end = offset + buf.len() as u64;
    let in_file = || end <= mapping.len();
    let Some(marker) = slot.read(mapping.mapped.direct_map(), within, buf, in_file) else {
        return false;
    };
    if marker {
        prefetch::read_ahead_at_marker(mapping, page);
    }
    if CHECKS && let Lookup::Hit(folio) = slot.get(mapping.zone()) {
        lookup::check(mapping, &folio, page);
    }
    mapping.hit(1);
    true
}

/// Reads one page after the other, after an optimistic read of all failed. Returns the number of
/// bytes read.
#[inline(never)]
pub(crate) fn read_pages<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    buf: &mut [u8],
    advice: Advice,
) -> io::Result<usize> {
    let within = offset as usize % FRAME_SIZE;
    if buf.len() <= FRAME_SIZE - within {
        return read_slowly(mapping, offset, buf, advice);
    }
    let mut done = 0;
    while done < buf.len() {
        // If this is not the first page, it lies in the file, so the sum does not overflow.
        let at = offset + done as u64;
        let n = (buf.len() - done).min(FRAME_SIZE - at as usize % FRAME_SIZE);
        if !read_optimistic(mapping, at, &mut buf[done..done + n]) {
            break;
        }
        done += n;
    }
    if done == buf.len() {
        return Ok(done);
    }
    match read_slowly(mapping, offset + done as u64, &mut buf[done..], advice) {
        Ok(more) => Ok(done + more),
        Err(_) if done > 0 => Ok(done),
        Err(error) => Err(error),
    }
}

/// Reads what is cached. Returns the number of bytes, which is less than the length of `buf` only
/// at the end of the file. Returns `None` if a page is missing, or the file may have grown. Of a
/// distant object, all bytes are of one version.
pub(crate) fn read_cached<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    buf: &mut [u8],
) -> Option<usize> {
    check_offset(offset).ok()?;
    let (epoch, len) = (mapping.truncate_seq(), mapping.known_len()?);
    let in_file = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let wanted = buf.len().min(in_file);
    let mut done = 0;
    while done < wanted {
        let at = offset + done as u64;
        let n = (wanted - done).min(FRAME_SIZE - at as usize % FRAME_SIZE);
        let buf = &mut buf[done..done + n];
        let is_read = read_optimistic(mapping, at, buf)
            || (mapping.is_recorded() && read_referenced(mapping, at, buf));
        if !is_read {
            return None;
        }
        done += n;
    }
    // The loads that follow come after the copies: each ends with an Acquire fence. A copy with a
    // reference needs them only after its lookup, which adds with Acquire: the bytes stay.
    let is_same = mapping.is_untruncated(len, epoch) && mapping.known_len() == Some(len);
    is_same.then_some(done)
}

/// Reads all of `buf` with a reference. Returns `false` if the page is not in the cache. Call with
/// bytes of one page that lie in the file.
#[cold]
fn read_referenced<S: Scheme>(mapping: &Mapping<S>, offset: u64, buf: &mut [u8]) -> bool {
    let Ok(page) = u32::try_from(offset / FRAME_SIZE as u64) else { return false };
    let Some(folio) = lookup::find(mapping, page) else { return false };
    let within = offset as usize % FRAME_SIZE;
    buf.copy_from_slice(&folio.frame()[within..within + buf.len()]);
    true
}

#[cold]
fn read_slowly<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    buf: &mut [u8],
    advice: Advice,
) -> io::Result<usize> {
    check_offset(offset)?;
    let (mut done, mut looks) = (0, 0);
    while done < buf.len() {
        let at = offset + done as u64;
        let n = (buf.len() - done).min(FRAME_SIZE - at as usize % FRAME_SIZE);
        if done > 0 && read_optimistic(mapping, at, &mut buf[done..done + n]) {
            done += n;
            continue;
        }
        let step = match read_in_page(mapping, at, &mut buf[done..], advice) {
            // The file ends here, unless it has grown.
            Ok(0) => {
                looks += 1;
                let has_more = |len| len > at && looks < walk::MAX_LOOKS;
                refresh::refresh_len_to_read(mapping).map(|len| has_more(len).then_some(0))
            }
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

/// Reads up to the end of the page, of the file, or of `buf`. Returns the number of bytes read,
/// which is 0 if the file ends here.
fn read_in_page<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    buf: &mut [u8],
    advice: Advice,
) -> io::Result<usize> {
    let Some((folio, end)) = lookup::find_with_end(mapping, offset, buf.len(), advice)? else {
        return Ok(0);
    };
    let within = offset as usize % FRAME_SIZE;
    let n = buf.len().min(end - within);
    buf[..n].copy_from_slice(&folio.frame()[within..within + n]);
    Ok(n)
}

/// Returns a page that is in the cache and of which all bytes lie in the file: the hit, and nothing
/// else. Inlined everywhere, like `File::page`, so that a handle goes through registers, however
/// many callers there are (results/machine-code.md, "In a handle").
#[inline(always)]
pub(crate) fn whole_page<S: Scheme>(mapping: &Mapping<S>, offset: u64) -> Option<PageHandle<S>> {
    let (truncate_seq, len) = (mapping.truncate_seq(), mapping.len());
    let begins = offset - offset % FRAME_SIZE as u64;
    if len.saturating_sub(begins) < FRAME_SIZE as u64 {
        return None;
    }
    let folio = lookup::find_alone(mapping, u32::try_from(offset / FRAME_SIZE as u64).ok()?)?;
    // See `Mapping::truncate_seq`. The bytes of the folio no longer change.
    mapping
        .is_untruncated(len, truncate_seq)
        .then(|| PageHandle::new(folio, (offset - begins) as usize, FRAME_SIZE))
}

#[cold]
#[inline(never)]
pub(crate) fn page<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    advice: Advice,
) -> io::Result<Option<PageHandle<S>>> {
    let mut page = None;
    walk::for_each_page(
        mapping,
        offset,
        FRAME_SIZE - offset as usize % FRAME_SIZE,
        advice,
        |folio, range| {
            page = Some(short_handle::page_handle(mapping, offset, folio, &range));
            Ok(())
        },
    )?;
    Ok(page)
}
