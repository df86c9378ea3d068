//! Measures reads from a distant store: the cache beside the bare store, foyer and moka.
//!
//! All of them read one simulated store, at the distance that the caller sets. Cold reads are
//! timed with its latency. What is fetched for what is wanted is counted at a store that answers at
//! once. Warm reads find all bytes in memory.
//!
//! foyer and moka cache ranges. Where reads overlap, they cache chunks of 64 KiB
//! (`support/range_caches.rs`).

use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::benchmarks::held;
use crate::harness::{Ask, Distance, Ratio, Report, Row, Scenario, Unit, median};
use crate::support::distant_store::{IN_FLIGHT, Object, Store};
use crate::support::executor::{drive, wait};
use crate::support::range_readers::{Bare, By, Folio, Reader};

/// The memory of each cache.
const CAPACITY: usize = 512 << 20;

/// The memory of the caches of ranges in warm reads: no shard of theirs evicts.
#[cfg(feature = "baselines")]
const ROOMY: usize = 4 << 30;

/// The length of the object that cold reads read.
const OBJECT: u64 = 64 << 30;

/// The bytes that a case of warm reads finds in memory.
const REGION: u64 = 16 << 20;

/// The length of each read of many tasks, of a strided and of a random reader.
const READ: u64 = 64 << 10;

/// The reads of a strided reader, and the distance from one to the next.
const STRIDED: (u64, u64) = (16, 1 << 20);

/// The columns of a row group, and those that are read.
const COLUMNS: (usize, [usize; 3]) = (8, [1, 3, 4]);

/// The time in which a request that was begun in the background is sent.
const SETTLED: Duration = Duration::from_millis(20);

const FETCHED: Unit = Unit::Less("fetched/wanted");

/// The amounts of work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amounts {
    /// The tasks, and the reads of each, one after the other.
    pub(super) tasks: (usize, usize),
    /// Random reads, and row groups.
    pub(super) random: usize,
    pub(super) row_groups: usize,
    /// The time of a sample of warm reads.
    pub(super) warm: Duration,
    /// Handles that are held.
    pub(super) held: usize,
    /// Objects that are open.
    pub(super) open: usize,
    /// The least number of rounds.
    pub(super) rounds: usize,
}

impl Amounts {
    fn of(held: usize) -> Self {
        Self {
            tasks: (1000, 10),
            random: 1000,
            row_groups: 32,
            warm: Duration::from_millis(20),
            held,
            open: 50_000,
            rounds: 3,
        }
    }
}

/// The readers and the store of the cases.
struct Setup {
    amounts: Amounts,
    near: Arc<Store>,
    /// Readers of the distant store, of one that answers at once, and of what is cached.
    distant: Vec<Box<dyn Reader>>,
    counted: Vec<Box<dyn Reader>>,
    warm: Vec<Box<dyn Reader>>,
}

fn readers(store: &Arc<Store>, len: u64, warm: bool) -> io::Result<Vec<Box<dyn Reader>>> {
    let folio = Folio::new(CAPACITY, store, len)?;
    touch(&folio, store)?;
    let mut readers: Vec<Box<dyn Reader>> = vec![Box::new(folio)];
    if !warm {
        readers.push(Box::new(Bare(Arc::clone(store))));
    }
    #[cfg(feature = "baselines")]
    {
        use crate::support::range_caches::{Ranges, foyer, moka};
        let capacity = if warm { ROOMY } else { CAPACITY };
        let (foyer, moka) = (foyer(capacity), moka(capacity));
        readers.push(Box::new(Ranges { name: "foyer", store: Arc::clone(store), cache: foyer }));
        readers.push(Box::new(Ranges { name: "moka", store: Arc::clone(store), cache: moka }));
    }
    Ok(readers)
}

/// Has the system make the memory of a cache: a cache that runs for long has it.
fn touch(folio: &Folio, store: &Store) -> io::Result<()> {
    let near = Arc::new(store.near(false));
    let object = folio.cache.open_async(Object::new(&near, 1, CAPACITY as u64))?;
    let mut buf = vec![0; 1 << 20];
    for at in (0..CAPACITY as u64).step_by(buf.len()) {
        object.read_at(&mut buf, at)?;
    }
    folio.cache.invalidate(&object.key());
    Ok(())
}

