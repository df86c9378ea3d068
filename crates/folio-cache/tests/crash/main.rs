//! A process writes, and is killed at a random moment. The test checks all that the documents
//! promise in the files that remain. docs/crashes.md has the list.
//!
//! The child is this test binary again. It performs the steps of a seed ([`steps`]), and adds a
//! byte to a journal after each. So the parent knows which steps returned, and which one may be
//! done in part. It computes which bytes the files may hold ([`promises`]).
//!
//! | module | what ends | what writes |
//! | --- | --- | --- |
//! | this one | the process | one thread |
//! | [`threads`] | the process | several threads |
//! | [`moments`] | the process, at each of many moments: memory stands for the kernel | one thread |
//! | [`power`] | the machine: memory forgets what was not synced | one thread, and several |

#[path = "../common/mod.rs"]
mod common;
mod moments;
mod power;
mod promises;
mod steps;
mod threads;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use common::{assert_nothing_leaked, hanging::within};
use folio_cache::{Backing, Cache, OpenOptions};
use promises::Files;
use steps::{Mix, REPLACEMENT, Step, Steps, WORD, Writer, name};

/// The default number of kills. `FOLIO_CRASH_KILLS=300 cargo test -p folio-cache --test crash`
/// makes more; results/crash.md has such a run.
const KILLS: u64 = 40;

const CAPACITY: usize = 2 << 20;

/// The number of pages that may be dirty: a quarter of the capacity, a sixteenth more for each
/// file, and one for each file.
const MOST_STALE: usize = CAPACITY / 4096 / 4 + steps::FILES * (CAPACITY / 4096 / 16 + 1);

/// The time after which a written byte must be in its file. The documents say about a second.
const AGE: Duration = Duration::from_secs(5);

/// Returns the number of kills of a test, and the seed of its random choices.
pub(crate) fn kills_and_seed() -> (u64, u64) {
    let of = |name| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let (kills, seed) = (of("FOLIO_CRASH_KILLS"), of("FOLIO_CRASH_SEED"));
    let (kills, seed) = (kills.unwrap_or(KILLS), seed.unwrap_or_else(|| fastrand::u64(..)));
    println!("{kills} kills, FOLIO_CRASH_SEED={seed}");
    (kills, seed)
}

/// Every second child makes few promises: then the limit of dirty pages and the flusher write.
/// The cells of all are twice the capacity of the cache.
fn mix(seed: u64) -> Mix {
    let promises = if seed.is_multiple_of(2) { 40 } else { 2000 };
    Mix { promises, cells: 512, replaces: true }
}

/// Returns `true` for the children that write past the kernel's cache: half of them.
pub(crate) fn is_direct(seed: u64) -> bool {
    seed % 4 > 1
}

/// Waits until a journal has a number of entries. Only a hang makes no progress for 20 s.
pub(crate) fn wait_for(entries: u64, journaled: impl Fn() -> u64) {
    while journaled() < entries {
        let before = journaled();
        within("the child makes no progress", || journaled() > before);
    }
}

