//! What does a miss cost when reading the file costs a `memcpy`: into free memory (`fill`), or into
//! what a page is evicted from (`evict`)?
//!
//! A use is a read of 8 bytes of a page that is not there: one page after the other, so that folio
//! reads ahead, in requests of many pages and in the background; or (`evict-scattered`) pages that
//! lie apart, each a request of its own. The limit does what can not be left out: a table from page
//! to frame, a clock that finds a frame, a copy of 4 KiB. Nothing can be shared in it, each thread
//! has its own. Its clock goes through all of the memory, as `folio clock` does; under the default
//! policy one page after the other that is used once takes the same few frames, which then are in
//! the processor's cache.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use folio_cache::policy::{Clock, HotCold, Policy};
use folio_cache::{Cache, File};
use parking_lot::Mutex;

#[cfg(feature = "baselines")]
use crate::baselines::{self, Baseline, Page};
use crate::benchmark::Ask;
use crate::copied::Copied;
use crate::matrix::{Contender, Matrix, Scenario, one_and_all};
use crate::report::{Report, Shape, Unit};

const FILL: &str = "fill";
const EVICT: &str = "evict";
/// The same, of pages that lie apart.
const SCATTERED: &str = "evict-scattered";
/// As [`EVICT`], in the memory that [`SCATTERED`] left behind: its free frames lie apart, so that
/// there is no run in few pieces.
const AFTERWARDS: &str = "evict-afterwards";

const PAGE: usize = 4096;

/// Pages that a cache may hold: 64 MiB.
const FRAMES: usize = 16_384;

/// Pages of the file when each read evicts: so many that hardly any is met again.
const PAGES: usize = 64 * FRAMES;

/// Uses of all threads together in one sample that fills: half of the memory.
const FILLS: usize = FRAMES / 2;

/// And in one that evicts. Not fewer: what was read ahead before a sample, and threads that still
/// have to wake up, would decide it (half of the memory gave up to 10 M a second, at a median of
/// 2.5, twice the memory 3.0 at most 3.7).
const EVICTIONS: usize = 2 * FRAMES;

/// Where each thread is: it goes on there in the next sample.
struct Cursors {
    next: [CachePadded<AtomicUsize>; 64],
}

impl Cursors {
    fn new() -> Self {
        Self { next: [const { CachePadded::new(AtomicUsize::new(0)) }; 64] }
    }

    /// The pages of one thread in one sample.
    fn pages(&self, scenario: Scenario, thread: usize) -> impl Iterator<Item = usize> {
        let all = if scenario.name == FILL { FILLS } else { EVICTIONS };
        let (uses, part) = (all / scenario.threads, PAGES / scenario.threads);
        // Relaxed: one thread at a time; samples are ordered by spawn and join.
        let first = if scenario.name == FILL {
            0
        } else {
            self.next[thread].fetch_add(uses, Ordering::Relaxed)
        };
        let is_scattered = scenario.name == SCATTERED;
        let place = move |n| if is_scattered { scattered(n) } else { n };
        (first..first + uses).map(move |n| thread * part + place(n) % part)
    }
}

/// Another number for each below [`PAGES`] for each: neighbours lie apart, at no stride, so that
/// nobody reads ahead.
fn scattered(n: usize) -> usize {
    const BITS: u32 = PAGES.ilog2();
    let n = n % PAGES;
    let n = (n ^ n >> (BITS / 2)).wrapping_mul(0x9e37_79b1) % PAGES;
    (n ^ n >> (BITS / 2)).wrapping_mul(0x85eb_ca6b) % PAGES
}

/// Something that is asked for a page, and reads it if need be.
trait Pages: Sync {
    fn name(&self) -> &'static str;
    /// The first bytes of a page; `apart` in the memory of the cases [`SCATTERED`] and
    /// [`AFTERWARDS`].
    fn first_bytes(&self, page: usize, thread: usize, apart: bool) -> u64;
    /// Empties it.
    fn clear(&self);
}

struct Used<P>(P, Cursors);

impl<P: Pages> Contender for Used<P> {
    fn name(&self) -> String {
        self.0.name().to_owned()
    }
    fn prepare(&self, scenario: Scenario) {
        if scenario.name == FILL {
            self.0.clear();
        }
    }
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let mut uses = 0;
        let apart = [SCATTERED, AFTERWARDS].contains(&scenario.name);
        for page in self.1.pages(scenario, thread) {
            black_box(self.0.first_bytes(page, thread, apart));
            uses += 1;
        }
        uses
    }
}

/// In two caches.
struct Folio(&'static str, [File; 2]);

impl Pages for Folio {
    fn name(&self) -> &'static str {
        self.0
    }
    #[inline(never)]
    fn first_bytes(&self, page: usize, _: usize, apart: bool) -> u64 {
        let mut bytes = [0; 8];
        let read = self.1[usize::from(apart)].read_at((page * PAGE) as u64, &mut bytes);
        assert_eq!(read.expect("a copy does not fail"), 8);
        u64::from_le_bytes(bytes)
    }
    fn clear(&self) {
        self.1.iter().for_each(File::invalidate);
    }
}

/// The limit.
struct BareClock {
    source: Copied,
    parts: Vec<CachePadded<Mutex<Part>>>,
}