impl Setup {
    fn new(distance: Distance, amounts: Amounts) -> io::Result<Self> {
        let store = Arc::new(Store::new(distance));
        let near = Arc::new(store.near(false));
        let warm = readers(&near, OBJECT, true)?;
        for reader in &warm {
            fill(&**reader)?;
        }
        Ok(Self {
            amounts,
            distant: readers(&store, OBJECT, false)?,
            counted: readers(&near, OBJECT, false)?,
            warm,
            near,
        })
    }
}

/// Has a reader cache all ranges that warm reads read.
fn fill(reader: &dyn Reader) -> io::Result<()> {
    for case in CASES {
        if let Of::Warm(len, by, _) = case.of {
            for at in case.region().step_by(len as usize) {
                wait(reader.read_one(at..at + len, by))?;
            }
        }
    }
    Ok(())
}

/// The kind of a case: the readers, and what they read.
#[derive(Clone, Copy)]
enum Of {
    /// A read of the distant store, timed in milliseconds.
    Cold(fn(&dyn Reader, &Amounts) -> io::Result<()>),
    /// Reads of a store that answers at once. Returns the bytes wanted.
    Counted(fn(&dyn Reader, &Amounts) -> io::Result<u64>),
    /// Reads of so many bytes that are cached, at multiples of their length, and a distance from
    /// them.
    Warm(u64, By, u64),
}

struct Case {
    name: &'static str,
    of: Of,
}

const CASES: &[Case] = &[
    Case { name: "read-8M", of: Of::Cold(read_8m) },
    Case { name: "stream-64M", of: Of::Cold(stream_64m) },
    Case { name: "tasks-64K", of: Of::Cold(tasks) },
    Case { name: "strided", of: Of::Counted(strided) },
    Case { name: "random", of: Of::Counted(random) },
    Case { name: "chunks", of: Of::Counted(column_chunks) },
    Case { name: "chunks-each", of: Of::Counted(column_chunks_each) },
    Case { name: "warm-4K", of: Of::Warm(4 << 10, By::Range, 0) },
    Case { name: "warm-64K", of: Of::Warm(64 << 10, By::Range, 0) },
    Case { name: "warm-1M", of: Of::Warm(1 << 20, By::Range, 0) },
    Case { name: "warm-4M", of: Of::Warm(4 << 20, By::Range, 0) },
    Case { name: "warm-4K+100", of: Of::Warm(4 << 10, By::Chunk, 100) },
    Case { name: "warm-64K+100", of: Of::Warm(64 << 10, By::Chunk, 100) },
    Case { name: "warm-1M+100", of: Of::Warm(1 << 20, By::Chunk, 100) },
    Case { name: "warm-4M+100", of: Of::Warm(4 << 20, By::Chunk, 100) },
];

impl Case {
    fn scenario(&self) -> Scenario {
        let threads = usize::from(!matches!(self.of, Of::Counted(_)));
        Scenario { name: self.name, threads }
    }

    /// Returns the bytes that the case finds in memory: its own, as handles of single pages leave
    /// the pages apart that a longer read has brought together.
    fn region(&self) -> Range<u64> {
        let number = CASES.iter().position(|case| case.name == self.name).unwrap_or(0) as u64;
        number * REGION..(number + 1) * REGION
    }

    fn unit(&self) -> Unit {
        match self.of {
            Of::Cold(_) => Unit::Ms,
            Of::Counted(_) => FETCHED,
            Of::Warm(..) => Unit::Us,
        }
    }

    fn readers<'s>(&self, setup: &'s Setup) -> &'s [Box<dyn Reader>] {
        match self.of {
            Of::Cold(_) => &setup.distant,
            Of::Counted(_) => &setup.counted,
            Of::Warm(..) => &setup.warm,
        }
    }

    fn sample(&self, setup: &Setup, reader: &dyn Reader) -> io::Result<f64> {
        match self.of {
            Of::Cold(read) => {
                reader.clear();
                let began = Instant::now();
                read(reader, &setup.amounts)?;
                Ok(began.elapsed().as_secs_f64() * 1e3)
            }
            Of::Counted(read) => {
                reader.clear();
                let before = setup.near.counts().1;
                let wanted = read(reader, &setup.amounts)?;
                thread::sleep(SETTLED);
                Ok((setup.near.counts().1 - before) as f64 / wanted as f64)
            }
            Of::Warm(len, by, shift) => {
                warm(reader, self.region(), (len, by, shift), setup.amounts.warm)
            }
        }
    }
}

