//! Measures the resident memory of a full cache per byte of its capacity.
//!
//! The process's resident memory is read before a cache is made and when it is full, so
//! descriptors, index and policy count. A file of twice the capacity goes through the cache, from
//! end to end and then at random.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use folio_cache::Cache;

use crate::harness::{Ask, Report, Row, Scenario, Unit};
use crate::support::memcpy_backing::MemcpyBacking;
use crate::support::memory::resident;

const CAPACITY: usize = 256 << 20;
const PAGE: usize = 4096;
const PAGES: usize = 2 * CAPACITY / PAGE;

/// Returns the pages that are read, in order.
fn pages() -> impl Iterator<Item = usize> {
    let mut random = fastrand::Rng::with_seed(6);
    (0..PAGES).chain((0..PAGES).map(move |_| random.usize(..PAGES)))
}

/// The full caches. They are kept: otherwise the next one would use the memory that the last one
/// freed.
type Kept = Vec<Box<dyn Any>>;

/// Returns the share of the capacity that became resident while `fill` filled a cache.
fn share<T: 'static>(kept: &mut Kept, fill: impl FnOnce() -> io::Result<T>) -> io::Result<f64> {
    let before = resident()?;
    kept.push(Box::new(fill()?));
    Ok(resident()?.saturating_sub(before) as f64 / CAPACITY as f64)
}

fn folio() -> io::Result<(Cache, folio_cache::File)> {
    let cache = Cache::new(CAPACITY)?;
    let file = cache.open_backing(Arc::new(MemcpyBacking::new(2, (PAGES * PAGE) as u64)))?;
    for page in pages() {
        file.read_at(&mut [0; 8], (page * PAGE) as u64)?;
    }
    Ok((cache, file))
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if the cache's memory is not to be had or `/proc/self/statm` cannot be read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = Report::new(
        "Resident memory of a full cache",
        Unit::Number("resident/capacity"),
        "byte",
        "folio",
    );
    let scenario = Scenario { name: "256M", threads: 0 };
    if ask.stop.load(Ordering::Relaxed) {
        report.notes.push("stopped before a cache was filled".to_owned());
        return Ok(report);
    }
    let mut kept = Kept::new();
    report.rows.extend(Row::of("folio", scenario, &[share(&mut kept, folio)?]));
    (ask.progress)(0.5);
    #[cfg(feature = "baselines")]
    for (name, share) in baselines::shares(&mut kept)? {
        report.rows.extend(Row::of(name, scenario, &[share]));
    }
    report
        .notes
        .push("less is better; a baseline's capacity is counted in entries of 4 KiB".to_owned());
    Ok(report)
}

#[cfg(feature = "baselines")]
mod baselines {
    use super::{CAPACITY, Kept, PAGE, io, pages, share};
    use crate::support::baselines::{Baseline, Page, foyer, moka, quick_cache};

    fn full<C: Baseline<Page>>(baseline: C) -> C {
        pages().for_each(|page| _ = baseline.meet(page, || vec![7; PAGE].into()));
        baseline
    }

    pub(super) fn shares(kept: &mut Kept) -> io::Result<[(&'static str, f64); 3]> {
        let moka = share(kept, || Ok(full(moka(CAPACITY / PAGE))))?;
        let quick = share(kept, || Ok(full(quick_cache(CAPACITY / PAGE))))?;
        let foyer = share(kept, || Ok(full(foyer(CAPACITY / PAGE))))?;
        Ok([("moka", moka), ("quick_cache", quick), ("foyer", foyer)])
    }
}
