//! Single operations of the cache and of its baselines, and their storms: for `tail`.

use std::cell::Cell;
use std::fs;
use std::hint::black_box;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use folio_cache::{Advice, Backing, Cache, Durable, File, FileId, Version};
use folio_frames::Pfn;

#[cfg(feature = "baselines")]
use crate::support::baselines::{Baseline, Page};
use crate::support::files::Bytes;

const PAGE: usize = 4096;

/// The memory of each cache.
pub(crate) const CAPACITY: usize = 32 << 20;

/// The pages that hits find: few enough to stay in memory while others come and go.
const HOT_PAGES: u64 = 512;

/// The pages of the file that is missed: eight times the memory.
const COLD_PAGES: u64 = 8 * (CAPACITY / PAGE) as u64;

/// The time of a fill that is measured.
const FILL: Duration = Duration::from_micros(100);

/// A single operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Nothing: what the clock itself takes.
    Nothing,
    /// Copies 64 bytes of a cached page.
    Hit64,
    /// Takes and drops a handle of a cached page.
    Handle,
    /// Copies a cached page.
    Hit4K,
    /// Writes 64 bytes to a cached page.
    Write64,
    /// Reads 64 bytes of a page that is not cached, by a fill of 100 us.
    Miss,
}

/// Something that has operations to measure.
pub(crate) trait Subject: Sync {
    fn name(&self) -> &'static str;

    /// Returns `true` if there is such an operation.
    fn can(&self, operation: Operation) -> bool;

    /// Runs one operation. Returns `false` if a hit missed, or a miss hit.
    fn run(&self, operation: Operation, random: &mut Rng) -> bool;

    /// Runs one step of a thread of the storm.
    fn storm(&self, thread: usize, random: &mut Rng);
}

/// The clock alone.
pub(crate) struct Nothing;

impl Subject for Nothing {
    fn name(&self) -> &'static str {
        "clock"
    }
    fn can(&self, operation: Operation) -> bool {
        operation == Operation::Nothing
    }
    fn run(&self, _: Operation, random: &mut Rng) -> bool {
        black_box(random);
        true
    }
    fn storm(&self, _: usize, random: &mut Rng) {
        black_box(random.u64(..));
    }
}

thread_local! {
    /// The fills that this thread did: they tell a miss from a hit.
    static FILLS: Cell<u64> = const { Cell::new(0) };
}

/// A file of which each byte is 7. Writes to it are dropped.
#[derive(Debug)]
struct Sevens {
    object: u64,
    pages: u64,
    fill: Duration,
}

impl Backing for Sevens {
    fn file_id(&self) -> FileId {
        FileId { space: "tail", volume: 0, object: self.object }
    }
    fn version(&self) -> io::Result<Version> {
        Ok(Version { len: self.pages * PAGE as u64, change_token: [0; 4] })
    }
    fn fill(&self, _: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        FILLS.set(FILLS.get() + 1);
        for buffer in buffers.iter_mut() {
            buffer.fill(7);
        }
        spin(self.fill);
        Ok(buffers.iter().map(|buffer| buffer.len()).sum())
    }
    fn is_writable(&self) -> bool {
        true
    }
    fn write(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self, _: Durable) -> io::Result<()> {
        // As a fast disk: other threads have the processor.
        thread::sleep(FILL);
        Ok(())
    }
}

