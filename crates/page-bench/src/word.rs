//! What does taking and returning a reference cost, under each scheme, beside a raw fetch-add and fetch-sub?

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use page_ref::schemes::{FrozenBit, Generational, GuessOne, LiveBitHigh, LiveBitLow, ZeroFrozen};
use page_ref::{DefaultScheme, PageRef, Scheme};
use serde_json::{Value, json};

use crate::runner::{cpus, together};

/// Operations of each thread in one sample: some milliseconds.
const OPERATIONS: u32 = 300_000;

/// Fewer samples than this say nothing.
const LEAST_SAMPLES: usize = 5;

/// One subject at one number of threads and one placement. Times in ns per operation.
#[derive(Clone, Debug)]
pub struct Row {
    /// A scheme's name, or `raw`.
    pub name: String,
    /// Threads that ran at once.
    pub threads: usize,
    /// `one`: all threads on one word. `own`: a word each.
    pub placement: &'static str,
    /// Median of all samples.
    pub median: f64,
    /// The fastest sample.
    pub min: f64,
    /// The slowest sample.
    pub max: f64,
}

/// How many times as fast one subject is as another: the median over rounds.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// The subject.
    pub of: String,
    /// What it is compared with.
    pub to: String,
    /// As in [`Row`].
    pub threads: usize,
    /// As in [`Row`].
    pub placement: &'static str,
    /// Time of `to` divided by the time of `of`: above 1, `of` is faster.
    pub value: f64,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each subject, number of threads and placement.
    pub rows: Vec<Row>,
    /// Each scheme to `raw` and to `zero-frozen`.
    pub ratios: Vec<Ratio>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// The name of the default scheme.
    pub default_scheme: &'static str,
}

trait Subject: Sync {
    fn name(&self) -> &'static str;
    fn work(&self, place: usize);
}

struct Raw(Vec<CachePadded<AtomicU64>>);

impl Subject for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }
    #[inline(never)]
    fn work(&self, place: usize) {
        let word: &AtomicU64 = &self.0[place];
        for _ in 0..OPERATIONS {
            black_box(black_box(word).fetch_add(1, Ordering::Acquire));
            black_box(black_box(word).fetch_sub(1, Ordering::Release));
        }
    }
}

struct Word<S: Scheme>(Vec<CachePadded<PageRef<S>>>);

