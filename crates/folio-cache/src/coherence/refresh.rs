//! Refreshing the length and the version: asks the backing, and applies a change of the file by
//! others.
//!
//! A dirty page stays, whatever others did to the file: what was written through the cache is
//! newer. So the length is never less than what the dirty pages say. Only truncation through the
//! cache drops dirty pages.

use std::io;
use std::sync::atomic::Ordering;

use folio_frames::FRAME_SIZE;
use folio_ref::Scheme;

use crate::backing::Version;
use crate::backing::error::{self, copy};
use crate::coherence::drop_pages;
use crate::rt::shim::fence;
use crate::state::looked::Looked;
use crate::state::mapping::Mapping;
use crate::writeback::write_back;
use crate::writeback::write_back::Then;

/// The number of times that the last page may be dirty again when others have made the file longer.
/// After that the growth waits for the next refresh.
const MAX_TRIES: u32 = 8;

/// Asks the backing for the file's length and applies it. Returns the length.
///
/// # Errors
///
/// `Unsupported` in a child process, what the backing returns, and what writeback returns if the
/// old last page is dirty.
pub(crate) fn refresh_len<S: Scheme>(mapping: &Mapping<S>) -> io::Result<u64> {
    refresh_with(mapping, Err)
}

/// Asks the backing for the file's length and applies it, for a reader. Returns the length. If the
/// old last page is dirty and cannot be written, the file ends where it did; its next sync reports
/// the error.
///
/// # Errors
///
/// `Unsupported` in a child process, otherwise what the backing returns.
pub(crate) fn refresh_len_to_read<S: Scheme>(mapping: &Mapping<S>) -> io::Result<u64> {
    refresh_with(mapping, |_| Ok(mapping.len()))
}

#[cold]
fn refresh_with<S: Scheme>(
    mapping: &Mapping<S>,
    unwritten: impl FnOnce(io::Error) -> io::Result<u64>,
) -> io::Result<u64> {
    mapping.shared.check_process()?;
    match mapping.shared.length_queries.run(mapping.id, || look(mapping), Looked::copy) {
        Looked::Len(len) => Ok(len),
        Looked::Failed(error) => Err(error),
        Looked::Unwritten(error) => unwritten(error),
    }
}

/// Asks the backing for the file's length and applies it.
fn look<S: Scheme>(mapping: &Mapping<S>) -> Looked {
    for _ in 0..MAX_TRIES {
        let at = {
            let _length = mapping.length.lock();
            match apply_backing_len(mapping, None) {
                Ok(Ok(len)) => return Looked::Len(len),
                Ok(Err(page)) => page,
                Err(error) => return Looked::Failed(error::share(error)),
            }
        };
        // Others appended bytes to the file that belong into a page that is dirty here.
        if let Err(error) = write_back::write_back(mapping, at..at + 1, Then::Nothing) {
            return Looked::Unwritten(error);
        }
    }
    Looked::Len(mapping.len())
}

/// Drops the clean pages if the file was changed by others since it was opened or last revalidated.
/// Returns `true` if it was.
///
/// # Errors
///
/// What the backing returns.
pub(crate) fn revalidate<S: Scheme>(mapping: &Mapping<S>) -> io::Result<bool> {
    let act = || revalidate_alone(mapping).map_err(error::share);
    let share = |changed: &io::Result<bool>| changed.as_ref().copied().map_err(copy);
    mapping.shared.revalidations.run(mapping.id, act, share)
}

fn revalidate_alone<S: Scheme>(mapping: &Mapping<S>) -> io::Result<bool> {
    refresh_len_to_read(mapping)?;
    // Of a distant object, each answer tells the version.
    let Some(changing) = mapping.changing() else { return Ok(false) };
    let mut known = changing.lock();
    let _length = mapping.length.lock();
    let now = ask(mapping)?;
    let changed = now != known.get();
    if apply_backing_len(mapping, Some(now.len))?.is_err() {
        // The file grows meanwhile: the next refresh finds what was appended, as the version stays
        // unknown.
        drop_pages::invalidate(mapping);
        return Ok(true);
    }
    if changed {
        drop_pages::invalidate(mapping);
        known.set(now);
    }
    Ok(changed)
}

