//! How fast does the cache read what is not in it, beside the disk alone?
//!
//! The file is 1 GiB long, in the folder for temporary files (`TMPDIR`), and never in the kernel's
//! cache: it is written and read past it. What lies below the kernel may have a cache, a host's or
//! a controller's, and who reads what another has just read would be served from there. So within a
//! round each scan has a part of the file of its own, always from the lowest on, and they
//! take turns: whoever reads a part, it was read last one round before, by another. The random
//! reads take turns as well.
//!
//! A disk is not as fast into any memory: into pages that lie anywhere, as a cache's do, a read of
//! 1 MiB is as many segments as pages; into one huge page it is one. The limit of a scan is the
//! former, which is what `fio` does; the latter stands beside it.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use folio_cache::{Cache, File, LocalFile, Read};
use folio_frames::{Arena, FrozenFolio, Order, UserSpace};
use folio_ref::DefaultScheme;
use folio_uring::{Request, Ring};
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::harness::{Ask, Ratio, Report, Row, Scenario, Unit};
use crate::support::executor::drive;

/// The file.
const FILE: u64 = 1 << 30;
/// Of the cache.
const CAPACITY: usize = 256 << 20;
const PAGE: usize = 4096;
/// One read of a scan, and one write of the file.
const CHUNK: usize = 1 << 20;

/// Pages anywhere, by one thread that has as many reads under way as it likes.
const RANDOM: Scenario = Scenario { name: "random-4K", threads: 1 };
/// The file from its start, nothing of it in memory.
const SCAN: Scenario = Scenario { name: "sequential-cold", threads: 1 };

/// Random reads in one call, and in one sample.
const AT_ONCE: usize = 2048;
const READS: usize = 16 * AT_ONCE;
/// Requests that the bare ring has in flight.
const DEPTH: u32 = 32;
/// Futures that one thread polls at once.
const FUTURES: usize = 256;
/// Scans in a round, and rounds at the least: their number is a multiple of this, so that each scan
/// had each turn as often.
const SCANS: usize = 3;
/// Where the parts of the file that are scanned begin.
const PART: u64 = FILE / CHUNK as u64 / SCANS as u64 * CHUNK as u64;
/// How much of a part one sample reads: all but what its reader may have had requested past its
/// end.
const SCANNED: u64 = PART - (16 << 20);

