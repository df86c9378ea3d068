//! Filling: a miss reads its page and the neighbours that its reader wants, once, however many
//! threads miss them.
//!
//! | step | if it fails |
//! | --- | --- |
//! | 1. allocate frozen folios: one, by reclaim if necessary, and more if there are any | error; nothing was done |
//! | 2. note mapping and page in their descriptors | |
//! | 3. install them: from now on other threads find them, and sleep | another thread was first: free the rest; without the first page, look again |
//! | 4. have the backing fill them in one request | they are taken out and freed, except the first, which is tried alone |
//! | 5. compare with the lengths of file and backing | pages that are short are taken out and freed; sleepers wake, look again, get their own error |
//! | 6. publish them: sleepers wake; report them to the policy | |

use std::io;
use std::iter;

use folio_ref::Scheme;

use crate::memory::alloc;
use crate::policy::Advice;
use crate::read::extent::Extent;
use crate::state::frames::FolioRef;
use crate::state::mapping::Mapping;

/// The result of a fill.
pub(crate) enum Filled<S: Scheme> {
    /// The page is in the cache; this is a reference to it.
    Page(FolioRef<S>),
    /// Another thread was first: look again.
    Lost,
    /// The file ended before its length did: refresh the length, then look again.
    Short {
        /// The offset at which the file ended.
        at: u64,
    },
}

/// Reports the error of a fill to the readers that wait for its page, even if the backing panics.
struct Report<'m, S: Scheme> {
    mapping: &'m Mapping<S>,
    page: u32,
    is_over: bool,
}

impl<S: Scheme> Report<'_, S> {
    fn failed(&self, error: io::Error) -> io::Error {
        self.mapping.shared.fill_waiters.failed(self.mapping.id, self.page, error)
    }
}

impl<S: Scheme> Drop for Report<'_, S> {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.failed(io::Error::other("the backing panicked"));
        }
    }
}

/// Reads a page into an empty slot. Also reads as many of the `pages` pages from there on, for
/// which there is [room](crate::memory::room::make_room_to_read), as have empty slots. Call with no
/// page locked: it may reclaim, and so drop another mapping.
///
/// # Errors
///
/// `OutOfMemory` if no page can be freed, otherwise what the backing returns for the page.
pub(crate) fn fill<S: Scheme>(
    mapping: &Mapping<S>,
    page: u32,
    pages: u32,
    advice: Advice,
) -> io::Result<Filled<S>> {
    let folios = match pages {
        0 | 1 => Vec::new(),
        several => alloc::allocate_from(mapping, page, several as usize),
    };
    let mut extent = if folios.is_empty() {
        Extent::lock(mapping, page, iter::once(alloc::allocate(&mapping.shared)?))
    } else {
        Extent::lock(mapping, page, folios)
    };
    if extent.len() == 0 {
        return Ok(Filled::Lost);
    }
    extent.set_readahead(1, None);
    extent.set_advice(advice);
    let mut report = Report { mapping, page, is_over: false };
    let filled = match extent.fill() {
        // The error may concern another page, which no reader asked for yet.
        Err(_) if extent.len() > 1 => {
            extent.keep_first();
            extent.fill()
        }
        other => other,
    };
    report.is_over = true;
    let read = filled.map_err(|error| report.failed(error))?;
    let at = extent.offset() + read as u64;
    Ok(extent.publish(read).map_or(Filled::Short { at }, Filled::Page))
}