fn read_8m(reader: &dyn Reader, _: &Amounts) -> io::Result<()> {
    let bytes = wait(reader.read_one(0..8 << 20, By::Range))?;
    assert_eq!(bytes.len(), 8 << 20);
    Ok(())
}

fn stream_64m(reader: &dyn Reader, _: &Amounts) -> io::Result<()> {
    assert_eq!(wait(reader.stream(0..64 << 20))?, 64 << 20);
    Ok(())
}

fn tasks(reader: &dyn Reader, amounts: &Amounts) -> io::Result<()> {
    let (tasks, reads) = amounts.tasks;
    let task = |seed: usize| async move {
        let mut random = fastrand::Rng::with_seed(seed as u64);
        for _ in 0..reads {
            let at = random.u64(..OBJECT - READ);
            let bytes = reader.read_one(at..at + READ, By::Range).await?;
            assert_eq!(bytes.len() as u64, READ);
        }
        io::Result::Ok(())
    };
    let mut result = Ok(());
    drive(tasks, (0..tasks).map(task), |ended| {
        if ended.is_err() {
            result = ended;
        }
    });
    result
}

/// Reads ranges one after the other. Returns their bytes.
fn one_by_one(
    reader: &dyn Reader,
    ranges: impl IntoIterator<Item = Range<u64>>,
    by: By,
) -> io::Result<u64> {
    ranges
        .into_iter()
        .try_fold(0, |sum, range| Ok(sum + wait(reader.read_one(range, by))?.len() as u64))
}

fn strided(reader: &dyn Reader, _: &Amounts) -> io::Result<u64> {
    let (reads, stride) = STRIDED;
    one_by_one(reader, (0..reads).map(|n| n * stride..n * stride + READ), By::Range)
}

fn random(reader: &dyn Reader, amounts: &Amounts) -> io::Result<u64> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut next = || random.u64(..OBJECT - READ);
    let ranges = (0..amounts.random).map(|_| next()).map(|at| at..at + READ);
    one_by_one(reader, ranges, By::Chunk)
}

/// Returns the column chunks that are read of each row group: 128 KiB to 4 MiB, as columns compress
/// differently.
fn row_groups(amounts: &Amounts) -> impl Iterator<Item = Vec<Range<u64>>> {
    let mut random = fastrand::Rng::with_seed(8);
    let mut at = 4;
    (0..amounts.row_groups).map(move |_| {
        let column = |_| {
            let begins = at;
            at += (128 << 10) + (random.f64().powi(2) * f64::from(3968 << 10)) as u64;
            begins..at
        };
        let columns: Vec<_> = (0..COLUMNS.0).map(column).collect();
        COLUMNS.1.iter().map(|&n| columns[n].clone()).collect()
    })
}

fn column_chunks(reader: &dyn Reader, amounts: &Amounts) -> io::Result<u64> {
    row_groups(amounts).try_fold(0, |sum, ranges| {
        let bytes = wait(reader.read(&ranges, By::Range))?;
        Ok(sum + bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>())
    })
}

fn column_chunks_each(reader: &dyn Reader, amounts: &Amounts) -> io::Result<u64> {
    one_by_one(reader, row_groups(amounts).flatten(), By::Range)
}

/// Reads what is cached, at random places. Returns the microseconds of a read.
fn warm(
    reader: &dyn Reader,
    region: Range<u64>,
    (len, by, shift): (u64, By, u64),
    time: Duration,
) -> io::Result<f64> {
    let mut random = fastrand::Rng::with_seed(9);
    let ranges = REGION / len - u64::from(shift > 0);
    let mut next = || region.start + random.u64(..ranges) * len + shift;
    let places: Vec<u64> = (0..1024).map(|_| next()).collect();
    let (began, mut reads) = (Instant::now(), 0);
    while began.elapsed() < time {
        for at in places.iter().cycle().skip(reads % 1024).take(64) {
            let bytes = reader.warm(*at..*at + len, by).unwrap_or_default();
            if bytes.len() as u64 != len {
                return Err(io::Error::other(format!("{} lost bytes that it had", reader.name())));
            }
            black_box((bytes[0], bytes[bytes.len() - 1]));
            reads += 1;
        }
    }
    Ok(began.elapsed().as_secs_f64() * 1e6 / reads as f64)
}

