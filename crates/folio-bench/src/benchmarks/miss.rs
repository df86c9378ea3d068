//! Measures a miss that reads by `memcpy`: into free memory (`fill`) or with an eviction (`evict`).
//!
//! A use reads 8 bytes of a page that is not cached. Either the pages follow each other, so that
//! folio reads ahead, in requests of many pages and in the background. Or (`evict-scattered`) the
//! pages lie apart, each a request of its own. The limit does only the necessary: a table from page
//! to frame, a clock that finds a frame, a copy of 4 KiB. It shares nothing: each thread has its
//! own. Its clock goes through all of the memory, and so does `folio clock`. Under the default
//! policy a sequence of pages that are used once takes the same few frames, which then are in the
//! processor's cache.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
use folio_cache::policy::{Clock, HotCold, Policy};
use folio_cache::{Cache, File};
use parking_lot::Mutex;

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};
#[cfg(feature = "baselines")]
use crate::support::baselines::{self, Baseline, Page};
use crate::support::memcpy_backing::MemcpyBacking;

const FILL: &str = "fill";
const EVICT: &str = "evict";
/// Evicting misses of pages that lie apart.
const SCATTERED: &str = "evict-scattered";
/// The uses of [`EVICT`], in the memory that [`SCATTERED`] left behind: its free frames lie apart,
/// so an extent has many pieces.
const AFTERWARDS: &str = "evict-afterwards";

const PAGE: usize = 4096;

/// The pages that a cache may hold: 64 MiB.
const FRAMES: usize = 16_384;

/// The pages of the file when each read evicts: so many that hardly any page is met again.
const PAGES: usize = 64 * FRAMES;

/// Uses of all threads together in one sample that fills: half of the memory.
const FILLS: usize = FRAMES / 2;

/// Uses of all threads together in one sample that evicts. With fewer, earlier readahead and
/// threads that still wake up would decide the result: half of the memory gave up to 10 M a second
/// at a median of 2.5, twice the memory gives at most 3.7 at a median of 3.0.
const EVICTIONS: usize = 2 * FRAMES;

/// The position of each thread: it goes on there in the next sample.
struct Cursors {
    next: [CachePadded<AtomicUsize>; 64],
}

impl Cursors {
    fn new() -> Self {
        Self { next: [const { CachePadded::new(AtomicUsize::new(0)) }; 64] }
    }

    /// Returns the pages of one thread in one sample.
    fn pages(&self, scenario: Scenario, thread: usize) -> impl Iterator<Item = usize> {
        let all = if scenario.name == FILL { FILLS } else { EVICTIONS };
        let (uses, share) = (all / scenario.threads, PAGES / scenario.threads);
        // Relaxed: each cursor belongs to one thread, and spawn and join order the samples.
        let first = if scenario.name == FILL {
            0
        } else {
            self.next[thread].fetch_add(uses, Ordering::Relaxed)
        };
        let is_scattered = scenario.name == SCATTERED;
        let place = move |n| if is_scattered { scattered(n) } else { n };
        (first..first + uses).map(move |n| thread * share + place(n) % share)
    }
}

/// Permutes the numbers below [`PAGES`]: neighbours lie apart, at no stride, so that no contender
/// reads ahead.
fn scattered(n: usize) -> usize {
    const BITS: u32 = PAGES.ilog2();
    let n = n % PAGES;
    let n = (n ^ n >> (BITS / 2)).wrapping_mul(0x9e37_79b1) % PAGES;
    (n ^ n >> (BITS / 2)).wrapping_mul(0x85eb_ca6b) % PAGES
}

