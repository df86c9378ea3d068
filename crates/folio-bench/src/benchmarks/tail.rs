//! Measures the tails of single operations: alone, and in a storm of everything else at once.
//!
//! A round runs each operation of each subject for a moment, in another order each time, and its
//! histograms are added to those of the rounds before. In a storm, 63 other threads work on the
//! same cache: they miss at full memory, write and sync, migrate, compact, take blocks offline, and
//! halve and restore the capacity each second. A cache of objects has misses only.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use quanta::Clock;

use crate::harness::{Ask, Report, Row, Scenario, SetOnDrop, Shape, Unit, start_thread};
#[cfg(feature = "baselines")]
use crate::support::baselines;
use crate::support::files::Bytes;
use crate::support::latency::Latency;
#[cfg(feature = "baselines")]
use crate::support::tail_subjects::Objects;
use crate::support::tail_subjects::{Folio, Kernel, Nothing, Operation, Subject};

/// The threads of a storm, with the one that is measured.
const STORM: usize = 64;

/// The time of one operation of one subject in one round: alone, and in a storm. There, a thread
/// has its processor for some milliseconds, and then 63 others have them.
const TURN: Duration = Duration::from_millis(150);
const STORM_TURN: Duration = Duration::from_millis(1500);

/// The time that a storm rages before the recording begins.
const RISE: Duration = Duration::from_millis(20);

/// The fewest samples of which a row is made.
const FEWEST: u64 = 100;

/// Each operation, with the names of its cases: alone, and in a storm.
const OPERATIONS: [(Operation, [&str; 2]); 6] = [
    (Operation::Nothing, ["nothing-alone", "nothing-storm"]),
    (Operation::Hit64, ["hit-64-alone", "hit-64-storm"]),
    (Operation::Handle, ["handle-alone", "handle-storm"]),
    (Operation::Hit4K, ["hit-4K-alone", "hit-4K-storm"]),
    (Operation::Write64, ["write-64-alone", "write-64-storm"]),
    (Operation::Miss, ["miss-alone", "miss-storm"]),
];

/// A row in the making.
struct Line<'a> {
    subject: &'a dyn Subject,
    operation: Operation,
    scenario: Scenario,
    latency: Latency,
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if memory is not to be had, or switches of threads are not counted.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let bytes = Kernel::bytes()?;
    let subjects = subjects(&bytes)?;
    let mut lines = lines(&subjects);
    let clock = Clock::new();
    let (begin, mut random, mut turns) = (Instant::now(), Rng::with_seed(1), 0);
    // Relaxed: a flag of its own.
    while !ask.stop.load(Ordering::Relaxed) && (turns == 0 || begin.elapsed() < ask.time) {
        random.shuffle(&mut lines);
        for line in &mut lines {
            // A run of no length has one turn.
            if ask.stop.load(Ordering::Relaxed) || (turns > 0 && begin.elapsed() >= ask.time) {
                break;
            }
            let seed = random.u64(..);
            line.latency.add(&turn(line.subject, line.operation, line.scenario, &clock, seed)?);
            turns += 1;
            (ask.progress)((begin.elapsed().as_secs_f64() / ask.time.as_secs_f64()).min(1.0));
        }
    }
    lines.sort_by_key(|line| {
        let is_other = subjects.iter().position(|one| one.name() == line.subject.name());
        let case = OPERATIONS.iter().position(|one| one.1.contains(&line.scenario.name));
        (case, line.scenario.threads, is_other)
    });
    Ok(report(&lines))
}

fn subjects(bytes: &Bytes) -> io::Result<Vec<Box<dyn Subject + '_>>> {
    let subjects: Vec<Box<dyn Subject + '_>> = vec![
        Box::new(Nothing),
        Box::new(Folio::new()?),
        Box::new(Kernel::new(bytes, true)?),
        Box::new(Kernel::new(bytes, false)?),
        #[cfg(feature = "baselines")]
        Box::new(objects("moka", baselines::moka)),
        #[cfg(feature = "baselines")]
        Box::new(objects("quick_cache", baselines::quick_cache)),
        #[cfg(feature = "baselines")]
        Box::new(objects("foyer", baselines::foyer)),
    ];
    Ok(subjects)
}