/// Runs a change of the file that changes no byte, and takes the version after it as known: the
/// next look keeps the pages. If the version was not the known one before, it stays unknown.
///
/// No lock is held meanwhile: `change` may use the file. Own writes in between make known versions
/// as well.
pub(crate) fn change_metadata<S: Scheme, T>(
    mapping: &Mapping<S>,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    mapping.shared.check_process()?;
    // The metadata of a distant object is not looked at.
    let Some(changing) = mapping.changing() else { return change() };
    let was_known = {
        let known = changing.lock();
        ask(mapping)?.change_token == known.get().change_token
    };
    let result = change();
    if was_known && !mapping.shared.is_inherited() {
        let mut known = changing.lock();
        // What fails here is found by the next look.
        if let Ok(now) = ask(mapping) {
            known.set(now);
        }
    }
    result
}

/// Asks the backing for its version, under a lock that writes of the file wait for.
fn ask<S: Scheme>(mapping: &Mapping<S>) -> io::Result<Version> {
    let _request = mapping.shared.requests.begin_query(mapping.id);
    mapping.backing().version()
}

/// Applies the length of the backing: `seen` if the caller has just asked for it. Call under the
/// lock `length`: of two lengths the later one must be applied last. Returns the length of the
/// file, or `Err(page)` for a dirty page that must be written first.
///
/// # Errors
///
/// What the backing returns.
fn apply_backing_len<S: Scheme>(
    mapping: &Mapping<S>,
    seen: Option<u64>,
) -> io::Result<Result<u64, u64>> {
    // Before the backing is asked: what is written between the two is part of its length.
    let unwritten = mapping.dirty_end();
    let backed = match seen {
        Some(len) => len,
        None => ask(mapping)?.len,
    };
    let old = mapping.len();
    let new = backed.max(unwritten.min(old));
    if let Err(page) = set_len(mapping, new) {
        return Ok(Err(page));
    }
    // After the truncation, if it is one: see resize. Release: pairs with Acquire in publish.
    mapping.backed.store(backed, Ordering::Release);
    write_back::set_ordered(mapping, backed);
    // Another thread may have begun to write to a page behind the new end before the truncation,
    // and have finished after the dirty pages were looked at.
    let unwritten = mapping.dirty_end();
    if unwritten > new && new < old {
        // Release: pairs with Acquire in `len`.
        mapping.len.store(unwritten.min(old), Ordering::Release);
    }
    Ok(Ok(mapping.len()))
}

/// Sets the length to `new`. Call under the lock `length`. Returns `Err(page)` if the page in which
/// the file ended is dirty; nothing was changed then.
fn set_len<S: Scheme>(mapping: &Mapping<S>, new: u64) -> Result<(), u64> {
    // Relaxed: written under the lock only.
    let old = mapping.len.load(Ordering::Relaxed);
    if new > old {
        // The old last page ends with zeroes where there are bytes now. It goes before any reader
        // may see the new length. SeqCst, the fence in fill: a fill that this visit does not see
        // reads the file after its length was asked for, so it gets the new bytes.
        fence(Ordering::SeqCst);
        let last = old / FRAME_SIZE as u64;
        drop_pages::drop_clean_pages_from(mapping, last);
        let slot = u32::try_from(last).ok().and_then(|page| mapping.index.get(page));
        // The visit determines if the page is dirty. A later writer finds no page, and reads one
        // with the new bytes.
        if !old.is_multiple_of(FRAME_SIZE as u64)
            && slot.is_some_and(|slot| !drop_pages::drop_page(mapping, slot, false))
        {
            return Err(last);
        }
        // Release: pairs with Acquire in `len`.
        mapping.len.store(new, Ordering::Release);
    } else if new < old {
        // The opposite order: from now on fills past the end decline, and readers notice. Release:
        // pairs with Acquire in `len`.
        mapping.len.store(new, Ordering::Release);
        bump_truncate_seq(mapping);
        // SeqCst, Dekker with the fences in fill and install_new: either this visit sees the page
        // lock and waits for it, or they see the new length and take their page out themselves.
        fence(Ordering::SeqCst);
        drop_pages::drop_clean_pages_from(mapping, new / FRAME_SIZE as u64);
    }
    Ok(())
}

/// Counts a truncation. Call under the lock `length`, after the length was stored and before the
/// pages go.
pub(crate) fn bump_truncate_seq<S: Scheme>(mapping: &Mapping<S>) {
    // Relaxed: no other writer. Release: pairs with Acquire in `truncate_seq`.
    mapping.truncate_seq.store(mapping.truncate_seq.load(Ordering::Relaxed) + 1, Ordering::Release);
}
