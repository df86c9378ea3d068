//! Measures hit ratios by trace: each of our policies in a real cache, baselines, and the optimum.
//!
//! A use is a **hit** if its page was there: neither this use nor any guess before it had to read
//! the page again. Therefore nothing is read ahead here: each use is a [`File::read_many`] of one
//! read. Readahead would request a loop before its reader comes, which says nothing about a policy.
//! A page that is read ahead and evicted unused counts as a miss, so there would be more misses
//! than uses. The baselines read nothing ahead.
//!
//! Nothing is timed. The traces are the same each time, so the numbers without chance in them are
//! the same too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use folio_cache::policy::{Clock, HotCold, Policy, S3Fifo, Sieve};
use folio_cache::{Cache, CacheStats, File, Read};

use crate::harness::{Ask, Ratio, Report, Row, Scenario, Unit};
use crate::support::memcpy_backing::MemcpyBacking;
use crate::support::traces::{self, Trace};

/// The pages that every cache may hold.
const FRAMES: u32 = 4096;

/// The uses in a trace.
const USES: usize = 500_000;

/// The limit: it knows the future.
const OPTIMAL: &str = "optimal";

/// Plays a trace. Returns the number of hits.
type Play = Box<dyn Fn(&[u32]) -> io::Result<usize>>;

/// Makes a player: a cache of ours under a policy.
fn ours(make: fn(u32) -> Box<dyn Policy>) -> Play {
    Box::new(move |pages| {
        // Without threads: a reclaimer that loses its processor keeps its victims for a while, and
        // a short loop comes back to them.
        let builder = Cache::builder().capacity(FRAMES as usize * 4096).io_threads(0);
        let cache = builder.policy(make).build()?;
        let file = cache.open_backing(Arc::new(MemcpyBacking::new(0, 1 << 40)))?;
        for &page in pages {
            use_page(&file, page)?;
        }
        hits(pages.len(), &cache.stats())
    })
}

/// Reads one byte of a page, and nothing ahead.
fn use_page(file: &File, page: u32) -> io::Result<()> {
    let mut byte = [0];
    let mut reads = [Read::new(&mut byte, u64::from(page) * 4096)];
    file.read_many(&mut reads);
    let [read] = reads;
    read.result.map(drop)
}

/// Returns the number of uses that found their page, in a cache that did nothing else.
///
/// # Errors
///
/// The counters say more than the uses can have caused, so the number of hits does not follow from
/// them.
fn hits(uses: usize, stats: &CacheStats) -> io::Result<usize> {
    let missed = usize::try_from(stats.misses).ok().filter(|_| stats.ahead == 0);
    missed.and_then(|missed| uses.checked_sub(missed)).ok_or_else(|| {
        let message =
            format!("{} pages missed, {} read ahead, in {uses} uses", stats.misses, stats.ahead);
        io::Error::other(message)
    })
}

/// Returns all players: our cache by policy, then the baselines that are built in.
fn players() -> Vec<(&'static str, Play)> {
    #[cfg_attr(not(feature = "baselines"), expect(unused_mut, reason = "baselines are added"))]
    let mut players: Vec<(&'static str, Play)> = vec![
        ("folio", ours(|frames| Box::new(HotCold::new(frames)))),
        ("folio s3-fifo", ours(|frames| Box::new(S3Fifo::new(frames)))),
        ("folio sieve", ours(|frames| Box::new(Sieve::new(frames)))),
        ("folio clock", ours(|_| Box::new(Clock::new()))),
    ];
    #[cfg(feature = "baselines")]
    players.extend(baselines::players());
    players
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

fn play(trace: &Trace, players: &[(&'static str, Play)], report: &mut Report) -> io::Result<()> {
    let scenario = Scenario { name: trace.name, threads: 0 };
    let share = |hits: usize| hits as f64 / trace.pages.len() as f64;
    let best = share(traces::optimal(&trace.pages, FRAMES as usize));
    report.rows.extend(Row::of(OPTIMAL, scenario, &[best]));
    for (name, play) in players {
        let ratio = share(play(&trace.pages)?);
        report.rows.extend(Row::of(*name, scenario, &[ratio]));
        if best > 0.0 {
            report.ratios.push(Ratio {
                of: (*name).to_owned(),
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
        Box::new(move |pages| {
            let cache = make(FRAMES as usize);
            Ok(pages.iter().filter(|&&page| cache.meet(page as usize, || ())).count())
        })
    }

    pub(super) fn players() -> Vec<(&'static str, Play)> {
        vec![
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
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readahead can read more pages than there are uses: the difference must not wrap. Hits stay
    /// below the possible number, and at the known number of these policies.
    #[test]
    fn hits_never_exceed_the_optimum() {
        for trace in traces::all(4 * FRAMES as usize, FRAMES)
            .iter()
            .filter(|trace| trace.name.starts_with("loop"))
        {
            let most = traces::optimal(&trace.pages, FRAMES as usize);
            for (name, play) in players() {
                let hits = play(&trace.pages).unwrap();
                assert!(
                    hits <= most,
                    "{name}: {hits} hits in {}, where {most} are possible",
                    trace.name
                );
                if name == "folio sieve" {
                    assert_eq!(
                        hits, 0,
                        "sieve drops each page of {} before it comes back",
                        trace.name
                    );
                }
            }
        }
    }

    /// A loop that fits is missed once per page, in any order.
    #[test]
    fn a_loop_that_fits_is_missed_once() {
        let pages: Vec<u32> = (0..FRAMES / 2).cycle().take(2 * FRAMES as usize).collect();
        for (name, play) in players() {
            assert_eq!(play(&pages).unwrap(), pages.len() - FRAMES as usize / 2, "{name}");
        }
    }

    #[test]
    fn readahead_gives_no_number_of_hits() {
        let stats = |misses, ahead| {
            let mut stats = CacheStats::default();
            (stats.misses, stats.ahead) = (misses, ahead);
            stats
        };
        assert_eq!(hits(10, &stats(4, 0)).unwrap(), 6);
        assert!(hits(10, &stats(11, 0)).is_err(), "more misses than uses");
        assert!(hits(10, &stats(4, 1)).is_err(), "a hit may come from readahead");
    }

    /// `read_at` reads a scan ahead: the hits of such a cache are refused, and the difference does
    /// not wrap.
    #[test]
    fn a_cache_that_reads_ahead_is_refused() {
        let cache: Cache = Cache::new(FRAMES as usize * 4096).unwrap();
        let file = cache.open_backing(Arc::new(MemcpyBacking::new(0, 1 << 40))).unwrap();
        for page in 0..512 {
            file.read_at(&mut [0], page * 4096).unwrap();
        }
        assert!(hits(512, &cache.stats()).is_err(), "{:?}", cache.stats());
    }
}
