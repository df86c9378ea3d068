//! The measurement itself: subjects and cases, interleaved, summed up as rows and ratios.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::question::Ask;
use crate::report::{Ratio, Report, Row, Shape, Unit, median};
use crate::runner::{TOGETHER, cpus, together};

/// Fewer samples than this say nothing.
const LEAST_SAMPLES: usize = 5;

/// A row says how long its threads slept from this share of their time on.
const MENTIONED: f64 = 0.01;

/// `None`: the threads did not run at once.
type Sample = Option<Measured>;

#[derive(Clone, Copy)]
struct Measured {
    value: f64,
    /// As in [`Run`](crate::runner::Run).
    cpu: f64,
    /// As in [`Run`](crate::runner::Run).
    slept: f64,
}

/// A situation in which all subjects are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Case {
    /// What is done, or where.
    pub name: &'static str,
    /// Threads that do it at once; 0 where that has no meaning.
    pub threads: usize,
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

    /// More numbers about a case, by name, once it was measured.
    fn more(&self, _: Case) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

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
    /// How it is drawn.
    pub shape: Shape,
}

impl std::fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matrix")
            .field("title", &self.title)
            .field("cases", &self.cases)
            .finish_non_exhaustive()
    }
}

impl Matrix<'_> {
    /// Measures for as long as is asked for, or until the stop, which is looked at before each
    /// sample: a round of many cases takes seconds. What was sampled before it counts, and a
    /// note says how far that is.
    pub fn measure(&self, ask: &mut Ask<'_>) -> Report {
        let cpus = cpus();
        // By case, by subject, by round.
        let mut samples: Vec<Vec<Vec<Sample>>> =
            vec![vec![Vec::new(); self.subjects.len()]; self.cases.len()];
        let (mut order, mut random): (Vec<_>, _) =
            ((0..self.subjects.len()).collect(), fastrand::Rng::with_seed(1));
        let started = Instant::now();
        let (mut round, mut stopped) = (0, None);
        'rounds: while round < LEAST_SAMPLES || started.elapsed() < ask.time {
            for (before, (&case, samples)) in self.cases.iter().zip(&mut samples).enumerate() {
                // Another order each time, so that none always follows the same one: it may find in
                // the processor's cache what that one read.
                random.shuffle(&mut order);
                for &which in &order {
                    if ask.stop.load(Ordering::Relaxed) {
                        stopped = Some(before);
                        break 'rounds;
                    }
                    let subject = &*self.subjects[which];
                    if subject.takes_part(case) {
                        subject.prepare(case);
                        let run =
                            together(case.threads, &cpus, &|thread| subject.work(case, thread));
                        samples[which].push(run.map(|run| Measured {
                            value: self.unit.value(run, case.threads),
                            cpu: run.cpu,
                            slept: run.slept,
                        }));
                    }
                }
            }
            round += 1;
            (ask.progress)((started.elapsed().as_secs_f64() / ask.time.as_secs_f64()).min(1.0));
        }
        let mut report = self.summarise(&samples);
        if let Some(cases) = stopped {
            let of = self.cases.len();
            report.notes.insert(
                0,
                format!(
                    "stopped early: after {round} rounds, and {cases} of {of} cases of the next"
                ),
            );
        }
        report
    }

    fn summarise(&self, samples: &[Vec<Vec<Sample>>]) -> Report {
        let names: Vec<String> = self.subjects.iter().map(|subject| subject.name()).collect();
        let mut report = Report {
            compared_with: self.compared_with,
            shape: self.shape,
            ..Report::new(self.title, self.unit, self.per, &self.ours)
        };
        for (&case, samples) in self.cases.iter().zip(samples) {
            for ((name, subject), rounds) in names.iter().zip(&self.subjects).zip(samples) {
                if !subject.takes_part(case) {
                    continue;
                }
                let values: Vec<f64> = rounds.iter().flatten().map(|sample| sample.value).collect();
                let row =
                    Row::of(name.as_str(), case, &values).filter(|_| values.len() >= LEAST_SAMPLES);
                let Some(mut row) = row else {
                    report.notes.push(format!(
                        "{name} at {} threads, {}: in {} of {} rounds the threads truly ran at once, {LEAST_SAMPLES} \
                         are needed",
                        case.threads,
                        case.name,
                        values.len(),
                        rounds.len()
                    ));
                    continue;
                };
                row.more = subject.more(case);
                let slept: Vec<f64> = rounds.iter().flatten().map(|sample| sample.slept).collect();
                row.more
                    .extend(Some(("slept", median(&slept))).filter(|slept| slept.1 >= MENTIONED));
                report.rows.push(row);
                for &to in self.compared_with.iter().filter(|&to| to != name) {
                    let Some(rival) = names.iter().position(|name| name == to) else { continue };
                    let speeds = rounds.iter().zip(&samples[rival]);
                    let speeds: Vec<f64> = speeds
                        .filter_map(|(of, to)| Some(self.unit.speed((*of)?.value, (*to)?.value)))
                        .collect();
                    if speeds.len() >= LEAST_SAMPLES {
                        report.ratios.push(Ratio {
                            of: name.clone(),
                            to,
                            case,
                            value: median(&speeds),
                        });
                    }
                }
            }
        }
        report.notes.push(at_once(samples.iter().flatten().flatten()));
        report
    }
}