/// Starts a test of this binary as a child, with a directory, a seed and a pause between steps.
pub(crate) fn start(test: &str, dir: &Path, seed: u64, pause: Duration) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("FOLIO_CRASH_DIR", dir)
        .env("FOLIO_CRASH_SEED", seed.to_string())
        .env("FOLIO_CRASH_PAUSE_US", pause.as_micros().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns the arguments of a child, or nothing in any other process.
pub(crate) fn arguments() -> Option<(String, u64, Duration)> {
    let dir = std::env::var("FOLIO_CRASH_DIR").ok()?;
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let pause = Duration::from_micros(number("FOLIO_CRASH_PAUSE_US")?);
    Some((dir, number("FOLIO_CRASH_SEED")?, pause))
}

/// Opens a journal: what is written to it survives the process.
pub(crate) fn journal(dir: &Path, name: &str) -> fs::File {
    fs::OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap()
}

pub(crate) fn journaled(dir: &Path, name: &str) -> u64 {
    fs::metadata(dir.join(name)).map_or(0, |metadata| metadata.len())
}

#[test]
#[ignore = "runs as the child of other tests"]
fn child() {
    let Some((dir, seed, pause)) = arguments() else { return };
    let dir = Path::new(&dir);
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    // Some children have no flusher.
    if seed % 8 > 5 && pause.is_zero() {
        cache.set_io_threads(0);
    }
    let mut writer = Writer::in_dir(cache, dir, is_direct(seed)).unwrap();
    let mut journal = journal(dir, "journal");
    for (n, step) in (1..).zip(Steps::new(seed, mix(seed))) {
        writer.perform(n, step).unwrap();
        assert_eq!(journal.write(&[0]).unwrap(), 1);
        thread::sleep(pause);
    }
}

/// Waits until a child has performed some steps and for the time `extra` after that, and kills it.
/// Returns the number of steps that returned.
fn kill_after(child: &mut Child, dir: &Path, steps: u64, extra: Duration) -> u64 {
    wait_for(steps, || journaled(dir, "journal"));
    thread::sleep(extra);
    kill(child);
    journaled(dir, "journal")
}

pub(crate) fn kill(child: &mut Child) {
    assert!(child.try_wait().unwrap().is_none(), "the child ended before it was killed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Returns `true` if files in the directory can have holes.
fn has_holes(dir: &Path) -> bool {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).open_local(dir.join("hole")).unwrap();
    file.set_len(8192).and_then(|()| file.punch(0, 4096)).is_ok()
}

pub(crate) fn words(path: &Path) -> Result<Vec<u64>, String> {
    words_of(&fs::read(path).unwrap_or_default())
}

pub(crate) fn words_of(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let (words, rest) = bytes.as_chunks::<WORD>();
    if !rest.is_empty() {
        return Err(format!("it ends within a word, after {} bytes", bytes.len()));
    }
    Ok(words.iter().map(|&word| u64::from_le_bytes(word)).collect())
}

/// Checks the files of a child, of which `done` steps returned. All that the first `old` steps
/// wrote must be in the files. Returns the first violation as an error.
fn check(dir: &Path, seed: u64, done: u64, old: u64) -> Result<(), String> {
    let mut files = Files::new(has_holes(dir));
    let mut steps = (1..).zip(Steps::new(seed, mix(seed)));
    for (n, step) in steps.by_ref().take(done as usize) {
        files.done(n, step);
        if n == old {
            files.promise();
        }
    }
    let (begun, step) = steps.next().expect("steps do not end");
    let mut found = Vec::new();
    for (file, possible) in files.files.iter_mut().enumerate() {
        found.push(words(&dir.join(name(file)))?);
        let words = &found[file];
        let stale = possible.stale_pages(words, begun);
        possible.begun(file, begun, step);
        let context = |broken| format!("{}, step {begun} is {step:?}: {broken}", name(file));
        possible.check(words).map_err(context)?;
        if stale > MOST_STALE && !matches!(step, Step::SetLen { .. } | Step::Punch { .. }) {
            return Err(context(format!("{stale} pages are not in it, allowed: {MOST_STALE}")));
        }
    }
    let replaced = words(&dir.join("replaced"))?;
    let value = replaced.first().copied().unwrap_or(0);
    let is_new = value == begun && matches!(step, Step::Replace);
    let is_whole = replaced.iter().all(|&word| word == value);
    let is_there = replaced.len() == if value == 0 { 0 } else { REPLACEMENT };
    if (value != files.replaced && !is_new) || !is_whole || !is_there {
        let (len, last) = (replaced.len(), files.replaced);
        return Err(format!("a file of {len} words of {value} took the place of {last}"));
    }
    Ok(())
}

#[test]
fn every_promise_survives_a_kill() {
    let (kills, seed) = kills_and_seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut promises, mut all) = (0, 0);
    for kill in 0..kills {
        let dir = tempfile::tempdir().unwrap();
        let child_seed = random.u64(..);
        let extra = Duration::from_micros(random.u64(..5000));
        let mut child = start("child", dir.path(), child_seed, Duration::ZERO);
        // A write to the disk takes longer than one to the kernel's cache.
        let steps = random.u64(..if is_direct(child_seed) { 400 } else { 1500 });
        let done = kill_after(&mut child, dir.path(), steps, extra);
        if let Err(broken) = check(dir.path(), child_seed, done, 0) {
            panic!("kill {kill} of FOLIO_CRASH_SEED={seed}: child {child_seed}, {done}: {broken}");
        }
        let is_promise = |step: &Step| !matches!(step, Step::Write { .. } | Step::Append { .. });
        let steps = Steps::new(child_seed, mix(child_seed)).take(done as usize);
        (promises, all) = (promises + steps.filter(is_promise).count(), all + done);
    }
    assert!(all > kills * 100, "{kills} children made only {all} steps");
    println!("{all} steps returned before the kills, {promises} of them with a promise");
}

/// The flusher writes them. A page that is written again and again reaches the file as well.
#[test]
fn writes_of_five_seconds_ago_survive_a_kill() {
    let seeds = [1, 3, 5];
    let mut children: Vec<_> = seeds
        .into_iter()
        .map(|seed| {
            let dir = tempfile::tempdir().unwrap();
            // So slow that the limit of dirty pages has nothing written.
            let child = start("child", dir.path(), seed, Duration::from_millis(100));
            (seed, dir, child)
        })
        .collect();
    for (_, dir, _) in &children {
        wait_for(15, || journaled(dir.path(), "journal"));
    }
    let old: Vec<_> = children.iter().map(|(_, dir, _)| journaled(dir.path(), "journal")).collect();
    let end = Instant::now() + AGE;
    thread::sleep(end.saturating_duration_since(Instant::now()));
    for ((seed, dir, child), old) in children.iter_mut().zip(old) {
        kill(child);
        let done = journaled(dir.path(), "journal");
        check(dir.path(), *seed, done, old).unwrap_or_else(|broken| {
            panic!("child {seed}, {done} steps, of which {old} are old: {broken}")
        });
    }
}

/// A test of the check itself: it finds corrupted files.
#[test]
fn a_broken_promise_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    let (seed, mut done) = (6, 0);
    let mut writer = Writer::in_dir(cache.clone(), dir.path(), false).unwrap();
    let mut has_replaced = false;
    for (n, step) in (1..).zip(Steps::new(seed, mix(seed))) {
        writer.perform(n, step).unwrap();
        done = n;
        has_replaced |= matches!(step, Step::Replace);
        if n > 200 && has_replaced && matches!(step, Step::FlushAll) {
            break;
        }
    }
    let check = || check(dir.path(), seed, done, 0);
    check().unwrap();
    let finds = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = dir.path().join(file);
        let right = fs::read(&path).unwrap();
        let mut wrong = right.clone();
        change(&mut wrong);
        assert!(wrong != right, "{file} is as before");
        fs::write(&path, wrong).unwrap();
        let found = check().is_err();
        fs::write(&path, right).unwrap();
        found
    };
    for file in ["cells", "log", "holes", "replaced"] {
        let middle = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte != 0).unwrap();
        assert!(finds(file, &|bytes| bytes.truncate(bytes.len() - 4096)), "{file} is short");
        assert!(finds(file, &|bytes| bytes.extend([0; 4096])), "{file} is long");
        assert!(finds(file, &|bytes| bytes.push(0)), "{file} ends in a word");
        assert!(finds(file, &|bytes| bytes.truncate(0)), "{file} is empty");
        assert!(finds(file, &|bytes| *bytes = vec![0; bytes.len()]), "{file} is zero");
        assert!(finds(file, &|bytes| {
            let at = middle(bytes);
            bytes[at] ^= 1;
        }));
    }
    check().unwrap();
    drop(writer);
    assert_nothing_leaked(&cache);
}

