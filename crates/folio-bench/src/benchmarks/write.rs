//! Measures writing bytes: through the cache, by a bare copy, by the kernel.
//!
//! In memory (`hot-64`, `uniform-4K`) all files, folio's too, lie in a file system in memory; the
//! work of folio's flusher each second is part of the time. On the disk (`append-1M`,
//! `overwrite-1M`) each MiB is synced before the next, so that all contenders have done the same
//! work. These samples wait for the disk, so their threads need no share of a CPU.

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use folio_cache::{Cache, File, OpenOptions};
use parking_lot::Mutex;
use vmap::MapMut;

use crate::harness::{
    Ask, Contender, Matrix, Ratio, Report, Row, Scenario, Shape, Unit, one_and_all,
};
use crate::support::files::memory_folder;
use crate::support::scratch::ScratchFile;

/// Writes of 64 bytes at offset 0, by all threads.
const HOT: &str = "hot-64";
/// Writes of a page anywhere in the file.
const UNIFORM: &str = "uniform-4K";
/// Writes of one MiB after the other, past the end of a file on the disk, and within it.
const SYNCED: [Scenario; 2] =
    [Scenario { name: "append-1M", threads: 1 }, Scenario { name: "overwrite-1M", threads: 1 }];

const PAGE: usize = 4096;
const CHUNK: usize = 1 << 20;
/// MiB in one sample.
const CHUNKS: u64 = 8;
/// The length of the file in memory. All of it may be dirty at once without a hurried writeback.
const BYTES: usize = 64 << 20;
const CAPACITY: usize = 10 * BYTES;

/// Runs the writes of one thread in a sample. Returns their number.
#[inline(always)]
fn writes(scenario: Scenario, mut write: impl FnMut(usize, &[u8])) -> u64 {
    let mut random = fastrand::Rng::new();
    let bytes = [random.u8(..); PAGE];
    if scenario.name == HOT {
        (0..100_000).for_each(|_| write(0, black_box(&bytes[..64])));
        return 100_000;
    }
    (0..10_000).for_each(|_| write(random.usize(..BYTES / PAGE) * PAGE, black_box(&bytes)));
    10_000
}

/// The limit: memory. One thread only, as safe Rust has no two writers of the same bytes.
struct Memcpy(Mutex<Vec<u8>>);

impl Contender for Memcpy {
    fn name(&self) -> String {
        "memcpy".to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        scenario.threads == 1
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        copies(scenario, &mut self.0.lock())
    }
}

#[inline(always)]
fn copies(scenario: Scenario, memory: &mut [u8]) -> u64 {
    writes(scenario, |offset, bytes| {
        black_box(&mut *memory)[offset..][..bytes.len()].copy_from_slice(bytes);
    })
}

/// Pages with a lock each: the least that several writers can share, without readers, files or
/// reclaim.
struct Locked(Vec<Mutex<Box<[u8]>>>);

impl Contender for Locked {
    fn name(&self) -> String {
        "mutex".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        writes(scenario, |offset, bytes| {
            black_box(&self.0)[offset / PAGE].lock()[offset % PAGE..][..bytes.len()]
                .copy_from_slice(bytes);
        })
    }
}

/// A mapping of a file in memory. It is made by the thread that writes, as it cannot be sent to
/// another. So it takes part only where making it costs nothing.
struct Mapped(PathBuf);

impl Contender for Mapped {
    fn name(&self) -> String {
        "mmap".to_owned()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        scenario.name == HOT && scenario.threads == 1
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        let mapped = MapMut::with_options().write().len(PAGE).open(&self.0);
        copies(scenario, &mut mapped.expect("a file in memory can be mapped").0)
    }
}

struct Folio(File);

impl Contender for Folio {
    fn name(&self) -> String {
        "folio".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        writes(scenario, |offset, bytes| {
            let written = black_box(&self.0).write_at(bytes, offset as u64);
            assert_eq!(written.expect("there is room"), bytes.len());
        })
    }
}

struct Kernel(fs::File);

impl Contender for Kernel {
    fn name(&self) -> String {
        "pwrite-tmpfs".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        writes(scenario, |offset, bytes| {
            self.0.write_all_at(bytes, offset as u64).expect("there is room");
        })
    }
}

/// The files, in memory where the system has such a file system. Removed when dropped.
pub(crate) struct Files([ScratchFile; 3]);

impl Files {
    pub(crate) fn new() -> io::Result<Self> {
        let folder = memory_folder();
        let bytes = vec![1; BYTES];
        let file = || {
            let mut file = ScratchFile::new_in(&folder)?;
            file.write_all(&bytes)?;
            Ok::<_, io::Error>(file)
        };
        Ok(Self([file()?, file()?, file()?]))
    }
}

