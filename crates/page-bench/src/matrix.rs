//! The measurement itself: subjects and cases, interleaved, summed up as rows and ratios.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::runner::{Run, cpus, together};

/// Fewer samples than this say nothing.
const LEAST_SAMPLES: usize = 5;

/// A situation in which all subjects are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is done, or where.
    pub name: &'static str,
    /// Threads that do it at once.
    pub threads: usize,
}

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds for one operation of one thread. Less is better.
    Ns,
    /// What all threads together moved. More is better.
    GibPerS,
    /// Milliseconds for the whole. Less is better.
    Ms,
}

impl Unit {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::GibPerS => "GiB/s",
            Self::Ms => "ms",
        }
    }

    fn value(self, run: Run, threads: usize) -> f64 {
        match self {
            Self::Ns => run.seconds * 1e9 * threads as f64 / run.amount as f64,
            Self::GibPerS => run.amount as f64 / run.seconds / f64::from(1 << 30),
            Self::Ms => run.seconds * 1e3,
        }
    }

    /// How many times as fast the first value is.
    fn speed(self, of: f64, to: f64) -> f64 {
        if self == Self::GibPerS { of / to } else { to / of }
    }
}

/// Something that is measured.
pub trait Subject: Sync {
    /// Its name.
    fn name(&self) -> String;

    /// Whether there is something to measure in this case.
    fn takes_part(&self, _: Case) -> bool {
        true
    }

    /// What is not measured, before every sample.
    fn prepare(&self, _: Case) {}

    /// One thread's part of a sample, some milliseconds. How much it did: operations, or bytes.
    fn work(&self, case: Case, thread: usize) -> u64;
}

/// A question, ready to be measured.
pub struct Matrix<'a> {
    /// The question, as a heading.
    pub title: &'static str,
    /// Of one number.
    pub unit: Unit,
    /// What one number is about.
    pub per: &'static str,
    /// All cases.
    pub cases: Vec<Case>,
    /// All subjects.
    pub subjects: Vec<Box<dyn Subject + 'a>>,
    /// Subjects that the others are compared with.
    pub compared_with: &'static [&'static str],
    /// The subject that is ours, and what a plot shows in another colour.
    pub ours: String,
}

impl std::fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matrix").field("title", &self.title).field("cases", &self.cases).finish_non_exhaustive()
    }
}

/// One subject in one case.
#[derive(Clone, Debug)]
pub struct Row {
    /// The subject.
    pub name: String,
    /// The case.
    pub case: Case,
    /// Median of all samples.
    pub median: f64,
    /// The least of them.
    pub min: f64,
    /// The most.
    pub max: f64,
}

/// How many times as fast one subject is as another: the median over rounds, above 1 when it is faster.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// The subject.
    pub of: String,
    /// What it is compared with.
    pub to: &'static str,
    /// The case.
    pub case: Case,
    /// The median.
    pub value: f64,
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Report {
    /// As in [`Matrix`].
    pub title: &'static str,
    /// As in [`Matrix`].
    pub unit: Unit,
    /// As in [`Matrix`].
    pub per: &'static str,
    /// As in [`Matrix`].
    pub compared_with: &'static [&'static str],
    /// As in [`Matrix`].
    pub ours: String,
    /// One for each subject in each case.
    pub rows: Vec<Row>,
    /// Each subject to those of `compared_with`.
    pub ratios: Vec<Ratio>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

impl Matrix<'_> {
    /// Measures for about this long, or until `stop`; `progress` is told the share that is done.
    pub fn measure(&self, time: Duration, stop: &AtomicBool, progress: &mut dyn FnMut(f64)) -> Report {
        let cpus = cpus();
        // By case, by subject, by round.
        let mut samples: Vec<Vec<Vec<Option<f64>>>> = vec![vec![Vec::new(); self.subjects.len()]; self.cases.len()];
        let started = Instant::now();
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) && (round < LEAST_SAMPLES || started.elapsed() < time) {
            for (&case, samples) in self.cases.iter().zip(&mut samples) {
                for turn in 0..self.subjects.len() {
                    // Another order in each round, so that none always follows the same one.
                    let which = (turn + round) % self.subjects.len();
                    let subject = &*self.subjects[which];
                    if subject.takes_part(case) {
                        subject.prepare(case);
                        let run = together(case.threads, &cpus, &|thread| subject.work(case, thread));
                        samples[which].push(run.map(|run| self.unit.value(run, case.threads)));
                    }
                }
            }
            round += 1;
            progress((started.elapsed().as_secs_f64() / time.as_secs_f64()).min(1.0));
        }
        self.summarise(&samples)
    }

    fn summarise(&self, samples: &[Vec<Vec<Option<f64>>>]) -> Report {
        let names: Vec<String> = self.subjects.iter().map(|subject| subject.name()).collect();
        let mut report = Report {
            title: self.title,
            unit: self.unit,
            per: self.per,
            compared_with: self.compared_with,
            ours: self.ours.clone(),
            rows: Vec::new(),
            ratios: Vec::new(),
            notes: Vec::new(),
        };
        for (&case, samples) in self.cases.iter().zip(samples) {
            for ((name, subject), rounds) in names.iter().zip(&self.subjects).zip(samples) {
                if !subject.takes_part(case) {
                    continue;
                }
                let values: Vec<f64> = rounds.iter().copied().flatten().collect();
                if values.len() < LEAST_SAMPLES {
                    report.notes.push(format!(
                        "{name} at {} threads, {}: in {} of {} rounds the threads truly ran at once, {LEAST_SAMPLES} \
                         are needed",
                        case.threads,
                        case.name,
                        values.len(),
                        rounds.len()
                    ));
                    continue;
                }
                report.rows.push(Row {
                    name: name.clone(),
                    case,
                    median: median(&values),
                    min: values.iter().copied().fold(f64::INFINITY, f64::min),
                    max: values.iter().copied().fold(0.0, f64::max),
                });
                for &to in self.compared_with.iter().filter(|&to| to != name) {
                    let Some(rival) = names.iter().position(|name| name == to) else { continue };
                    let speeds = rounds.iter().zip(&samples[rival]);
                    let speeds: Vec<f64> =
                        speeds.filter_map(|(of, to)| Some(self.unit.speed((*of)?, (*to)?))).collect();
                    if speeds.len() >= LEAST_SAMPLES {
                        report.ratios.push(Ratio { of: name.clone(), to, case, value: median(&speeds) });
                    }
                }
            }
        }
        report
    }
}

