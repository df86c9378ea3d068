//! Measures taking and returning a reference under each scheme, beside the two raw instructions.
//!
//! It also measures a refusal by a frozen word, with each way to clean up that the patch's versions
//! had, and by a load that looks first; and a whole life of a frame that says what it is, beside a
//! word with the same states by compare-and-swap.

use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use folio_ref::schemes::Tagged;
use folio_ref::{DefaultScheme, PageRef, Scheme};

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, thread_counts};
use crate::support::lives::{Claimed, Compared, Life, Sole};
use crate::support::schemes::for_each_scheme;
use crate::support::undo::{AtLimit, Once, Policy, Undo, Whenever};

/// Operations per thread in one sample: some milliseconds.
const OPERATIONS: u32 = 300_000;

/// All threads on one word.
pub(crate) const ONE: &str = "one";
/// A word each.
const OWN: &str = "own";
/// All threads on one word, which is frozen.
const ONE_REFUSED: &str = "one, refused";
/// A word each, frozen.
const OWN_REFUSED: &str = "own, refused";

/// A word each: claim, init, last put.
const LIFE: &str = "own, a life";
/// Many words each: all are claimed and opened, then all get their last put.
const LIVES: &str = "own, 64 lives";

/// The number of words of the last scenario.
const FRAMES: usize = 64;

fn place(scenario: Scenario, thread: usize) -> usize {
    if scenario.name.starts_with(ONE) { 0 } else { thread }
}

fn is_refused(scenario: Scenario) -> bool {
    [ONE_REFUSED, OWN_REFUSED].contains(&scenario.name)
}

fn is_life(scenario: Scenario) -> bool {
    [LIFE, LIVES].contains(&scenario.name)
}

/// The limit: the two instructions, or one where the others are refused.
struct Raw(Vec<CachePadded<AtomicU64>>);

impl Contender for Raw {
    fn name(&self) -> String {
        "raw".to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        !is_life(scenario)
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let word: &AtomicU64 = &self.0[place(scenario, thread)];
        if is_refused(scenario) {
            for _ in 0..OPERATIONS {
                black_box(black_box(word).fetch_add(1, Ordering::Acquire));
            }
        } else {
            for _ in 0..OPERATIONS {
                black_box(black_box(word).fetch_add(1, Ordering::Acquire));
                black_box(black_box(word).fetch_sub(1, Ordering::Release));
            }
        }
        u64::from(OPERATIONS)
    }
}

struct Word<S: Scheme> {
    live: Vec<CachePadded<PageRef<S>>>,
    frozen: Vec<CachePadded<PageRef<S>>>,
}

impl<S: Scheme> Contender for Word<S> {
    fn name(&self) -> String {
        S::NAME.to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        !is_life(scenario)
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        if is_refused(scenario) {
            let word: &PageRef<S> = &self.frozen[place(scenario, thread)];
            for _ in 0..OPERATIONS {
                assert!(black_box(word).try_get(1).is_err(), "the word is frozen");
            }
        } else {
            let word: &PageRef<S> = &self.live[place(scenario, thread)];
            for _ in 0..OPERATIONS {
                black_box(word).try_get(1).expect("the word is live");
                assert!(black_box(word).put().is_none(), "one reference is held throughout");
            }
        }
        u64::from(OPERATIONS)
    }
}

/// A refusal by [`PageRef::try_get_unless_frozen`] under the default scheme.
struct Looking(Vec<CachePadded<PageRef>>);

impl Contender for Looking {
    fn name(&self) -> String {
        "looking-first".to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        is_refused(scenario)
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let word: &PageRef = &self.0[place(scenario, thread)];
        for _ in 0..OPERATIONS {
            assert!(black_box(word).try_get_unless_frozen(1).is_err(), "the word is frozen");
        }
        u64::from(OPERATIONS)
    }
}

/// The limit of a refusal: a plain load.
struct Load(Vec<CachePadded<AtomicU64>>);

