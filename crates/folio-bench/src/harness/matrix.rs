//! The measurement: contenders and scenarios, interleaved, summarised as rows and ratios.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::harness::benchmark::Ask;
use crate::harness::report::{Ratio, Report, Row, Scenario, Shape, Unit, median};
use crate::harness::runner::{TOGETHER, cpus, together};

/// A row needs at least this many samples.
const LEAST_SAMPLES: usize = 5;

/// A row reports the time its threads slept from this share on.
const MENTIONED: f64 = 0.01;

/// `None` if the threads did not run at once.
type Sample = Option<Measured>;

#[derive(Clone, Copy)]
struct Measured {
    value: f64,
    /// The field of the same name of [`Run`](crate::harness::runner::Run).
    cpu: f64,
    /// The field of the same name of [`Run`](crate::harness::runner::Run).
    slept: f64,
}

/// One of the things that a benchmark compares.
pub(crate) trait Contender: Sync {
    /// Returns its name, as rows show it.
    fn name(&self) -> String;

    /// Returns `true` if this scenario applies to it.
    fn takes_part(&self, _: Scenario) -> bool {
        true
    }

    /// Runs before every sample, outside the measurement.
    fn prepare(&self, _: Scenario) {}

    /// Returns more numbers about a measured scenario, each with its name.
    fn more(&self, _: Scenario) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Runs one thread's part of a sample, some milliseconds. Returns the amount done: operations,
    /// or bytes.
    fn work(&self, scenario: Scenario, thread: usize) -> u64;
}

/// A benchmark of contenders in scenarios, ready to run.
pub(crate) struct Matrix<'a> {
    /// The heading of the report.
    pub(crate) title: &'static str,
    /// The unit of the numbers.
    pub(crate) unit: Unit,
    /// The thing that one number is about.
    pub(crate) per: &'static str,
    /// The scenarios, in the order of the report.
    pub(crate) scenarios: Vec<Scenario>,
    /// The contenders, in the order of the report.
    pub(crate) contenders: Vec<Box<dyn Contender + 'a>>,
    /// The contenders that the others are compared with.
    pub(crate) compared_with: &'static [&'static str],
    /// The contender that is ours: a plot shows it in another colour.
    pub(crate) ours: String,
    /// The shape of the plot.
    pub(crate) shape: Shape,
}

impl std::fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matrix")
            .field("title", &self.title)
            .field("scenarios", &self.scenarios)
            .finish_non_exhaustive()
    }
}

