//! Measures the patch's benchmark: pinned threads read 64 bytes of one file, or of a file each.
//!
//! The reads are at offset 0. Under each scheme they take a reference: a handle, a copy of the
//! bytes, the drop of the handle. Beside them stand `read_at`, the cache's own way, and the kernel
//! on tmpfs.

use std::fs;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;

use folio_cache::{CacheBuilder, File};
use folio_ref::{DefaultScheme, Scheme};

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, thread_counts};
use crate::support::files::memory_folder;
use crate::support::schemes::for_each_scheme;
use crate::support::scratch::ScratchFile;

/// All threads read the same file.
const SAME: &str = "same file";
/// A file each.
const EACH: &str = "a file each";

const OPERATIONS: u32 = 100_000;
/// A read by the kernel takes so much longer that fewer are enough.
const OPERATIONS_KERNEL: u32 = 5_000;

const BYTES: usize = 64;

/// Pages of a file. With one page, the words of two files' first pages would lie in one cache line,
/// and a file each would cost what one file costs.
const PAGES: usize = 64;
/// The cache's own way.
const READ_AT: &str = "read_at";
const PREAD: &str = "pread-tmpfs";

fn place(scenario: Scenario, thread: usize) -> usize {
    if scenario.name == SAME { 0 } else { thread }
}

/// Reads through a page handle, with a reference.
struct Counted<S: Scheme>(Vec<File<S>>);

impl<S: Scheme> Contender for Counted<S> {
    fn name(&self) -> String {
        S::NAME.to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let file = &self.0[place(scenario, thread)];
        let mut buf = [0; BYTES];
        for _ in 0..OPERATIONS {
            let handle = black_box(file)
                .page(0)
                .expect("the page is in the cache")
                .expect("the file is not empty");
            black_box(&mut buf).copy_from_slice(&handle[..BYTES]);
        }
        u64::from(OPERATIONS)
    }
}

struct ReadAt(Vec<File>);

impl Contender for ReadAt {
    fn name(&self) -> String {
        READ_AT.to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let file = &self.0[place(scenario, thread)];
        let mut buf = [0; BYTES];
        for _ in 0..OPERATIONS {
            assert_eq!(
                black_box(file).read_at(black_box(&mut buf), 0).expect("the page is in the cache"),
                BYTES
            );
        }
        u64::from(OPERATIONS)
    }
}

struct Pread(Vec<fs::File>);

impl Contender for Pread {
    fn name(&self) -> String {
        PREAD.to_owned()
    }
    fn work(&self, scenario: Scenario, thread: usize) -> u64 {
        let file = &self.0[place(scenario, thread)];
        let mut buf = [0; BYTES];
        for _ in 0..OPERATIONS_KERNEL {
            assert_eq!(file.read_at(black_box(&mut buf), 0).expect("tmpfs can be read"), BYTES);
        }
        u64::from(OPERATIONS_KERNEL)
    }
}

/// A file for each thread, in memory where the system has such a file system.
#[derive(Debug)]
pub(super) struct Files(Vec<ScratchFile>);

impl Files {
    /// Makes one file per thread, each of some pages.
    ///
    /// # Errors
    ///
    /// The system's error if a file cannot be made.
    pub(super) fn new() -> io::Result<Self> {
        let folder = memory_folder();
        let most = thread_counts().into_iter().max().unwrap_or(1);
        let one = |_| {
            let file = ScratchFile::new_in(&folder)?;
            fs::write(file.path(), vec![7; PAGES * 4096])?;
            Ok(file)
        };
        (0..most).map(one).collect::<io::Result<Vec<_>>>().map(Self)
    }

    /// Opens all files in one cache, and reads each once.
    fn cached<S: Scheme>(&self) -> io::Result<Vec<File<S>>> {
        let cache = CacheBuilder::<S>::with_scheme()
            .capacity(self.0.len() * PAGES * 4096 + (8 << 20))
            .build()?;
        let open = |file: &ScratchFile| {
            let file = cache.open(file.path())?;
            file.read_at(&mut vec![0; PAGES * 4096], 0)?;
            Ok(file)
        };
        self.0.iter().map(open).collect()
    }
}

/// Makes the matrix.
///
/// # Errors
///
/// The system's error if the files cannot be read.
pub(super) fn matrix(files: &Files) -> io::Result<Matrix<'static>> {
    let mut contenders: Vec<Box<dyn Contender>> = Vec::new();
    for_each_scheme!(S => contenders.push(Box::new(Counted::<S>(files.cached()?))));
    contenders.push(Box::new(ReadAt(files.cached::<DefaultScheme>()?)));
    let opened =
        files.0.iter().map(|file| fs::File::open(file.path())).collect::<io::Result<Vec<_>>>()?;
    contenders.push(Box::new(Pread(opened)));
    let scenarios = thread_counts()
        .into_iter()
        .flat_map(|threads| [SAME, EACH].map(|name| Scenario { name, threads }));
    Ok(Matrix {
        title: "The patch's benchmark: 64 bytes at offset 0",
        unit: Unit::Ns,
        per: "read",
        scenarios: scenarios.collect(),
        contenders,
        compared_with: &["zero-frozen", PREAD],
        ours: READ_AT.to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if the files cannot be made or read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    matrix(&Files::new()?)?.measure(ask)
}
