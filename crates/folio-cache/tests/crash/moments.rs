//! A process that could be killed at any moment: what the kernel has is looked at after each page
//! that reaches it. So far more moments are checked than kills can be made.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use folio_cache::testing::Memory;
use folio_cache::{Backing, Cache, Durable};
use parking_lot::Mutex;

use crate::common::{assert_nothing_leaked, by_memory};
use crate::power::{Image, Progress};
use crate::promises::Possible;
use crate::steps::{Mix, Step, Steps, Writer, name};
use crate::{CAPACITY, MOST_STALE, kills_and_seed, words_of};

/// One in this number of pages that reach the kernel is followed by a look.
const SAMPLED: u32 = 12;

/// Memory that stands for the kernel: what is in it survives the process.
#[derive(Debug)]
struct Kernel {
    memory: Memory,
    progress: Arc<Progress>,
    looks: Mutex<(fastrand::Rng, Vec<Image>)>,
}

impl Kernel {
    fn new(seed: u64, progress: &Arc<Progress>) -> Arc<Self> {
        let looks = Mutex::new((fastrand::Rng::with_seed(seed), Vec::new()));
        Arc::new(Self { memory: Memory::new(b""), progress: Arc::clone(progress), looks })
    }

    /// Looks at the bytes, unless the writer makes steps meanwhile.
    fn look(&self) {
        let mut looks = self.looks.lock();
        if looks.0.u32(..SAMPLED) > 0 {
            return;
        }
        let returned = self.progress.returned.load(Ordering::SeqCst);
        let bytes = self.memory.contents();
        let begun = self.progress.begun.load(Ordering::SeqCst);
        if begun <= returned + 1 {
            looks.1.push(Image { returned, begun, bytes });
        }
    }
}

impl Backing for Kernel {
    by_memory!(file_id, version, fill, is_writable);

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        for (offset, page) in (offset..).step_by(4096).zip(bytes.chunks(4096)) {
            self.memory.write(offset, &[IoSlice::new(page)])?;
            self.look();
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)?;
        self.look();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.punch(offset, len)?;
        self.look();
        Ok(())
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        self.look();
        Ok(())
    }
}

/// Checks what was seen of one file. Returns the number of looks.
fn check(file: usize, mut images: Vec<Image>, steps: &[Step]) -> Result<usize, String> {
    images.sort_by_key(|image| image.returned);
    let (mut possible, mut at) = (Possible::new(true), 0);
    for image in &images {
        while at < image.returned {
            at += 1;
            possible.done(file, at, steps[at as usize - 1]);
        }
        let found = words_of(&image.bytes)?;
        let mut then = possible.clone();
        let begun = steps.get(image.begun as usize - 1).filter(|_| image.begun > at);
        if let Some(&step) = begun {
            then.begun(file, image.begun, step);
        }
        let context = |broken| format!("{} after {at} steps, {begun:?}: {broken}", name(file));
        then.check(&found).map_err(context)?;
        let stale = possible.stale_pages(&found, image.begun);
        if stale > MOST_STALE && !matches!(begun, Some(Step::SetLen { .. } | Step::Punch { .. })) {
            return Err(context(format!("{stale} pages are not in it, allowed: {MOST_STALE}")));
        }
    }
    Ok(images.len())
}

fn run(seed: u64, promises: u32, threads: usize) -> Result<usize, String> {
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    cache.set_io_threads(threads);
    let progress = Arc::new(Progress::default());
    let kernels = [0, 1, 2].map(|file| Kernel::new(seed ^ file, &progress));
    let mut writer = Writer::to(cache.clone(), kernels.clone()).unwrap();
    let steps: Vec<Step> =
        Steps::new(seed, Mix { promises, cells: 80, replaces: false }).take(1500).collect();
    for (n, &step) in (1..).zip(&steps) {
        progress.begun.store(n, Ordering::SeqCst);
        writer.perform(n, step).unwrap();
        progress.returned.store(n, Ordering::SeqCst);
    }
    drop(writer);
    let mut looks = 0;
    for (file, kernel) in kernels.iter().enumerate() {
        looks += check(file, std::mem::take(&mut kernel.looks.lock().1), &steps)?;
    }
    assert_nothing_leaked(&cache);
    Ok(looks)
}

#[test]
fn every_promise_holds_at_each_moment() {
    let (kills, seed) = kills_and_seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut looks = 0;
    for n in 0..kills.div_ceil(10) {
        let promises = if n % 2 == 0 { 500 } else { 20 };
        let threads = if n % 4 < 2 { 0 } else { 2 };
        looks += run(random.u64(..), promises, threads)
            .unwrap_or_else(|broken| panic!("run {n} of FOLIO_CRASH_SEED={seed}: {broken}"));
    }
    println!("{looks} moments");
    assert!(looks > 200, "only {looks} moments were looked at");
}
