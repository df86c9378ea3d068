//! Plays a trace to a cache of ours under each policy.
//!
//! A use is a **hit** if its page was there: neither this use nor any guess before it had to read
//! the page again. Therefore nothing is read ahead here: each use is a [`File::read_many`] of one
//! read. Readahead would request a loop before its reader comes, which says nothing about a policy.
//! A page that is read ahead and evicted unused counts as a miss, so there would be more misses
//! than uses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use folio_cache::policy::{Clock, HotCold, Policy, S3Fifo, Sieve};
use folio_cache::{Cache, CacheStats, File, ReadRequest};

use super::spool::Spool;
use crate::support::memcpy_backing::MemcpyBacking;

/// The bytes of a page.
const PAGE: usize = 4096;

/// The capacity of a cache is a multiple of so many frames.
pub const FRAMES_OF_2_MIB: u32 = 512;

/// Plays a trace to a cache of so many frames. Returns the number of hits, or the error
/// `Interrupted` soon after the flag is set.
pub type Player = Box<dyn Fn(&Spool, u32, &AtomicBool) -> io::Result<u64>>;

/// Returns a player for each policy of ours, with its name.
pub fn players() -> Vec<(&'static str, Player)> {
    let all: [fn(u32) -> Box<dyn Policy>; 4] = [
        |frames| Box::new(HotCold::new(frames)),
        |frames| Box::new(S3Fifo::new(frames)),
        |frames| Box::new(Sieve::new(frames)),
        |_| Box::new(Clock::new()),
    ];
    all.map(|make| (make(FRAMES_OF_2_MIB).name(), player(make))).into()
}

/// Returns a player for a policy.
fn player(make: fn(u32) -> Box<dyn Policy>) -> Player {
    Box::new(move |trace, frames, stop| {
        // Without threads: a reclaimer that loses its processor keeps its victims for a while, and
        // a short loop comes back to them.
        let builder = Cache::builder().capacity(frames as usize * PAGE).io_threads(0);
        let cache = builder.policy(make).build()?;
        let file = cache.open_backing(Arc::new(MemcpyBacking::new(0, 1 << 44)))?;
        let mut uses = 0;
        trace.for_each_chunk(|pages| {
            go_on(stop)?;
            uses += pages.len() as u64;
            pages.iter().try_for_each(|&page| use_page(&file, page))
        })?;
        hits(uses, &cache.stats())
    })
}

/// Returns the error `Interrupted` if the flag is set.
pub(super) fn go_on(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

/// Reads one byte of a page, and nothing ahead.
fn use_page(file: &File, page: u32) -> io::Result<()> {
    let mut byte = [0];
    let mut reads = [ReadRequest::new(&mut byte, u64::from(page) * PAGE as u64)];
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
fn hits(uses: u64, stats: &CacheStats) -> io::Result<u64> {
    let missed = Some(stats.misses).filter(|_| stats.ahead == 0);
    missed.and_then(|missed| uses.checked_sub(missed)).ok_or_else(|| {
        let message =
            format!("{} pages missed, {} read ahead, in {uses} uses", stats.misses, stats.ahead);
        io::Error::other(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::optimal;

    const FRAMES: u32 = 2 * FRAMES_OF_2_MIB;
    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn spool(pages: impl IntoIterator<Item = u32>) -> Spool {
        let pages = pages.into_iter().map(|page| Ok(u64::from(page)));
        Spool::of(pages, &GO_ON).unwrap()
    }

    /// Readahead can read more pages than there are uses: the difference must not wrap. Hits stay
    /// below the possible number, and at the known number of these policies.
    #[test]
    fn hits_never_exceed_the_optimum() {
        for pages in [FRAMES + FRAMES / 2, 3 * FRAMES] {
            let mut trace = spool((0..pages).cycle().take(4 * FRAMES as usize));
            let most = optimal(&mut trace, u64::from(FRAMES), &GO_ON).unwrap();
            for (name, play) in players() {
                let hits = play(&trace, FRAMES, &GO_ON).unwrap();
                assert!(hits <= most, "{name}: {hits} hits, where {most} are possible");
                if name == "sieve" {
                    assert_eq!(hits, 0, "sieve drops each page before it comes back");
                }
            }
        }
    }

    /// A loop that fits is missed once per page, in any order.
    #[test]
    fn a_loop_that_fits_is_missed_once() {
        let trace = spool((0..FRAMES / 2).cycle().take(2 * FRAMES as usize));
        for (name, play) in players() {
            let hits = play(&trace, FRAMES, &GO_ON).unwrap();
            assert_eq!(hits, trace.references() - u64::from(FRAMES / 2), "{name}");
        }
    }

    #[test]
    fn a_replay_that_is_stopped_gives_no_number() {
        let (mut trace, stop) = (spool(0..100), AtomicBool::new(true));
        for (name, play) in players() {
            let error = play(&trace, FRAMES, &stop).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{name}");
        }
        assert_eq!(optimal(&mut trace, 1, &stop).unwrap_err().kind(), io::ErrorKind::Interrupted);
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
        let cache: Cache = Cache::new(FRAMES as usize * PAGE).unwrap();
        let file = cache.open_backing(Arc::new(MemcpyBacking::new(0, 1 << 40))).unwrap();
        for page in 0..512 {
            file.read_at(&mut [0], page * PAGE as u64).unwrap();
        }
        assert!(hits(512, &cache.stats()).is_err(), "{:?}", cache.stats());
    }
}