/// Takes a time of the processor: a sleep would add the system's own delay.
fn spin(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// The cache with its files.
pub(crate) struct Folio {
    cache: Cache,
    hot: File,
    written: File,
    slow: File,
    cold: File,
    begin: Instant,
}

impl Folio {
    /// Makes a cache that is full.
    pub(crate) fn new() -> io::Result<Self> {
        let cache = Cache::builder().capacity(CAPACITY).name("tail").build()?;
        let open = |object, pages, fill| {
            let file = cache.open_backing(Arc::new(Sevens { object, pages, fill }))?;
            // Nothing is read ahead: a miss is one page, in its own thread.
            io::Result::Ok(file.with_advice(Advice::Random))
        };
        let this = Self {
            hot: open(1, HOT_PAGES, Duration::ZERO)?,
            written: open(2, HOT_PAGES, Duration::ZERO)?,
            slow: open(3, COLD_PAGES, FILL)?,
            cold: open(4, COLD_PAGES, Duration::ZERO)?,
            begin: Instant::now(),
            cache,
        };
        let mut page = [0; PAGE];
        let full = 2 * (CAPACITY / PAGE) as u64;
        for number in 0..full {
            this.cold.read_exact_at(&mut page, number * PAGE as u64)?;
            let hot = number % HOT_PAGES * PAGE as u64;
            this.hot.read_exact_at(&mut page, hot)?;
            this.written.write_all_at(&[1; 64], hot)?;
        }
        Ok(this)
    }

    /// Offline and online, and a capacity that is halved and restored each second.
    fn resize(&self, thread: usize, random: &mut Rng) {
        let frames = self.cache.frames();
        if thread == 0 {
            let is_low = self.begin.elapsed().as_millis() % 1000 < 500;
            let wanted = if is_low { CAPACITY / 2 } else { CAPACITY };
            if self.cache.capacity() != wanted {
                // Too much may be pinned or dirty: it is tried again.
                let _ = self.cache.set_capacity(wanted);
            }
        } else if let Ok(block) = frames.offline(random.usize(..frames.zone().blocks())) {
            thread::sleep(Duration::from_millis(5));
            frames.online(block);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Subject for Folio {
    fn name(&self) -> &'static str {
        "folio"
    }
    fn can(&self, operation: Operation) -> bool {
        operation != Operation::Nothing
    }
    fn run(&self, operation: Operation, random: &mut Rng) -> bool {
        let before = FILLS.get();
        let hot = random.u64(..HOT_PAGES) * PAGE as u64;
        let within = random.u64(..63) * 64;
        let done = match operation {
            Operation::Nothing => Ok(()),
            Operation::Hit64 => self.hot.read_exact_at(black_box(&mut [0; 64]), hot + within),
            Operation::Handle => self.hot.page(hot).map(|page| drop(black_box(page))),
            Operation::Hit4K => self.hot.read_exact_at(black_box(&mut [0; PAGE]), hot),
            Operation::Write64 => self.written.write_all_at(black_box(&[1; 64]), hot + within),
            Operation::Miss => {
                let page = random.u64(..COLD_PAGES);
                self.slow.read_exact_at(black_box(&mut [0; 64]), page * PAGE as u64)
            }
        };
        done.expect("the file has no errors");
        (FILLS.get() == before) == (operation != Operation::Miss)
    }
    fn storm(&self, thread: usize, random: &mut Rng) {
        let frames = self.cache.frames();
        match thread {
            0 | 1 => self.resize(thread, random),
            2 => {
                let all = frames.zone().pfns();
                for _ in 0..16 {
                    // Pages that are pinned, free or dirty stay.
                    let pfn = random.u64(all.start.as_u64()..all.end.as_u64());
                    let _ = frames.migrate(Pfn::new(pfn));
                }
                thread::sleep(Duration::from_millis(1));
            }
            3 => {
                frames.compact(4);
                thread::sleep(Duration::from_millis(1));
            }
            4..=11 => {
                for _ in 0..64 {
                    let offset = random.u64(..HOT_PAGES) * PAGE as u64;
                    self.written.write_all_at(&[1; 64], offset).expect("no errors");
                }
                self.written.sync_data().expect("no errors");
            }
            _ => {
                let offset = random.u64(..COLD_PAGES) * PAGE as u64;
                self.cold.read_exact_at(&mut [0; PAGE], offset).expect("no errors");
            }
        }
    }
}

/// The kernel's cache: `pread` and `pwrite`, or a mapping.
pub(crate) struct Kernel<'a> {
    file: fs::File,
    mapped: Option<&'a [u8]>,
}

impl<'a> Kernel<'a> {
    /// Makes the bytes that the kernel reads.
    pub(crate) fn bytes() -> io::Result<Bytes> {
        Bytes::new(HOT_PAGES as usize * PAGE)
    }

    pub(crate) fn new(bytes: &'a Bytes, is_mapped: bool) -> io::Result<Self> {
        let file = fs::File::options().read(true).write(true).open(bytes.path())?;
        Ok(Self { file, mapped: is_mapped.then(|| bytes.mapped()) })
    }

    fn read(&self, offset: u64, buf: &mut [u8]) {
        match &self.mapped {
            Some(mapped) => {
                buf.copy_from_slice(&black_box(mapped)[offset as usize..][..buf.len()]);
            }
            None => self.file.read_exact_at(buf, offset).expect("tmpfs can be read"),
        }
    }
}

impl Subject for Kernel<'_> {
    fn name(&self) -> &'static str {
        if self.mapped.is_some() { "mmap" } else { "pread-tmpfs" }
    }
    fn can(&self, operation: Operation) -> bool {
        match operation {
            Operation::Hit64 | Operation::Hit4K => true,
            Operation::Write64 => self.mapped.is_none(),
            _ => false,
        }
    }
    fn run(&self, operation: Operation, random: &mut Rng) -> bool {
        let hot = random.u64(..HOT_PAGES) * PAGE as u64;
        let within = random.u64(..63) * 64;
        match operation {
            Operation::Hit4K => self.read(hot, black_box(&mut [0; PAGE])),
            Operation::Write64 => {
                self.file.write_all_at(black_box(&[1; 64]), hot + within).expect("tmpfs has room");
            }
            _ => self.read(hot + within, black_box(&mut [0; 64])),
        }
        true
    }
    fn storm(&self, thread: usize, random: &mut Rng) {
        let hot = random.u64(..HOT_PAGES) * PAGE as u64;
        if (4..=11).contains(&thread) && self.mapped.is_none() {
            self.file.write_all_at(&[1; 64], hot).expect("tmpfs has room");
            self.file.sync_data().expect("tmpfs can sync");
        } else {
            self.read(hot, &mut [0; PAGE]);
        }
    }
}

