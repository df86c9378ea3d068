//! How fast does the cache read what is not in it, beside the disk alone?
//!
//! The file is 1 GiB long, in the folder for temporary files (`TMPDIR`), and never in the kernel's cache: it is written
//! and read past it. What lies below the kernel may have a cache, a host's or a controller's, and who reads what another has just
//! read would be served from there. So within a round the two scans read different halves of the file, always the lower one first, and they
//! take turns in being first: whoever reads a half, it was read last one round before, by the other. The random reads take turns as well.

use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use page_cache::{Cache, File, LocalFile, Read};
use page_frames::{Arena, FrozenFolio, Order, UserSpace};
use page_io::{Request, Ring};
use page_ref::DefaultScheme;
use rustix::fs::OFlags;
use tempfile::NamedTempFile;

use crate::matrix::Case;
use crate::question::Ask;
use crate::report::{Ratio, Report, Row, Unit};

/// The file.
const FILE: u64 = 1 << 30;
/// Of the cache.
const BUDGET: usize = 256 << 20;
const PAGE: usize = 4096;
/// One read of a scan, and one write of the file.
const CHUNK: usize = 1 << 20;

/// Pages anywhere, by one thread that has as many reads under way as it likes.
const RANDOM: Case = Case { name: "random-4K", threads: 1 };
/// The file from its start, nothing of it in memory.
const SCAN: Case = Case { name: "sequential-cold", threads: 1 };

/// Random reads in one call, and in one sample.
const AT_ONCE: usize = 2048;
const READS: usize = 16 * AT_ONCE;
/// Requests that the bare ring has in flight.
const DEPTH: u32 = 32;
/// Rounds at the least. Their number is even: each subject was first as often as the other.
const LEAST_ROUNDS: usize = 4;
/// Of the file, what one sample of a scan reads: a half, but for what its reader may have had requested past its end.
const SCANNED: u64 = FILE / 2 - (16 << 20);