/// A clock over arrays.
struct Part {
    /// By page: the frame and one, or 0.
    frames: Vec<u32>,
    /// By frame: the page and one, or 0.
    pages: Vec<u32>,
    marks: Vec<bool>,
    memory: Vec<u8>,
    hand: usize,
}

impl BareClock {
    fn new(threads: usize) -> Self {
        let part = || Part {
            frames: vec![0; PAGES],
            pages: vec![0; FRAMES],
            marks: vec![false; FRAMES],
            memory: vec![1; FRAMES * PAGE],
            hand: 0,
        };
        Self {
            source: Copied::new(0, 0),
            parts: (0..threads).map(|_| CachePadded::new(Mutex::new(part()))).collect(),
        }
    }
}

impl Pages for BareClock {
    fn name(&self) -> &'static str {
        "bare clock"
    }
    #[inline(never)]
    fn first_bytes(&self, page: usize, thread: usize, _: bool) -> u64 {
        let part = &mut *self.parts[thread].lock();
        let frame = match part.frames[page] {
            0 => {
                while std::mem::take(&mut part.marks[part.hand]) {
                    part.hand = (part.hand + 1) % part.marks.len();
                }
                let frame = part.hand;
                part.hand = (frame + 1) % part.marks.len();
                if let Some(old) = part.pages[frame].checked_sub(1) {
                    part.frames[old as usize] = 0;
                }
                part.pages[frame] = page as u32 + 1;
                part.frames[page] = frame as u32 + 1;
                part.memory[frame * PAGE..][..PAGE]
                    .copy_from_slice(black_box(self.source.page(page)));
                frame
            }
            frame => {
                part.marks[frame as usize - 1] = true;
                frame as usize - 1
            }
        };
        let bytes = part.memory[frame * PAGE..][..8].try_into();
        u64::from_le_bytes(bytes.expect("8 bytes"))
    }
    fn clear(&self) {
        for part in &self.parts {
            let part = &mut *part.lock();
            part.frames.fill(0);
            part.pages.fill(0);
        }
    }
}

/// A cache of objects: a miss inserts a copy in memory of its own.
#[cfg(feature = "baselines")]
struct Objects<C>(&'static str, Copied, C);

#[cfg(feature = "baselines")]
impl<C: Baseline<Page>> Pages for Objects<C> {
    fn name(&self) -> &'static str {
        self.0
    }
    #[inline(never)]
    fn first_bytes(&self, page: usize, _: usize, _: bool) -> u64 {
        let first = |bytes: &Page| u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        self.2.with(page, first).unwrap_or_else(|| {
            let bytes = Page::from(self.1.page(page));
            let read = first(&bytes);
            self.2.insert(page, bytes);
            read
        })
    }
    fn clear(&self) {
        self.2.clear();
    }
}

#[cfg(feature = "baselines")]
fn objects(name: &'static str, baseline: impl Baseline<Page> + 'static) -> Box<dyn Contender> {
    Box::new(Used(Objects(name, Copied::new(0, 0), baseline), Cursors::new()))
}

fn matrix(scenarios: &[&'static str], title: &'static str) -> io::Result<Matrix<'static>> {
    let threads = one_and_all();
    let scenarios = scenarios.iter().flat_map(|&name| {
        threads.clone().into_iter().map(move |threads| Scenario { name, threads })
    });
    let scenarios: Vec<_> = scenarios.collect();
    let folio = |name, make: fn(u32) -> Box<dyn Policy>| {
        let file = || {
            let cache = Cache::with_policy(FRAMES * PAGE, make)?;
            cache.open_backing(Arc::new(Copied::new(1, (PAGES * PAGE) as u64)))
        };
        Ok::<_, io::Error>(Box::new(Used(Folio(name, [file()?, file()?]), Cursors::new())))
    };
    let most = threads.iter().copied().max().unwrap_or(1);
    #[cfg_attr(not(feature = "baselines"), expect(unused_mut, reason = "baselines are added"))]
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Used(BareClock::new(most), Cursors::new())),
        folio("folio", |frames| Box::new(HotCold::new(frames)))?,
        folio("folio clock", |_| Box::new(Clock::new()))?,
    ];
    #[cfg(feature = "baselines")]
    {
        contenders.push(objects("moka", baselines::moka(FRAMES)));
        contenders.push(objects("quick_cache", baselines::quick_cache(FRAMES)));
        contenders.push(objects("foyer", baselines::foyer(FRAMES)));
    }
    Ok(Matrix {
        title,
        unit: Unit::OpPerS,
        per: "second",
        scenarios,
        contenders,
        compared_with: &["bare clock"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// Into free memory.
///
/// # Errors
///
/// What the system says of the cache's memory.
pub fn ask_fill(ask: &mut Ask<'_>) -> io::Result<Report> {
    Ok(matrix(&[FILL], "Misses into free memory, a fill is a memcpy")?.measure(ask))
}

/// With an eviction for each.
///
/// # Errors
///
/// What the system says of the cache's memory.
pub fn ask_evict(ask: &mut Ask<'_>) -> io::Result<Report> {
    let matrix = matrix(&[EVICT, SCATTERED, AFTERWARDS], "Misses that evict, a fill is a memcpy")?;
    // All memory is in use before the first sample.
    for contender in &matrix.contenders {
        for name in [EVICT, SCATTERED] {
            contender.work(Scenario { name, threads: 1 }, 0);
        }
    }
    Ok(matrix.measure(ask))
}
