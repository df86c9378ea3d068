//! Random operations on a cached file and on a plain `Vec` side by side (after Apple's and Linux's
//! `fsx`).
//!
//! The capacity is smaller than the file, so pages are evicted all the time.
//! `FOLIO_FSX_OPERATIONS=1000000 cargo test --release -p folio-cache --test fsx` runs longer;
//! `FOLIO_FSX_SEED` repeats a run with the seed that it printed.

mod common;

use std::fs;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use common::{assert_nothing_leaked, file_of};
use folio_cache::testing::Memory;
use folio_cache::{Backing, Cache, File, OpenOptions, PageHandle, RangeHandle};
use folio_frames::Pfn;
use futures_core::Stream;
use pollster::block_on;

const CAPACITY: usize = 4 << 20;
/// The maximum length of the file: twice the capacity.
const LONGEST: usize = 8 << 20;
const HANDLES: usize = 40;
const RANGES: usize = 4;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// The plain bytes behind the cache, for reads and writes that bypass it.
enum Plain {
    File(PathBuf),
    /// The cache bypasses the kernel's cache; [`contents`](Self::contents) goes through it.
    Direct(PathBuf),
    Memory(Arc<Memory>),
}

impl Plain {
    fn backing(&self) -> Arc<dyn Backing> {
        match self {
            Self::File(path) => Arc::new(
                OpenOptions::new().read(true).write(true).create(true).open_local(path).unwrap(),
            ),
            Self::Direct(path) => Arc::new(
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .open_local(path)
                    .unwrap()
                    .direct(),
            ),
            Self::Memory(memory) => memory.clone(),
        }
    }

    fn contents(&self) -> Vec<u8> {
        match self {
            Self::File(path) | Self::Direct(path) => fs::read(path).unwrap(),
            Self::Memory(memory) => memory.contents(),
        }
    }

    /// Changes the file as another program does, if the backing is sure to notice it. The cache
    /// must have no dirty pages. Returns `true` if the file was changed.
    fn scribble(&self, offset: usize, bytes: &[u8], model: &mut Vec<u8>) -> bool {
        match self {
            Self::File(_) | Self::Direct(_) => false,
            Self::Memory(memory) => {
                memory.scribble(offset as u64, bytes);
                write(model, offset, bytes);
                true
            }
        }
    }
}

fn write(model: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    model.resize(model.len().max(offset + bytes.len()), 0);
    model[offset..offset + bytes.len()].copy_from_slice(bytes);
}

struct Run {
    random: fastrand::Rng,
    cache: Cache,
    plain: Plain,
    /// One to three opens of the file; at least one.
    files: Vec<File>,
    model: Vec<u8>,
    pages: Vec<(PageHandle, Vec<u8>)>,
    ranges: Vec<(RangeHandle, Vec<u8>)>,
    step: u64,
}

impl Run {
    fn new(plain: Plain, seed: u64) -> Self {
        let cache = Cache::new(CAPACITY).unwrap();
        let files = vec![cache.open_backing(plain.backing()).unwrap()];
        let random = fastrand::Rng::with_seed(seed);
        Self {
            random,
            cache,
            plain,
            files,
            model: Vec::new(),
            pages: Vec::new(),
            ranges: Vec::new(),
            step: 0,
        }
    }

    /// Returns a random length: mostly small, sometimes large.
    fn length(&mut self) -> usize {
        match self.random.u8(..16) {
            0 => 4096,
            1 => self.random.usize(1..200_000),
            2..=5 => self.random.usize(1..20_000),
            _ => self.random.usize(1..300),
        }
    }