/// Memory as the kernel wants it for reads past its cache: 1 MiB, aligned.
fn aligned(
    arena: &Arena<UserSpace<DefaultScheme>>,
) -> io::Result<FrozenFolio<UserSpace<DefaultScheme>>> {
    let order = Order::new(8).expect("256 pages");
    arena.zone().alloc_frozen(order).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

struct Bench {
    /// Removed when it is dropped.
    _file: NamedTempFile,
    direct: fs::File,
    cache: Cache,
    cached: File,
    ring: io::Result<Ring>,
    /// Each in one piece, of huge pages where the system gives them.
    memory: Vec<FrozenFolio<UserSpace<DefaultScheme>>>,
    /// 1 MiB and a page, of small pages.
    pages: Vec<u8>,
    random: fastrand::Rng,
    /// Of what the cache was asked for last, the part that it had; by subject.
    hit_ratios: [f64; 2],
}

impl Bench {
    fn new(arena: &Arena<UserSpace<DefaultScheme>>) -> io::Result<Self> {
        let mut file = NamedTempFile::new()?;
        let mut random = fastrand::Rng::with_seed(7);
        let mut bytes = vec![0; CHUNK];
        for _ in 0..FILE / CHUNK as u64 {
            random.fill(&mut bytes);
            file.write_all(&bytes)?;
        }
        file.as_file().sync_all()?;
        // The kernel lets go of what it kept of the writes.
        rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed)?;
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits().cast_signed())
            .open(file.path())?;
        let cache = Cache::new(CAPACITY)?;
        let cached = cache.open_backing(Arc::new(LocalFile::open(file.path())?.direct()))?;
        let memory =
            (0..AT_ONCE * PAGE / CHUNK).map(|_| aligned(arena)).collect::<io::Result<_>>()?;
        let (ring, pages) = (Ring::new(DEPTH), vec![1; CHUNK + PAGE]);
        Ok(Self {
            _file: file,
            direct,
            cache,
            cached,
            ring,
            memory,
            pages,
            random,
            hit_ratios: [0.0; 2],
        })
    }

    /// Reads of a second, through the cache.
    fn random_folio(&mut self, _: usize) -> io::Result<f64> {
        let before = self.cache.stats().misses;
        let start = Instant::now();
        for _ in 0..READS / AT_ONCE {
            let mut reads: Vec<_> = self
                .memory
                .iter_mut()
                .flat_map(|memory| memory.as_mut_slice().chunks_mut(PAGE))
                .map(|buf| Read::new(self.random.u64(..FILE / PAGE as u64) * PAGE as u64, buf))
                .collect();
            self.cached.read_many(&mut reads);
            for read in reads {
                assert_eq!(read.result?, PAGE);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        self.hit_ratios[0] = 1.0 - (self.cache.stats().misses - before) as f64 / READS as f64;
        Ok(READS as f64 / seconds)
    }

    /// The same, each read a future.
    fn random_futures(&mut self, _: usize) -> io::Result<f64> {
        let before = self.cache.stats().misses;
        let start = Instant::now();
        for _ in 0..READS / AT_ONCE {
            let file = &self.cached;
            let random = &mut self.random;
            let buffers =
                self.memory.iter_mut().flat_map(|memory| memory.as_mut_slice().chunks_mut(PAGE));
            let reads = buffers.map(|buf| {
                let offset = random.u64(..FILE / PAGE as u64) * PAGE as u64;
                async move { file.read_at_async(offset, buf).await }
            });
            let mut result = Ok(());
            drive(FUTURES, reads, |read| {
                if let Err(error) = read.map(|read| assert_eq!(read, PAGE)) {
                    result = Err(error);
                }
            });
            result?;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.hit_ratios[1] = 1.0 - (self.cache.stats().misses - before) as f64 / READS as f64;
        Ok(READS as f64 / seconds)
    }

    /// Reads of a second, by a ring alone.
    fn random_ring(&mut self, _: usize) -> io::Result<f64> {
        let ring = self
            .ring
            .as_mut()
            .map_err(|error| io::Error::new(error.kind(), format!("no io_uring: {error}")))?;
        let start = Instant::now();
        for _ in 0..READS / AT_ONCE {
            let mut buffers: Vec<_> = self
                .memory
                .iter_mut()
                .flat_map(|memory| memory.as_mut_slice().chunks_mut(PAGE))
                .map(|buf| [IoSliceMut::new(buf)])
                .collect();
            let mut requests: Vec<_> = buffers
                .iter_mut()
                .map(|buf| Request::new(self.random.u64(..FILE / PAGE as u64) * PAGE as u64, buf))
                .collect();
            ring.read_all(&self.direct, &mut requests);
            for request in requests {
                assert_eq!(request.result?, PAGE);
            }
        }
        Ok(READS as f64 / start.elapsed().as_secs_f64())
    }

    /// MiB of a second, through the cache, which has nothing of the file.
    fn scan_folio(&mut self, turn: usize) -> io::Result<f64> {
        self.cache.quiesce();
        self.cached.invalidate();
        let sample = self.scan(turn, |bench, offset| {
            bench.cached.read_at(offset, bench.memory[0].as_mut_slice())
        });
        // What is still being read ahead would disturb who is next.
        self.cache.quiesce();
        sample
    }

    /// MiB of a second, past all caches, one read after the other, into pages anywhere.
    fn scan_direct(&mut self, turn: usize) -> io::Result<f64> {
        self.scan(turn, |bench, offset| {
            let aligned = bench.pages.as_ptr().align_offset(PAGE);
            bench.direct.read_at(&mut bench.pages[aligned..][..CHUNK], offset)
        })
    }

    /// The same into one piece of memory.
    fn scan_contiguous(&mut self, turn: usize) -> io::Result<f64> {
        self.scan(turn, |bench, offset| {
            bench.direct.read_at(bench.memory[0].as_mut_slice(), offset)
        })
    }

    fn scan(
        &mut self,
        turn: usize,
        mut read: impl FnMut(&mut Self, u64) -> io::Result<usize>,
    ) -> io::Result<f64> {
        let start = Instant::now();
        for offset in scanned(turn).step_by(CHUNK) {
            assert_eq!(read(self, offset)?, CHUNK);
        }
        Ok((SCANNED / CHUNK as u64) as f64 / start.elapsed().as_secs_f64())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.memory.drain(..).for_each(FrozenFolio::free);
    }
}

/// What a scan reads in its turn.
fn scanned(turn: usize) -> Range<u64> {
    let begins = turn as u64 * PART;
    begins..begins + SCANNED
}

/// The subjects of a round in their order: each case's in turn, another first in each round.
fn order(round: usize) -> impl Iterator<Item = (usize, usize)> {
    let turns = |first: usize, contenders: usize| {
        (0..contenders).map(move |turn| (first + (turn + round) % contenders, turn))
    };
    turns(0, RANDOMS).chain(turns(RANDOMS, SCANS))
}

type Measure = fn(&mut Bench, usize) -> io::Result<f64>;

/// Subjects of random reads: the first ones.
const RANDOMS: usize = 3;
/// Where the ring is among them.
const RING: usize = 2;
const ONE_BY_ONE: &str = "folio futures";
const CONTIGUOUS: &str = "o_direct contiguous";

/// Each subject in its case.
const SUBJECTS: [(&str, Scenario, Measure); RANDOMS + SCANS] = [
    ("folio", RANDOM, Bench::random_folio),
    (ONE_BY_ONE, RANDOM, Bench::random_futures),
    ("io_uring", RANDOM, Bench::random_ring),
    ("folio", SCAN, Bench::scan_folio),
    ("o_direct", SCAN, Bench::scan_direct),
    (CONTIGUOUS, SCAN, Bench::scan_contiguous),
];

/// Measures it.
///
/// # Errors
///
/// `Interrupted` when it is stopped before the file is made; what the system says when it can not
/// be made or read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    if ask.stop.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped before the file was made"));
    }
    let arena = Arena::new(64 << 20, &[])?;
    let mut bench = Bench::new(&arena)?;
    let mut report = Report::new("Reading what is not in memory", Unit::OpPerS, "read", "folio");
    report.compared_with = &["limit", CONTIGUOUS];
    let mut samples: [Vec<f64>; SUBJECTS.len()] = [const { Vec::new() }; SUBJECTS.len()];
    // By round: what the ring would reach if it read only what the cache did not have, and the rest
    // cost nothing; for each of ours.
    let mut limits = [const { Vec::new() }; 2];
    let started = Instant::now();
    let mut round = 0_usize;
    while !ask.stop.load(Ordering::Relaxed)
        && (round == 0 || !round.is_multiple_of(SCANS) || started.elapsed() < ask.time)
    {
        // The scan took the pages of the random reads: the cache is full of them again before they
        // are measured.
        for _ in 0..FILE / PAGE as u64 / READS as u64 {
            bench.random_folio(0)?;
        }
        for (which, turn) in order(round) {
            let (_, scenario, measure) = &SUBJECTS[which];
            match measure(&mut bench, turn) {
                Ok(sample) => samples[which].push(sample),
                Err(error) if *scenario == RANDOM => report.notes.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        if let Some(alone) = samples[RING].last() {
            for (limits, hit_ratio) in limits.iter_mut().zip(bench.hit_ratios) {
                limits.push(alone / (1.0 - hit_ratio));
            }
        }
        round += 1;
        (ask.progress)((started.elapsed().as_secs_f64() / ask.time.as_secs_f64()).min(1.0));
    }
    report.notes.dedup();
    report.notes.push(format!(
        "a file of 1 GiB, a cache of 256 MiB; a read is 4 KiB in {}, 1 MiB in {}; '{ONE_BY_ONE}' has {FUTURES} of them under way, polled by one thread; the limit is io_uring / (1 - hit ratio) \
         there (last hit ratio {:.3}), reads of 1 MiB past all caches here, one after the other, into pages anywhere; '{CONTIGUOUS}' \
         reads into one huge page, which to the disk is one segment instead of 256; they take turns, each scan in a part of the file of \
         its own, so that none reads what another has just read",
        RANDOM.name, SCAN.name, bench.hit_ratios[0]
    ));
    let mut add =
        |name: &str, scenario, values: &[f64]| report.rows.extend(Row::of(name, scenario, values));
    for ((name, scenario, _), values) in SUBJECTS.iter().zip(&samples) {
        add(name, *scenario, values);
    }
    add("limit", RANDOM, &limits[0]);
    add("limit", SCAN, &samples[RANDOMS + 1]);
    let pairs = [
        ("folio", RANDOM, &samples[0], "limit", &limits[0]),
        (ONE_BY_ONE, RANDOM, &samples[1], "limit", &limits[1]),
        ("folio", SCAN, &samples[RANDOMS], "limit", &samples[RANDOMS + 1]),
        ("folio", SCAN, &samples[RANDOMS], CONTIGUOUS, &samples[RANDOMS + 2]),
    ];
    for (of, scenario, ours, to, limits) in pairs {
        let ratios: Vec<f64> = ours.iter().zip(limits).map(|(ours, limit)| ours / limit).collect();
        if let Some(row) = Row::of("", scenario, &ratios) {
            report.ratios.push(Ratio { of: of.to_owned(), to, scenario, value: row.median });
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of so many bytes has no more than a 64th of them requested ahead.
    const MOST_AHEAD: u64 = CAPACITY as u64 / 64;

    /// The limit once scanned what folio had just scanned.
    #[test]
    fn nobody_scans_what_was_just_scanned_and_all_have_each_turn_as_often() {
        let is_scan = |&(which, _): &(usize, usize)| SUBJECTS[which].1 == SCAN;
        for round in 0..2 * SCANS {
            let scans: Vec<_> = order(round).filter(is_scan).collect();
            assert_eq!(scans.len(), SCANS);
            for pair in scans.windows(2) {
                let (one, next) = (scanned(pair[0].1), scanned(pair[1].1));
                assert!(
                    one.end + MOST_AHEAD <= next.start && next.end <= FILE,
                    "{one:?}, {next:?}"
                );
            }
            for (now, next) in scans.iter().zip(order(round + 1).filter(is_scan)) {
                assert_ne!(now.0, next.0, "who read part {} last is another", now.1);
            }
        }
        for (which, (name, scenario, _)) in SUBJECTS.iter().enumerate() {
            let contenders = if *scenario == SCAN { SCANS } else { RANDOMS };
            let mut turns: Vec<_> =
                (0..contenders).flat_map(order).filter(|turn| turn.0 == which).collect();
            turns.sort_unstable();
            assert_eq!(
                turns,
                (0..contenders).map(|turn| (which, turn)).collect::<Vec<_>>(),
                "{name}"
            );
        }
        assert!(SCANNED.is_multiple_of(CHUNK as u64) && PART.is_multiple_of(CHUNK as u64));
    }
}