/// Memory as the kernel wants it for reads past its cache: 1 MiB, aligned.
fn aligned(arena: &Arena<UserSpace<DefaultScheme>>) -> io::Result<FrozenFolio<UserSpace<DefaultScheme>>> {
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
    memory: Vec<FrozenFolio<UserSpace<DefaultScheme>>>,
    random: fastrand::Rng,
    /// Of what the cache was asked for last, the part that it had.
    hit_ratio: f64,
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
        let direct =
            OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(file.path())?;
        let cache = Cache::new(BUDGET)?;
        let cached = cache.open_backing(Arc::new(LocalFile::open(file.path())?.direct()))?;
        let memory = (0..AT_ONCE * PAGE / CHUNK).map(|_| aligned(arena)).collect::<io::Result<_>>()?;
        Ok(Self { _file: file, direct, cache, cached, ring: Ring::new(DEPTH), memory, random, hit_ratio: 0.0 })
    }

    /// Reads of a second, through the cache.
    fn random_folio(&mut self, _: Turn) -> io::Result<f64> {
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
        self.hit_ratio = 1.0 - (self.cache.stats().misses - before) as f64 / READS as f64;
        Ok(READS as f64 / seconds)
    }

    /// Reads of a second, by a ring alone.
    fn random_ring(&mut self, _: Turn) -> io::Result<f64> {
        let ring = self.ring.as_mut().map_err(|error| io::Error::new(error.kind(), format!("no io_uring: {error}")))?;
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
    fn scan_folio(&mut self, turn: Turn) -> io::Result<f64> {
        self.cache.settle();
        self.cached.invalidate();
        let sample = self.scan(turn, |bench, offset| bench.cached.read_at(offset, bench.memory[0].as_mut_slice()));
        // What is still being read ahead would disturb who is next.
        self.cache.settle();
        sample
    }

    /// MiB of a second, past all caches, one read after the other.
    fn scan_direct(&mut self, turn: Turn) -> io::Result<f64> {
        self.scan(turn, |bench, offset| bench.direct.read_at(bench.memory[0].as_mut_slice(), offset))
    }

    fn scan(&mut self, turn: Turn, mut read: impl FnMut(&mut Self, u64) -> io::Result<usize>) -> io::Result<f64> {
        let start = Instant::now();
        for offset in turn.scanned().step_by(CHUNK) {
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

/// When a subject of a pair is measured within a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    First,
    Second,
}

impl Turn {
    /// What a scan reads.
    fn scanned(self) -> Range<u64> {
        match self {
            Self::First => 0..SCANNED,
            Self::Second => FILE / 2..FILE / 2 + SCANNED,
        }
    }
}

/// The subjects of a round, in their order, with their turns.
fn order(round: usize) -> [(usize, Turn); SUBJECTS.len()] {
    let second = round % 2;
    [(second, Turn::First), (1 - second, Turn::Second), (2 + second, Turn::First), (3 - second, Turn::Second)]
}

type Measure = fn(&mut Bench, Turn) -> io::Result<f64>;

/// Each subject in its case: two pairs.
const SUBJECTS: [(&str, Case, Measure); 4] = [
    ("folio", RANDOM, Bench::random_folio),
    ("io_uring", RANDOM, Bench::random_ring),
    ("folio", SCAN, Bench::scan_folio),
    ("o_direct", SCAN, Bench::scan_direct),
];

/// Measures it.
///
/// # Errors
///
/// `Interrupted` when it is stopped before the file is made; what the system says when it can not be made or read.
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    if ask.stop.load(Ordering::Relaxed) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped before the file was made"));
    }
    let arena = Arena::new(64 << 20, &[])?;
    let mut bench = Bench::new(&arena)?;
    let mut report = Report::new("Reading what is not in memory", Unit::OpPerS, "read", "folio");
    report.compared_with = &["limit"];
    let mut samples: [Vec<f64>; SUBJECTS.len()] = [const { Vec::new() }; SUBJECTS.len()];
    // By round: what the ring would reach if it read only what the cache did not have, and the rest cost nothing.
    let mut limits = Vec::new();
    let started = Instant::now();
    let mut round = 0_usize;
    while !ask.stop.load(Ordering::Relaxed)
        && (round < LEAST_ROUNDS || !round.is_multiple_of(2) || started.elapsed() < ask.time)
    {
        // The scan took the pages of the random reads: the cache is full of them again before they are measured.
        for _ in 0..FILE / PAGE as u64 / READS as u64 {
            bench.random_folio(Turn::First)?;
        }
        for (which, turn) in order(round) {
            let (_, case, measure) = &SUBJECTS[which];
            match measure(&mut bench, turn) {
                Ok(sample) => samples[which].push(sample),
                Err(error) if *case == RANDOM => report.notes.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        limits.extend(samples[1].last().map(|alone| alone / (1.0 - bench.hit_ratio)));
        round += 1;
        (ask.progress)((started.elapsed().as_secs_f64() / ask.time.as_secs_f64()).min(1.0));
    }
    report.notes.dedup();
    report.notes.push(format!(
        "a file of 1 GiB, a cache of 256 MiB; a read is 4 KiB in {}, 1 MiB in {}; the limit is io_uring / (1 - hit ratio) \
         there (last hit ratio {:.3}), reads of 1 MiB past all caches here, one after the other; the two take turns in being first, and scan \
         different halves of the file: neither reads what the other has just read",
        RANDOM.name, SCAN.name, bench.hit_ratio
    ));
    let mut add = |name: &str, case, values: &[f64]| report.rows.extend(Row::of(name, case, values));
    for ((name, case, _), values) in SUBJECTS.iter().zip(&samples) {
        add(name, *case, values);
    }
    add("limit", RANDOM, &limits);
    add("limit", SCAN, &samples[3]);
    for (case, ours, limits) in [(RANDOM, &samples[0], &limits), (SCAN, &samples[2], &samples[3])] {
        let ratios: Vec<f64> = ours.iter().zip(limits).map(|(ours, limit)| ours / limit).collect();
        if let Some(row) = Row::of("", case, &ratios) {
            report.ratios.push(Ratio { of: "folio".to_owned(), to: "limit", case, value: row.median });
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of so many bytes has no more than a 64th of them requested ahead.
    const MOST_AHEAD: u64 = BUDGET as u64 / 64;

    /// The limit once scanned what folio had just scanned, and was 2.5 times as fast: the host had it.
    #[test]
    fn nobody_scans_what_was_just_scanned_and_all_are_first_as_often() {
        let scans: Vec<_> = (0..LEAST_ROUNDS)
            .flat_map(|round| order(round).into_iter().filter(|&(which, _)| SUBJECTS[which].1 == SCAN))
            .map(|(which, turn)| (which, turn.scanned()))
            .collect();
        for pair in scans.windows(2) {
            assert!(pair[0].1.end <= pair[1].1.start || pair[1].1.end <= pair[0].1.start, "{pair:?}");
        }
        for triple in scans.windows(3).filter(|triple| triple[0].1 == triple[2].1) {
            assert_ne!(triple[0].0, triple[2].0, "who read a half last is the other");
        }
        for (which, (name, ..)) in SUBJECTS.iter().enumerate() {
            let turns = (0..LEAST_ROUNDS).flat_map(order).filter(|measured| measured.0 == which);
            let (first, second): (Vec<_>, Vec<_>) = turns.partition(|measured| measured.1 == Turn::First);
            assert_eq!(first.len(), second.len(), "{name}");
        }
        let (first, second) = (Turn::First.scanned(), Turn::Second.scanned());
        assert!(first.end + MOST_AHEAD <= second.start && second.end <= FILE, "{first:?}, {second:?}");
    }
}
