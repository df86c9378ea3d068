//! Truncating, lengthening and punching a file at a user's request.
//!
//! The backing is changed first: if it refuses, nothing has changed. It is asked under `changing`,
//! so no writeback is under way that would bring back what is removed. Dirty pages of the range are
//! dropped, as the user asked for that.
//!
//! If a backing has no holes, zeroes are written through pages like other bytes. So the cached,
//! dirty and backing bytes never differ, however far the call gets.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::{Scheme, broken};

use crate::backing::Backing;
use crate::backing::error::error;
use crate::coherence::drop_pages;
use crate::coherence::refresh;
use crate::memory::alloc;
use crate::memory::frames_view;
use crate::rt::shim::{MutexGuard, fence};
use crate::state::frames::Slot;
use crate::state::known::Known;
use crate::state::mapping::Mapping;
use crate::state::units::check_end;
use crate::write::spare_folios::SpareFolios;
use crate::write::write_pages;
use crate::writeback::write_back::{self, Then, change};

/// Sets the length of the file to `new`: truncates it, or appends zeroes.
///
/// # Errors
///
/// `InvalidInput` or `FileTooLarge` past the maximum length of a file, `Unsupported` for a distant
/// object, `OutOfMemory`, or what the backing returns. Nothing has changed then, but that a file
/// which is truncated for want of memory may end with its last page.
pub(crate) fn resize<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    new: u64,
) -> io::Result<()> {
    if i64::try_from(new).is_err() {
        let message = format!("length {new} exceeds the maximum length of a file, {}", i64::MAX);
        return Err(error(io::ErrorKind::InvalidInput, message));
    }
    check_end(new)?;
    let _grow = mapping.make_writing().grow.lock();
    // Bytes that another writer appended to the backing are not zeroes.
    refresh::refresh_len(mapping)?;
    write_appended(mapping, new);
    // The page in which the file will end may be pinned: its remaining bytes are then copied. Only
    // under the locks is it known whether the file becomes shorter, and nothing is allocated there.
    let whole_pages = new.next_multiple_of(FRAME_SIZE as u64);
    let mut spare = SpareFolios::new(mapping);
    if new < whole_pages {
        let mut folio = alloc::allocate_at_once(&mapping.shared);
        if folio.is_none() && whole_pages < mapping.len() {
            // The pages behind that one may be all that can become free.
            resize_with(mapping, writer, whole_pages, &mut spare)?;
            folio = alloc::allocate_at_once(&mapping.shared);
        }
        spare.add(vec![folio.map_or_else(|| alloc::allocate(&mapping.shared), Ok)?]);
    }
    resize_with(mapping, writer, new, &mut spare)
}

/// Writes the dirty pages between the end of the backing and `end`, up to which it is about to be
/// lengthened: if the process ends then, no zeroes stand before bytes that were appended. What
/// cannot be written stays dirty, and its error is reported by the next sync. Call under `grow`.
fn write_appended<S: Scheme>(mapping: &Mapping<S>, end: u64) {
    // Relaxed: a hint. Pages that are written already are not dirty.
    let backed = mapping.backed.load(Ordering::Relaxed);
    let pages = backed / FRAME_SIZE as u64..end.div_ceil(FRAME_SIZE as u64);
    if backed < end && mapping.dirty_end() > backed && !broken!("length-before-appends") {
        _ = write_back::write_back(mapping, pages, Then::Nothing);
    }
}

/// Takes the right to change the backing.
///
/// # Errors
///
/// `Unsupported` for a distant object.
fn lock_changing<S: Scheme>(mapping: &Mapping<S>) -> io::Result<MutexGuard<'_, Known>> {
    let changing = mapping.changing().ok_or_else(|| {
        let message = format!("{:?} is an object of a distant store", mapping.key());
        error(ErrorKind::Unsupported, message)
    })?;
    Ok(changing.lock())
}

fn resize_with<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    new: u64,
    spare: &mut SpareFolios<'_, S>,
) -> io::Result<()> {
    let mut known = lock_changing(mapping)?;
    let _length = mapping.length.lock();
    change(mapping, writer, &mut known, || writer.set_len(new))?;
    let old = mapping.len();
    // Release: pairs with Acquire in `len`.
    mapping.len.store(new, Ordering::Release);
    if new < old {
        refresh::bump_truncate_seq(mapping);
    }
    // After the count: if a fill learns from this store that the backing is short, its reader must
    // see the truncation. Release: pairs with Acquire in publish.
    mapping.backed.store(new, Ordering::Release);
    write_back::set_ordered(mapping, new);
    if new >= old {
        return Ok(());
    }
    // SeqCst, Dekker with the fences in fill and install_new: as in set_len.
    fence(Ordering::SeqCst);
    let first = new / FRAME_SIZE as u64;
    let within = new as usize % FRAME_SIZE;
    if within > 0
        && let Ok(page) = u32::try_from(first)
        && let Some(slot) = mapping.index.get(page)
    {
        truncate_page(mapping, slot, page, within, spare);
        mapping.give_back_leaf(page);
    }
    drop_pages::drop_pages(mapping, first + u64::from(within > 0)..u64::MAX);
    mapping.make_writing().unsynced.forget(&(new..u64::MAX));
    Ok(())
}

