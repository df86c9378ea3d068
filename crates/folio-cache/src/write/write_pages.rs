//! Writing: bytes go into pages, which are dirty from then on.
//!
//! A handle is an immutable snapshot, so a page that somebody holds is not written to. The writer
//! claims the slot. If nobody holds the folio, it freezes it and writes in place: readers sleep for
//! the time of a copy. If somebody does, it copies the folio, writes to the copy, and switches the
//! slot: readers go on, and holders keep what they have.
//!
//! | the page is | the writer |
//! | --- | --- |
//! | there | writes to it, in place or to a copy |
//! | not there, and all of it is overwritten, or the file ends before the rest | installs a new one |
//! | not there | has it filled first |
//!
//! Writes are atomic by page: a reader sees all of what one call wrote to a page, or nothing. A
//! write that makes the file longer excludes others that do, and cuts; what it adds becomes visible
//! page by page, in order.
//!
//! No page is allocated under a lock or a claim that anybody needs who makes room: only `grow` may
//! be held.

use std::io;
use std::sync::atomic::{Ordering, fence};

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::error::error;
use crate::length::refresh;
use crate::memory::alloc;
use crate::memory::frames_view;
use crate::memory::large_folio;
use crate::read::lookup;
use crate::rt::shim::MutexGuard;
use crate::state::frames::{FrozenFolio, FrozenSlot, LockedSlot, Slot};
use crate::state::mapping::Mapping;
use crate::state::units::{CACHED, MOST_PAGES, page_of};
use crate::writeback::write_back;

/// What goes into one page.
struct Part<'b> {
    page: u32,
    within: usize,
    bytes: &'b [u8],
    /// Pages that the call has bytes for, from this one on.
    pages: usize,
}

