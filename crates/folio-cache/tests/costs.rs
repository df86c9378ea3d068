//! The cost of an operation does not grow with the number of futures, files or pages beside it.
//!
//! Time limits are generous: a cost that grows with the square exceeds them many times.

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::{Gated, OpenOnDrop, Together};
use folio_cache::testing::{Call, Fault, Memory};
use folio_cache::{Backing, Cache, File};

const PAGE: usize = 4096;

/// The number of futures, of which a square is too many steps for [`LIMIT`].
const FUTURES: usize = 100_000;

const LIMIT: Duration = Duration::from_secs(20);

/// A task of its own for each future, which counts how often it is woken.
struct Task(Arc<AtomicUsize>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

type Pending<'f> = Vec<(Pin<Box<dyn Future<Output = bool> + 'f>>, Waker)>;

/// Polls a read of one page for each of the `pages`, each by a task of its own. Returns those that
/// are pending.
fn poll_first<'f>(
    pages: impl Iterator<Item = (&'f File, u64)>,
    woken: &Arc<AtomicUsize>,
) -> Pending<'f> {
    let started = Instant::now();
    let pending = pages
        .filter_map(|(file, page)| {
            let read = async move { file.page_async(page * PAGE as u64).await.unwrap().is_some() };
            let mut future: Pin<Box<dyn Future<Output = bool>>> = Box::pin(read);
            let waker = Waker::from(Arc::new(Task(Arc::clone(woken))));
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => Some((future, waker)),
                Poll::Ready(is_there) => {
                    assert!(is_there);
                    None
                }
            }
        })
        .collect();
    assert!(started.elapsed() < LIMIT, "{:?} to poll first", started.elapsed());
    pending
}

/// Polls until all are ready.
fn finish(mut pending: Pending<'_>, wakes: &AtomicUsize) {
    let started = Instant::now();
    let mut seen = 0;
    while !pending.is_empty() {
        pending.retain_mut(|(future, waker)| {
            match future.as_mut().poll(&mut Context::from_waker(waker)) {
                Poll::Ready(is_there) => {
                    assert!(is_there);
                    false
                }
                Poll::Pending => true,
            }
        });
        while wakes.load(Ordering::Relaxed) == seen && !pending.is_empty() {
            assert!(started.elapsed() < 3 * LIMIT, "{} futures are left", pending.len());
            thread::sleep(Duration::from_millis(1));
        }
        seen = wakes.load(Ordering::Relaxed);
    }
    assert!(started.elapsed() < 3 * LIMIT, "{:?} to finish", started.elapsed());
}

fn sparse(pages: usize) -> Memory {
    let memory = Memory::new(b"");
    memory.set_len((pages * PAGE) as u64).unwrap();
    memory
}

#[test]
fn a_future_costs_the_same_beside_many_in_flight() {
    let (gated, _arrivals) = Gated::new(b"", |call, _| call == Call::Fill);
    gated.memory.set_len((FUTURES * PAGE) as u64).unwrap();
    let cache: Cache = Cache::new(256 << 20).unwrap();
    let file = cache.open_backing(gated.clone()).unwrap();
    let wakes = Arc::default();
    let open = OpenOnDrop(&gated);
    let pending = poll_first((0..FUTURES as u64).map(|page| (&file, page)), &wakes);
    drop(open);
    finish(pending, &wakes);
}

#[test]
fn futures_that_wait_for_one_page_cost_the_same_each() {
    let (gated, _arrivals) = Gated::new(b"", |call, _| call == Call::Fill);
    gated.memory.set_len(PAGE as u64).unwrap();
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let file = cache.open_backing(gated.clone()).unwrap();
    let wakes = Arc::default();
    let open = OpenOnDrop(&gated);
    let pending = poll_first((0..FUTURES).map(|_| (&file, 0)), &wakes);
    drop(open);
    finish(pending, &wakes);
    assert_eq!(gated.memory.calls(Call::Fill), 1);
    // Those that are polled while the request ends may ask again. All of them would be twice as
    // many.
    let wakes = wakes.load(Ordering::Relaxed);
    assert!(wakes < FUTURES + FUTURES / 2, "each task is woken once: {wakes} for {FUTURES}");
}

#[test]
fn fetches_that_go_together_cost_the_same_each() {
    let memory = Arc::new(sparse(FUTURES));
    memory.inject(Call::Fill, 0, 8, Fault::Delay(Duration::from_millis(200)));
    let together = Arc::new(Together::new(&memory));
    let cache: Cache = Cache::new(256 << 20).unwrap();
    let file = cache.open_backing(together.clone()).unwrap();
    let wakes = Arc::default();
    finish(poll_first((0..FUTURES as u64).map(|page| (&file, page)), &wakes), &wakes);
    let calls = together.calls.load(Ordering::Relaxed);
    assert!(calls < FUTURES / 8, "{calls} calls");
}

#[test]
fn futures_of_many_files_cost_the_same_each() {
    let cache: Cache = Cache::new(256 << 20).unwrap();
    let files: Vec<_> = (0..2000)
        .map(|_| cache.open_backing(Arc::new(Together::new(&Arc::new(sparse(10))))).unwrap())
        .collect();
    let wakes = Arc::default();
    let pages = (0..10).flat_map(|page| files.iter().map(move |file| (file, page)));
    finish(poll_first(pages, &wakes), &wakes);
}

/// A file of 8 TiB with a page here and there.
fn huge(cache: &Cache) -> (Arc<Memory>, File) {
    let memory = Arc::new(sparse(HUGE_PAGES));
    let file = cache.open_backing(memory.clone()).unwrap();
    for page in [0, 1 << 20, 1 << 30, HUGE_PAGES - 1] {
        assert_eq!(file.read_at(&mut [0; 1], (page * PAGE) as u64).unwrap(), 1);
    }
    (memory, file)
}

const HUGE_PAGES: usize = 1 << 31;

#[test]
fn cuts_and_holes_cost_what_their_range_holds() {
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let (memory, file) = huge(&cache);
    let started = Instant::now();
    for n in 1..=1000 {
        let end = (HUGE_PAGES - n) as u64 * PAGE as u64;
        file.set_len(end).unwrap();
        file.punch_hole(end / 2, PAGE as u64).unwrap();
        // Growth beside the cache: the last page is dropped.
        memory.set_len(end + 100).unwrap();
        assert_eq!(file.read_at(&mut [0; 10], end + 99).unwrap(), 1);
    }
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    let started = Instant::now();
    (0..1000).for_each(|_| file.invalidate());
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}

#[test]
fn a_flush_costs_what_is_dirty() {
    let cache: Cache = Cache::new(64 << 20).unwrap();
    let files: Vec<_> =
        (0..20_000).map(|_| cache.open_backing(Arc::new(sparse(1))).unwrap()).collect();
    let started = Instant::now();
    for file in files.iter().cycle().step_by(7).take(6000) {
        file.write_at(&[1], 0).unwrap();
        cache.flush().unwrap();
    }
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}
