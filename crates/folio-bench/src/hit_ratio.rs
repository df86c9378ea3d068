//! How often is what is used still there: by each policy of ours in a real cache, by rivals, and by
//! whoever knows the future?
//!
//! A use is a **hit** if the page was there: neither this use nor anything before it, on a guess,
//! had to read it again. So nothing is read ahead here: each use is a [`File::read_many`] of one
//! read. With readahead a loop would be requested before its reader comes, which no policy deserves
//! praise for, and what is read ahead and evicted again counts as missed though nobody used it:
//! more misses than uses. The rivals read nothing ahead.
//!
//! Nothing is timed. The traces are the same each time, so that the numbers of what has no chance
//! in it are as well.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use folio_cache::policy::{Clock, HotCold, Policy, S3Fifo, Sieve};
use folio_cache::{Cache, CacheStats, File, Read};

use crate::benchmark::Ask;
use crate::copied::Copied;
use crate::matrix::Scenario;
use crate::report::{Ratio, Report, Row, Unit};
use crate::traces::{self, Trace};

/// Pages that every cache may hold.
const FRAMES: u32 = 4096;

/// Uses in a trace.
const USES: usize = 500_000;

/// The limit: it knows the future.
const OPTIMAL: &str = "optimal";

/// Plays a trace; how many hits.
type Play = Box<dyn Fn(&[u32]) -> io::Result<usize>>;

/// A cache of ours under a policy.
fn ours(make: fn(u32) -> Box<dyn Policy>) -> Play {
    Box::new(move |pages| {
        let cache: Cache = Cache::with_policy(FRAMES as usize * 4096, make)?;
        let file = cache.open_backing(Arc::new(Copied::new(0, 1 << 40)))?;
        for &page in pages {
            use_page(&file, page)?;
        }
        hits(pages.len(), &cache.stats())
    })
}

/// Reads of a page what is enough to use it, and nothing ahead.
fn use_page(file: &File, page: u32) -> io::Result<()> {
    let mut byte = [0];
    let mut reads = [Read::new(u64::from(page) * 4096, &mut byte)];
    file.read_many(&mut reads);
    let [read] = reads;
    read.result.map(drop)
}

/// The uses that found their page, of a cache that did nothing else.
///
/// # Errors
///
/// Its counters say more than the uses can have caused: then no number of hits follows from them.
fn hits(uses: usize, stats: &CacheStats) -> io::Result<usize> {
    let missed = usize::try_from(stats.misses).ok().filter(|_| stats.ahead == 0);
    missed.and_then(|missed| uses.checked_sub(missed)).ok_or_else(|| {
        let message =
            format!("{} pages missed, {} read ahead, in {uses} uses", stats.misses, stats.ahead);
        io::Error::other(message)
    })
}

/// All that are compared: ours, by policy, then the rivals that are built in.
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

/// The question. Rivals take part if they are built in: feature `baselines`.
///
/// # Errors
///
/// Nothing is read from the system; but a cache of ours that read pages ahead gives no number.
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = Report::new("Hit ratio by trace", Unit::Number("fraction"), "trace", "folio");
    report.compared_with = &[OPTIMAL];
    if !cfg!(feature = "baselines") {
        report.notes.push(
            "moka, quick_cache and foyer are not built in: cargo build --features baselines"
                .to_owned(),
        );
    }
    // Stopped before it began: there is nothing to be made.
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
        "{FRAMES} pages of memory, {USES} uses in each trace; a hit is a use whose page was there, and nothing is read ahead"
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

/// Each may hold as many entries; a miss inserts.
#[cfg(feature = "baselines")]
mod baselines {
    use super::{FRAMES, Play};
    use crate::baselines::{Baseline, foyer_in_one, moka, quick_cache};

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

    /// A loop once came to 36893 G hits in a hundred uses: readahead had read more pages than there
    /// were uses, and the difference wrapped. Here it stays below what is possible, and at what
    /// is known of these policies.
    #[test]
    fn hits_are_uses_and_never_more_than_is_possible() {
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

    /// The same by a model: a loop that fits is missed once each page, in whatever order.
    #[test]
    fn a_loop_that_fits_is_missed_once() {
        let pages: Vec<u32> = (0..FRAMES / 2).cycle().take(2 * FRAMES as usize).collect();
        for (name, play) in players() {
            assert_eq!(play(&pages).unwrap(), pages.len() - FRAMES as usize / 2, "{name}");
        }
    }

    #[test]
    fn what_was_read_ahead_gives_no_number() {
        let stats = |misses, ahead| CacheStats { misses, ahead, ..CacheStats::default() };
        assert_eq!(hits(10, &stats(4, 0)).unwrap(), 6);
        assert!(hits(10, &stats(11, 0)).is_err(), "more misses than uses");
        assert!(hits(10, &stats(4, 1)).is_err(), "a hit may be readahead's");
    }

    /// By `read_at` a scan is read ahead: the figure of such a cache is refused, not wrapped.
    #[test]
    fn a_cache_that_reads_ahead_is_refused() {
        let cache: Cache = Cache::new(FRAMES as usize * 4096).unwrap();
        let file = cache.open_backing(Arc::new(Copied::new(0, 1 << 40))).unwrap();
        for page in 0..512 {
            file.read_at(page * 4096, &mut [0]).unwrap();
        }
        assert!(hits(512, &cache.stats()).is_err(), "{:?}", cache.stats());
    }
}
