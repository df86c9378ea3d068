//! Cutting, lengthening and punching, because a user of the file asks for it.
//!
//! The backing first: if it refuses, nothing has changed. It is asked under `changing`, so no
//! writeback is under way that would bring back what goes. What is dirty of the range is dropped,
//! for that is what was asked for.
//!
//! A backing without holes gets zeroes written, through pages as any bytes are: so what is cached,
//! dirty and in the backing never differ, however far it comes.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::Backing;
use crate::length::refresh;
use crate::memory::alloc;
use crate::memory::frames_view;
use crate::rt::shim::MutexGuard;
use crate::state::frames::Slot;
use crate::state::mapping::Mapping;
use crate::state::units::check_end;
use crate::write::write_pages;
use crate::write::write_pages::Stock;
use crate::writeback::write_back::change;

/// Makes `new` the length: cuts, or appends zeroes.
pub(crate) fn resize<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    new: u64,
) -> io::Result<()> {
    if i64::try_from(new).is_err() {
        let message =
            format!("a length of {new} is more than any file's, {} at the most", i64::MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    check_end(new)?;
    let _grow = mapping.grow.lock();
    // Bytes that somebody else appended are no zeroes.
    refresh::refresh_len(mapping)?;
    // What is kept of the page that the cut goes through may be held: then it is copied.
    // Whether it is a cut is only known under the locks, where nothing is allocated.
    let may_cut_page = !new.is_multiple_of(FRAME_SIZE as u64);
    let mut spare =
        Stock(if may_cut_page { vec![alloc::allocate(&mapping.shared)?] } else { Vec::new() });
    resize_with(mapping, writer, new, &mut spare)
}

fn resize_with<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    new: u64,
    spare: &mut Stock<S>,
) -> io::Result<()> {
    let mut change_token = mapping.changing.lock();
    let _length = mapping.length.lock();
    change(writer, &mut change_token, || writer.set_len(new))?;
    let old = mapping.len();
    // Release: pairs with Acquire in `len`.
    mapping.len.store(new, Ordering::Release);
    if new < old {
        refresh::bump_truncate_seq(mapping);
    }
    // After the count: a fill that takes it from here that the backing is short must not be
    // believed by its reader. Release: pairs with Acquire in publish.
    mapping.backed.store(new, Ordering::Release);
    if new >= old {
        return Ok(());
    }
    // SeqCst, Dekker with the fences in fill and write: as in set_len.
    fence(Ordering::SeqCst);
    let first = new / FRAME_SIZE as u64;
    let within = new as usize % FRAME_SIZE;
    if within > 0
        && let Ok(page) = u32::try_from(first)
        && let Some(slot) = mapping.index.get(page)
    {
        truncate_page(mapping, slot, page, within, spare);
    }
    refresh::drop_pages(mapping, first + u64::from(within > 0)..u64::MAX);
    Ok(())
}

/// Cuts the page that the file ends in: if it is dirty its rest becomes zeroes, else it is read
/// again.
fn truncate_page<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    page: u32,
    within: usize,
    spare: &mut Stock<S>,
) {
    loop {
        match slot.try_lock(mapping.zone) {
            Some(locked) if !locked.folio().is_dirty() => return drop(locked.remove()),
            Some(locked) => match locked.freeze() {
                Ok(mut locked) => {
                    locked.folio_mut().as_mut_slice()[within..].fill(0);
                    return locked.publish();
                }
                Err(locked) => {
                    // Readers hold pages for a moment only, but handles for as long as they
                    // like.
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

/// Makes a range zeroes, and gives the space of its whole pages back where the backing can.
/// What lies past the end stays past the end.
pub(crate) fn punch<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    // Nobody cuts the file before the zeroes are there.
    let mut grow = Some(mapping.grow.lock());
    let end = offset.saturating_add(len).min(refresh::refresh_len(mapping)?);
    if offset >= end {
        return Ok(());
    }
    // The edges are written through pages, and the file may be longer than those reach.
    check_end(end)?;
    let page = FRAME_SIZE as u64;
    let whole = offset.div_ceil(page)..end / page;
    // The pages first: if the backing refuses, nothing has changed.
    if whole.is_empty() || !punch_pages(mapping, writer, whole.clone())? {
        return write_zeroes(mapping, offset..end, &mut grow);
    }
    write_zeroes(mapping, offset..whole.start * page, &mut grow)?;
    write_zeroes(mapping, whole.end * page..end, &mut grow)
}

/// `false`: the backing can not do that to any range.
fn punch_pages<S: Scheme>(
    mapping: &Mapping<S>,
    writer: &dyn Backing,
    pages: Range<u64>,
) -> io::Result<bool> {
    let mut change_token = mapping.changing.lock();
    let _length = mapping.length.lock();
    let len = mapping.len();
    let bytes = pages.start * FRAME_SIZE as u64..pages.end * FRAME_SIZE as u64;
    let punched = change(writer, &mut change_token, || {
        // The end of the file may be known from dirty pages only, which go.
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
    // SeqCst, Dekker with the fence in fill: either this visit sees the fill's claim and waits
    // for it, or the fill reads after the punch.
    fence(Ordering::SeqCst);
    refresh::drop_pages(mapping, pages);
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
