//! Measures memory: handles of short ranges that are held, and objects that are open.

use std::any::Any;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use folio_cache::{AsyncBacking, Bytes, Cache};

use crate::harness::{Distance, Report, Row, Scenario, Unit};
use crate::support::distant_store::{Object, Store};
use crate::support::executor::wait;
use crate::support::memory::resident;
use crate::support::range_readers::{By, Folio, Reader};

const PAGE: u64 = 4096;

/// The bytes of a fetch.
const FETCH: u64 = 4 << 20;

/// The pages of which one is held.
const ONE_OF: u64 = 8;

const RETAIN: Scenario = Scenario { name: "retain", threads: 0 };
const OPEN: Scenario = Scenario { name: "open", threads: 0 };

/// The caches and handles. They are kept: otherwise the next one would use the memory that the last
/// one freed.
type Kept = Vec<Box<dyn Any>>;

/// Adds the rows of both cases.
///
/// # Errors
///
/// The system's error if memory is not to be had, or that of a read.
pub(super) fn measure(
    report: &mut Report,
    held: usize,
    objects: usize,
    stop: &AtomicBool,
) -> io::Result<()> {
    // All is kept to the end: memory that is given back meanwhile would count for the next.
    let mut kept = Kept::new();
    let source = Store::new(Distance::NONE);
    let store = Arc::new(source.near(true));
    let open = |report: &mut Report, name, bytes: f64| {
        let row = Row::of(name, OPEN, &[bytes]);
        report.rows.extend(row.map(|row| Row { unit: Some(Unit::Less("bytes")), ..row }));
    };
    let retain = |report: &mut Report, row: Option<Row>| {
        report
            .rows
            .extend(row.map(|row| Row { unit: Some(Unit::Less("resident/accounted")), ..row }));
    };
    let Some(bytes) = opened_in_folio(&mut kept, &store, objects, stop)? else { return Ok(()) };
    open(report, "folio", bytes);
    #[cfg(feature = "baselines")]
    for (name, bytes) in baselines::opened(&mut kept, objects)? {
        open(report, name, bytes);
    }
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    let capacity = held * PAGE as usize * 2;
    // Its answers are slices: the buffers of an answer are none of the cache's memory, and the
    // heap of each thread would keep some.
    let far = Arc::new(source.near(false));
    let row = retained_by_folio(&mut kept, &far, capacity, held, stop)?;
    // Of fewer handles the row would say something else.
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    retain(report, row);
    #[cfg(feature = "baselines")]
    for row in baselines::retained(&mut kept, &store, capacity, held, stop)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        retain(report, Some(row));
    }
    Ok(())
}

/// Reads fetches, and takes one of [`ONE_OF`] pages of each. A cache of pages is asked for the
/// page, once the handle of the fetch is dropped. Of a cache of ranges (`is_slice`) it is a slice
/// of the fetch. Returns the handles: fewer than `held` once `stop` is set.
fn take(
    reader: &dyn Reader,
    held: usize,
    is_slice: bool,
    stop: &AtomicBool,
) -> io::Result<Vec<Bytes>> {
    let mut handles = Vec::with_capacity(held);
    let mut random = fastrand::Rng::with_seed(5);
    for fetch in (0..).step_by(FETCH as usize) {
        let whole = wait(reader.read_one(fetch..fetch + FETCH, By::Range))?;
        let whole = is_slice.then_some(whole);
        for group in (0..FETCH / PAGE).step_by(ONE_OF as usize) {
            if handles.len() == held || stop.load(Ordering::Relaxed) {
                return Ok(handles);
            }
            let at = (group + random.u64(..ONE_OF)) * PAGE;
            handles.push(match &whole {
                Some(whole) => whole.slice(at as usize..(at + PAGE) as usize),
                None => wait(reader.read_one(fetch + at..fetch + at + PAGE, By::Range))?,
            });
        }
    }
    Ok(handles)
}

/// Returns the row of the cache: the resident memory over what is accounted, which is its capacity
/// when it is full, and copies.
fn retained_by_folio(
    kept: &mut Kept,
    store: &Arc<Store>,
    capacity: usize,
    held: usize,
    stop: &AtomicBool,
) -> io::Result<Option<Row>> {
    let before = resident()?;
    let folio = Folio::new(capacity, store, u64::MAX >> 2)?;
    let handles = take(&folio, held, false, stop)?;
    let resident = resident()?.saturating_sub(before);
    // A page of the cache begins at a page; a copy on the heap of the process seldom does.
    let places: HashSet<usize> = handles.iter().map(|bytes| bytes.as_ptr().addr()).collect();
    let copies = places.iter().filter(|&place| place % PAGE as usize != 0).count();
    let row = Row::of("folio", RETAIN, &[resident as f64 / capacity as f64]);
    let more = vec![("held", handles.len() as f64), ("copies", copies as f64)];
    kept.push(Box::new((folio.cache, folio.file, handles)));
    Ok(row.map(|row| Row { more, ..row }))
}

