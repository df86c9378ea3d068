//! Measures cold reads of a file through the cache, beside the disk alone.
//!
//! The file is 1 GiB long, in the folder for temporary files (`TMPDIR`). It is never in the
//! kernel's cache, as it is written and read past it. Below the kernel there may be another cache,
//! of a host or a controller: a reader would be served what another one has just read. Therefore
//! each scan of a round has a part of the file of its own, and the scans take turns from the lowest
//! part on. The last reader of a part was another scan, one round before. The random reads take
//! turns as well.
//!
//! A disk's speed depends on the target. Into pages anywhere, such as a cache's, a read of 1 MiB
//! takes as many segments as pages; into one huge page it takes one. The limit of a scan is the
//! former, which is also what `fio` does. The latter stands beside it.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use folio_cache::{Cache, File, LocalFile, ReadRequest};
use folio_frames::{Arena, FrozenFolio, Order, UserSpace};
use folio_ref::DefaultScheme;
use folio_uring::{Request, Ring};
use rustix::fs::OFlags;

use crate::harness::{Ask, Ratio, Report, Row, Scenario, Unit};
use crate::support::executor::drive;
use crate::support::scratch::ScratchFile;

/// The file's length.
const FILE: u64 = 1 << 30;
/// The cache's capacity.
const CAPACITY: usize = 256 << 20;
const PAGE: usize = 4096;
/// The size of one read of a scan, and of one write of the file.
const CHUNK: usize = 1 << 20;

/// Reads pages anywhere, by one thread with any number of reads in flight.
const RANDOM: Scenario = Scenario { name: "random-4K", threads: 1 };
/// Scans the file from its start, with nothing of it in memory.
const SCAN: Scenario = Scenario { name: "sequential-cold", threads: 1 };

/// Random reads in one call, and in one sample.
const AT_ONCE: usize = 2048;
const READS: usize = 16 * AT_ONCE;
/// Requests that the bare ring has in flight.
const DEPTH: u32 = 32;
/// Futures that one thread polls at once.
const FUTURES: usize = 256;
/// Scans in a round. The number of rounds is a multiple of it, so that each scan has each turn
/// equally often.
const SCANS: usize = 3;
/// The distance between the parts of the file that are scanned.
const PART: u64 = FILE / CHUNK as u64 / SCANS as u64 * CHUNK as u64;
/// The bytes of a part that one sample reads: all except those that its readahead may request past
/// its end.
const SCANNED: u64 = PART - (16 << 20);

