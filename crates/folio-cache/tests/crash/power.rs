//! The machine ends: what was not synced is lost, kept, or torn, in any order. A sync that failed
//! counts its pages as clean, as on Linux: the next one does not write them. Lengths and holes are
//! kept: file systems have them in a journal.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use folio_cache::testing::Memory;
use folio_cache::{Backing, Cache, Durable};
use parking_lot::Mutex;

use crate::common::{assert_nothing_leaked, by_memory};
use crate::steps::{Mix, Step, Steps, Writer};
use crate::{CAPACITY, words_of};

const EIO: i32 = 5;

/// The unit that a disk writes whole.
const SECTOR: usize = 512;

/// The steps that returned, and those that have begun.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) returned: AtomicU64,
    pub(crate) begun: AtomicU64,
}

/// A change of the bytes of a disk.
#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, sector: Vec<u8> },
    SetLen(u64),
    Punch { offset: u64, len: u64 },
}

impl Change {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, sector } => {
                let range = offset as usize..offset as usize + sector.len();
                bytes.resize(bytes.len().max(range.end), 0);
                bytes[range].copy_from_slice(&sector);
            }
            Self::SetLen(len) => bytes.resize(len as usize, 0),
            Self::Punch { offset, len } => {
                let end = bytes.len().min((offset + len) as usize);
                bytes
                    .get_mut(offset as usize..end)
                    .into_iter()
                    .flatten()
                    .for_each(|byte| *byte = 0);
            }
        }
    }
}

/// The bytes that a machine may find after its end, and the steps that had returned and begun then.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) returned: u64,
    pub(crate) begun: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Default)]
struct Disk {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    images: Vec<Image>,
    random: fastrand::Rng,
    /// One in this number of syncs fails, and one in this number of calls makes an image.
    failing: u32,
    sampled: u32,
}

impl Disk {
    /// Applies some of the changes, or all of them. A journal keeps lengths and holes even if
    /// writes fail.
    fn apply_some(&mut self, changes: Vec<Change>, has_journal: bool, bytes: &mut Vec<u8>) {
        let kept = self.random.u32(..=4);
        for change in changes {
            let is_kept = has_journal && !matches!(change, Change::Write { .. });
            if is_kept || self.random.u32(..4) < kept {
                change.apply(bytes);
            }
        }
    }
}

/// A backing on a disk that forgets.
struct Machine {
    memory: Memory,
    disk: Mutex<Disk>,
    progress: Arc<Progress>,
    sync_time: Duration,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.memory.fmt(f)
    }
}

impl Machine {
    fn new(seed: u64, failing: u32, sampled: u32, progress: &Arc<Progress>) -> Arc<Self> {
        let random = fastrand::Rng::with_seed(seed);
        let disk = Mutex::new(Disk { random, failing, sampled, ..Disk::default() });
        let (memory, progress) = (Memory::new(b""), Arc::clone(progress));
        Arc::new(Self { memory, disk, progress, sync_time: Duration::ZERO })
    }

    /// Notes a change, and sometimes what would be found if the machine ended now.
    fn change(&self, changes: impl IntoIterator<Item = Change>) {
        // Before the disk is locked: what returned has its promises in the image.
        let returned = self.progress.returned.load(Ordering::SeqCst);
        let mut disk = self.disk.lock();
        disk.unsynced.extend(changes);
        let sampled = disk.sampled;
        if disk.random.u32(..sampled) == 0 {
            let (mut bytes, unsynced) = (disk.durable.clone(), disk.unsynced.clone());
            disk.apply_some(unsynced, false, &mut bytes);
            let begun = self.progress.begun.load(Ordering::SeqCst);
            disk.images.push(Image { returned, begun, bytes });
        }
    }
}

impl Backing for Machine {
    by_memory!(file_id, version, fill, is_writable);

    fn write(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        self.memory.write(offset, buffers)?;
        let bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        self.change(
            (offset..)
                .step_by(SECTOR)
                .zip(bytes.chunks(SECTOR))
                .map(|(offset, sector)| Change::Write { offset, sector: sector.to_vec() }),
        );
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)?;
        self.change([Change::SetLen(len)]);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.memory.punch(offset, len)?;
        self.change([Change::Punch { offset, len }]);
        Ok(())
    }

    fn sync(&self, _: Durable) -> io::Result<()> {
        let covered = self.disk.lock().unsynced.len();
        thread::sleep(self.sync_time);
        let mut disk = self.disk.lock();
        let covered: Vec<Change> = disk.unsynced.drain(..covered).collect();
        let mut durable = std::mem::take(&mut disk.durable);
        let failing = disk.failing;
        let fails = failing > 0 && disk.random.u32(..failing) == 0;
        if fails {
            disk.apply_some(covered, true, &mut durable);
        } else {
            for change in covered {
                change.apply(&mut durable);
            }
        }
        disk.durable = durable;
        if fails { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }
}

