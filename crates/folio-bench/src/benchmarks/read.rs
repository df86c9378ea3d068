//! What does it cost to read bytes again that were read before: by the cache, by a bare copy, by
//! the kernel?

use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use folio_cache::{Cache, File};
use folio_frames::{Arena, BLOCK_ORDER, FRAME_SIZE, FolioRef, MAX_ORDER, Order, UserSpace};
use folio_ref::{DefaultScheme, Scheme};
use tempfile::NamedTempFile;
use vmap::Map;

use crate::harness::benchmark::Ask;
use crate::harness::matrix::{Contender, Matrix, Scenario, one_and_all};
use crate::harness::report::{Report, Shape, Unit};
#[cfg(feature = "baselines")]
use crate::support::baselines::{self, Baseline, Page};
use crate::support::schemes::for_each_scheme;

/// 64 bytes at offset 0, by all threads: the benchmark of the patch.
const HOT: &str = "hot-64";
/// 64 bytes anywhere.
const UNIFORM: &str = "uniform-64";
/// A page anywhere.
const PAGES: &str = "uniform-4K";

/// The file that is read: larger than any cache of a processor.
const READ_BYTES: usize = 256 << 20;

/// Where the kernel's files in memory are.
pub(crate) const TMPFS: &str = "/dev/shm";

/// Where a read goes to: at the same place of a page for all subjects, since loads wait for stores
/// whose addresses look the same in their lower 12 bits.
#[repr(align(4096))]
struct Target([u8; 2 * FRAME_SIZE]);

/// What a case reads, by its name: `hot-64`, `uniform-4K`, `uniform-2K+16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern {
    /// The same bytes each time.
    is_hot: bool,
    size: usize,
    /// The target lies so many bytes past a page's begin.
    past: usize,
}

impl Pattern {
    fn of(name: &str) -> Option<Self> {
        let (name, past) = name.split_once('+').unwrap_or((name, "0"));
        let (place, size) = name.split_once('-')?;
        let (number, unit) = size.strip_suffix('K').map_or((size, 1), |number| (number, 1024));
        let is_hot = match place {
            "hot" => true,
            "uniform" => false,
            _ => return None,
        };
        Some(Self { is_hot, size: unit * number.parse::<usize>().ok()?, past: past.parse().ok()? })
    }
}

/// Each read is of so many bytes as the compiler knows, as it does where records have one size.
/// Nothing else stands in the loop: a processor that waits for memory has room for so many
/// instructions.
#[inline(always)]
fn each<const SIZE: usize>(
    operations: u32,
    past: usize,
    mut next: impl FnMut() -> usize,
    mut read: impl FnMut(usize, &mut [u8]),
) -> u64 {
    let mut target = Target([0; _]);
    let room = target.0[past..].first_chunk_mut::<SIZE>().expect("a target has two pages");
    for _ in 0..operations {
        let offset = next();
        // Not as a slice yet: its length would go through the black box too.
        let buf: &mut [u8; SIZE] = black_box(&mut *room);
        read(offset, buf);
    }
    u64::from(operations)
}

/// The reads of one thread in a case, one in `of` of them.
#[inline(always)]
fn reads(scenario: Scenario, len: usize, of: u32, read: impl FnMut(usize, &mut [u8])) -> u64 {
    #[inline(always)]
    fn sized<const SIZE: usize>(
        pattern: Pattern,
        len: usize,
        of: u32,
        read: impl FnMut(usize, &mut [u8]),
    ) -> u64 {
        // Some milliseconds.
        let operations = |bytes: u32| (bytes / SIZE as u32).max(10_000) / of;
        if pattern.is_hot {
            return each::<SIZE>(operations(200_000 * 64), pattern.past, || 0, read);
        }
        // Other places each time: two subjects that read one cache's bytes would find in the
        // processor's what the one before them left. The generator costs a nanosecond, the
        // same for all.
        let mut random = fastrand::Rng::new();
        each::<SIZE>(
            operations(100_000 * 64),
            pattern.past,
            || random.usize(..len / SIZE) * SIZE,
            read,
        )
    }
    let pattern =
        Pattern::of(scenario.name).unwrap_or_else(|| panic!("{scenario:?} reads nothing"));
    match pattern.size {
        64 => sized::<64>(pattern, len, of, read),
        256 => sized::<256>(pattern, len, of, read),
        512 => sized::<512>(pattern, len, of, read),
        1024 => sized::<1024>(pattern, len, of, read),
        2048 => sized::<2048>(pattern, len, of, read),
        FRAME_SIZE => sized::<FRAME_SIZE>(pattern, len, of, read),
        _ => panic!("no scenario reads so many bytes: {pattern:?}"),
    }
}

