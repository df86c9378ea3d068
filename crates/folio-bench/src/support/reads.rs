//! The read loop of `read` and `sizes`, and their contenders: a bare copy, the cache, a handle.

use std::hint::black_box;
use std::io;

use folio_cache::File;
use folio_frames::FRAME_SIZE;
use folio_ref::{DefaultScheme, Scheme};

use super::files::{Bytes, cached};
use crate::harness::{Contender, Scenario};

/// 64 bytes at offset 0, by all threads: the patch's benchmark.
pub(crate) const HOT: &str = "hot-64";

/// The buffer of a read, at the same place of a page for every contender: loads wait for stores to
/// addresses with the same lower 12 bits.
#[repr(align(4096))]
struct Target([u8; 2 * FRAME_SIZE]);

/// The reads of a scenario, parsed from its name: `hot-64`, `uniform-4K`, `uniform-2K+16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern {
    /// The same bytes each time.
    is_hot: bool,
    size: usize,
    /// The target lies this many bytes past the start of a page.
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

/// Runs reads of a size that the compiler knows, as it does where records have one size. The loop
/// holds nothing else: a processor that waits for memory has room for few instructions.
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

/// Runs the reads of one thread in a scenario, or one in `of` of them. Returns their number.
#[inline(always)]
pub(crate) fn reads(
    scenario: Scenario,
    len: usize,
    of: u32,
    read: impl FnMut(usize, &mut [u8]),
) -> u64 {
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
        // Other places each time. Otherwise the second of two contenders that read the same bytes
        // would find them in the processor's cache. The generator costs every contender the same
        // nanosecond.
        let mut random = fastrand::Rng::new();
        each::<SIZE>(
            operations(100_000 * 64),
            pattern.past,
            || random.usize(..len / SIZE) * SIZE,
            read,
        )
    }
    let pattern = Pattern::of(scenario.name)
        .unwrap_or_else(|| panic!("scenario {scenario:?} names no read pattern"));
    match pattern.size {
        64 => sized::<64>(pattern, len, of, read),
        256 => sized::<256>(pattern, len, of, read),
        512 => sized::<512>(pattern, len, of, read),
        1024 => sized::<1024>(pattern, len, of, read),
        2048 => sized::<2048>(pattern, len, of, read),
        FRAME_SIZE => sized::<FRAME_SIZE>(pattern, len, of, read),
        _ => panic!("no read loop for the size of {pattern:?}"),
    }
}

/// The limit: a copy of the same bytes from one piece of memory. A mapping of the file is the same
/// to its reader.
pub(crate) struct Memcpy<'a>(pub(crate) &'static str, pub(crate) &'a [u8]);

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

/// The cache, by [`File::read_at`].
pub(crate) struct Cached<S: Scheme> {
    pub(crate) name: String,
    pub(crate) file: File<S>,
    pub(crate) only_hot: bool,
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
                let read = black_box(&self.file).read_at(buf, offset as u64);
                assert_eq!(read.expect("the page is in the cache"), size);
            },
        )
    }
}

/// The cache, by a page handle: takes a reference, then copies out of the page.
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
                    .expect("the page is in the cache")
                    .expect("the offset is inside the file");
                buf.copy_from_slice(&page[..buf.len()]);
            },
        )
    }
}

/// Makes the contenders of both benchmarks: the limit, and the cache in both ways.
///
/// # Errors
///
/// The system's error if the file cannot be read.
pub(crate) fn cached_and_pinned(bytes: &Bytes) -> io::Result<Vec<Box<dyn Contender + '_>>> {
    let file = cached::<DefaultScheme>(bytes.path(), bytes.len())?;
    Ok(vec![
        Box::new(Memcpy("memcpy", bytes.huge_pages())),
        Box::new(Cached { name: "folio".to_owned(), file: file.clone(), only_hot: false }),
        Box::new(Pinned(file)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenarios_name_says_its_pattern() {
        assert_eq!(Pattern::of("uniform-4K"), Some(Pattern { is_hot: false, size: 4096, past: 0 }));
        assert_eq!(Pattern::of("hot-512+16"), Some(Pattern { is_hot: true, size: 512, past: 16 }));
        for name in ["", "hot", "cold-64", "hot-", "hot-K", "hot-64+", "hot-64+x"] {
            assert_eq!(Pattern::of(name), None, "{name}");
        }
    }
}
