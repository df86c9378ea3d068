//! Measures reading bytes again that were read before: by the cache, a bare copy, and the kernel.

use std::fs;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};

use crate::harness::{Ask, Contender, Matrix, Report, Scenario, Shape, Unit, one_and_all};
#[cfg(feature = "baselines")]
use crate::support::baselines::{self, Baseline, Page};
use crate::support::files::{Bytes, cached};
use crate::support::reads::{Cached, HOT, Memcpy, cached_and_pinned, reads};
use crate::support::schemes::for_each_scheme;
use crate::support::scratch::ScratchFile;

/// 64 bytes anywhere.
const UNIFORM: &str = "uniform-64";
/// A page anywhere.
const PAGES: &str = "uniform-4K";

/// The limit of any cache that chooses where its pages lie: a table gives a page's place, and
/// nothing is checked.
struct ByTable<'a> {
    /// The place of each page.
    places: Vec<u64>,
    memory: &'a [u8],
}

impl Contender for ByTable<'_> {
    fn name(&self) -> String {
        "memcpy-by-table".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(
            scenario,
            self.memory.len(),
            1,
            #[inline(always)]
            |offset, buf| {
                let this = black_box(self);
                let place =
                    this.places[offset / FRAME_SIZE] as usize * FRAME_SIZE + offset % FRAME_SIZE;
                buf.copy_from_slice(&this.memory[place..place + buf.len()]);
            },
        )
    }
}

/// The limit of an optimistic read that informs reclaim: it reads the table's entry again after
/// the copy, and reads a referenced bit.
struct Checked<'a> {
    places: Vec<AtomicU64>,
    referenced: Vec<AtomicU8>,
    memory: &'a [u8],
}

impl Contender for Checked<'_> {
    fn name(&self) -> String {
        "memcpy-checked".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(
            scenario,
            self.memory.len(),
            1,
            #[inline(always)]
            |offset, buf| {
                let this = black_box(self);
                let entry = &this.places[offset / FRAME_SIZE];
                // Acquire, fence, Relaxed: the orderings of Slot::read.
                let page = entry.load(Ordering::Acquire);
                let place = page as usize * FRAME_SIZE + offset % FRAME_SIZE;
                buf.copy_from_slice(&this.memory[place..place + buf.len()]);
                fence(Ordering::Acquire);
                assert_eq!(entry.load(Ordering::Relaxed), page, "no writer runs");
                let referenced = &this.referenced[page as usize];
                // Relaxed, both: a hint.
                if referenced.load(Ordering::Relaxed) == 0 {
                    referenced.store(1, Ordering::Relaxed);
                }
            },
        )
    }
}

struct Pread(fs::File, usize);

impl Contender for Pread {
    fn name(&self) -> String {
        "pread-tmpfs".to_owned()
    }
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(scenario, self.1, 20, |offset, buf| {
            let size = buf.len();
            assert_eq!(self.0.read_at(buf, offset as u64).expect("tmpfs can be read"), size);
        })
    }
}

/// A cache of objects, or a map, that holds all pages: a lookup, and a copy out of its value.
#[cfg(feature = "baselines")]
struct Objects<C> {
    name: &'static str,
    baseline: C,
    len: usize,
}

#[cfg(feature = "baselines")]
impl<C: Baseline<Page>> Contender for Objects<C> {
    fn name(&self) -> String {
        self.name.to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(
            scenario,
            self.len,
            4,
            #[inline(always)]
            |offset, buf| {
                let (page, within) = (offset / FRAME_SIZE, offset % FRAME_SIZE);
                let copy = |page: &Page| buf.copy_from_slice(&page[within..within + buf.len()]);
                let read = black_box(&self.baseline).with(page, copy);
                assert!(read.is_some(), "page {page} is in the cache");
            },
        )
    }
}

/// Makes baselines that hold all of `bytes`, with room for as much again: each divides its room
/// among shards, and no shard may run out.
#[cfg(feature = "baselines")]
fn baselines(bytes: &[u8]) -> io::Result<Vec<Box<dyn Contender>>> {
    fn one<C: Baseline<Page> + 'static>(
        name: &'static str,
        baseline: C,
        bytes: &[u8],
    ) -> io::Result<Box<dyn Contender>> {
        Ok(Box::new(Objects {
            name,
            baseline: baselines::filled(baseline, bytes, FRAME_SIZE)?,
            len: bytes.len(),
        }))
    }
    let entries = (2 * bytes.len() / FRAME_SIZE).max(1024);
    Ok(vec![
        one("moka", baselines::moka(entries), bytes)?,
        one("quick_cache", baselines::quick_cache(entries), bytes)?,
        one("foyer", baselines::foyer(entries), bytes)?,
        one("dashmap", dashmap::DashMap::new(), bytes)?,
    ])
}

/// Makes the matrix. The schemes other than the default take part in `hot-64` only, where the word
/// matters most.
///
/// # Errors
///
/// The system's error if the file cannot be read.
pub(super) fn matrix(bytes: &Bytes) -> io::Result<Matrix<'_>> {
    let pages = bytes.len().div_ceil(FRAME_SIZE);
    let mut contenders = cached_and_pinned(bytes)?;
    contenders.extend([
        Box::new(Memcpy("memcpy-4K-pages", bytes.small_pages())) as Box<dyn Contender + '_>,
        Box::new(ByTable { places: (0..pages as u64).collect(), memory: bytes.huge_pages() }),
        Box::new(Memcpy("mmap", bytes.mapped())),
        Box::new(Checked {
            places: (0..pages as u64).map(AtomicU64::new).collect(),
            referenced: (0..pages).map(|_| AtomicU8::new(1)).collect(),
            memory: bytes.huge_pages(),
        }),
    ]);
    // One page is enough for the other schemes.
    let page = ScratchFile::new()?;
    fs::write(page.path(), &bytes.small_pages()[..4096])?;
    for_each_scheme!(S => if S::NAME != DefaultScheme::NAME {
        let name = format!("folio {}", S::NAME);
        let file = cached::<S>(page.path(), 4096)?;
        contenders.push(Box::new(Cached { name, file, only_hot: true }));
    });
    contenders.push(Box::new(Pread(fs::File::open(bytes.path())?, bytes.len())));
    #[cfg(feature = "baselines")]
    contenders.extend(baselines(bytes.small_pages())?);
    let scenarios = [HOT, UNIFORM, PAGES];
    Ok(Matrix {
        title: "Reading bytes again",
        unit: Unit::Ns,
        per: "read_at",
        scenarios: one_and_all()
            .into_iter()
            .flat_map(|threads| scenarios.map(|name| Scenario { name, threads }))
            .collect(),
        contenders,
        compared_with: &["memcpy", "pread-tmpfs"],
        ours: "folio".to_owned(),
        shape: Shape::Bars,
    })
}

/// Runs the benchmark.
///
/// # Errors
///
/// The system's error if the bytes cannot be made or read.
pub(super) fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let bytes = Bytes::for_reading()?;
    matrix(&bytes)?.measure(ask)
}