impl Report {
    /// The rows by case, each group with its title.
    pub fn panels(&self) -> Vec<(String, Vec<&Row>)> {
        let mut panels: Vec<(Case, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            match panels.last_mut().filter(|panel| panel.0 == row.case) {
                Some(panel) => panel.1.push(row),
                None => panels.push((row.case, vec![row])),
            }
        }
        let title = |case: Case| format!("{} thread{}, {}", case.threads, plural(case.threads), case.name);
        panels.into_iter().map(|(case, rows)| (title(case), rows)).collect()
    }

    /// How many times as fast a row's subject is as another.
    pub fn ratio(&self, row: &Row, to: &str) -> Option<f64> {
        let same = |ratio: &&Ratio| ratio.of == row.name && ratio.to == to && ratio.case == row.case;
        self.ratios.iter().find(same).map(|ratio| ratio.value)
    }

    /// For machines. `case_key` is one more name for the case in each row.
    pub fn to_json(&self, case_key: &str) -> Value {
        let rows = self.rows.iter().map(|row| {
            let mut row = json!({
                "name": row.name, "case": row.case.name, "threads": row.case.threads,
                "median": row.median, "min": row.min, "max": row.max, "unit": self.unit.name(),
            });
            row[case_key] = row["case"].clone();
            row
        });
        let ratios = self.ratios.iter().map(|ratio| {
            let mut row = json!({
                "name": format!("{}/{}", ratio.of, ratio.to), "of": ratio.of, "to": ratio.to,
                "case": ratio.case.name, "threads": ratio.case.threads, "value": ratio.value,
            });
            row[case_key] = row["case"].clone();
            row
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "ratios": ratios.collect::<Vec<_>>(), "notes": self.notes })
    }
}

/// 1, 2, 4, ... threads, and one for each CPU.
pub(crate) fn thread_counts() -> Vec<usize> {
    let most = cpus().len();
    let mut counts: Vec<usize> = std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < most).collect();
    counts.push(most);
    counts
}

/// One thread, and one for each CPU.
pub(crate) fn one_and_all() -> Vec<usize> {
    let most = cpus().len();
    if most == 1 { vec![1] } else { vec![1, most] }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    impl Subject for Named {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn takes_part(&self, case: Case) -> bool {
            self.0 != "absent" || case.threads == 1
        }
        fn work(&self, _: Case, _: usize) -> u64 {
            1
        }
    }

    fn matrix(unit: Unit) -> Matrix<'static> {
        Matrix {
            title: "a test",
            unit,
            per: "thing",
            cases: vec![Case { name: "one", threads: 2 }],
            subjects: ["limit", "ours", "late", "absent"].map(|name| Box::new(Named(name)) as Box<dyn Subject>).into(),
            compared_with: &["limit"],
            ours: "ours".to_owned(),
        }
    }

    #[test]
    fn a_ratio_above_1_means_faster_in_any_unit_and_missing_samples_leave_a_note() {
        let samples =
            [vec![vec![Some(5.0); LEAST_SAMPLES], vec![Some(10.0); LEAST_SAMPLES], vec![None; LEAST_SAMPLES], vec![]]];
        for (unit, value) in [(Unit::Ns, 0.5), (Unit::GibPerS, 2.0)] {
            let report = matrix(unit).summarise(&samples);
            let names: Vec<_> = report.rows.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, ["limit", "ours"]);
            assert_eq!(report.ratio(&report.rows[1], "limit"), Some(value));
            assert_eq!(report.notes.len(), 1);
            assert!(report.notes[0].starts_with("late at 2 threads, one: in 0 of 5 rounds"), "{:?}", report.notes);
        }
    }

    #[test]
    fn numbers_are_per_operation_of_a_thread_or_of_all_together() {
        let run = Run { seconds: 2.0, amount: 4 << 30 };
        assert!((Unit::Ns.value(run, 2) - 4e9 / f64::from(1 << 30) / 4.0).abs() < 1e-9);
        assert!((Unit::GibPerS.value(run, 2) - 2.0).abs() < 1e-9);
        assert!((Unit::Ms.value(run, 2) - 2000.0).abs() < 1e-9);
    }
}
