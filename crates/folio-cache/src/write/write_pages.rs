//! Writing: bytes go into pages, which are dirty from then on.
//!
//! A handle is an immutable snapshot, so a pinned page is not written to. The writer locks the
//! page. If the folio is not pinned, the writer freezes it and writes in place: readers sleep for
//! the time of a copy. If it is pinned, the writer copies the folio, writes to the copy, and
//! switches the slot: readers go on, and handles keep what they show.
//!
//! | the page is | the writer |
//! | --- | --- |
//! | there | writes to it, in place or to a copy |
//! | not there, and all of it is overwritten, or the file ends before the rest | installs a new one |
//! | not there | has it filled first |
//!
//! Writes are atomic by page: a reader sees all of what one call wrote to a page, or nothing. A
//! write that makes the file longer excludes other such writes, and truncation. The bytes that it
//! adds become visible page by page, in order.
//!
//! No page is allocated under a lock or page lock that reclaim or writeback needs: only `grow` may
//! be held.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::error::error;
use crate::coherence::refresh;
use crate::memory::alloc;
use crate::memory::frames_view;
use crate::memory::large_folio;
use crate::memory::room;
use crate::policy::Advice;
use crate::read::lookup;
use crate::rt::shim::{MutexGuard, fence};
use crate::state::frames::{FrozenFolio, FrozenSlot, LockedSlot, Slot};
use crate::state::mapping::Mapping;
use crate::state::units::{MOST_PAGES, page_of};
use crate::write::spare_folios::SpareFolios;
use crate::writeback::dirty_pages;
use crate::writeback::throttle;

/// The bytes that a write puts into one page.
struct PagePart<'b> {
    page: u32,
    within: usize,
    bytes: &'b [u8],
    /// The number of pages that the call has bytes for, from this one on.
    pages: usize,
}

impl<'b> PagePart<'b> {
    /// Returns the first bytes of `bytes`: those that go into the page of `offset`.
    fn first(offset: u64, bytes: &'b [u8]) -> io::Result<Self> {
        let within = offset as usize % FRAME_SIZE;
        let pages = (within + bytes.len()).div_ceil(FRAME_SIZE);
        Ok(Self {
            page: page_of(offset)?,
            within,
            bytes: &bytes[..bytes.len().min(FRAME_SIZE - within)],
            pages,
        })
    }

    fn begins(&self) -> u64 {
        u64::from(self.page) * FRAME_SIZE as u64 + self.within as u64
    }

    fn ends(&self) -> u64 {
        self.begins() + self.bytes.len() as u64
    }

    fn write_to<S: Scheme>(&self, folio: &mut FrozenFolio<S>) {
        folio.as_mut_slice()[self.within..self.within + self.bytes.len()]
            .copy_from_slice(self.bytes);
    }
}

/// The result of an attempt, and what must be done before the next.
enum Attempt {
    Done,
    /// The file ends before the bytes to write do.
    Short,
    /// The page must be in the cache first.
    Fill,
    /// Another folio is needed to write to.
    Allocate,
    /// Another thread holds the page lock.
    Wait,
}

/// Writes `bytes` at `offset`. Returns the number of bytes written. A short count means an error
/// part-way, which the next write returns.
///
/// # Errors
///
/// `InvalidInput` or `FileTooLarge` past the maximum length of a file, otherwise what
/// [`write_pages`] returns.
pub(crate) fn write<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    bytes: &[u8],
) -> io::Result<usize> {
    if bytes.is_empty() && i64::try_from(offset).is_ok() {
        return Ok(0);
    }
    check_range(offset, bytes.len() as u64)?;
    write_pages(mapping, offset, bytes, &mut None)
}

/// Writes `bytes` at the end of the file. Returns the offset at which they begin.
///
/// # Errors
///
/// `InvalidInput` or `FileTooLarge` past the maximum length of a file, otherwise what
/// [`write_pages`] returns. Some of the bytes may be written then: the length says how many.
pub(crate) fn append<S: Scheme>(mapping: &Mapping<S>, bytes: &[u8]) -> io::Result<u64> {
    append_as(mapping, bytes, true).map(|(offset, _)| offset)
}