/// The bytes that a disk may have: a word that was changed since the last sync may have any of its
/// values since then, or zero.
#[derive(Clone, Default)]
struct Possible {
    words: Vec<u64>,
    /// The values of the words that were changed since the last sync.
    changed: BTreeMap<usize, Vec<u64>>,
    /// The words that were discarded: it is not known what the backing has.
    discarded: BTreeSet<usize>,
    /// The lengths since the last sync.
    lens: Range<usize>,
}

impl Possible {
    fn set_word(&mut self, at: usize, value: u64) {
        let old = std::mem::replace(&mut self.words[at], value);
        let values = self.changed.entry(at).or_insert_with(|| vec![0, old]);
        values.push(value);
        self.discarded.remove(&at);
    }

    fn set_len(&mut self, len: usize) {
        for at in len..self.words.len() {
            self.set_word(at, 0);
        }
        for at in self.words.len()..len {
            self.changed.entry(at).or_insert_with(|| vec![0]);
        }
        self.words.resize(len, 0);
        self.lens = self.lens.start.min(len)..self.lens.end.max(len + 1);
    }

    fn write(&mut self, at: usize, len: usize, value: u64) {
        self.set_len(self.words.len().max(at + len));
        (at..at + len).for_each(|at| self.set_word(at, value));
    }

    /// A step of this file began. Its bytes may be on the disk, and those before as well.
    fn begun(&mut self, n: u64, step: Step) {
        let len_now = self.words.len();
        match step {
            Step::Write { at, len, .. } => self.write(at, len, n),
            Step::Discard { at, len, .. } => {
                self.write(at, len, n);
                self.discarded.extend(at..at + len);
            }
            Step::Append { len, .. } | Step::Cursor { len, .. } => self.write(len_now, len, n),
            Step::SetLen { len, .. } => self.set_len(len),
            Step::Punch { at, len, .. } => {
                let end = len_now.min(at + len);
                (at.min(end)..end).for_each(|at| self.set_word(at, 0));
            }
            _ => {}
        }
    }

    /// A sync succeeded.
    fn synced(&mut self) {
        self.changed.retain(|at, _| self.discarded.contains(at));
        self.lens = self.words.len()..self.words.len() + 1;
    }

    fn check(&self, found: &[u64]) -> Result<(), String> {
        if !self.lens.contains(&found.len()) {
            return Err(format!("it has {} words, allowed is {:?}", found.len(), self.lens));
        }
        for (at, value) in found.iter().enumerate() {
            let is_allowed = match self.changed.get(&at) {
                Some(values) => values.contains(value),
                None => self.words.get(at) == Some(value),
            };
            if !is_allowed {
                let (word, changed) = (self.words.get(at), self.changed.get(&at));
                return Err(format!("word {at} is {value}, not {word:?} or one of {changed:?}"));
            }
        }
        Ok(())
    }
}

/// Returns the file of a step.
fn file_of(step: Step) -> Option<usize> {
    match step {
        Step::Write { file, .. }
        | Step::Append { file, .. }
        | Step::SetLen { file, .. }
        | Step::Punch { file, .. }
        | Step::Flush { file }
        | Step::SyncData { file }
        | Step::SyncAll { file }
        | Step::Cursor { file, .. }
        | Step::Close { file }
        | Step::Drop { file }
        | Step::Discard { file, .. } => Some(file),
        Step::FlushAll | Step::Replace => None,
    }
}

