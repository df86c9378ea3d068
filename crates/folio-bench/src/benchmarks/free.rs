//! Measures the last put: two atomic steps under schemes with a bit, one where 0 is frozen.

use std::hint::black_box;
use std::io;

use crossbeam_utils::CachePadded;
use folio_ref::schemes::LiveBitHigh;
use folio_ref::{DefaultScheme, PageRef, Scheme};

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};
use crate::support::schemes::for_each_scheme;

/// A frame's whole life: init, and the last put.
const LIFE: &str = "init, last put";
/// A life with a lookup in between.
const USED: &str = "init, try_get, put, last put";

/// Many lives begin, then all end: a put does not wait for its own init.
const APART: &str = "64 inits, 64 last puts";

/// The number of frames with overlapping lives.
const FRAMES: usize = 64;

/// Lives per thread in one sample.
const LIVES: u32 = 200_000;

struct Put<S: Scheme> {
    /// The words of each thread.
    words: Vec<CachePadded<[PageRef<S>; FRAMES]>>,
    /// The last put declares that it expects to be the last.
    sole: bool,
}

impl<S: Scheme> Contender for Put<S> {
    fn name(&self) -> String {
        match self.sole {
            false => S::NAME.to_owned(),
            true if S::NAME == DefaultScheme::NAME => "sole-owner".to_owned(),
            true => format!("sole-owner, {}", S::NAME),
        }
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let words = &self.words[thread];
        if scenario.name == APART {
            for _ in 0..LIVES as usize / FRAMES {
                let words = black_box(words);
                words.iter().for_each(|word| word.take_frozen().init());
                for word in words.iter() {
                    let handle = if self.sole { word.put_expecting_last() } else { word.put() };
                    handle.expect("no other reference").leave_frozen();
                }
            }
            return (LIVES as usize / FRAMES * FRAMES) as u64;
        }
        let word = &words[0];
        for _ in 0..LIVES {
            let word = black_box(word);
            word.take_frozen().init();
            if scenario.name == USED {
                word.try_get(1).expect("the word is live");
                assert!(word.put().is_none(), "one more reference is held");
            }
            let handle = if self.sole { word.put_expecting_last() } else { word.put() };
            handle.expect("no other reference").leave_frozen();
        }
        u64::from(LIVES)
    }
}

/// Makes the matrix.
pub(super) fn matrix() -> Matrix<'static> {
    let counts = one_and_all();
    let most = counts.iter().copied().max().unwrap_or(1);
    let mut contenders: Vec<Box<dyn Contender>> = Vec::new();
    for_each_scheme!(S => {
        let words = || CachePadded::new(std::array::from_fn(|_| PageRef::frozen()));
        let put = |sole| Put::<S> { words: (0..most).map(|_| words()).collect(), sole };
        contenders.push(Box::new(put(false)));
        if S::NAME == DefaultScheme::NAME || S::NAME == LiveBitHigh::NAME {
            contenders.push(Box::new(put(true)));
        }
    });
    Matrix {
        title: "A frame's life, up to its last put",
        unit: Unit::Ns,
        per: "life",
        scenarios: counts
            .into_iter()
            .flat_map(|threads| [LIFE, APART, USED].map(|name| Scenario { name, threads }))
            .collect(),
        contenders,
        compared_with: &["zero-frozen"],
        ours: "sole-owner".to_owned(),
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
