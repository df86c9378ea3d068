//! Measures the stale increments of refused attempts under a storm, against the proved bound (R5).
//!
//! Every thread only tries to take a reference of one frozen word, and reads the stale increments
//! after each refusal. With many references at once the storm reaches the limit within a sample,
//! and shows the distance past it. With one at a time it shows the time until the limit.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use folio_ref::{DefaultScheme, MAX_AT_ONCE, PageRef, STALE_LIMIT, Scheme};

use crate::harness::{Ask, Report, Row, Scenario, Unit, cpus, one_and_all, together};
use crate::support::schemes::for_each_scheme;
use crate::support::undo::{Once, Policy, Undo, Whenever};

/// One reference at a time, the way of lookups.
const SINGLE: &str = "1 reference at once";
/// The most references that one call may take: the worst case.
const MOST: &str = "1024 references at once";

/// Storms of each word in each scenario.
const STORMS: u32 = 5;
/// The shortest storm.
const LEAST: Duration = Duration::from_millis(25);

/// A frozen word.
trait Frozen: Sync {
    fn name(&self) -> &'static str;
    fn takes_part(&self, scenario: Scenario) -> bool;
    fn be_refused(&self, n: u32);
    fn stale(&self) -> u32;
}

impl<S: Scheme> Frozen for PageRef<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn takes_part(&self, _: Scenario) -> bool {
        true
    }
    fn be_refused(&self, n: u32) {
        assert!(self.try_get(n).is_err(), "the word is frozen");
    }
    fn stale(&self) -> u32 {
        self.snapshot().stale().expect("the word is frozen")
    }
}

impl<P: Policy> Frozen for Undo<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        scenario.name == SINGLE
    }
    fn be_refused(&self, _: u32) {
        assert!(!self.try_get(), "the word is frozen");
    }
    fn stale(&self) -> u32 {
        self.stale()
    }
}

/// The result of one storm.
#[derive(Clone, Copy, Default)]
struct Storm {
    peak: u32,
    /// The number of times that a thread saw fewer stale increments than before.
    resets: u64,
    refused: u64,
    seconds: f64,
}

/// Returns the bound of the stale increments. Each thread adds once beyond the last number below
/// the limit, before it resets. `models/invariant.py` proves it.
fn bound(threads: usize, at_once: u32) -> u64 {
    u64::from(STALE_LIMIT) - 1 + threads as u64 * u64::from(at_once)
}

/// Runs one storm. Returns `None` if the threads did not run at once.
fn storm(
    word: &dyn Frozen,
    threads: usize,
    at_once: u32,
    time: Duration,
) -> io::Result<Option<Storm>> {
    let all = Mutex::new(Storm::default());
    let run = together(threads, &cpus(), &|_| {
        let (started, mut refused, mut own) = (Instant::now(), 0, Storm::default());
        let mut before = word.stale();
        while started.elapsed() < time {
            for _ in 0..1000 {
                word.be_refused(at_once);
                let stale = word.stale();
                own.resets += u64::from(stale < before);
                own.peak = own.peak.max(stale);
                before = stale;
            }
            refused += 1000;
        }
        let mut all = all.lock().expect("no storm panics");
        (all.peak, all.resets) = (all.peak.max(own.peak), all.resets + own.resets);
        refused
    })?;
    let Some(run) = run else { return Ok(None) };
    let all = all.into_inner().expect("no storm panics");
    Ok(Some(Storm { refused: run.amount, seconds: run.seconds, ..all }))
}

/// Makes fresh words, those of folio-ref first. Returns them and the number of the latter.
fn words() -> (Vec<Box<dyn Frozen>>, usize) {
    let mut words: Vec<Box<dyn Frozen>> = Vec::new();
    for_each_scheme!(S => words.push(Box::new(PageRef::<S>::frozen())));
    let ours = words.len();
    words.push(Box::new(Undo::<Once>::frozen()));
    words.push(Box::new(Undo::<Whenever>::frozen()));
    (words, ours)
}

/// Runs the benchmark.
///
/// # Errors
///
/// None.
///
/// # Panics
///
/// Panics if the stale increments of one of folio-ref's words exceed the bound.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let counts = one_and_all();
    let scenarios: Vec<Scenario> = counts
        .into_iter()
        .flat_map(|threads| [SINGLE, MOST].map(|name| Scenario { name, threads }))
        .collect();
    let (names, ours) = words();
    let each = (ask.time / (scenarios.len() * names.len()) as u32 / STORMS).max(LEAST);
    let mut report = Report::new(
        "Stale increments under a storm of refused try_gets",
        Unit::Number("references"),
        "storm, at its peak",
        DefaultScheme::NAME,
    );
    for (done, &scenario) in scenarios.iter().enumerate() {
        let at_once = if scenario.name == SINGLE { 1 } else { MAX_AT_ONCE };
        let bound = bound(scenario.threads, at_once);
        for (place, word) in names.iter().enumerate().filter(|(_, word)| word.takes_part(scenario))
        {
            let mut kept: Vec<Storm> = Vec::new();
            for _ in 0..STORMS * 4 {
                if kept.len() < STORMS as usize && !ask.stop.load(Ordering::Relaxed) {
                    kept.extend(storm(&*words().0[place], scenario.threads, at_once, each)?);
                }
            }
            let peaks: Vec<f64> = kept.iter().map(|storm| f64::from(storm.peak)).collect();
            assert!(
                place >= ours || kept.iter().all(|storm| u64::from(storm.peak) <= bound),
                "{}: stale increments above the bound of {bound}: {peaks:?}",
                word.name()
            );
            let Some(mut row) = Row::of(word.name(), scenario, &peaks) else {
                let (name, threads) = (word.name(), scenario.threads);
                report.notes.push(format!(
                    "{name} at {threads} threads, {}: the threads never ran at once",
                    scenario.name
                ));
                continue;
            };
            let refused: u64 = kept.iter().map(|storm| storm.refused).sum();
            let rate = refused as f64 / kept.iter().map(|storm| storm.seconds).sum::<f64>();
            let resets: u64 = kept.iter().map(|storm| storm.resets).sum();
            row.more = vec![
                ("refused_per_s", rate),
                ("resets_seen", resets as f64),
                ("bound", bound as f64),
            ];
            report.rows.push(row);
        }
        report.rows.extend(Row::of("bound", scenario, &[bound as f64]));
        (ask.progress)((done + 1) as f64 / scenarios.len() as f64);
    }
    report.notes.push(format!(
        "{STORMS} storms of {:.0} ms for each number, each on a fresh word. The bound is the \
         limit, 2^30, and one increment of each thread.",
        each.as_secs_f64() * 1e3
    ));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The storm must reach the limit, or the test shows nothing.
    #[test]
    fn a_storm_at_the_limit_stays_below_the_bound() {
        let word = PageRef::<DefaultScheme>::frozen();
        for _ in 0..STALE_LIMIT / MAX_AT_ONCE - 1 {
            word.be_refused(MAX_AT_ONCE);
        }
        assert!(word.stale() < STALE_LIMIT);
        let storms: Vec<Storm> =
            (0..20).filter_map(|_| storm(&word, 1, MAX_AT_ONCE, LEAST).unwrap()).collect();
        assert!(storms.iter().all(|storm| u64::from(storm.peak) <= bound(1, MAX_AT_ONCE)));
        assert!(
            storms.is_empty() || storms.iter().any(|storm| storm.resets > 0),
            "the limit was never reached"
        );
    }
}