/// The limit: the same bytes in one piece of memory. Also a mapping of the file, which is nothing
/// else to the reader.
struct Memcpy<'a>(&'static str, &'a [u8]);

impl Contender for Memcpy<'_> {
    fn name(&self) -> String {
        self.0.to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(
            scenario,
            self.1.len(),
            1,
            #[inline(always)]
            |offset, buf| buf.copy_from_slice(&black_box(self.1)[offset..offset + buf.len()]),
        )
    }
}

/// The limit of whatever keeps pages in places of its own choice: a table says where a page is, and
/// nothing is checked.
struct ByTable<'a> {
    /// By page: its place.
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

/// The limit of a read that is believed only if nobody was at work meanwhile, and that tells
/// reclaim of it: the table's entry is looked at again after the copy, and a mark is looked at.
struct Checked<'a> {
    places: Vec<AtomicU64>,
    marks: Vec<AtomicU8>,
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
                // Acquire, fence, Relaxed: as Slot::read.
                let page = entry.load(Ordering::Acquire);
                let place = page as usize * FRAME_SIZE + offset % FRAME_SIZE;
                buf.copy_from_slice(&this.memory[place..place + buf.len()]);
                fence(Ordering::Acquire);
                assert_eq!(entry.load(Ordering::Relaxed), page, "nobody is at work");
                let mark = &this.marks[page as usize];
                // Relaxed, both: a hint.
                if mark.load(Ordering::Relaxed) == 0 {
                    mark.store(1, Ordering::Relaxed);
                }
            },
        )
    }
}

struct Cached<S: Scheme> {
    name: String,
    file: File<S>,
    only_hot: bool,
}

impl<S: Scheme> Contender for Cached<S> {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn takes_part(&self, scenario: Scenario) -> bool {
        !self.only_hot || scenario.name == HOT
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(
            scenario,
            self.file.len() as usize,
            1,
            #[inline(always)]
            |offset, buf| {
                let size = buf.len();
                let read = black_box(&self.file).read_at(offset as u64, buf);
                assert_eq!(read.expect("it is in the cache"), size);
            },
        )
    }
}

/// The same by a handle: with a reference, without the copy into a buffer being the cache's.
struct Pinned(File);

impl Contender for Pinned {
    fn name(&self) -> String {
        "folio-pinned".to_owned()
    }
    #[inline(never)]
    fn work(&self, scenario: Scenario, _: usize) -> u64 {
        reads(
            scenario,
            self.0.len() as usize,
            1,
            #[inline(always)]
            |offset, buf| {
                let page = black_box(&self.0)
                    .page(offset as u64)
                    .expect("it is in the cache")
                    .expect("inside the file");
                buf.copy_from_slice(&page[..buf.len()]);
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

/// A cache of objects, or a map, that holds all pages: a lookup, and a copy out of what it gives.
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

/// Rivals with all of some bytes in them, and room for as much again: as each divides its room
/// among shards, none is short of it.
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

/// Opens a file in a cache that holds it all, and reads it once.
pub(crate) fn cached<S: Scheme>(path: &Path, len: usize) -> io::Result<File<S>> {
    // Room for what per-CPU lists hold.
    let file = Cache::<S>::new(len + (4 << 20))?.open(path)?;
    let mut buf = vec![0; 1 << 20];
    for offset in (0..len).step_by(buf.len()) {
        file.read_at(offset as u64, &mut buf)?;
    }
    Ok(file)
}

/// What the question is asked about: the same bytes three times.
#[derive(Debug)]
pub struct Bytes {
    /// In ordinary memory, its pages of 4 KiB unless the system decides otherwise.
    memory: Vec<u8>,
    /// In memory as the cache's is, of huge pages where the system gives them.
    huge: FolioRef<UserSpace>,
    file: NamedTempFile,
    mapped: Map,
}

/// One block of an arena of its own.
fn huge(bytes: &[u8]) -> io::Result<FolioRef<UserSpace>> {
    let n = (bytes.len() / FRAME_SIZE).next_power_of_two().ilog2() as u8;
    let order = Order::new(n)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "more than 1 GiB to read"))?;
    let room = order.bytes().max(BLOCK_ORDER.bytes());
    let arena = if order > MAX_ORDER {
        Arena::with_huge_order(room, &[], order)
    } else {
        Arena::new(room, &[])
    }?;
    let mut block = arena.zone().alloc_frozen(order).map_err(io::Error::other)?;
    block.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
    // The block keeps the arena's memory.
    Ok(block.init())
}

impl Bytes {
    /// So many that a processor's cache holds an eighth at the most.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn for_reading() -> io::Result<Self> {
        Self::new(READ_BYTES)
    }

    /// A file of so many bytes, in memory where the system has a file system for that.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(len: usize) -> io::Result<Self> {
        let folder = if Path::new(TMPFS).is_dir() {
            Path::new(TMPFS).to_owned()
        } else {
            std::env::temp_dir()
        };
        let mut memory = vec![0; len];
        let mut pattern = vec![0; len.min(1 << 20)];
        fastrand::Rng::with_seed(1).fill(&mut pattern);
        memory
            .chunks_mut(pattern.len().max(1))
            .for_each(|part| part.copy_from_slice(&pattern[..part.len()]));
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(&memory)?;
        let (mapped, _) = Map::with_options().open(file.path()).map_err(io::Error::other)?;
        Ok(Self { huge: huge(&memory)?, memory, file, mapped })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }
}