impl Matrix<'_> {
    /// Measures until the time of `ask` is over, or until its stop. The stop is read before each
    /// sample, as a round of many scenarios takes seconds. Samples taken before the stop count, and
    /// a note says how many rounds they are.
    ///
    /// # Errors
    ///
    /// The system's error if it does not start so many threads.
    pub(crate) fn measure(&self, ask: &mut Ask<'_>) -> io::Result<Report> {
        let cpus = cpus();
        // By scenario, by contender, by round.
        let mut samples: Vec<Vec<Vec<Sample>>> =
            vec![vec![Vec::new(); self.contenders.len()]; self.scenarios.len()];
        let (mut order, mut random): (Vec<_>, _) =
            ((0..self.contenders.len()).collect(), fastrand::Rng::with_seed(1));
        let started = Instant::now();
        let (mut round, mut stopped) = (0, None);
        'rounds: while round < LEAST_SAMPLES || started.elapsed() < ask.time {
            for (before, (&scenario, samples)) in
                self.scenarios.iter().zip(&mut samples).enumerate()
            {
                // Another order each time. Otherwise one contender would always find in the
                // processor's cache what the same other one read.
                random.shuffle(&mut order);
                for &which in &order {
                    if ask.stop.load(Ordering::Relaxed) {
                        stopped = Some(before);
                        break 'rounds;
                    }
                    let contender = &*self.contenders[which];
                    if contender.takes_part(scenario) {
                        contender.prepare(scenario);
                        let run = together(scenario.threads, &cpus, &|thread| {
                            contender.work(scenario, thread)
                        })?;
                        samples[which].push(run.map(|run| Measured {
                            value: self.unit.value(run, scenario.threads),
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
        if let Some(scenarios) = stopped {
            let of = self.scenarios.len();
            report.notes.insert(
                0,
                format!(
                    "stopped early: after {round} rounds, \
                     and {scenarios} of {of} scenarios of the next"
                ),
            );
        }
        Ok(report)
    }

    fn summarise(&self, samples: &[Vec<Vec<Sample>>]) -> Report {
        let names: Vec<String> = self.contenders.iter().map(|contender| contender.name()).collect();
        let mut report = Report {
            compared_with: self.compared_with,
            shape: self.shape,
            ..Report::new(self.title, self.unit, self.per, &self.ours)
        };
        for (&scenario, samples) in self.scenarios.iter().zip(samples) {
            for ((name, contender), rounds) in names.iter().zip(&self.contenders).zip(samples) {
                if !contender.takes_part(scenario) {
                    continue;
                }
                let values: Vec<f64> = rounds.iter().flatten().map(|sample| sample.value).collect();
                let row = Row::of(name.as_str(), scenario, &values)
                    .filter(|_| values.len() >= LEAST_SAMPLES);
                let Some(mut row) = row else {
                    report.notes.push(format!(
                        "{name} at {} threads, {}: in {} of {} rounds the threads ran at once, \
                         {LEAST_SAMPLES} are needed",
                        scenario.threads,
                        scenario.name,
                        values.len(),
                        rounds.len()
                    ));
                    continue;
                };
                row.more = contender.more(scenario);
                let slept: Vec<f64> = rounds.iter().flatten().map(|sample| sample.slept).collect();
                row.more
                    .extend(Some(("slept", median(&slept))).filter(|slept| slept.1 >= MENTIONED));
                report.rows.push(row);
                for &to in self.compared_with.iter().filter(|&to| to != name) {
                    let Some(baseline) = names.iter().position(|name| name == to) else { continue };
                    let speeds = rounds.iter().zip(&samples[baseline]);
                    let speeds: Vec<f64> = speeds
                        .filter_map(|(of, to)| Some(self.unit.speed((*of)?.value, (*to)?.value)))
                        .collect();
                    if speeds.len() >= LEAST_SAMPLES {
                        report.ratios.push(Ratio {
                            of: name.clone(),
                            to,
                            scenario,
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

/// Returns the note that says in how many samples the threads ran at once.
fn at_once<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> String {
    let (all, kept) = (samples.clone().count(), samples.clone().flatten().count());
    let least = samples.flatten().map(|sample| sample.cpu).reduce(f64::min).unwrap_or(0.0);
    format!(
        "in {kept} of {all} samples all threads ran at once: together for {share} % of the time, \
         each with its CPU for {share} % of its own time. Time does not count against a thread \
         while it sleeps, or while another thread of the same contender has its CPU. 'slept' is \
         the share of the thread that slept most. The other samples are discarded, and no ratio \
         uses them. Least share with a CPU in the samples kept: {:.1} %",
        (least * 1000.0).floor() / 10.0,
        share = (TOGETHER * 100.0) as u32
    )
}

/// Returns the thread counts 1, 2, 4, ..., and one thread per CPU.
pub(crate) fn thread_counts() -> Vec<usize> {
    let most = cpus().len();
    let mut counts: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < most).collect();
    counts.push(most);
    counts
}

/// Returns the thread counts 1, and one thread per CPU.
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

    impl Contender for Named {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn takes_part(&self, scenario: Scenario) -> bool {
            self.0 != "absent" || scenario.threads == 1
        }
        fn work(&self, _: Scenario, _: usize) -> u64 {
            1
        }
    }

    /// Sets the stop in the second scenario of the fourth round.
    struct Stopping<'a>(&'a AtomicBool, &'a AtomicU32);

    impl Contender for Stopping<'_> {
        fn name(&self) -> String {
            "stopping".to_owned()
        }
        fn work(&self, _: Scenario, _: usize) -> u64 {
            if self.1.fetch_add(1, Ordering::Relaxed) + 1 == 3 * 3 + 2 {
                self.0.store(true, Ordering::Relaxed);
            }
            1
        }
    }

    #[test]
    fn a_stop_ends_the_round_and_a_note_says_where() {
        let (stop, worked) = (AtomicBool::new(false), AtomicU32::new(0));
        let matrix = Matrix {
            scenarios: ["one", "two", "three"].map(|name| Scenario { name, threads: 1 }).into(),
            contenders: vec![Box::new(Stopping(&stop, &worked))],
            ..matrix(Unit::Ns)
        };
        let report = matrix.measure(&mut Ask::new(Duration::MAX, &stop, &mut |_| ())).unwrap();
        assert_eq!(worked.load(Ordering::Relaxed), 11);
        assert_eq!(
            report.notes[0],
            "stopped early: after 3 rounds, and 2 of 3 scenarios of the next"
        );
    }

    fn matrix(unit: Unit) -> Matrix<'static> {
        Matrix {
            title: "a test",
            unit,
            per: "thing",
            scenarios: vec![Scenario { name: "one", threads: 2 }],
            contenders: ["limit", "ours", "late", "absent"]
                .map(|name| Box::new(Named(name)) as Box<dyn Contender>)
                .into(),
            compared_with: &["limit"],
            ours: "ours".to_owned(),
            shape: Shape::Bars,
        }
    }

    #[test]
    fn ratios_above_1_are_faster_and_missing_samples_are_noted() {
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