/// The check allows what a kill may leave, and nothing else, of steps without a promise.
#[test]
fn appended_words_are_not_zero_before_newer_ones() {
    let mut files = Files::new(true);
    for (n, step) in (1..).zip([
        Step::Append { file: 1, len: 3 },
        Step::Write { file: 1, at: 5, len: 1 },
        Step::Append { file: 1, len: 2 },
    ]) {
        files.done(n, step);
    }
    let log = files.files[1].clone();
    for right in [&[][..], &[1], &[1, 1, 1, 0], &[1, 1, 1, 0, 0, 2], &[1, 1, 1, 0, 0, 2, 3, 3]] {
        log.check(right).unwrap();
    }
    for wrong in [&[0][..], &[1, 0, 1], &[1, 1, 1, 0, 0, 0, 3], &[1, 1, 1, 0, 0, 2, 3, 3, 0]] {
        log.check(wrong).unwrap_err();
    }
    // The file is longer at once, before its bytes are written; and no newer bytes come before.
    files.done(4, Step::SetLen { file: 1, len: 10 });
    files.done(5, Step::Append { file: 1, len: 1 });
    let log = files.files[1].clone();
    for right in [&[0; 10][..], &[1, 1, 1, 0, 0, 2, 0, 0, 0, 0], &[1, 1, 1, 0, 0, 2, 3, 3, 0, 0, 5]]
    {
        log.check(right).unwrap();
    }
    log.check(&[1, 1, 1, 0, 0, 2, 0, 3, 0, 0, 5]).unwrap_err();
    log.check(&[1; 9]).unwrap_err();
    files.promise();
    files.files[1].check(&[0; 10]).unwrap_err();
    files.files[1].check(&[1, 1, 1, 0, 0, 2, 3, 3, 0, 0, 5]).unwrap();
}

/// Writes what is left to a journal.
pub(crate) fn note(journal: &mut fs::File, numbers: [u64; 2]) -> io::Result<()> {
    // One call, so that the kill leaves all of it or nothing.
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    journal.write_all(&bytes)
}