/// A cache of objects, one for each page.
#[cfg(feature = "baselines")]
pub(crate) struct Objects<C> {
    name: &'static str,
    baseline: C,
}

#[cfg(feature = "baselines")]
impl<C: Baseline<Page>> Objects<C> {
    /// The number of pages that a cache of objects holds.
    pub(crate) const ENTRIES: usize = CAPACITY / PAGE;

    pub(crate) fn new(name: &'static str, baseline: C) -> Self {
        for page in 0..Self::ENTRIES {
            baseline.insert(page, [7; PAGE].into());
            // Some use each hot page again and again, or it is not kept.
            baseline.with(page % HOT_PAGES as usize, |page| page[0]);
        }
        baseline.quiesce();
        Self { name, baseline }
    }

    /// Calls `act` with a hot page. Inserts it if it was evicted, and returns `false`.
    fn hit(&self, random: &mut Rng, act: impl FnOnce(&Page)) -> bool {
        let page = random.usize(..HOT_PAGES as usize);
        let is_hit = black_box(&self.baseline).with(page, act).is_some();
        if !is_hit {
            self.baseline.insert(page, [7; PAGE].into());
        }
        is_hit
    }

    /// Reads a cold page. Returns `true` if it was missed.
    fn miss(&self, fill: Duration, random: &mut Rng) -> bool {
        let page = (HOT_PAGES + random.u64(..COLD_PAGES)) as usize;
        !self.baseline.meet(page, || {
            let page = [7; PAGE].into();
            spin(fill);
            page
        })
    }
}

#[cfg(feature = "baselines")]
impl<C: Baseline<Page>> Subject for Objects<C> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn can(&self, operation: Operation) -> bool {
        !matches!(operation, Operation::Nothing | Operation::Write64)
    }
    fn run(&self, operation: Operation, random: &mut Rng) -> bool {
        let within = random.usize(..63) * 64;
        match operation {
            Operation::Miss => self.miss(FILL, random),
            Operation::Handle => self.hit(random, |page| drop(black_box(Arc::clone(page)))),
            Operation::Hit4K => {
                let mut buf = [0; PAGE];
                self.hit(random, |page| black_box(&mut buf).copy_from_slice(page))
            }
            _ => {
                let mut buf = [0; 64];
                let copy = |page: &Page| {
                    black_box(&mut buf).copy_from_slice(&page[within..within + 64]);
                };
                self.hit(random, copy)
            }
        }
    }
    fn storm(&self, _: usize, random: &mut Rng) {
        self.miss(Duration::ZERO, random);
    }
}
