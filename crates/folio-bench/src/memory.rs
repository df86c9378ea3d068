//! How much memory does a cache take, of all that the process has, for each byte of its budget?
//!
//! What is resident of the process is read before a cache is made and when it is full: descriptors,
//! index, policy and all. A file of twice the budget goes through it, from end to end and then at
//! random.

use std::any::Any;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use folio_cache::Cache;

use crate::copied::Copied;
use crate::matrix::Case;
use crate::question::Ask;
use crate::report::{Report, Row, Unit};

const BUDGET: usize = 256 << 20;
const PAGE: usize = 4096;
const PAGES: usize = 2 * BUDGET / PAGE;

/// Bytes of this process that are in memory.
fn resident() -> io::Result<usize> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: Option<usize> = text.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    let pages = pages.ok_or_else(|| io::Error::other(format!("/proc/self/statm says {text:?}")))?;
    Ok(pages * rustix::param::page_size())
}

/// What `use_page` is called with.
fn pages() -> impl Iterator<Item = usize> {
    let mut random = fastrand::Rng::with_seed(6);
    (0..PAGES).chain((0..PAGES).map(move |_| random.usize(..PAGES)))
}

/// Full caches: what one gave back to the allocator would be used by the next.
type Kept = Vec<Box<dyn Any>>;

/// The share of the budget that became resident when `fill` filled a cache.
fn share<T: 'static>(kept: &mut Kept, fill: impl FnOnce() -> io::Result<T>) -> io::Result<f64> {
    let before = resident()?;
    kept.push(Box::new(fill()?));
    Ok(resident()?.saturating_sub(before) as f64 / BUDGET as f64)
}

fn folio() -> io::Result<(Cache, folio_cache::File)> {
    let cache = Cache::new(BUDGET)?;
    let file = cache.open_backing(Arc::new(Copied::new(2, (PAGES * PAGE) as u64)))?;
    for page in pages() {
        file.read_at((page * PAGE) as u64, &mut [0; 8])?;
    }
    Ok((cache, file))
}

/// The question.
///
/// # Errors
///
/// What the system says of the memory, or of `/proc/self/statm`.
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = Report::new(
        "Resident memory of a full cache",
        Unit::Number("resident/budget"),
        "byte",
        "folio",
    );
    let case = Case { name: "256M", threads: 0 };
    if ask.stop.load(Ordering::Relaxed) {
        report.notes.push("stopped before a cache was filled".to_owned());
        return Ok(report);
    }
    let mut kept = Kept::new();
    report.rows.extend(Row::of("folio", case, &[share(&mut kept, folio)?]));
    (ask.progress)(0.5);
    #[cfg(feature = "rivals")]
    for (name, share) in rivals::shares(&mut kept)? {
        report.rows.extend(Row::of(name, case, &[share]));
    }
    report.notes.push("less is better; a rival's budget is counted in entries of 4 KiB".to_owned());
    Ok(report)
}

#[cfg(feature = "rivals")]
mod rivals {
    use super::{BUDGET, Kept, PAGE, io, pages, share};
    use crate::rivals::{Page, Rival, foyer, moka, quick_cache};

    fn full<C: Rival<Page>>(rival: C) -> C {
        pages().for_each(|page| _ = rival.meet(page, || vec![7; PAGE].into()));
        rival
    }

    pub(super) fn shares(kept: &mut Kept) -> io::Result<[(&'static str, f64); 3]> {
        let moka = share(kept, || Ok(full(moka(BUDGET / PAGE))))?;
        let quick = share(kept, || Ok(full(quick_cache(BUDGET / PAGE))))?;
        let foyer = share(kept, || Ok(full(foyer(BUDGET / PAGE))))?;
        Ok([("moka", moka), ("quick_cache", quick), ("foyer", foyer)])
    }
}