    /// Returns a random offset, often at the border of a page.
    fn offset(&mut self) -> usize {
        let end = if self.random.u8(..) == 0 { LONGEST } else { self.model.len() + 1 };
        let offset = self.random.usize(..end.min(LONGEST));
        match self.random.u8(..8) {
            0 => offset / 4096 * 4096,
            1 => (offset / 4096 * 4096 + 4095).min(LONGEST),
            // A few pages, again and again.
            2 | 3 => offset % 65_536,
            _ => offset,
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let first = self.random.u8(1..);
        (0..len).map(|n| first.wrapping_add(n as u8) | 1).collect()
    }

    fn step(&mut self) {
        self.step += 1;
        let file = self.files[self.random.usize(..self.files.len())].clone();
        let (offset, len) = (self.offset(), self.length());
        match self.random.u16(..1000) {
            0..=379 => self.read(&file, offset, len),
            380..=629 => {
                let bytes = self.bytes(len.min(LONGEST - offset));
                assert_eq!(file.write_at(&bytes, offset as u64).unwrap(), bytes.len());
                if !bytes.is_empty() {
                    write(&mut self.model, offset, &bytes);
                }
            }
            630..=729 if self.model.len() + len <= LONGEST => {
                let bytes = self.bytes(len);
                assert_eq!(file.append(&bytes).unwrap(), self.model.len() as u64);
                self.model.extend(bytes);
            }
            730..=739 => {
                file.set_len(offset as u64).unwrap();
                self.model.resize(offset, 0);
            }
            740..=769 => {
                file.punch_hole(offset as u64, len as u64).unwrap();
                let end = self.model.len().min(offset + len);
                self.model.get_mut(offset..end).into_iter().flatten().for_each(|byte| *byte = 0);
            }
            770..=859 => self.pin_page(&file, offset),
            860..=869 => self.pin_range(&file, offset, len),
            870..=889 => drop(self.cache.reclaim(len % 300)),
            890..=919 => {
                let all = self.cache.frames().zone().pfns();
                for _ in 0..20 {
                    let pfn = Pfn::new(self.random.u64(all.start.as_u64()..all.end.as_u64()));
                    let _ = self.cache.frames().migrate(pfn);
                }
            }
            920..=924 => {
                if let Ok(offline) = self
                    .cache
                    .frames()
                    .offline(self.random.usize(..self.cache.frames().zone().blocks()))
                {
                    self.read(&file, offset, len);
                    self.cache.frames().online(offline);
                }
            }
            925..=929 => {
                assert!(
                    !file.revalidate().unwrap(),
                    "the cache takes its own writes for external ones"
                );
            }
            930..=939 => file.invalidate(),
            940..=944 => {
                file.sync_data().unwrap();
                self.check_plain();
                if let Plain::Memory(memory) = &self.plain {
                    assert!(memory.durable() == self.model, "synced bytes are not durable");
                }
            }
            945..=946 => {
                self.cache.flush().unwrap();
                self.check_plain();
            }
            947..=949 => {
                file.sync_all().unwrap();
                let bytes = self.bytes(len);
                if offset + len <= LONGEST && self.plain.scribble(offset, &bytes, &mut self.model) {
                    assert!(file.revalidate().unwrap(), "an external write is not noticed");
                }
            }
            950..=969 => {
                drop(file);
                match self.files.len() {
                    1 | 2 => {
                        self.files.push(self.cache.open_backing(self.plain.backing()).unwrap());
                    }
                    // Perhaps all of them: the last close writes the dirty pages.
                    n => self.files.truncate(self.random.usize(..n)),
                }
                if self.files.is_empty() {
                    self.check_plain();
                    self.files.push(self.cache.open_backing(self.plain.backing()).unwrap());
                }
            }
            972 => self.cache.set_io_threads([0, 1, 16][self.random.usize(..3)]),
            970..=971 => {
                // Pinned pages may prevent it.
                let capacity = self.random.usize(1..=2) * (CAPACITY / 2);
                let done = self.cache.set_capacity(capacity).map_err(|error| error.kind());
                assert!(matches!(done, Ok(()) | Err(ErrorKind::ResourceBusy)), "{done:?}");
            }
            _ => assert_eq!(file.len(), self.model.len() as u64),
        }
    }

    fn expected(&self, offset: usize, len: usize) -> &[u8] {
        self.model.get(offset..self.model.len().min(offset + len)).unwrap_or_default()
    }

    fn read(&mut self, file: &File, offset: usize, len: usize) {
        let at = offset as u64;
        let mut buf = vec![0; len];
        let n = match self.random.u8(..8) {
            0 => {
                let (first, rest) = buf.split_at_mut(self.random.usize(..=len));
                file.read_vectored_at(&mut [IoSliceMut::new(first), IoSliceMut::new(rest)], at)
                    .unwrap()
            }
            1 => {
                buf = file.bytes(at, len).unwrap().to_vec();
                buf.len()
            }
            2 => block_on(file.read_at_async(&mut buf, at)).unwrap(),
            3 => {
                buf = block_on(file.bytes_async(at, len)).unwrap().to_vec();
                buf.len()
            }
            4 => {
                let mut stream = file.stream(at, len as u64);
                buf.clear();
                while let Some(piece) =
                    block_on(poll_fn(|context| Pin::new(&mut stream).poll_next(context)))
                {
                    buf.extend(piece.unwrap());
                }
                buf.len()
            }
            _ => file.read_at(&mut buf, at).unwrap(),
        };
        let expected = self.expected(offset, len);
        assert_eq!(n, expected.len(), "at {offset} of {}", self.model.len());
        if let Some(at) = buf.iter().zip(expected).position(|(got, expected)| got != expected) {
            panic!("byte {}: {} instead of {}", offset + at, buf[at], expected[at]);
        }
    }

    fn pin_range(&mut self, file: &File, offset: usize, len: usize) {
        if self.ranges.len() == RANGES {
            let (range, before) = self.ranges.swap_remove(self.random.usize(..RANGES));
            assert!(range.chunks().flatten().eq(&before), "a range changed: {range:?}");
        }
        let at = offset as u64;
        let range = if self.random.bool() {
            file.range(at, len)
        } else {
            block_on(file.range_async(at, len))
        }
        .unwrap();
        let expected = self.expected(offset, len);
        assert!(range.chunks().flatten().eq(expected), "at {offset}: {range:?}");
        self.ranges.push((range, expected.to_vec()));
    }

    fn pin_page(&mut self, file: &File, offset: usize) {
        if self.pages.len() == HANDLES {
            let (handle, before) = self.pages.swap_remove(self.random.usize(..HANDLES));
            assert!(*handle == *before, "a handle changed: {handle:?}");
        }
        let expected = self.model.get(offset..self.model.len().min(offset / 4096 * 4096 + 4096));
        let offset = offset as u64;
        let handle =
            if self.random.bool() { file.page(offset) } else { block_on(file.page_async(offset)) }
                .unwrap();
        assert_eq!(
            handle.as_deref(),
            expected.filter(|expected| !expected.is_empty()),
            "at {offset}"
        );
        self.pages.extend(handle.map(|handle| {
            let before = handle.to_vec();
            (handle, before)
        }));
    }

    fn check_plain(&self) {
        assert!(
            self.plain.contents() == self.model,
            "the file behind the cache differs from the model"
        );
    }

    fn finish(mut self) {
        for (handle, before) in &self.pages {
            assert!(**handle == **before, "a handle changed: {handle:?}");
        }
        for (range, before) in self.ranges.drain(..) {
            assert!(range.chunks().flatten().eq(&before), "a range changed: {range:?}");
        }
        let file = self.files[0].clone();
        self.files.clear();
        file.close().unwrap();
        self.check_plain();
        self.pages.clear();
        assert_nothing_leaked(&self.cache);
    }
}

/// Prints its name, seed and step if it is dropped by a panic.
struct Progress<'a>(&'a str, u64, u64);

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} fails at step {} of FOLIO_FSX_SEED={}", self.0, self.2, self.1);
        }
    }
}