pub(crate) fn matrix(Files([ours, mapped, theirs]): &Files) -> io::Result<Matrix<'static>> {
    let both = |name| one_and_all().into_iter().map(move |threads| Scenario { name, threads });
    let file =
        OpenOptions::new().read(true).write(true).open(&Cache::new(CAPACITY)?, ours.path())?;
    file.read_at(&mut vec![0; BYTES], 0)?;
    Ok(Matrix {
        title: "Writing",
        unit: Unit::Ns,
        per: "write",
        scenarios: both(HOT).chain(both(UNIFORM)).collect(),
        contenders: vec![
            Box::new(Memcpy(Mutex::new(vec![1; BYTES]))),
            Box::new(Locked(
                (0..BYTES / PAGE).map(|_| Mutex::new(vec![1; PAGE].into_boxed_slice())).collect(),
            )),
            Box::new(Mapped(mapped.path().to_owned())),
            Box::new(Folio(file)),
            Box::new(Kernel(theirs.reopen()?)),
        ],
        compared_with: &["memcpy", "mutex", "pwrite-tmpfs"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// A file on the disk.
trait OnDisk {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    fn empty(&self) -> io::Result<()>;
}

impl OnDisk for File {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let written = self.write_at(bytes, offset)?;
        if written < bytes.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn empty(&self) -> io::Result<()> {
        self.set_len(0)
    }
}

impl OnDisk for fs::File {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn empty(&self) -> io::Result<()> {
        self.set_len(0)
    }
}

/// Runs one sample on the disk. Returns nanoseconds per MiB.
fn synced(file: &dyn OnDisk, scenario: Scenario) -> io::Result<f64> {
    let bytes = vec![fastrand::u8(..); CHUNK];
    if scenario == SYNCED[0] {
        file.empty()?;
        file.sync()?;
    }
    let start = Instant::now();
    for chunk in 0..CHUNKS {
        file.write(chunk * CHUNK as u64, &bytes)?;
        file.sync()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / CHUNKS as f64)
}

/// Runs the scenarios on the disk in turn: each overwrites the file that the one before left.
fn ask_synced(ask: &mut Ask<'_>, report: &mut Report) -> io::Result<()> {
    const NAMES: [&str; 3] = ["folio", "folio-direct", "pwrite+fdatasync"];
    let (ours, direct, theirs) = (ScratchFile::new()?, ScratchFile::new()?, ScratchFile::new()?);
    let cache: Cache = Cache::new(CAPACITY)?;
    let past_the_kernel =
        OpenOptions::new().read(true).write(true).direct(true).open_local(direct.path())?;
    let files: [&dyn OnDisk; NAMES.len()] = [
        &OpenOptions::new().read(true).write(true).open(&cache, ours.path())?,
        &cache.open_backing(Arc::new(past_the_kernel))?,
        &theirs.reopen()?,
    ];
    let mut samples = [const { [const { Vec::new() }; NAMES.len()] }; SYNCED.len()];
    let started = Instant::now();
    let mut round = 0;
    while round == 0 || (started.elapsed() < ask.time && !ask.stop.load(Ordering::Relaxed)) {
        for (&scenario, samples) in SYNCED.iter().zip(&mut samples) {
            for turn in 0..files.len() {
                let which = (turn + round) % files.len();
                samples[which].push(synced(files[which], scenario)?);
            }
        }
        round += 1;
        (ask.progress)(
            (0.5 + started.elapsed().as_secs_f64() / ask.time.as_secs_f64() / 2.0).min(1.0),
        );
    }
    for (&scenario, samples) in SYNCED.iter().zip(&samples) {
        report.rows.extend(
            NAMES.iter().zip(samples).filter_map(|(&name, values)| Row::of(name, scenario, values)),
        );
        let [ours @ .., theirs] = samples;
        for (name, ours) in NAMES.iter().zip(ours) {
            let speeds: Vec<f64> =
                ours.iter().zip(theirs).map(|(ours, theirs)| theirs / ours).collect();
            let ratio = |row: Row| Ratio {
                of: (*name).to_owned(),
                to: NAMES[2],
                scenario,
                value: row.median,
            };
            report.ratios.extend(Row::of("", scenario, &speeds).map(ratio));
        }
    }
    report.compared_with = &["memcpy", "mutex", "pwrite-tmpfs", NAMES[2]];
    Ok(())
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if the files or the cache's memory are not to be had.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let time = ask.time / 2;
    let files = Files::new()?;
    let progress = &mut *ask.progress;
    let mut report = matrix(&files)?.measure(&mut Ask::new(time, ask.stop, &mut |done| {
        progress(done / 2.0);
    }))?;
    ask_synced(&mut Ask::new(time, ask.stop, &mut *ask.progress), &mut report)?;
    report.notes.push(format!(
        "{HOT}, {UNIFORM}: a file of {} MiB in memory (tmpfs), all of it in a cache of {} MiB; \
         {}, {}: a file in the folder for temporary files, a sync_data after each MiB",
        BYTES >> 20,
        CAPACITY >> 20,
        SYNCED[0].name,
        SYNCED[1].name
    ));
    Ok(report)
}