/// Truncates the page in which the file ends. If it is dirty, its remaining bytes become zeroes.
/// Otherwise it is removed, and read again on the next miss.
fn truncate_page<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    page: u32,
    within: usize,
    spare: &mut SpareFolios<'_, S>,
) {
    loop {
        match slot.try_lock(mapping.zone()) {
            Some(locked) if !locked.folio().is_dirty() => {
                drop(locked.remove());
                return mapping.left(1);
            }
            Some(locked) => match locked.freeze() {
                Ok(mut locked) => {
                    let bytes = locked.folio_mut().as_mut_slice();
                    let end = if broken!("truncated-tail-kept") { within } else { FRAME_SIZE };
                    bytes[within..end].fill(0);
                    return locked.publish();
                }
                Err(locked) => {
                    // Readers pin pages for a moment only, but handles pin them for as long as they
                    // live.
                    let Some(mut new) = spare.take(mapping.owner_data(page)) else { continue };
                    new.as_mut_slice()[..within].copy_from_slice(&locked.folio().frame()[..within]);
                    new.as_mut_slice()[within..].fill(0);
                    new.set_dirty(true);
                    let pfn = new.pfn();
                    drop(locked.replace(new));
                    return frames_view::insert(&mapping.shared, pfn, mapping.owner_data(page));
                }
            },
            None if slot.is_empty() => return,
            None => slot.wait(),
        }
    }
}

/// Makes a range zeroes, and frees the space of its whole pages where the backing can. Bytes past
/// the end of the file are not changed, and the length stays.
///
/// # Errors
///
/// What a write or the backing returns. If the backing refuses the hole, nothing has changed; if a
/// write fails, some of the range may be zeroes.
pub(crate) fn punch<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    // No truncation takes place before the zeroes are written.
    let mut grow = Some(mapping.make_writing().grow.lock());
    let end = offset.saturating_add(len).min(refresh::refresh_len(mapping)?);
    if offset >= end {
        return Ok(());
    }
    // The edges are written through pages, and the file may be longer than those reach.
    check_end(end)?;
    let page = FRAME_SIZE as u64;
    let whole = offset.div_ceil(page)..end / page;
    write_appended(mapping, mapping.len());
    // The whole pages first: if the backing refuses, nothing has changed.
    if whole.is_empty() || !punch_pages(mapping, writer, whole.clone())? {
        return write_zeroes(mapping, offset..end, &mut grow);
    }
    write_zeroes(mapping, offset..whole.start * page, &mut grow)?;
    write_zeroes(mapping, whole.end * page..end, &mut grow)
}

/// Punches whole pages. Returns `false` if the backing has no holes.
fn punch_pages<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    pages: Range<u64>,
) -> io::Result<bool> {
    let mut known = lock_changing(mapping)?;
    let _length = mapping.length.lock();
    let len = mapping.len();
    let bytes = pages.start * FRAME_SIZE as u64..pages.end * FRAME_SIZE as u64;
    let punched = change(mapping, writer, &mut known, || {
        // The end of the file may be known only from dirty pages, which are about to be dropped.
        if writer.version()?.len < len {
            writer.set_len(len)?;
        }
        match writer.punch(bytes.start, bytes.end - bytes.start) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            done => done.map(|()| true),
        }
    })?;
    if !punched {
        return Ok(false);
    }
    // SeqCst, Dekker with the fence in fill: either this visit sees the page lock of the fill and
    // waits for it, or the fill reads after the hole was punched.
    fence(Ordering::SeqCst);
    drop_pages::drop_pages(mapping, pages);
    mapping.make_writing().unsynced.forget(&bytes);
    Ok(true)
}

fn write_zeroes<'m, S: Scheme>(
    mapping: &'m Mapping<S>,
    range: Range<u64>,
    grow: &mut Option<MutexGuard<'m, ()>>,
) -> io::Result<()> {
    let zeroes = [0; FRAME_SIZE];
    let mut at = range.start;
    while at < range.end {
        let n = (range.end - at).min(FRAME_SIZE as u64) as usize;
        at += write_pages::write_pages(mapping, at, &zeroes[..n], grow)? as u64;
    }
    Ok(())
}