fn fsx(name: &str, plain: Plain, operations: u64) {
    let seed = from_environment("FOLIO_FSX_SEED").unwrap_or_else(|| fastrand::u64(..));
    let operations = from_environment("FOLIO_FSX_OPERATIONS").unwrap_or(operations);
    println!("{name}: {operations} operations, FOLIO_FSX_SEED={seed}");
    let mut progress = Progress(name, seed, 0);
    let mut run = Run::new(plain, seed);
    while run.step < operations {
        progress.2 = run.step + 1;
        run.step();
    }
    let stats = run.cache.stats();
    println!("{stats:?}");
    assert!(stats.reclaimed > 0 && stats.written_bytes > 0, "{stats:?}");
    run.finish();
}

#[test]
fn a_cached_file_is_the_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    fsx("file", Plain::File(dir.path().join("file")), 15_000);
}

#[test]
fn a_file_past_the_kernels_cache_is_the_plain_file() {
    let dir = tempfile::tempdir().unwrap();
    fsx("direct", Plain::Direct(dir.path().join("file")), 15_000);
}

#[test]
fn cached_memory_is_the_plain_bytes_under_external_writes() {
    fsx("memory", Plain::Memory(Arc::new(Memory::new(b""))), 15_000);
}

#[test]
fn a_plain_read_sees_flushed_writes() {
    // Read the file through the system, not through the model.
    let (_dir, path, bytes) = file_of(3000);
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&cache, &path).unwrap();
    file.write_at(b"far", 5000).unwrap();
    file.flush().unwrap();
    let mut buf = [1; 5003];
    fs::File::open(&path).unwrap().read_exact_at(&mut buf, 0).unwrap();
    assert!(
        buf[..3000] == bytes
            && buf[3000..5000].iter().all(|&byte| byte == 0)
            && buf[5000..] == *b"far"
    );
}