/// Writes the first of `bytes` at the end of the file. Returns the offset at which they begin, and
/// their number: a short count means an error part-way, which the next call returns.
///
/// # Errors
///
/// `InvalidInput` or `FileTooLarge` past the maximum length of a file, otherwise what
/// [`write_pages`] returns. Nothing is written then.
pub(crate) fn append_some<S: Scheme>(
    mapping: &Mapping<S>,
    bytes: &[u8],
) -> io::Result<(u64, usize)> {
    append_as(mapping, bytes, false)
}

fn append_as<S: Scheme>(
    mapping: &Mapping<S>,
    bytes: &[u8],
    is_whole: bool,
) -> io::Result<(u64, usize)> {
    let mut grow = Some(mapping.make_writing().grow.lock());
    let len = if owns_end(mapping, mapping.len()) {
        mapping.len()
    } else {
        refresh::refresh_len(mapping)?
    };
    check_range(len, bytes.len() as u64)?;
    let mut done = write_pages(mapping, len, bytes, &mut grow)?;
    while is_whole && done < bytes.len() {
        // After a short count, the next call returns the error.
        done += write_pages(mapping, len + done as u64, &bytes[done..], &mut grow)?;
    }
    Ok((len, done))
}

/// Writes `bytes` page by page. Takes the lock `grow` when a page reaches past the end of the file.
/// Returns the number of bytes written. A short count means an error part-way.
///
/// # Errors
///
/// `OutOfMemory` if no page can be freed, or what a fill or writeback returns.
pub(crate) fn write_pages<'m, S: Scheme>(
    mapping: &'m Mapping<S>,
    offset: u64,
    bytes: &[u8],
    grow: &mut Option<MutexGuard<'m, ()>>,
) -> io::Result<usize> {
    let mut spare = SpareFolios::new(mapping);
    let mut done = 0;
    while done < bytes.len() {
        let part = PagePart::first(offset + done as u64, &bytes[done..])?;
        let is_throttled = !dirty_pages::are_few(&mapping.shared);
        let may_write = if is_throttled { throttle::throttle(mapping) } else { Ok(()) };
        let step = may_write.and_then(|()| match grow {
            Some(_) => grow_by(mapping, &part, &mut spare).map(|()| true),
            None => overwrite(mapping, &part, &mut spare),
        });
        match step {
            Ok(true) => {
                mapping.make_writing().unsynced.rewritten(&(part.begins()..part.ends()));
                mapping.record(part.page);
                done += part.bytes.len();
            }
            Ok(false) => {
                // The thread that holds the lock may wait for memory.
                spare.free_all();
                *grow = Some(mapping.make_writing().grow.lock());
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes within the file. Returns `false` if the file ends before the bytes do.
#[inline(always)]
fn overwrite<S: Scheme>(
    mapping: &Mapping<S>,
    part: &PagePart<'_>,
    spare: &mut SpareFolios<'_, S>,
) -> io::Result<bool> {
    let slot = room::slot_to_write(mapping, part.page)?;
    while part.ends() <= mapping.len() {
        match try_write(mapping, slot, part, part.bytes.len() == FRAME_SIZE, spare, false) {
            Attempt::Done => return Ok(true),
            Attempt::Short => {
                mapping.give_back_leaf(part.page);
                break;
            }
            needed => prepare(mapping, &needed, slot, part, spare)?,
        }
    }
    Ok(false)
}

/// Writes within the file or past its end. Call under the lock `grow`.
#[inline(never)]
fn grow_by<S: Scheme>(
    mapping: &Mapping<S>,
    part: &PagePart<'_>,
    spare: &mut SpareFolios<'_, S>,
) -> io::Result<()> {
    let slot = room::slot_to_write(mapping, part.page)?;
    let mut refreshed = false;
    loop {
        let length = mapping.length.lock();
        let len = mapping.len();
        if part.ends() <= len {
            drop(length);
            if overwrite(mapping, part, spare)? {
                return Ok(());
            }
        } else if !refreshed && !owns_end(mapping, len) {
            // Another process may have written past the end that is known here.
            drop(length);
            refresh::refresh_len(mapping)?;
            refreshed = true;
        } else {
            let begins = u64::from(part.page) * FRAME_SIZE as u64;
            let covers = begins >= len || part.within == 0;
            match try_write(mapping, slot, part, covers, spare, true) {
                Attempt::Done => {
                    // After the bytes. Under the lock: writeback loads the length after it pinned
                    // the page, so it writes what was added. Release: pairs with Acquire in `len`.
                    mapping.len.store(part.ends(), Ordering::Release);
                    return Ok(());
                }
                needed => {
                    drop(length);
                    prepare(mapping, &needed, slot, part, spare)?;
                }
            }
        }
    }
}

/// Returns `true` if the end of the file lies in dirty pages of this cache. Then the backing need
/// not be asked for it.
fn owns_end<S: Scheme>(mapping: &Mapping<S>, len: u64) -> bool {
    len > 0 && mapping.dirty_end() >= len
}

/// Makes one attempt, without a wait and without an allocation. `covers` means that no other byte
/// of the page needs to stay. Returns what must be done before the next attempt. A write in place
/// to a single page is inlined; all else is called.
#[inline(always)]
fn try_write<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    part: &PagePart<'_>,
    covers: bool,
    spare: &mut SpareFolios<'_, S>,
    grows: bool,
) -> Attempt {
    let Some(locked) = slot.try_lock(mapping.zone()) else {
        return write_absent(mapping, slot, part, covers, spare, grows);
    };
    let locked = if locked.subpage_of().is_none() {
        locked
    } else {
        match split_and_lock(mapping, slot, locked, part.page) {
            Some(locked) => locked,
            None => return Attempt::Wait,
        }
    };
    if is_short(mapping, part, grows) {
        return Attempt::Short;
    }
    #[cfg(broken)]
    if folio_ref::broken!("write-without-freeze") && locked.folio().is_dirty() {
        locked.write_unfrozen(part.within, part.bytes);
        return Attempt::Done;
    }
    match locked.freeze() {
        Ok(frozen) => write_in_place(mapping, frozen, part),
        Err(locked) => write_copy(mapping, locked, part, spare),
    }
}

/// Writes to a page after its lock was refused: it is absent, or another thread has the lock.
#[inline(never)]
fn write_absent<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    part: &PagePart<'_>,
    covers: bool,
    spare: &mut SpareFolios<'_, S>,
    grows: bool,
) -> Attempt {
    match (slot.is_empty(), covers) {
        (false, _) => Attempt::Wait,
        (true, false) => Attempt::Fill,
        (true, true) => install_new(mapping, slot, part, spare, grows),
    }
}

/// Splits the folio that a page is a subpage of, and locks the page again. If the folio is pinned,
/// it stays whole, and the page is copied. `None`: another thread has the lock.
#[cold]
#[inline(never)]
fn split_and_lock<'m, S: Scheme>(
    mapping: &'m Mapping<S>,
    slot: &'m Slot<S>,
    locked: LockedSlot<'m, S>,
    page: u32,
) -> Option<LockedSlot<'m, S>> {
    drop(locked);
    large_folio::split_around(mapping, page);
    slot.try_lock(mapping.zone())
}