/// Adds the rows of a case, and the ratios to the other contenders.
fn add(report: &mut Report, case: &Case, names: &[&'static str], samples: &[Vec<f64>]) {
    let scenario = case.scenario();
    for (&name, values) in names.iter().zip(samples) {
        let row = Row::of(name, scenario, values);
        report.rows.extend(row.map(|row| Row { unit: Some(case.unit()), ..row }));
        let others = names.iter().zip(samples).filter(|other| *other.0 != name);
        for (&to, others) in others.filter(|other| report.compared_with.contains(other.0)) {
            let speed = |(&of, &to): (&f64, &f64)| case.unit().speed(of, to);
            let speeds: Vec<f64> = values.iter().zip(others).map(speed).collect();
            if !speeds.is_empty() {
                let value = median(&speeds);
                report.ratios.push(Ratio { of: name.to_owned(), to, scenario, value });
            }
        }
    }
}

/// Measures with amounts.
///
/// # Errors
///
/// The system's error if memory is not to be had, or that of a read.
pub(super) fn report(ask: &mut Ask<'_>, amounts: Amounts) -> io::Result<Report> {
    let mut report = Report::new("Reads from a distant store", Unit::Ms, "case", "folio");
    report.compared_with = &["bare", "foyer", "moka"];
    if ask.stop.load(Ordering::Relaxed) {
        report.notes.push("stopped before the first read".to_owned());
        return Ok(report);
    }
    // First: they measure the memory of the process.
    held::measure(&mut report, amounts.held, amounts.open, ask.stop)?;
    if ask.stop.load(Ordering::Relaxed) {
        report.notes.push("stopped early: before the first round".to_owned());
        return Ok(report);
    }
    let held = std::mem::take(&mut report.rows);
    (ask.progress)(0.1);
    let setup = Setup::new(ask.distance, amounts)?;
    let mut samples: Vec<Vec<Vec<f64>>> =
        CASES.iter().map(|case| vec![Vec::new(); case.readers(&setup).len()]).collect();
    let mut shuffle = fastrand::Rng::with_seed(1);
    let (began, mut round) = (Instant::now(), 0);
    'rounds: while round < amounts.rounds || began.elapsed() < ask.time {
        for (case, samples) in CASES.iter().zip(&mut samples) {
            let readers = case.readers(&setup);
            let mut order: Vec<_> = (0..readers.len()).collect();
            shuffle.shuffle(&mut order);
            for which in order {
                if ask.stop.load(Ordering::Relaxed) {
                    report.notes.push(format!("stopped early: in round {}", round + 1));
                    break 'rounds;
                }
                samples[which].push(case.sample(&setup, &*readers[which])?);
            }
        }
        round += 1;
        let share = began.elapsed().as_secs_f64() / ask.time.as_secs_f64().max(0.001);
        (ask.progress)(share.clamp(0.1, 1.0));
    }
    for (case, samples) in CASES.iter().zip(&samples) {
        let names: Vec<_> = case.readers(&setup).iter().map(|reader| reader.name()).collect();
        add(&mut report, case, &names, samples);
    }
    of_the_limit(&mut report, &amounts, ask.distance);
    report.rows.extend(held);
    report.notes.push(note(ask.distance));
    Ok(report)
}

/// Adds to each row of the tasks the share of what latency and limit allow that it reaches.
fn of_the_limit(report: &mut Report, amounts: &Amounts, distance: Distance) {
    let reads = (amounts.tasks.0 * amounts.tasks.1) as f64;
    let least = reads / IN_FLIGHT as f64 * distance.latency.as_secs_f64() * 1e3;
    for row in report.rows.iter_mut().filter(|row| row.scenario.name == "tasks-64K") {
        row.more.push(("of_limit", least / row.median));
    }
}

fn note(distance: Distance) -> String {
    let bandwidth = match distance.bandwidth {
        0 => "no limit of bandwidth".to_owned(),
        bytes => format!("{} MiB/s", bytes >> 20),
    };
    format!(
        "the store: latency {} ms, {bandwidth}, {} us for each request, at most {IN_FLIGHT} \
         requests in flight; an answer is a slice of its memory. foyer and moka: an entry is a \
         range; in 'random' and 'warm-..+100' a chunk of 64 KiB. 'of_limit' is the share of the \
         reads that latency and limit allow. Ratios are speeds, or inverse counts: above 1 is \
         better",
        distance.latency.as_millis(),
        distance.request.as_micros()
    )
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if memory is not to be had, or that of a read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let held = ask.held;
    report(ask, Amounts::of(held))
}