impl<'b> Part<'b> {
    /// The bytes of `bytes` that go into the page of `offset`.
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

/// What came of a try, and what must be done before the next.
enum Try {
    Done,
    /// The file ends before the part does.
    Short,
    /// The page must be there first.
    Fill,
    /// Another folio is needed to write to.
    Allocate,
    /// Somebody is at work on the page.
    Wait,
}

/// Folios for the pages that a call adds, the next one last: they go back when they are not needed.
/// Those for neighbours lie in one piece of memory where there is one, as a request that fills them
/// has it.
pub(crate) struct Stock<S: Scheme>(pub(crate) Vec<FrozenFolio<S>>);

impl<S: Scheme> Stock<S> {
    /// The next one, for a page.
    pub(crate) fn take(&mut self, owner_data: u64) -> Option<FrozenFolio<S>> {
        let mut folio = self.0.pop()?;
        folio.set_owner(CACHED, owner_data);
        Some(folio)
    }
}

impl<S: Scheme> Drop for Stock<S> {
    fn drop(&mut self) {
        // The last one first: as they were before.
        self.0.drain(..).for_each(FrozenFolio::free);
    }
}

/// Writes `bytes` at `offset`. How many: fewer only where the rest failed, as the next write
/// will say.
pub(crate) fn write<S: Scheme>(
    mapping: &Mapping<S>,
    offset: u64,
    bytes: &[u8],
) -> io::Result<usize> {
    check_range(offset, bytes.len() as u64)?;
    write_pages(mapping, offset, bytes, &mut None)
}

/// Writes `bytes` at the end of the file. Where that was.
pub(crate) fn append<S: Scheme>(mapping: &Mapping<S>, bytes: &[u8]) -> io::Result<u64> {
    let mut grow = Some(mapping.grow.lock());
    let len = if owns_end(mapping, mapping.len()) {
        mapping.len()
    } else {
        refresh::refresh_len(mapping)?
    };
    check_range(len, bytes.len() as u64)?;
    let mut done = 0;
    while done < bytes.len() {
        // What is left failed, and says why when it is tried again.
        done += write_pages(mapping, len + done as u64, &bytes[done..], &mut grow)?;
    }
    Ok(len)
}

/// With `grow` as soon as a part lies past the end.
pub(crate) fn write_pages<'m, S: Scheme>(
    mapping: &'m Mapping<S>,
    offset: u64,
    bytes: &[u8],
    grow: &mut Option<MutexGuard<'m, ()>>,
) -> io::Result<usize> {
    let mut stock = Stock(Vec::new());
    let mut done = 0;
    while done < bytes.len() {
        let part = Part::first(offset + done as u64, &bytes[done..])?;
        let step = write_back::throttle(mapping).and_then(|()| match grow {
            Some(_) => grow_by(mapping, &part, &mut stock).map(|()| true),
            None => overwrite(mapping, &part, &mut stock),
        });
        match step {
            Ok(true) => done += part.bytes.len(),
            Ok(false) => *grow = Some(mapping.grow.lock()),
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Writes within the file. `false`: it ends before the part does.
fn overwrite<S: Scheme>(
    mapping: &Mapping<S>,
    part: &Part<'_>,
    stock: &mut Stock<S>,
) -> io::Result<bool> {
    let slot = mapping.index.get_or_make(part.page)?;
    while part.ends() <= mapping.len() {
        match try_write(mapping, slot, part, part.bytes.len() == FRAME_SIZE, stock, false) {
            Try::Done => return Ok(true),
            Try::Short => break,
            needed => prepare(mapping, &needed, slot, part, stock)?,
        }
    }
    Ok(false)
}

/// Writes within the file or past its end. Under the lock `grow`.
fn grow_by<S: Scheme>(
    mapping: &Mapping<S>,
    part: &Part<'_>,
    stock: &mut Stock<S>,
) -> io::Result<()> {
    let slot = mapping.index.get_or_make(part.page)?;
    let mut looked = false;
    loop {
        let length = mapping.length.lock();
        let len = mapping.len();
        if part.ends() <= len {
            drop(length);
            if overwrite(mapping, part, stock)? {
                return Ok(());
            }
        } else if !looked && !owns_end(mapping, len) {
            // Somebody else may have written past the end that we know.
            drop(length);
            refresh::refresh_len(mapping)?;
            looked = true;
        } else {
            let begins = u64::from(part.page) * FRAME_SIZE as u64;
            let covers = begins >= len || part.within == 0;
            match try_write(mapping, slot, part, covers, stock, true) {
                Try::Done => {
                    // After the bytes. Under the lock: writeback asks for the length after it
                    // took hold of the page, so it writes what was
                    // added. Release: pairs with Acquire in `len`.
                    mapping.len.store(part.ends(), Ordering::Release);
                    return Ok(());
                }
                needed => {
                    drop(length);
                    prepare(mapping, &needed, slot, part, stock)?;
                }
            }
        }
    }
}

/// Whether the end of the file is ours, not written yet: then nobody needs to be asked where it
/// is.
fn owns_end<S: Scheme>(mapping: &Mapping<S>, len: u64) -> bool {
    len > 0 && mapping.dirty.end() >= len
}

/// One attempt, without a wait and without an allocation. `covers`: no other byte of the page needs
/// to stay.
fn try_write<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    part: &Part<'_>,
    covers: bool,
    stock: &mut Stock<S>,
    grows: bool,
) -> Try {
    let Some(locked) = slot.try_lock(mapping.zone) else {
        return match (slot.is_empty(), covers) {
            (false, _) => Try::Wait,
            (true, false) => Try::Fill,
            (true, true) => install_new(mapping, slot, part, stock, grows),
        };
    };
    let locked = if locked.subpage_of().is_none() {
        locked
    } else {
        drop(locked);
        // If the folio is pinned, it stays whole, and the page is copied below.
        large_folio::split_around(mapping, part.page);
        match slot.try_lock(mapping.zone) {
            Some(locked) => locked,
            None => return Try::Wait,
        }
    };
    if is_short(mapping, part, grows) {
        return Try::Short;
    }
    #[cfg(broken = "write-without-freeze")]
    if locked.folio().is_dirty() {
        locked.write_unfrozen(part.within, part.bytes);
        return Try::Done;
    }
    match locked.freeze() {
        Ok(frozen) => write_in_place(mapping, frozen, part),
        Err(locked) => write_copy(mapping, locked, part, stock),
    }
}

/// Returns `true` if the file ends before the part does, though the write does not make it longer.
/// Call while the page is locked.
fn is_short<S: Scheme>(mapping: &Mapping<S>, part: &Part<'_>, grows: bool) -> bool {
    // SeqCst, Dekker with the fence in set_len and resize: either the truncation sees this page
    // lock and waits for it, or this sees the new length and leaves the page alone.
    fence(Ordering::SeqCst);
    !grows && part.ends() > mapping.len()
}

/// Installs a new page in an empty slot and writes to it.
fn install_new<S: Scheme>(
    mapping: &Mapping<S>,
    slot: &Slot<S>,
    part: &Part<'_>,
    stock: &mut Stock<S>,
    grows: bool,
) -> Try {
    let Some(mut new) = stock.take(mapping.owner_data(part.page)) else {
        return Try::Allocate;
    };
    if part.bytes.len() < FRAME_SIZE {
        new.as_mut_slice().fill(0);
    }
    let mut frozen = match slot.install(new) {
        Ok(frozen) => frozen,
        Err(new) => {
            stock.0.push(new);
            return Try::Wait;
        }
    };
    if is_short(mapping, part, grows) {
        stock.0.push(frozen.remove());
        return Try::Short;
    }
    part.write_to(frozen.folio_mut());
    write_back::make_dirty(mapping, frozen.folio_mut(), part.page);
    let pfn = frozen.folio().pfn();
    frozen.publish();
    frames_view::insert(&mapping.shared, pfn, mapping.owner_data(part.page));
    Try::Done
}

/// Writes to a page that no handle pins. Readers sleep for the time of the copy.
fn write_in_place<S: Scheme>(
    mapping: &Mapping<S>,
    mut frozen: FrozenSlot<'_, S>,
    part: &Part<'_>,
) -> Try {
    part.write_to(frozen.folio_mut());
    write_back::make_dirty(mapping, frozen.folio_mut(), part.page);
    frozen.publish();
    Try::Done
}

/// Writes to a copy of a pinned page, and switches the slot: handles keep what they show.
fn write_copy<S: Scheme>(
    mapping: &Mapping<S>,
    locked: LockedSlot<'_, S>,
    part: &Part<'_>,
    stock: &mut Stock<S>,
) -> Try {
    let Some(mut new) = stock.take(mapping.owner_data(part.page)) else {
        return Try::Allocate;
    };
    new.as_mut_slice().copy_from_slice(locked.folio().frame());
    new.set_dirty(locked.folio().is_dirty());
    part.write_to(&mut new);
    write_back::make_dirty(mapping, &mut new, part.page);
    let pfn = new.pfn();
    drop(locked.replace(new));
    frames_view::insert(&mapping.shared, pfn, mapping.owner_data(part.page));
    Try::Done
}

/// Does what a try asked for. With no lock held but `grow`.
fn prepare<S: Scheme>(
    mapping: &Mapping<S>,
    needed: &Try,
    slot: &Slot<S>,
    part: &Part<'_>,
    stock: &mut Stock<S>,
) -> io::Result<()> {
    match needed {
        Try::Fill => drop(lookup::find_or_fill(mapping, part.page, 1)?),
        Try::Allocate => {
            let missing = missing(mapping, part);
            if missing > 1 {
                stock.0 = alloc::allocate_some(&mapping.shared, missing);
                stock.0.reverse();
            }
            if stock.0.is_empty() {
                stock.0.push(alloc::allocate(&mapping.shared)?);
            }
        }
        // Mostly for another writer, who is done in a moment.
        Try::Wait if slot.ends_soon() => {}
        Try::Wait => lookup::wait_for(mapping, slot, part.page),
        Try::Done | Try::Short => {}
    }
    Ok(())
}

/// How many pages from a part's on are not there that the call will add: no more than it should
/// hold without a page.
fn missing<S: Scheme>(mapping: &Mapping<S>, part: &Part<'_>) -> usize {
    let most = part
        .pages
        .min(MOST_PAGES as usize)
        .min(write_back::dirty_limit(&mapping.shared) as usize / 4);
    let pages = (part.page..=u32::MAX).take(most);
    pages.take_while(|&page| mapping.index.get(page).is_none_or(Slot::is_empty)).count()
}

/// Refuses what no file can hold.
fn check_range(offset: u64, len: u64) -> io::Result<()> {
    let end = offset.checked_add(len).filter(|&end| i64::try_from(end).is_ok());
    let Some(end) = end else {
        let message =
            format!("{len} bytes at {offset} end past any file's length, {} at the most", i64::MAX);
        return Err(error(io::ErrorKind::InvalidInput, message));
    };
    page_of(end.saturating_sub(1)).map(drop)
}
