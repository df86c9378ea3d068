//! What does taking and returning a reference cost, under each scheme, beside a raw fetch-add and fetch-sub?

use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use page_ref::{DefaultScheme, PageRef, Scheme};

use crate::matrix::{Case, Matrix, Subject, thread_counts};
use crate::question::Ask;
use crate::report::{Report, Shape, Unit};
use crate::schemes::for_each_scheme;

/// Operations of each thread in one sample: some milliseconds.
const OPERATIONS: u32 = 300_000;

/// All threads on one word.
const ONE: &str = "one";
/// A word each.
const OWN: &str = "own";

fn place(case: Case, thread: usize) -> usize {
    if case.name == ONE { 0 } else { thread }
}

struct Raw(Vec<CachePadded<AtomicU64>>);

impl Subject for Raw {
    fn name(&self) -> String {
        "raw".to_owned()
    }
    #[inline(never)]
    fn work(&self, case: Case, thread: usize) -> u64 {
        let word: &AtomicU64 = &self.0[place(case, thread)];
        for _ in 0..OPERATIONS {
            black_box(black_box(word).fetch_add(1, Ordering::Acquire));
            black_box(black_box(word).fetch_sub(1, Ordering::Release));
        }
        u64::from(OPERATIONS)
    }
}

struct Word<S: Scheme>(Vec<CachePadded<PageRef<S>>>);

impl<S: Scheme> Subject for Word<S> {
    fn name(&self) -> String {
        S::NAME.to_owned()
    }
    #[inline(never)]
    fn work(&self, case: Case, thread: usize) -> u64 {
        let word: &PageRef<S> = &self.0[place(case, thread)];
        for _ in 0..OPERATIONS {
            black_box(word).try_get(1).expect("the word is live");
            assert!(black_box(word).put().is_none(), "one reference is held throughout");
        }
        u64::from(OPERATIONS)
    }
}

fn words<S: Scheme>(n: usize) -> Box<dyn Subject> {
    let live = || {
        let word = PageRef::<S>::frozen();
        word.claim_frozen().init();
        CachePadded::new(word)
    };
    Box::new(Word((0..n).map(|_| live()).collect()))
}

/// The question.
pub fn matrix() -> Matrix<'static> {
    let counts = thread_counts();
    let most = counts.iter().copied().max().unwrap_or(1);
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(Raw((0..most).map(|_| CachePadded::default()).collect()))];
    for_each_scheme!(S => subjects.push(words::<S>(most)));
    Matrix {
        title: "Taking and returning one reference",
        unit: Unit::Ns,
        per: "try_get and put",
        cases: counts.iter().flat_map(|&threads| [ONE, OWN].map(|name| Case { name, threads })).collect(),
        subjects,
        compared_with: &["raw", "zero-frozen"],
        ours: DefaultScheme::NAME.to_owned(),
        shape: Shape::Bars,
    }
}

/// Measures it.
///
/// # Errors
///
/// None.
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    Ok(matrix().measure(ask))
}