/// A contender that returns a page, and reads it on a miss.
trait Pages: Sync {
    fn name(&self) -> &'static str;
    /// Returns the first bytes of a page; `apart` in the memory of the scenarios [`SCATTERED`] and
    /// [`AFTERWARDS`].
    fn first_bytes(&self, page: usize, thread: usize, apart: bool) -> u64;
    /// Evicts all pages.
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

/// The page cache: one cache for the scenarios in order, and one for those apart.
struct Folio(&'static str, [File; 2]);

impl Pages for Folio {
    fn name(&self) -> &'static str {
        self.0
    }
    #[inline(never)]
    fn first_bytes(&self, page: usize, _: usize, apart: bool) -> u64 {
        let mut bytes = [0; 8];
        let read = self.1[usize::from(apart)].read_at(&mut bytes, (page * PAGE) as u64);
        assert_eq!(read.expect("a copy does not fail"), 8);
        u64::from_le_bytes(bytes)
    }
    fn clear(&self) {
        self.1.iter().for_each(File::invalidate);
    }
}

/// The limit: a clock over arrays, one per thread.
struct BareClock {
    source: MemcpyBacking,
    clocks: Vec<CachePadded<Mutex<Clockwork>>>,
}

/// The clock of one thread.
struct Clockwork {
    /// By page: its frame plus one, or 0.
    frames: Vec<u32>,
    /// By frame: its page plus one, or 0.
    pages: Vec<u32>,
    referenced: Vec<bool>,
    memory: Vec<u8>,
    hand: usize,
}

impl BareClock {
    fn new(threads: usize) -> Self {
        let clock = || Clockwork {
            frames: vec![0; PAGES],
            pages: vec![0; FRAMES],
            referenced: vec![false; FRAMES],
            memory: vec![1; FRAMES * PAGE],
            hand: 0,
        };
        Self {
            source: MemcpyBacking::new(0, 0),
            clocks: (0..threads).map(|_| CachePadded::new(Mutex::new(clock()))).collect(),
        }
    }
}

impl Pages for BareClock {
    fn name(&self) -> &'static str {
        "bare clock"
    }
    #[inline(never)]
    fn first_bytes(&self, page: usize, thread: usize, _: bool) -> u64 {
        let clock = &mut *self.clocks[thread].lock();
        let frame = match clock.frames[page] {
            0 => {
                while std::mem::take(&mut clock.referenced[clock.hand]) {
                    clock.hand = (clock.hand + 1) % clock.referenced.len();
                }
                let frame = clock.hand;
                clock.hand = (frame + 1) % clock.referenced.len();
                if let Some(old) = clock.pages[frame].checked_sub(1) {
                    clock.frames[old as usize] = 0;
                }
                clock.pages[frame] = page as u32 + 1;
                clock.frames[page] = frame as u32 + 1;
                clock.memory[frame * PAGE..][..PAGE]
                    .copy_from_slice(black_box(self.source.page(page)));
                frame
            }
            frame => {
                clock.referenced[frame as usize - 1] = true;
                frame as usize - 1
            }
        };
        let bytes = clock.memory[frame * PAGE..][..8].try_into();
        u64::from_le_bytes(bytes.expect("8 bytes"))
    }
    fn clear(&self) {
        for clock in &self.clocks {
            let clock = &mut *clock.lock();
            clock.frames.fill(0);
            clock.pages.fill(0);
        }
    }
}

/// A cache of objects: a miss inserts a copy in memory of its own.
#[cfg(feature = "baselines")]
struct Objects<C>(&'static str, MemcpyBacking, C);

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
    Box::new(Used(Objects(name, MemcpyBacking::new(0, 0), baseline), Cursors::new()))
}

/// Makes the matrix of some scenarios.
fn matrix(scenarios: &[&'static str], title: &'static str) -> io::Result<Matrix<'static>> {
    let threads = one_and_all();
    let scenarios = scenarios.iter().flat_map(|&name| {
        threads.clone().into_iter().map(move |threads| Scenario { name, threads })
    });
    let scenarios: Vec<_> = scenarios.collect();
    let folio = |name, make: fn(u32) -> Box<dyn Policy>| {
        let file = || {
            let cache = Cache::builder().capacity(FRAMES * PAGE).policy(make).build()?;
            cache.open_backing(Arc::new(MemcpyBacking::new(1, (PAGES * PAGE) as u64)))
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

/// Runs the benchmark of misses into free memory.
///
/// # Errors
///
/// The system's error if the cache's memory is not to be had.
pub(super) fn ask_fill(ask: &mut Ask<'_>) -> io::Result<Report> {
    matrix(&[FILL], "Misses into free memory, a fill is a memcpy")?.measure(ask)
}

/// Runs the benchmark of misses that evict.
///
/// # Errors
///
/// The system's error if the cache's memory is not to be had.
pub(super) fn ask_evict(ask: &mut Ask<'_>) -> io::Result<Report> {
    let matrix = matrix(&[EVICT, SCATTERED, AFTERWARDS], "Misses that evict, a fill is a memcpy")?;
    // All memory is in use before the first sample.
    for contender in &matrix.contenders {
        for name in [EVICT, SCATTERED] {
            contender.work(Scenario { name, threads: 1 }, 0);
        }
    }
    matrix.measure(ask)
}
