//! Measures hit ratios by trace: each of our policies in a real cache, baselines, and the optimum.
//!
//! [`replay`](crate::replay) plays the traces. The baselines read nothing ahead, as our cache here.
//!
//! Nothing is timed. The traces are the same each time, so the numbers without chance in them are
//! the same too.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Ask, Ratio, Report, Row, Scenario, Unit};
use crate::replay::{self, Spool};
use crate::support::traces::{self, Trace};

/// The pages that every cache may hold.
const FRAMES: u32 = 4096;

/// The uses in a trace.
const USES: usize = 500_000;

/// The limit: it knows the future.
const OPTIMAL: &str = "optimal";

/// A trace that has begun is played to its end.
static GO_ON: AtomicBool = AtomicBool::new(false);

/// Plays a trace. Returns the number of hits.
type Play = Box<dyn Fn(&Spool) -> io::Result<u64>>;

/// Returns the name of our cache with a policy.
fn name_of(policy: &str) -> String {
    if policy == "hot-cold" { "folio".to_owned() } else { format!("folio {policy}") }
}

/// Returns all players: our cache by policy, then the baselines that are built in.
fn players() -> Vec<(String, Play)> {
    let ours = replay::players().into_iter().map(|(policy, play)| {
        let play: Play = Box::new(move |trace| play(trace, FRAMES, &GO_ON));
        (name_of(policy), play)
    });
    #[cfg(feature = "baselines")]
    let ours = ours.chain(baselines::players());
    ours.collect()
}

/// Runs the benchmark. Baselines take part if they are built in: feature `baselines`.
///
/// # Errors
///
/// A cache of ours read pages ahead, so it gives no number.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = Report::new("Hit ratio by trace", Unit::Number("fraction"), "trace", "folio");
    report.compared_with = &[OPTIMAL];
    if !cfg!(feature = "baselines") {
        report.notes.push(
            "moka, quick_cache and foyer are not built in: build with --features baselines"
                .to_owned(),
        );
    }
    // Stopped before it began: an empty trace.
    let uses = if ask.stop.load(Ordering::Relaxed) { 0 } else { USES };
    let (traces, players) = (traces::all(uses, FRAMES), players());
    for (n, trace) in traces.iter().enumerate() {
        if ask.stop.load(Ordering::Relaxed) {
            report.notes.push(format!("{}: stopped before it was played", trace.name));
            continue;
        }
        play(trace, &players, &mut report)?;
        (ask.progress)((n + 1) as f64 / traces.len() as f64);
    }
    report.notes.push(format!(
        "{FRAMES} pages of memory, {USES} uses in each trace; a hit is a use that found its page; \
         nothing is read ahead"
    ));
    Ok(report)
}

fn play(trace: &Trace, players: &[(String, Play)], report: &mut Report) -> io::Result<()> {
    let scenario = Scenario { name: trace.name, threads: 0 };
    let share = |hits: u64| hits as f64 / trace.pages.len() as f64;
    let pages = trace.pages.iter().map(|&page| Ok(u64::from(page)));
    let mut trace = Spool::of(pages, &GO_ON)?;
    let best = share(replay::optimal(&mut trace, u64::from(FRAMES), &GO_ON)?);
    report.rows.extend(Row::of(OPTIMAL, scenario, &[best]));
    for (name, play) in players {
        let ratio = share(play(&trace)?);
        report.rows.extend(Row::of(name, scenario, &[ratio]));
        if best > 0.0 {
            report.ratios.push(Ratio {
                of: name.clone(),
                to: OPTIMAL,
                scenario,
                value: ratio / best,
            });
        }
    }
    Ok(())
}

/// The baselines: each holds as many entries, and a miss inserts.
#[cfg(feature = "baselines")]
mod baselines {
    use super::{FRAMES, Play};
    use crate::support::baselines::{Baseline, foyer_in_one, moka, quick_cache};

    fn play<C: Baseline<()>>(make: impl Fn(usize) -> C + 'static) -> Play {
        Box::new(move |trace| {
            let cache = make(FRAMES as usize);
            let mut hits = 0;
            trace.for_each_chunk(|pages| {
                let met = pages.iter().filter(|&&page| cache.meet(page as usize, || ()));
                hits += met.count() as u64;
                Ok(())
            })?;
            Ok(hits)
        })
    }

    pub(super) fn players() -> impl Iterator<Item = (String, Play)> {
        let all = [
            ("moka", play(moka)),
            ("quick_cache", play(quick_cache)),
            ("foyer", play(|entries| foyer_in_one(entries, foyer::LruConfig::default().into()))),
            (
                "foyer lfu",
                play(|entries| foyer_in_one(entries, foyer::LfuConfig::default().into())),
            ),
            (
                "foyer s3-fifo",
                play(|entries| foyer_in_one(entries, foyer::S3FifoConfig::default().into())),
            ),
        ];
        all.into_iter().map(|(name, play)| (name.to_owned(), play))
    }
}
