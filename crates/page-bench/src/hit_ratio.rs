//! How often is what is used still there: by each policy of ours in a real cache, by rivals, and by whoever knows the future?
//!
//! Nothing is timed. The traces are the same each time, so that the numbers of what has no chance in it are as well.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use page_cache::Cache;
use page_cache::reclaim::{Clock, HotCold, Policy, S3Fifo, Sieve};

use crate::copied::Copied;
use crate::matrix::Case;
use crate::question::Ask;
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
        let mut byte = [0];
        for &page in pages {
            file.read_at(u64::from(page) * 4096, &mut byte)?;
        }
        Ok(pages.len() - cache.stats().misses as usize)
    })
}

/// All that are compared: ours, by policy, then the rivals that are built in.
fn players() -> Vec<(&'static str, Play)> {
    #[cfg_attr(not(feature = "rivals"), expect(unused_mut, reason = "rivals are added"))]
    let mut players: Vec<(&'static str, Play)> = vec![
        ("folio", ours(|frames| Box::new(HotCold::new(frames)))),
        ("folio s3-fifo", ours(|frames| Box::new(S3Fifo::new(frames)))),
        ("folio sieve", ours(|frames| Box::new(Sieve::new(frames)))),
        ("folio clock", ours(|_| Box::new(Clock::new()))),
    ];
    #[cfg(feature = "rivals")]
    players.extend(rivals::players());
    players
}

/// The question. Rivals take part if they are built in: feature `rivals`.
///
/// # Errors
///
/// None known: nothing is read from the system.
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let mut report = Report::new("Hit ratio by trace", Unit::Number("fraction"), "trace", "folio");
    report.compared_with = &[OPTIMAL];
    if !cfg!(feature = "rivals") {
        report.notes.push("moka, quick_cache and foyer are not built in: cargo build --features rivals".to_owned());
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
    report.notes.push(format!("{FRAMES} pages of memory, {USES} uses in each trace"));
    Ok(report)
}

fn play(trace: &Trace, players: &[(&'static str, Play)], report: &mut Report) -> io::Result<()> {
    let case = Case { name: trace.name, threads: 0 };
    let share = |hits: usize| hits as f64 / trace.pages.len() as f64;
    let best = share(traces::optimal(&trace.pages, FRAMES as usize));
    report.rows.extend(Row::of(OPTIMAL, case, &[best]));
    for (name, play) in players {
        let ratio = share(play(&trace.pages)?);
        report.rows.extend(Row::of(*name, case, &[ratio]));
        if best > 0.0 {
            report.ratios.push(Ratio { of: (*name).to_owned(), to: OPTIMAL, case, value: ratio / best });
        }
    }
    Ok(())
}

/// Caches of objects that others use. Each may hold as many entries; a miss inserts.
#[cfg(feature = "rivals")]
mod rivals {
    use super::{FRAMES, Play};

    fn count(pages: &[u32], mut is_hit: impl FnMut(u32) -> bool) -> usize {
        pages.iter().filter(|&&page| is_hit(page)).count()
    }

    pub(super) fn players() -> Vec<(&'static str, Play)> {
        let moka: Play = Box::new(|pages| {
            let cache = moka::sync::Cache::new(u64::from(FRAMES));
            Ok(count(pages, |page| {
                let is_hit = cache.get(&page).is_some();
                if !is_hit {
                    cache.insert(page, ());
                }
                is_hit
            }))
        });
        let quick: Play = Box::new(|pages| {
            let cache = quick_cache::sync::Cache::new(FRAMES as usize);
            Ok(count(pages, |page| {
                let is_hit = cache.get(&page).is_some();
                if !is_hit {
                    cache.insert(page, ());
                }
                is_hit
            }))
        });
        // One shard, so that all of its memory is one.
        let foyer = |config: fn() -> foyer::EvictionConfig| -> Play {
            Box::new(move |pages| {
                let cache: foyer::Cache<u32, ()> =
                    foyer::CacheBuilder::new(FRAMES as usize).with_shards(1).with_eviction_config(config()).build();
                Ok(count(pages, |page| {
                    let is_hit = cache.get(&page).is_some();
                    if !is_hit {
                        cache.insert(page, ());
                    }
                    is_hit
                }))
            })
        };
        vec![
            ("moka", moka),
            ("quick_cache", quick),
            ("foyer", foyer(|| foyer::LruConfig::default().into())),
            ("foyer lfu", foyer(|| foyer::LfuConfig::default().into())),
            ("foyer s3-fifo", foyer(|| foyer::S3FifoConfig::default().into())),
        ]
    }
}