/// The cache in both ways, and the limit.
pub(crate) fn cached_and_pinned(bytes: &Bytes) -> io::Result<Vec<Box<dyn Contender + '_>>> {
    let len = bytes.memory.len();
    let file = cached::<DefaultScheme>(bytes.file.path(), len)?;
    Ok(vec![
        Box::new(Memcpy("memcpy", &bytes.huge.as_slice()[..len])),
        Box::new(Cached { name: "folio".to_owned(), file: file.clone(), only_hot: false }),
        Box::new(Pinned(file)),
    ])
}

/// The question. The schemes that are not the default take part where the word matters most: in
/// `hot-64`.
///
/// # Errors
///
/// What the system says when the file is read.
pub fn matrix(bytes: &Bytes) -> io::Result<Matrix<'_>> {
    let (path, len) = (bytes.file.path(), bytes.memory.len());
    let mut contenders = cached_and_pinned(bytes)?;
    contenders.extend([
        Box::new(Memcpy("memcpy-4K-pages", &bytes.memory)) as Box<dyn Contender + '_>,
        Box::new(ByTable {
            places: (0..len.div_ceil(FRAME_SIZE) as u64).collect(),
            memory: &bytes.huge.as_slice()[..len],
        }),
        Box::new(Memcpy("mmap", &bytes.mapped)),
        Box::new(Checked {
            places: (0..len.div_ceil(FRAME_SIZE) as u64).map(AtomicU64::new).collect(),
            marks: (0..len.div_ceil(FRAME_SIZE)).map(|_| AtomicU8::new(1)).collect(),
            memory: &bytes.huge.as_slice()[..len],
        }),
    ]);
    // One page is enough for them.
    let page = NamedTempFile::new()?;
    fs::write(page.path(), &bytes.memory[..4096])?;
    for_each_scheme!(S => if S::NAME != DefaultScheme::NAME {
        let name = format!("folio {}", S::NAME);
        contenders.push(Box::new(Cached { name, file: cached::<S>(page.path(), 4096)?, only_hot: true }));
    });
    contenders.push(Box::new(Pread(fs::File::open(path)?, len)));
    #[cfg(feature = "baselines")]
    contenders.extend(baselines(&bytes.memory)?);
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

/// Measures it.
///
/// # Errors
///
/// As [`Bytes::new`] and [`matrix`].
pub fn ask(ask: &mut Ask<'_>) -> io::Result<Report> {
    let bytes = Bytes::for_reading()?;
    Ok(matrix(&bytes)?.measure(ask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_says_what_it_reads() {
        assert_eq!(Pattern::of(PAGES), Some(Pattern { is_hot: false, size: 4096, past: 0 }));
        assert_eq!(Pattern::of("hot-512+16"), Some(Pattern { is_hot: true, size: 512, past: 16 }));
        for name in ["", "hot", "cold-64", "hot-", "hot-K", "hot-64+", "hot-64+x"] {
            assert_eq!(Pattern::of(name), None, "{name}");
        }
    }
}