/// Checks the images of one file against the steps and those of them that were promised durable.
fn check_images(
    file: usize,
    images: &mut Vec<Image>,
    steps: &[Step],
    synced: &[bool],
) -> Result<usize, String> {
    images.sort_by_key(|image| image.returned);
    let (mut possible, mut at) = (Possible { lens: 0..1, ..Possible::default() }, 0);
    let own = |n: usize| file_of(steps[n]) == Some(file);
    for image in &*images {
        while at < image.returned as usize {
            if own(at) {
                possible.begun(at as u64 + 1, steps[at]);
            }
            if own(at) && synced[at] {
                possible.synced();
            }
            at += 1;
        }
        let mut then = possible.clone();
        for n in (at..steps.len().min(image.begun as usize)).filter(|&n| own(n)) {
            then.begun(n as u64 + 1, steps[n]);
        }
        let found = words_of(&image.bytes)?;
        then.check(&found).map_err(|broken| {
            format!("file {file}, {} to {} steps: {broken}", image.returned, image.begun)
        })?;
    }
    Ok(images.len())
}

/// Performs steps, and checks what the disks would have held at many moments. Returns the number of
/// images, and of syncs that succeeded and failed.
fn run(seed: u64, failing: u32, threads: usize) -> Result<[usize; 3], String> {
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    cache.set_io_threads(threads);
    let progress = Arc::new(Progress::default());
    let machines = [0, 1, 2].map(|file| Machine::new(seed ^ file, failing, 8, &progress));
    let mut writer = Writer::to(cache.clone(), machines.clone()).unwrap();
    let mix = Mix { promises: 6, cells: 80, replaces: false };
    let remembers = |step| match step {
        // These give up, or forget, what a failed sync may lose.
        Step::Discard { file, .. } | Step::Close { file } | Step::Drop { file } if failing > 0 => {
            Step::Flush { file }
        }
        step => step,
    };
    let steps: Vec<Step> = Steps::new(seed, mix).take(800).map(remembers).collect();
    let (mut synced, mut failed) = (Vec::new(), 0);
    for (n, &step) in (1..).zip(&steps) {
        progress.begun.store(n, Ordering::SeqCst);
        let result = writer.perform(n, step);
        let is_sync = matches!(step, Step::SyncData { .. } | Step::SyncAll { .. });
        // No other call of the backing fails. A close or flush may report the failed sync.
        if let Err(error) = &result {
            assert!(failing > 0, "{step:?}: {error}");
        }
        failed += usize::from(is_sync && result.is_err());
        synced.push(is_sync && result.is_ok());
        progress.returned.store(n, Ordering::SeqCst);
    }
    drop(writer);
    let mut images = 0;
    for (file, machine) in machines.iter().enumerate() {
        let mut taken = std::mem::take(&mut machine.disk.lock().images);
        images += check_images(file, &mut taken, &steps, &synced)?;
    }
    assert_nothing_leaked(&cache);
    Ok([images, synced.iter().filter(|&&synced| synced).count(), failed])
}

#[test]
fn every_synced_byte_survives_the_end_of_the_machine() {
    let (kills, seed) = crate::kills_and_seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sums = [0; 3];
    for run_number in 0..kills.div_ceil(10) {
        let (seed_of_run, failing) = (random.u64(..), [0, 3][run_number as usize % 2]);
        match run(seed_of_run, failing, [0, 2][run_number as usize / 2 % 2]) {
            Ok(counts) => (0..3).for_each(|n| sums[n] += counts[n]),
            Err(broken) => panic!("run {run_number} of FOLIO_CRASH_SEED={seed}: {broken}"),
        }
    }
    let [images, synced, failed] = sums;
    println!("{images} ends of the machine, {synced} good and {failed} failed syncs");
    assert!(images > 100 && synced > 40 && failed > 5);
}

/// Concurrent syncs share their writes and their sync: each covers what its caller wrote.
#[test]
fn a_shared_sync_covers_the_writes_of_each_caller() {
    const OWN: u64 = 3000;
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    let progress = Arc::new(Progress::default());
    let mut machine = Machine::new(5, 0, u32::MAX, &progress);
    Arc::get_mut(&mut machine).unwrap().sync_time = Duration::from_micros(300);
    let file = cache.open_backing(machine.clone()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (file, machine) = (&file, &machine);
            scope.spawn(move || {
                for round in 1..200_u64 {
                    let bytes = vec![round as u8; OWN as usize];
                    file.write_all_at(&bytes, thread * OWN).unwrap();
                    if thread % 2 == 0 { file.sync_data() } else { file.sync_all() }.unwrap();
                    let durable = machine.disk.lock().durable.clone();
                    let own = (thread * OWN) as usize..((thread + 1) * OWN) as usize;
                    assert!(durable.get(own) == Some(&bytes[..]), "round {round} of {thread}");
                }
            });
        }
    });
    drop(file);
    assert_nothing_leaked(&cache);
}