/// Allocates 1 MiB of aligned memory, as the kernel requires for reads past its cache.
fn aligned(
    arena: &Arena<UserSpace<DefaultScheme>>,
) -> io::Result<FrozenFolio<UserSpace<DefaultScheme>>> {
    let order = Order::new(8).expect("256 pages");
    arena.zone().alloc_frozen(order).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

struct Bench {
    /// Removed when dropped.
    _file: ScratchFile,
    direct: fs::File,
    cache: Cache,
    cached: File,
    ring: io::Result<Ring>,
    /// Blocks of 1 MiB, of huge pages where the system gives them.
    memory: Vec<FrozenFolio<UserSpace<DefaultScheme>>>,
    /// Small pages: 1 MiB and one more page.
    pages: Vec<u8>,
    random: fastrand::Rng,
    /// The share of the last random reads that the cache already had, by contender.
    hit_ratios: [f64; 2],
}

impl Bench {
    fn new(arena: &Arena<UserSpace<DefaultScheme>>) -> io::Result<Self> {
        let mut file = ScratchFile::new()?;
        let mut random = fastrand::Rng::with_seed(7);
        let mut bytes = vec![0; CHUNK];
        for _ in 0..FILE / CHUNK as u64 {
            random.fill(&mut bytes);
            file.write_all(&bytes)?;
        }
        file.as_file().sync_all()?;
        // Makes the kernel evict what it kept of the writes.
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

    /// Reads at random through the cache. Returns reads per second.
    fn random_folio(&mut self, _: usize) -> io::Result<f64> {
        let before = self.cache.stats().misses;
        let start = Instant::now();
        for _ in 0..READS / AT_ONCE {
            let mut reads: Vec<_> = self
                .memory
                .iter_mut()
                .flat_map(|memory| memory.as_mut_slice().chunks_mut(PAGE))
                .map(|buf| {
                    ReadRequest::new(buf, self.random.u64(..FILE / PAGE as u64) * PAGE as u64)
                })
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

    /// Reads at random through the cache, each read a future. Returns reads per second.
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
                async move { file.read_at_async(buf, offset).await }
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

    /// Reads at random with a ring alone. Returns reads per second.
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

    /// Scans through the cache, which holds nothing of the file. Returns MiB per second.
    fn scan_folio(&mut self, turn: usize) -> io::Result<f64> {
        self.cache.quiesce();
        self.cached.invalidate();
        let sample = self.scan(turn, |bench, offset| {
            bench.cached.read_at(bench.memory[0].as_mut_slice(), offset)
        });
        // Readahead still in flight would disturb the next scan.
        self.cache.quiesce();
        sample
    }

    /// Scans past all caches, one read after the other, into pages anywhere. Returns MiB per
    /// second.
    fn scan_direct(&mut self, turn: usize) -> io::Result<f64> {
        self.scan(turn, |bench, offset| {
            let aligned = bench.pages.as_ptr().align_offset(PAGE);
            bench.direct.read_at(&mut bench.pages[aligned..][..CHUNK], offset)
        })
    }

    /// Scans past all caches into one piece of memory. Returns MiB per second.
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

/// Returns the bytes that a scan reads in its turn.
fn scanned(turn: usize) -> Range<u64> {
    let begins = turn as u64 * PART;
    begins..begins + SCANNED
}

/// Returns the contenders of a round in their order, with their turns: each scenario's in turn,
/// another first in each round.
fn order(round: usize) -> impl Iterator<Item = (usize, usize)> {
    let turns = |first: usize, contenders: usize| {
        (0..contenders).map(move |turn| (first + (turn + round) % contenders, turn))
    };
    turns(0, RANDOMS).chain(turns(RANDOMS, SCANS))
}

type Measure = fn(&mut Bench, usize) -> io::Result<f64>;

/// The number of contenders of random reads; they are the first ones.
const RANDOMS: usize = 3;
/// The index of the ring among them.
const RING: usize = 2;
const ONE_BY_ONE: &str = "folio futures";
const CONTIGUOUS: &str = "o_direct contiguous";

/// The contenders, each with its scenario.
const CONTENDERS: [(&str, Scenario, Measure); RANDOMS + SCANS] = [
    ("folio", RANDOM, Bench::random_folio),
    (ONE_BY_ONE, RANDOM, Bench::random_futures),
    ("io_uring", RANDOM, Bench::random_ring),
    ("folio", SCAN, Bench::scan_folio),
    ("o_direct", SCAN, Bench::scan_direct),
    (CONTIGUOUS, SCAN, Bench::scan_contiguous),
];

/// Runs the benchmark.
///
/// # Errors
///
/// `Interrupted` if it is stopped before the file is made; the system's error if the file cannot be
/// made or read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    if ask.stop.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped before the file was made"));
    }
    let arena = Arena::new(64 << 20, &[])?;
    let mut bench = Bench::new(&arena)?;
    let mut report = Report::new("Reading what is not in memory", Unit::OpPerS, "read", "folio");
    report.compared_with = &["limit", CONTIGUOUS];
    let mut samples: [Vec<f64>; CONTENDERS.len()] = [const { Vec::new() }; CONTENDERS.len()];
    // For each round and each of our contenders: the rate that the ring would reach if it read only
    // what the cache lacked, and the rest cost nothing.
    let mut limits = [const { Vec::new() }; 2];
    let started = Instant::now();
    let mut round = 0_usize;
    while !ask.stop.load(Ordering::Relaxed)
        && (round == 0 || !round.is_multiple_of(SCANS) || started.elapsed() < ask.time)
    {
        // The scans evicted the pages of the random reads. Fills the cache with such pages again.
        for _ in 0..FILE / PAGE as u64 / READS as u64 {
            bench.random_folio(0)?;
        }
        for (which, turn) in order(round) {
            let (_, scenario, measure) = &CONTENDERS[which];
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
        "a file of 1 GiB, a cache of 256 MiB; a read is 4 KiB in {}, 1 MiB in {}; \
         '{ONE_BY_ONE}' has {FUTURES} of them in flight, polled by one thread. The limit of the \
         first is io_uring / (1 - hit ratio), with a last hit ratio of {:.3}; of the second it is \
         reads of 1 MiB past all caches, one after the other, into pages anywhere. '{CONTIGUOUS}' \
         reads into one huge page, which is one segment to the disk and not 256. The contenders \
         take turns, and each scan has a part of the file of its own, so that none reads what \
         another has just read",
        RANDOM.name, SCAN.name, bench.hit_ratios[0]
    ));
    let mut add =
        |name: &str, scenario, values: &[f64]| report.rows.extend(Row::of(name, scenario, values));
    for ((name, scenario, _), values) in CONTENDERS.iter().zip(&samples) {
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

    /// A cache requests at most a 64th of its capacity ahead.
    const MOST_AHEAD: u64 = CAPACITY as u64 / 64;

    #[test]
    fn scans_share_no_bytes_and_take_each_turn_equally_often() {
        let is_scan = |&(which, _): &(usize, usize)| CONTENDERS[which].1 == SCAN;
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
                assert_ne!(now.0, next.0, "part {} was last read by another scan", now.1);
            }
        }
        for (which, (name, scenario, _)) in CONTENDERS.iter().enumerate() {
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
