//! Writers beyond the limit of dirty pages write some themselves, and threads that need memory have
//! some written.
//!
//! | limit | a file may have more dirty pages |
//! | --- | --- |
//! | a quarter of the capacity | while all files that are not sick have less |
//! | a sixteenth of the capacity | while it has less itself, whatever the other files have |
//! | three quarters of the capacity | while all files have less |
//!
//! A file is sick while its last write failed, or while a request of it hangs
//! ([`Requests`](crate::state::requests::Requests)). Only the first limit holds for a sick file,
//! and it counts all pages.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use folio_ref::Scheme;

use crate::rt::foreign::catch_panic;
use crate::state::health::Why;
use crate::state::mapping::Mapping;
use crate::state::shared::Shared;
use crate::state::stats::Count;
use crate::writeback::dirty_pages;
use crate::writeback::sync::keep_unwritten;
use crate::writeback::unlinked;
use crate::writeback::write_back::{Then, Written, try_write_range, write_range};

/// The number of requests of one file that are tried when memory is needed, until one succeeds.
const MAX_TRIES: usize = 4;

/// The number of files that are tried when memory is needed.
const MAX_FILES: usize = 8;

/// The share of the limit that a file has whatever the other files do.
const RESERVE_SHARE: u64 = 4;

/// All files together may have this number of times the limit.
const MAX_LIMITS: u64 = 3;

/// The time that a thread which needs memory waits for flush threads.
const PATIENCE: Duration = Duration::from_millis(20);

/// Throttles a writer when more than half of the limit is dirty: notifies the flusher, and beyond
/// the limit, writes dirty pages itself. Call with no lock held except `grow`.
///
/// # Errors
///
/// What the backing returns for dirty pages of the same file.
#[cold]
#[inline(never)]
pub(crate) fn throttle<S: Scheme>(mapping: &Mapping<S>) -> io::Result<()> {
    let shared = &mapping.shared;
    let (dirty, limit) = (dirty_pages::count(shared), dirty_pages::limit(shared));
    if dirty.saturating_sub(dirty_pages::count_sick(shared)) > limit / 2 {
        shared.flusher.notify_now();
    }
    if dirty <= limit || may_have_more(mapping, dirty, limit) {
        return Ok(());
    }
    mapping.count(Count::Throttled, 1);
    if let Some(written) = write_some(mapping, write_range) {
        return written;
    }
    write_back_some(shared);
    Ok(())
}

/// Returns `true` if a file may have one more dirty page though all files have more than the limit.
fn may_have_more<S: Scheme>(mapping: &Mapping<S>, dirty: u64, limit: u64) -> bool {
    let shared = &mapping.shared;
    let are_others_sick = || dirty.saturating_sub(dirty_pages::count_sick(shared)) <= limit;
    if mapping.is_sick() || dirty > MAX_LIMITS * limit {
        return false;
    }
    if are_others_sick() || mapping.dirty_count() <= limit / RESERVE_SHARE {
        return true;
    }
    dirty_pages::find_hung(shared) && !mapping.is_sick() && are_others_sick()
}

/// Writes some dirty neighbours, starting behind the last ones: so pages that cannot be written do
/// not always come first. Returns the first success of a few requests, otherwise the first error,
/// or `None` if nothing is dirty.
fn write_some<S: Scheme>(
    mapping: &Mapping<S>,
    write_range: impl Fn(&Mapping<S>, Range<u64>, Then) -> Option<Written>,
) -> Option<io::Result<()>> {
    let writing = mapping.writing()?;
    // Relaxed, here and below: a hint of where to look first.
    let start = writing.swept.load(Ordering::Relaxed);
    let (mut tries, mut failed) = (0, None);
    for mut pages in [start..u64::MAX, 0..start] {
        while tries < MAX_TRIES
            && let Some(written) = write_range(mapping, pages.clone(), Then::Nothing)
        {
            writing.swept.store(written.range.end, Ordering::Relaxed);
            (pages.start, tries) = (written.range.end.max(pages.start), tries + 1);
            match written.result {
                Ok(()) => return Some(Ok(())),
                Err(error) => failed = failed.or(Some(Err(error))),
            }
            if written.is_full {
                break;
            }
        }
    }
    failed
}

/// Has some dirty pages of any file written, because memory is needed. Returns `true` if pages
/// became clean. An error or panic of a backing is left to the next sync of that file.
///
/// A file with requests that hang is left alone, and one that fails is tried only if no other file
/// has dirty pages, and less and less often.
pub(crate) fn write_back_some<S: Scheme>(shared: &Shared<S>) -> bool {
    if dirty_pages::count(shared) == 0 {
        return false;
    }
    dirty_pages::find_hung(shared);
    let (mut healthy, mut sick) = (Vec::new(), Vec::new());
    shared.registry.any_dirty(|mapping| {
        let files = if mapping.is_sick() { &mut sick } else { &mut healthy };
        if files.len() < MAX_FILES {
            files.push(Arc::clone(mapping));
        }
        healthy.len() == MAX_FILES
    });
    write_some_of(shared, &healthy) || {
        let hung = shared.requests.longer_than(Duration::ZERO);
        let may_write = |mapping: &Arc<Mapping<S>>| {
            !hung.contains(&mapping.id) && mapping.make_writing().health.may_write(Why::Memory)
        };
        let tried: Vec<_> = sick.into_iter().filter(may_write).collect();
        write_some_of(shared, &tried)
    }
}

/// Has some dirty pages of these files written, by flush threads if there are any. Returns `true`
/// if pages became clean.
fn write_some_of<S: Scheme>(shared: &Shared<S>, files: &[Arc<Mapping<S>>]) -> bool {
    let before = dirty_pages::count(shared);
    let (mut tries, mut requested) = (0, 0);
    for mapping in files {
        if tries == MAX_FILES || requested == MAX_FILES {
            break;
        }
        if shared.flush_pool.request(mapping) {
            requested += 1;
            continue;
        }
        match catch_panic(|| unlinked::forget_if_unlinked(shared, mapping)) {
            Ok(false) => {}
            // Its pages leave with it.
            Ok(true) => return true,
            Err(_) => continue,
        }
        let written = catch_panic(|| write_some(mapping, try_write_range));
        // It may have been kept only because it was dirty.
        keep_unwritten(shared, mapping);
        match written {
            Ok(Some(Ok(()))) => return true,
            Ok(None) => {}
            _ => tries += 1,
        }
    }
    requested > 0 && shared.flush_pool.wait_until(PATIENCE, || dirty_pages::count(shared) < before)
}