impl<S: Scheme> Subject for Word<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    #[inline(never)]
    fn work(&self, place: usize) {
        let word: &PageRef<S> = &self.0[place];
        for _ in 0..OPERATIONS {
            black_box(word).try_get(1).expect("the word is live");
            assert!(black_box(word).put().is_none(), "one reference is held throughout");
        }
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

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Measures for about this long, or until `stop`; `progress` is told the share that is done.
pub fn measure(time: Duration, stop: &AtomicBool, progress: &mut dyn FnMut(f64)) -> Report {
    let cpus = cpus();
    let subjects: [Box<dyn Subject>; 7] = [
        Box::new(Raw((0..cpus.len()).map(|_| CachePadded::default()).collect())),
        words::<ZeroFrozen>(cpus.len()),
        words::<GuessOne>(cpus.len()),
        words::<FrozenBit>(cpus.len()),
        words::<LiveBitHigh>(cpus.len()),
        words::<LiveBitLow>(cpus.len()),
        words::<Generational>(cpus.len()),
    ];
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < cpus.len()).collect();
    counts.push(cpus.len());
    let cases: Vec<(usize, &'static str)> = counts.iter().flat_map(|&n| [(n, "one"), (n, "own")]).collect();
    // By case, then by round: the time of each subject, if its threads ran at once.
    let mut samples: BTreeMap<(usize, &'static str), Vec<[Option<f64>; 7]>> = BTreeMap::new();
    let started = Instant::now();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) && (round < LEAST_SAMPLES || started.elapsed() < time) {
        for &(threads, placement) in &cases {
            let mut times = [None; 7];
            for turn in 0..subjects.len() {
                // Another order in each round, so that none always follows the same one.
                let which = (turn + round) % subjects.len();
                let subject = &*subjects[which];
                let work = |thread: usize| subject.work(if placement == "one" { 0 } else { thread });
                times[which] = together(threads, &cpus, &work).map(|seconds| seconds * 1e9 / f64::from(OPERATIONS));
            }
            samples.entry((threads, placement)).or_default().push(times);
        }
        round += 1;
        progress((started.elapsed().as_secs_f64() / time.as_secs_f64()).min(1.0));
    }
    let names = subjects.iter().map(|subject| subject.name()).collect::<Vec<_>>();
    summarise(&names, &cases, &samples)
}

fn summarise(
    names: &[&'static str],
    cases: &[(usize, &'static str)],
    samples: &BTreeMap<(usize, &'static str), Vec<[Option<f64>; 7]>>,
) -> Report {
    let mut report =
        Report { rows: Vec::new(), ratios: Vec::new(), notes: Vec::new(), default_scheme: DefaultScheme::NAME };
    for &(threads, placement) in cases {
        let rounds = samples.get(&(threads, placement)).map_or(&[][..], Vec::as_slice);
        for (which, name) in names.iter().enumerate() {
            let times: Vec<f64> = rounds.iter().filter_map(|round| round[which]).collect();
            if times.len() < LEAST_SAMPLES {
                report.notes.push(format!(
                    "{name} at {threads} threads, placement {placement}: in {} of {} rounds the threads truly ran at once, \
                     {LEAST_SAMPLES} are needed",
                    times.len(),
                    rounds.len()
                ));
                continue;
            }
            report.rows.push(Row {
                name: (*name).to_owned(),
                threads,
                placement,
                median: median(&times),
                min: times.iter().copied().fold(f64::INFINITY, f64::min),
                max: times.iter().copied().fold(0.0, f64::max),
            });
            for (rival, to) in
                names.iter().enumerate().filter(|&(rival, to)| rival != which && ["raw", "zero-frozen"].contains(to))
            {
                let values: Vec<f64> = rounds.iter().filter_map(|round| Some(round[rival]? / round[which]?)).collect();
                if values.len() >= LEAST_SAMPLES {
                    let value = median(&values);
                    report.ratios.push(Ratio {
                        of: (*name).to_owned(),
                        to: (*to).to_owned(),
                        threads,
                        placement,
                        value,
                    });
                }
            }
        }
    }
    report
}

impl Report {
    /// The rows by number of threads and placement, each group with its title.
    pub fn panels(&self) -> Vec<(String, Vec<&Row>)> {
        let mut panels: Vec<(String, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            let what = if row.placement == "one" { "one word" } else { "a word each" };
            let title = format!("{} thread{}, {what}", row.threads, if row.threads == 1 { "" } else { "s" });
            match panels.last_mut().filter(|panel| panel.0 == title) {
                Some(panel) => panel.1.push(row),
                None => panels.push((title, vec![row])),
            }
        }
        panels
    }

    /// How many times as fast a row's subject is as another.
    pub fn ratio(&self, row: &Row, to: &str) -> Option<f64> {
        let same = |ratio: &&Ratio| {
            (ratio.of.as_str(), ratio.to.as_str(), ratio.threads, ratio.placement)
                == (row.name.as_str(), to, row.threads, row.placement)
        };
        self.ratios.iter().find(same).map(|ratio| ratio.value)
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "name": row.name, "threads": row.threads, "placement": row.placement,
                "median": row.median, "min": row.min, "max": row.max, "unit": "ns",
            })
        });
        let ratios = self.ratios.iter().map(|ratio| {
            json!({
                "name": format!("{}/{}", ratio.of, ratio.to), "of": ratio.of, "to": ratio.to,
                "threads": ratio.threads, "placement": ratio.placement, "value": ratio.value,
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "ratios": ratios.collect::<Vec<_>>(), "notes": self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_1_means_faster_and_missing_samples_leave_a_note() {
        let round = [Some(5.0), Some(20.0), None, Some(10.0), Some(10.0), Some(10.0), Some(10.0)];
        let names = ["raw", "zero-frozen", "guess-one", "frozen-bit", "live-bit-high", "live-bit-low", "generational"];
        let samples = BTreeMap::from([((2, "one"), vec![round; LEAST_SAMPLES])]);
        let report = summarise(&names, &[(2, "one")], &samples);
        let row = report.rows.iter().find(|row| row.name == "generational").unwrap();
        assert_eq!((report.ratio(row, "zero-frozen"), report.ratio(row, "raw")), (Some(2.0), Some(0.5)));
        assert_eq!((report.rows.len(), report.notes.len()), (6, 1));
        assert!(report.notes[0].starts_with("guess-one at 2 threads"), "{:?}", report.notes);
    }

    #[test]
    fn a_short_run_measures_every_subject() {
        let report = measure(Duration::ZERO, &AtomicBool::new(false), &mut |_| ());
        let alone: Vec<_> = report.rows.iter().filter(|row| row.threads == 1 && row.placement == "one").collect();
        assert_eq!(alone.len(), 7, "{:?}", report.notes);
        assert!(alone.iter().all(|row| row.min > 0.0 && row.min <= row.median && row.median <= row.max));
        assert!(report.to_json()["rows"][0]["unit"] == "ns");
    }
}