/// Returns `true` if the file ends before the bytes do and the write does not make it longer. Call
/// while the page is locked.
#[inline(always)]
fn is_short<S: Scheme>(mapping: &Mapping<S>, part: &PagePart<'_>, grows: bool) -> bool {
    // Either a truncation waits for this page lock, or this sees the new length and leaves the page
    // alone. No fence: both take the lock by a compare-and-swap, so one is first. The truncation
    // passes a slot by only if it finds it empty. Then the fence of the thread that installed the
    // page comes later than that of the truncation: that thread saw the new length, and its unlock
    // hands it on.
    !grows && part.ends() > mapping.len()
}

/// Installs a new page in an empty slot and writes to it.
fn install_new<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    part: &PagePart<'_>,
    spare: &mut SpareFolios<'_, S>,
    grows: bool,
) -> Attempt {
    let Some(mut new) = spare.take(mapping.owner_data(part.page)) else {
        return Attempt::Allocate;
    };
    if part.bytes.len() < FRAME_SIZE {
        new.as_mut_slice().fill(0);
    }
    let mut frozen = match slot.install(new) {
        Ok(frozen) => frozen,
        Err(new) => {
            spare.put_back(new);
            return Attempt::Wait;
        }
    };
    // SeqCst, Dekker with the fences that is_short names. The truncation may have found no leaf of
    // the index here: this fence orders the leaf and the new page before the load.
    fence(Ordering::SeqCst);
    if is_short(mapping, part, grows) {
        spare.put_back(frozen.remove());
        return Attempt::Short;
    }
    part.write_to(frozen.folio_mut());
    dirty_pages::make_dirty(mapping, frozen.folio_mut(), part.page);
    let pfn = frozen.folio().pfn();
    frozen.publish();
    mapping.came(1);
    frames_view::insert(&mapping.shared, pfn, mapping.owner_data(part.page));
    Attempt::Done
}

