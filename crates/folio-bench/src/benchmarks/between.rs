//! Measures work between the fetch-add and the fetch-sub.
//!
//! A mere store there can double the time of a pair. Two locked instructions act on a word that
//! other threads want too. Either both run while this core has the cache line, or the line goes
//! away in between and has to come back. The word counts fetch-adds in its upper half. So the
//! second instruction sees if another thread came in between, and if the previous pair was this
//! thread's.

use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};

const OPERATIONS: u32 = 200_000;

/// Adds a reference, and one to the count of fetch-adds.
const GET: u64 = 1 << 32 | 1;
const PUT: u64 = 1;

/// The contender with both locked instructions next to each other.
pub(crate) const NOTHING: &str = "nothing";

/// The number of pairs that one thread does before another one does any.
pub(crate) const IN_A_ROW: &str = "pairs_in_a_row";

/// Counts of one scenario: pairs, undisturbed pairs, pairs that follow another thread's.
#[derive(Default)]
struct Tally([AtomicU64; 3]);

/// The word, and beside it in its cache line a byte like a page's referenced bit.
#[derive(Default)]
struct Line {
    word: AtomicU64,
    beside: AtomicU32,
}

/// The places that the work in between can reach.
struct Places<'a> {
    /// A line that only this thread uses.
    alone: &'a AtomicU32,
    /// The word's line.
    beside: &'a AtomicU32,
    /// Another line that all threads use.
    common: &'a AtomicU32,
}

/// The contender: pairs with `between(old, places)` in between.
struct Pairs<F> {
    name: &'static str,
    line: CachePadded<Line>,
    common: CachePadded<AtomicU32>,
    own: Vec<CachePadded<AtomicU32>>,
    /// For one thread, and for several.
    tallies: [Tally; 2],
    between: F,
}

impl<F: Fn(u64, &Places<'_>) + Sync> Contender for Pairs<F> {
    fn name(&self) -> String {
        self.name.to_owned()
    }
    fn more(&self, scenario: Scenario) -> Vec<(&'static str, f64)> {
        let [pairs, alone, changes] = self.tallies[usize::from(scenario.threads > 1)]
            .0
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed) as f64);
        vec![("undisturbed", alone / pairs), (IN_A_ROW, pairs / changes.max(1.0))]
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let places =
            Places { alone: &self.own[thread], beside: &self.line.beside, common: &self.common };
        let (mut alone, mut changes, mut last) = (0, 0, 0);
        for _ in 0..OPERATIONS {
            // Acquire and Release: the orderings of taking and returning a reference.
            let got = self.line.word.fetch_add(GET, Ordering::Acquire);
            (self.between)(got, &places);
            let gone = self.line.word.fetch_sub(PUT, Ordering::Release);
            let (at, left) = (got >> 32, gone >> 32);
            alone += u64::from(left as u32 == (at as u32).wrapping_add(1));
            changes += u64::from(at != last);
            last = (at + 1) & u64::from(u32::MAX);
        }
        let tally = &self.tallies[usize::from(scenario.threads > 1)].0;
        for (sum, part) in tally.iter().zip([u64::from(OPERATIONS), alone, changes]) {
            // Relaxed: read after the thread is joined.
            sum.fetch_add(part, Ordering::Relaxed);
        }
        u64::from(OPERATIONS)
    }
}

fn pairs<'a>(
    name: &'static str,
    threads: usize,
    between: impl Fn(u64, &Places<'_>) + Sync + 'a,
) -> Box<dyn Contender + 'a> {
    let own = (0..threads).map(|_| CachePadded::default()).collect();
    // One reference stays throughout.
    let line = CachePadded::new(Line { word: AtomicU64::new(1), ..Line::default() });
    Box::new(Pairs {
        name,
        line,
        common: CachePadded::default(),
        own,
        tallies: Default::default(),
        between,
    })
}

/// Makes the contender with nothing between the two instructions.
pub(crate) fn nothing<'a>(threads: usize) -> Box<dyn Contender + 'a> {
    pairs(NOTHING, threads, |_, _| ())
}

/// Computes a chain of squares, each of which waits for the one before: three or four cycles each.
/// A compiler finds no shorter way to its end.
fn chain<const N: u32>(old: u64) {
    let end =
        (0..N).fold(old, |value, _| value.wrapping_mul(value).wrapping_add(0x9E37_79B9_7F4A_7C15));
    assert!(end != 1, "no count ends there");
}

/// Makes the matrix.
pub(super) fn matrix() -> Matrix<'static> {
    let counts = one_and_all();
    let n = counts.iter().copied().max().unwrap_or(1);
    let contenders = vec![
        nothing(n),
        // Frozen, or saturated: the check of every scheme with a bit.
        pairs("compare", n, |old, _| {
            assert!((old as u32) < folio_ref::SATURATED, "too many references");
        }),
        // Relaxed: no other thread reads it.
        pairs("load elsewhere", n, |_, own| _ = black_box(own.alone.load(Ordering::Relaxed))),
        pairs("store elsewhere", n, |_, own| own.alone.store(1, Ordering::Relaxed)),
        pairs("store beside the word", n, |_, own| own.beside.store(1, Ordering::Relaxed)),
        pairs("store to a line of all", n, |_, own| own.common.store(1, Ordering::Relaxed)),
        pairs("4 squares", n, |old, _| chain::<4>(old)),
        pairs("16 squares", n, |old, _| chain::<16>(old)),
        pairs("64 squares", n, |old, _| chain::<64>(old)),
    ];
    Matrix {
        title: "What stands between the fetch-add and the fetch-sub",
        unit: Unit::Ns,
        per: "pair",
        scenarios: counts
            .into_iter()
            .map(|threads| Scenario { name: "one word", threads })
            .collect(),
        contenders,
        compared_with: &[NOTHING],
        ours: "compare".to_owned(),
        shape: Shape::Bars,
    }
}

/// Runs the benchmark.
///
/// # Errors
///
/// None.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = matrix().measure(ask)?;
    report.notes.insert(
        0,
        "undisturbed: the share of pairs with no other thread's access in between; \
         pairs_in_a_row: the number of pairs that one thread does before another one does any"
            .to_owned(),
    );
    Ok(report)
}