#[cfg(feature = "baselines")]
fn objects<C: baselines::Baseline<baselines::Page>>(
    name: &'static str,
    make: impl FnOnce(usize) -> C,
) -> Objects<C> {
    Objects::new(name, make(Objects::<C>::ENTRIES))
}

fn lines<'a>(subjects: &'a [Box<dyn Subject + 'a>]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    for (operation, cases) in OPERATIONS {
        for subject in subjects.iter().filter(|subject| subject.can(operation)) {
            for (name, threads) in cases.into_iter().zip([1, STORM]) {
                let (subject, latency) = (subject.as_ref(), Latency::new());
                let scenario = Scenario { name, threads };
                lines.push(Line { subject, operation, scenario, latency });
            }
        }
    }
    lines
}

/// Measures one operation for a moment, in a storm if the scenario has more threads than one.
fn turn(
    subject: &dyn Subject,
    operation: Operation,
    scenario: Scenario,
    clock: &Clock,
    seed: u64,
) -> io::Result<Latency> {
    let (stop, calm) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let _calm = SetOnDrop(&calm);
        for other in 0..scenario.threads - 1 {
            let calm = &calm;
            let storm = move || {
                let mut random = Rng::with_seed(seed ^ (other as u64 + 1));
                // Relaxed, here and below: flags of their own.
                while !calm.load(Ordering::Relaxed) {
                    subject.storm(other, &mut random);
                }
            };
            let started = thread::Builder::new().spawn_scoped(scope, storm);
            start_thread(other, scenario.threads, started)?;
        }
        if scenario.threads > 1 {
            thread::sleep(RISE);
        }
        let measure = || {
            let (mut latency, mut random) = (Latency::new(), Rng::with_seed(seed));
            let record = latency.record(clock, &stop, || subject.run(operation, &mut random));
            record.map(|()| latency)
        };
        let measured = thread::Builder::new().spawn_scoped(scope, measure);
        let measured = start_thread(scenario.threads - 1, scenario.threads, measured)?;
        thread::sleep(if scenario.threads > 1 { STORM_TURN } else { TURN });
        stop.store(true, Ordering::Relaxed);
        measured.join().expect("a measured operation does not panic")
    })
}

fn report(lines: &[Line<'_>]) -> Report {
    let mut report = Report::new("Tails of single operations", Unit::Ns, "operation", "folio");
    report.shape = Shape::Tails;
    for line in lines {
        let (kept, lost) = (&line.latency.kept, &line.latency.lost);
        if kept.len() < FEWEST {
            report.notes.push(format!(
                "{} at {} threads, {}: not measured, {} samples of at least {FEWEST}",
                line.subject.name(),
                line.scenario.threads,
                line.scenario.name,
                kept.len()
            ));
            continue;
        }
        let at = |quantile| kept.value_at_quantile(quantile) as f64;
        report.rows.push(Row {
            name: line.subject.name().to_owned(),
            scenario: line.scenario,
            median: at(0.5),
            min: kept.min() as f64,
            max: kept.max() as f64,
            unit: None,
            more: vec![
                ("p50", at(0.5)),
                ("p99", at(0.99)),
                ("p999", at(0.999)),
                ("p9999", at(0.9999)),
                ("samples", kept.len() as f64),
                ("lost", lost.len() as f64),
                ("lost max", lost.max() as f64),
                ("others", line.latency.others as f64),
            ],
        });
    }
    report.notes.extend(
        [
            "p999 is the 99.9th percentile, p9999 the 99.99th; with fewer than 10 000 samples the \
             latter is the maximum",
            "lost: samples within which another thread took the processor. They are in no other \
             column but 'lost max'",
            "others: hits that missed because the storm had evicted the page, and misses that hit; \
             they are in no other column",
            "each sample has the time of the clock in it, as 'nothing' shows",
            "storm: 63 more threads. For folio: misses, 8 writers with syncs, a migrator, \
             compaction, offline and online, and a capacity that is halved and restored each \
             second. For caches of objects: misses. For the kernel: reads, and 8 writers with \
             syncs",
        ]
        .map(str::to_owned),
    );
    report
}