/// Returns the bytes of an open object with one page, beside its page and its backing. Returns
/// `None` if it was stopped.
fn opened_in_folio(
    kept: &mut Kept,
    store: &Arc<Store>,
    objects: usize,
    stop: &AtomicBool,
) -> io::Result<Option<f64>> {
    let backings: Vec<Arc<dyn AsyncBacking>> = (0..objects)
        .map(|number| Object::new(store, number as u64, PAGE) as Arc<dyn AsyncBacking>)
        .collect();
    let cache = Cache::new(objects * PAGE as usize * 2)?;
    let mut files = Vec::with_capacity(objects);
    files.resize_with(objects, || None);
    let before = resident()?;
    for (file, backing) in files.iter_mut().zip(backings) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let opened = cache.open_async(backing)?;
        opened.read_at(&mut [0; 8], 0)?;
        *file = Some(opened);
    }
    let bytes = resident()?.saturating_sub(before) as f64 / objects as f64 - PAGE as f64;
    kept.push(Box::new((cache, files)));
    Ok(Some(bytes))
}

#[cfg(feature = "baselines")]
mod baselines {
    use super::{Arc, AtomicBool, Kept, PAGE, RETAIN, Row, Store, io, resident, take};
    use crate::support::range_caches::{RangeCache, Ranges, foyer, moka};
    use folio_cache::Bytes;

    /// Returns the rows of the caches of ranges. They account for their capacity.
    pub(super) fn retained(
        kept: &mut Kept,
        store: &Arc<Store>,
        capacity: usize,
        held: usize,
        stop: &AtomicBool,
    ) -> io::Result<Vec<Row>> {
        let foyer = || foyer(capacity);
        let of_foyer = row(kept, store, "foyer", foyer, (capacity, held), stop)?;
        let moka = || moka(capacity);
        let of_moka = row(kept, store, "moka", moka, (capacity, held), stop)?;
        Ok([of_foyer, of_moka].into_iter().flatten().collect())
    }

    fn row<C: RangeCache + 'static>(
        kept: &mut Kept,
        store: &Arc<Store>,
        name: &'static str,
        make: impl FnOnce() -> C,
        (capacity, held): (usize, usize),
        stop: &AtomicBool,
    ) -> io::Result<Option<Row>> {
        let before = resident()?;
        let reader = Ranges { name, store: Arc::clone(store), cache: make() };
        let handles = take(&reader, held, true, stop)?;
        let resident = resident()?.saturating_sub(before);
        let more = vec![("held", handles.len() as f64)];
        let row = Row::of(name, RETAIN, &[resident as f64 / capacity as f64]);
        kept.push(Box::new((reader.cache, handles)));
        Ok(row.map(|row| Row { more, ..row }))
    }

    /// Returns the bytes of an entry of a page, beside the page.
    pub(super) fn opened(kept: &mut Kept, objects: usize) -> io::Result<[(&'static str, f64); 2]> {
        let capacity = objects * PAGE as usize * 2;
        let of_foyer = entry(kept, || foyer(capacity), objects)?;
        Ok([("foyer", of_foyer), ("moka", entry(kept, || moka(capacity), objects)?)])
    }

    fn entry<C: RangeCache + 'static>(
        kept: &mut Kept,
        make: impl FnOnce() -> C,
        objects: usize,
    ) -> io::Result<f64> {
        let before = resident()?;
        let cache = make();
        for object in 0..objects as u64 {
            cache.insert((object, 0, PAGE), Bytes::from(vec![7; PAGE as usize]));
        }
        let bytes = resident()?.saturating_sub(before) as f64 / objects as f64 - PAGE as f64;
        kept.push(Box::new(cache));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_the_taking_of_handles() {
        let store = Arc::new(Store::new(Distance::NONE).near(true));
        let folio = Folio::new(16 << 20, &store, u64::MAX >> 2).unwrap();
        let taken = |stop| take(&folio, 100, false, &AtomicBool::new(stop)).unwrap().len();
        assert_eq!((taken(false), taken(true)), (100, 0));
        let opened =
            |stop| opened_in_folio(&mut Kept::new(), &store, 300, &AtomicBool::new(stop)).unwrap();
        assert!(opened(false).is_some() && opened(true).is_none());
    }
}