/// How far the threads truly ran at once.
fn at_once<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> String {
    let (all, kept) = (samples.clone().count(), samples.clone().flatten().count());
    let least = samples.flatten().map(|sample| sample.cpu).reduce(f64::min).unwrap_or(0.0);
    format!(
        "in {kept} of {all} samples all threads ran at once (together for {share} % of the time, each with its CPU for \
         {share} % of its own, unless other threads of the same subject had it, or it slept, on a lock of another, say: 'slept' is \
         the share of the one that slept most); the others were thrown away, and no ratio is built on them; least share with a CPU \
         in those kept: {:.1} %",
        (least * 1000.0).floor() / 10.0,
        share = (TOGETHER * 100.0) as u32
    )
}

/// 1, 2, 4, ... threads, and one for each CPU.
pub(crate) fn thread_counts() -> Vec<usize> {
    let most = cpus().len();
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < most).collect();
    counts.push(most);
    counts
}

/// One thread, and one for each CPU.
pub(crate) fn one_and_all() -> Vec<usize> {
    let most = cpus().len();
    if most == 1 { vec![1] } else { vec![1, most] }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32};
    use std::time::Duration;

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

    /// Somebody stops it in the second case of the fourth round.
    struct Stopping<'a>(&'a AtomicBool, &'a AtomicU32);

    impl Subject for Stopping<'_> {
        fn name(&self) -> String {
            "stopping".to_owned()
        }
        fn work(&self, _: Case, _: usize) -> u64 {
            if self.1.fetch_add(1, Ordering::Relaxed) + 1 == 3 * 3 + 2 {
                self.0.store(true, Ordering::Relaxed);
            }
            1
        }
    }

    /// It went on to the end of the round.
    #[test]
    fn a_stop_ends_the_round_at_once_and_the_report_says_where() {
        let (stop, worked) = (AtomicBool::new(false), AtomicU32::new(0));
        let matrix = Matrix {
            cases: ["one", "two", "three"].map(|name| Case { name, threads: 1 }).into(),
            subjects: vec![Box::new(Stopping(&stop, &worked))],
            ..matrix(Unit::Ns)
        };
        let report =
            matrix.measure(&mut Ask { time: Duration::MAX, stop: &stop, progress: &mut |_| () });
        assert_eq!(worked.load(Ordering::Relaxed), 11);
        assert_eq!(report.notes[0], "stopped early: after 3 rounds, and 2 of 3 cases of the next");
    }

    fn matrix(unit: Unit) -> Matrix<'static> {
        Matrix {
            title: "a test",
            unit,
            per: "thing",
            cases: vec![Case { name: "one", threads: 2 }],
            subjects: ["limit", "ours", "late", "absent"]
                .map(|name| Box::new(Named(name)) as Box<dyn Subject>)
                .into(),
            compared_with: &["limit"],
            ours: "ours".to_owned(),
            shape: Shape::Bars,
        }
    }

    #[test]
    fn a_ratio_above_1_means_faster_in_any_unit_and_missing_samples_leave_a_note() {
        let sample = |value, cpu, slept| vec![Some(Measured { value, cpu, slept }); LEAST_SAMPLES];
        let samples = [vec![
            sample(5.0, 0.99, 0.009),
            sample(10.0, 0.95, 0.5),
            vec![None; LEAST_SAMPLES],
            vec![],
        ]];
        for (unit, value) in [(Unit::Ns, 0.5), (Unit::GibPerS, 2.0)] {
            let report = matrix(unit).summarise(&samples);
            let names: Vec<_> = report.rows.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, ["limit", "ours"]);
            assert_eq!(report.ratio(&report.rows[1], "limit"), Some(value));
            assert_eq!(
                (&report.rows[0].more[..], &report.rows[1].more[..]),
                (&[][..], &[("slept", 0.5)][..])
            );
            assert_eq!(report.notes.len(), 2);
            assert!(
                report.notes[0].starts_with("late at 2 threads, one: in 0 of 5 rounds"),
                "{:?}",
                report.notes
            );
            assert!(
                report.notes[1].starts_with("in 10 of 15 samples")
                    && report.notes[1].ends_with(": 95.0 %")
            );
        }
    }
}