/// Writes to a page that no handle pins. Readers sleep for the time of the copy.
#[inline(always)]
fn write_in_place<S: Scheme>(
    mapping: &Mapping<S>,
    mut frozen: FrozenSlot<'_, S>,
    part: &PagePart<'_>,
) -> Attempt {
    part.write_to(frozen.folio_mut());
    dirty_pages::make_dirty(mapping, frozen.folio_mut(), part.page);
    frozen.publish();
    Attempt::Done
}

/// Writes to a copy of a pinned page, and switches the slot: handles keep what they show.
#[inline(never)]
fn write_copy<S: Scheme>(
    mapping: &Mapping<S>,
    locked: LockedSlot<'_, S>,
    part: &PagePart<'_>,
    spare: &mut SpareFolios<'_, S>,
) -> Attempt {
    let Some(mut new) = spare.take(mapping.owner_data(part.page)) else {
        return Attempt::Allocate;
    };
    new.as_mut_slice().copy_from_slice(locked.folio().frame());
    new.set_dirty(locked.folio().is_dirty());
    part.write_to(&mut new);
    dirty_pages::make_dirty(mapping, &mut new, part.page);
    let pfn = new.pfn();
    drop(locked.replace(new));
    frames_view::insert(&mapping.shared, pfn, mapping.owner_data(part.page));
    Attempt::Done
}

/// Does what an attempt asked for. Call with no lock held except `grow`.
#[inline(never)]
fn prepare<S: Scheme>(
    mapping: &Mapping<S>,
    needed: &Attempt,
    slot: &Slot<S>,
    part: &PagePart<'_>,
    spare: &mut SpareFolios<'_, S>,
) -> io::Result<()> {
    // The leaf of an empty slot may be closed.
    room::make_slot_to_write(mapping, part.page)?;
    match needed {
        Attempt::Fill => {
            // The fill may wait for memory.
            spare.free_all();
            drop(lookup::find_slowly(mapping, part.page, 1, Advice::Normal)?);
        }
        Attempt::Allocate => {
            let missing = missing_pages(mapping, part);
            room::make_room(mapping, missing.max(1));
            if missing > 1 {
                spare.add(alloc::allocate_from(mapping, part.page, missing));
            }
            if spare.is_empty() {
                // Those that were taken do not count as in flight any more.
                spare.free_all();
                spare.add(vec![alloc::allocate(&mapping.shared)?]);
            }
        }
        // The lock is mostly that of another writer, which ends in a moment.
        Attempt::Wait if slot.ends_soon() => {}
        Attempt::Wait => {
            let waited = lookup::wait_for(mapping, slot, part.page);
            if part.bytes.len() < FRAME_SIZE {
                waited?;
            }
        }
        Attempt::Done | Attempt::Short => {}
    }
    Ok(())
}

/// Returns the number of missing pages, from that of `part` on, that the call will add. The number
/// is limited to the folios that a call may hold before they have a page.
fn missing_pages<S: Scheme>(mapping: &Mapping<S>, part: &PagePart<'_>) -> usize {
    let max =
        part.pages.min(MOST_PAGES as usize).min(dirty_pages::limit(&mapping.shared) as usize / 4);
    let pages = (part.page..=u32::MAX).take(max);
    pages.take_while(|&page| mapping.index.get(page).is_none_or(Slot::is_empty)).count()
}

/// Returns an error for a range that no file can hold.
#[inline]
fn check_range(offset: u64, len: u64) -> io::Result<()> {
    let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok());
    let Some(end) = end else { return Err(past_all_files(offset, len)) };
    page_of(end.saturating_sub(1)).map(drop)
}

#[cold]
fn past_all_files(offset: u64, len: u64) -> io::Error {
    let message =
        format!("{len} bytes at offset {offset} exceed the maximum length of a file, {}", i64::MAX);
    error(io::ErrorKind::InvalidInput, message)
}