impl Contender for Load {
    fn name(&self) -> String {
        "load".to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        is_refused(scenario)
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let word: &AtomicU64 = &self.0[place(scenario, thread)];
        for _ in 0..OPERATIONS {
            // Relaxed: only its time matters.
            black_box(black_box(word).load(Ordering::Relaxed));
        }
        u64::from(OPERATIONS)
    }
}

/// The words of each thread.
struct Lives<L>(Vec<CachePadded<[L; FRAMES]>>);

impl<L: Life> Contender for Lives<L> {
    fn name(&self) -> String {
        L::NAME.to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        is_life(scenario)
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let words = &self.0[thread];
        let mine = if scenario.name == LIFE { &words[..1] } else { &words[..] };
        let rounds = OPERATIONS as usize / mine.len();
        for _ in 0..rounds {
            let mine = black_box(mine);
            mine.iter().for_each(Life::begin);
            mine.iter().for_each(Life::end);
        }
        (rounds * mine.len()) as u64
    }
}

impl<P: Policy> Contender for Vec<CachePadded<Undo<P>>> {
    fn name(&self) -> String {
        P::NAME.to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        // Up to the refusal the code of all three is that of frozen-bit.
        is_refused(scenario)
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let word: &Undo<P> = &self[place(scenario, thread)];
        for _ in 0..OPERATIONS {
            assert!(!black_box(word).try_get(), "the word is frozen");
        }
        u64::from(OPERATIONS)
    }
}

pub(crate) fn words<S: Scheme>(n: usize) -> Box<dyn Contender> {
    let frozen = || CachePadded::new(PageRef::<S>::frozen());
    let live = || {
        let word = frozen();
        word.take_frozen().init();
        word
    };
    Box::new(Word {
        live: (0..n).map(|_| live()).collect(),
        frozen: (0..n).map(|_| frozen()).collect(),
    })
}

fn undoing<P: Policy>(n: usize) -> Box<dyn Contender> {
    Box::new((0..n).map(|_| CachePadded::new(Undo::<P>::frozen())).collect::<Vec<_>>())
}

fn lives<L: Life>(n: usize) -> Box<dyn Contender> {
    let words = || CachePadded::new(std::array::from_fn(|_| L::unused()));
    Box::new(Lives::<L>((0..n).map(|_| words()).collect()))
}

/// Makes the matrix.
pub(super) fn matrix() -> Matrix<'static> {
    let counts = thread_counts();
    let most = counts.iter().copied().max().unwrap_or(1);
    let mut contenders: Vec<Box<dyn Contender>> =
        vec![Box::new(Raw((0..most).map(|_| CachePadded::default()).collect()))];
    for_each_scheme!(S => contenders.push(words::<S>(most)));
    contenders.extend([undoing::<AtLimit>(most), undoing::<Once>(most), undoing::<Whenever>(most)]);
    contenders.push(Box::new(Load((0..most).map(|_| CachePadded::default()).collect())));
    let frozen = || CachePadded::new(PageRef::frozen());
    contenders.push(Box::new(Looking((0..most).map(|_| frozen()).collect())));
    contenders.push(lives::<Compared>(most));
    contenders.push(lives::<Claimed<Tagged>>(most));
    contenders.push(lives::<Claimed<Sole>>(most));
    let names = [ONE, OWN, ONE_REFUSED, OWN_REFUSED, LIFE, LIVES];
    Matrix {
        title: "Taking and returning one reference, or being refused",
        unit: Unit::Ns,
        per: "try_get and put, or refused try_get, or life",
        scenarios: counts
            .iter()
            .flat_map(|&threads| names.map(|name| Scenario { name, threads }))
            .collect(),
        contenders,
        compared_with: &["raw", "zero-frozen"],
        ours: DefaultScheme::NAME.to_owned(),
        shape: Shape::Bars,
    }
}

/// Runs the benchmark.
///
/// # Errors
///
/// None.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    matrix().measure(ask)
}
