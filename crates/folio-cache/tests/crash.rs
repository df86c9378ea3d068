//! A process writes and syncs, and is killed at a random moment. The test checks every promise in
//! the files that remain.
//!
//! The child is this test binary again. It prints each promise ("all operations up to n are
//! durable") on its standard output after the syncs returned. The parent kills it (`SIGKILL`), and
//! knows the operations from the seed. Operations after the last promise may be in the files,
//! wholly, partly, or not at all; no other bytes may. A crash of the machine is not tested here:
//! `Memory::durable` stands for it in tests/fsx.rs and tests/writeback.rs.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{assert_nothing_leaked, file_of};
use folio_cache::{Cache, File, OpenOptions};

/// The default number of kills. `FOLIO_CRASH_KILLS=300 cargo test -p folio-cache --test crash`
/// makes more; results/crash.md has such a run.
const KILLS: u64 = 40;

/// The number of cells. Each is written whole; all together are twice the capacity of the cache.
const CELLS: usize = 512;
const CELL: usize = 8200;
const RECORD: usize = 100;

/// An operation of the child.
#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Fills a cell with the operation's number.
    Cell(usize),
    /// Appends a record with the operation's number.
    Append,
    /// Syncs both files, and prints a promise.
    Sync,
    /// Truncates the log to half of its records, syncs both files, and prints a promise.
    Truncate,
}

fn operations(seed: u64) -> impl Iterator<Item = (u64, Operation)> {
    let mut random = fastrand::Rng::with_seed(seed);
    (1..).map(move |n| {
        let operation = match random.u8(..64) {
            0..=35 => Operation::Cell(random.usize(..CELLS)),
            36..=61 => Operation::Append,
            62 => Operation::Sync,
            _ => Operation::Truncate,
        };
        (n, operation)
    })
}

fn record(n: u64) -> Vec<u8> {
    n.to_le_bytes().into_iter().cycle().take(RECORD).collect()
}

/// Performs operation `n`. Returns `true` if it makes a promise.
fn perform(cells: &File, log: &File, n: u64, operation: Operation) -> bool {
    match operation {
        Operation::Cell(cell) => {
            let bytes = n.to_le_bytes().repeat(CELL / 8);
            assert_eq!(cells.write_at(&bytes, (cell * CELL) as u64).unwrap(), CELL);
            return false;
        }
        Operation::Append => {
            log.append(&record(n)).unwrap();
            return false;
        }
        Operation::Truncate => log.set_len(log.len() / RECORD as u64 / 2 * RECORD as u64).unwrap(),
        Operation::Sync => {}
    }
    cells.sync_data().unwrap();
    log.sync_all().unwrap();
    true
}

#[test]
#[ignore = "runs as the child of every_promise_survives_a_kill"]
fn child() {
    let (Ok(dir), Ok(seed)) = (std::env::var("FOLIO_CRASH_DIR"), std::env::var("FOLIO_CRASH_SEED"))
    else {
        return;
    };
    let seed: u64 = seed.parse().unwrap();
    let cache: Cache = Cache::new(2 << 20).unwrap();
    // Every second child writes past the kernel's cache.
    let open = |name| {
        let backing = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .open_local(Path::new(&dir).join(name))
            .unwrap();
        cache
            .open_backing(Arc::new(if seed.is_multiple_of(2) { backing } else { backing.direct() }))
            .unwrap()
    };
    let (cells, log) = (open("cells"), open("log"));
    let mut out = std::io::stdout().lock();
    for (n, operation) in operations(seed) {
        if perform(&cells, &log, n, operation) {
            writeln!(out, "promise {n}").unwrap();
            out.flush().unwrap();
        }
    }
}

/// Runs a child until it has made a number of promises, and for the time `extra` after that.
/// Returns its last promise.
fn run_and_kill(dir: &Path, seed: u64, promises: usize, extra: Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env("FOLIO_CRASH_DIR", dir)
        .env("FOLIO_CRASH_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let promise = |line: String| line.rsplit_once("promise ").and_then(|(_, n)| n.parse().ok());
    let mut last =
        lines.by_ref().map_while(Result::ok).filter_map(promise).take(promises).last().unwrap_or(0);
    thread::sleep(extra);
    child.kill().unwrap();
    child.wait().unwrap();
    // The promises printed before the kill. An incomplete line is no promise.
    for line in lines.map_while(Result::ok) {
        last = promise(line).filter(|&n| n > last && is_promise(seed, n)).unwrap_or(last);
    }
    last
}

fn is_promise(seed: u64, n: u64) -> bool {
    operations(seed)
        .nth(n as usize - 1)
        .is_some_and(|(_, operation)| matches!(operation, Operation::Sync | Operation::Truncate))
}

/// Checks both files against the last promise. Returns the first violation as an error.
fn check(dir: &Path, seed: u64, promised: u64) -> Result<(), String> {
    let mut written = vec![Vec::new(); CELLS];
    let (mut log, mut at_promise, mut durable) = (Vec::new(), vec![0; CELLS], 0);
    for (n, operation) in operations(seed) {
        match operation {
            Operation::Cell(cell) => written[cell].push(n),
            Operation::Append => log.push(n),
            Operation::Truncate if n <= promised => log.truncate(log.len() / 2),
            // The kill may have interrupted it: then only half of the records must be there.
            Operation::Truncate => durable = durable.min(log.len() / 2),
            Operation::Sync => {}
        }
        if n == promised {
            at_promise =
                written.iter().map(|numbers| numbers.last().copied().unwrap_or(0)).collect();
            durable = log.len();
        }
        // The child prints each promise before it continues, and the parent reads all of them: so
        // this operation may be done, and no later one.
        if n > promised && matches!(operation, Operation::Sync | Operation::Truncate) {
            break;
        }
    }
    let cells = fs::read(dir.join("cells")).unwrap_or_default();
    for (cell, numbers) in written.iter().enumerate() {
        let bytes =
            cells.get((cell * CELL).min(cells.len())..cells.len().min((cell + 1) * CELL)).unwrap();
        if bytes.len() < CELL && at_promise[cell] > 0 {
            return Err(format!(
                "cell {cell} ends after {} bytes, promised was operation {}",
                bytes.len(),
                at_promise[cell]
            ));
        }
        for word in bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())) {
            let possible = word >= at_promise[cell] && (word == 0 || numbers.contains(&word));
            if !possible {
                return Err(format!("cell {cell} has {word}, promised was {}", at_promise[cell]));
            }
        }
    }
    let bytes = fs::read(dir.join("log")).unwrap_or_default();
    let expected: Vec<u8> = log[..durable].iter().flat_map(|&n| record(n)).collect();
    if !bytes.starts_with(&expected) {
        return Err(format!(
            "not all of the {durable} promised records are in {} bytes",
            bytes.len()
        ));
    }
    Ok(())
}

#[test]
fn every_promise_survives_a_kill() {
    let seed = std::env::var("FOLIO_CRASH_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let kills = std::env::var("FOLIO_CRASH_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    println!("{kills} kills, FOLIO_CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut asked, mut promised) = (0, 0);
    for kill in 0..kills {
        let dir = tempfile::tempdir().unwrap();
        let child_seed = random.u64(..);
        let extra = Duration::from_micros(random.u64(..5000));
        let promises = random.usize(..8);
        let last = run_and_kill(dir.path(), child_seed, promises, extra);
        asked += u64::from(promises > 0);
        promised += u64::from(last > 0);
        if let Err(broken) = check(dir.path(), child_seed, last) {
            panic!(
                "kill {kill} of FOLIO_CRASH_SEED={seed}: child {child_seed}, promise {last}: \
                 {broken}"
            );
        }
    }
    // However slow the machine is: a child that is asked for promises is killed after them.
    assert!(asked > kills / 2, "only {asked} of {kills} children were asked for a promise");
    assert!(promised >= asked, "only {promised} of {asked} children made a promise");
    println!("{promised} of {kills} children had made a promise");
}

/// A test of the check itself: it finds corrupted files.
#[test]
fn a_broken_promise_is_found() {
    let (dir, ..) = file_of(0);
    let cache: Cache = Cache::new(2 << 20).unwrap();
    let (cells, log) = (
        cache.create(dir.path().join("cells")).unwrap(),
        cache.create(dir.path().join("log")).unwrap(),
    );
    let mut promises = Vec::new();
    for (n, operation) in operations(7).take(400) {
        if perform(&cells, &log, n, operation) {
            promises.push(n);
        }
    }
    let last = *promises.last().unwrap();
    drop((cells, log));
    check(dir.path(), 7, last).unwrap();
    assert_nothing_leaked(&cache);
    let broken = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = dir.path().join(file);
        let right = fs::read(&path).unwrap();
        let mut wrong = right.clone();
        change(&mut wrong);
        fs::write(&path, wrong).unwrap();
        let found = check(dir.path(), 7, last).is_err();
        fs::write(&path, right).unwrap();
        found
    };
    let (_, first) = operations(7)
        .find_map(
            |(n, operation)| {
                if let Operation::Cell(cell) = operation { Some((n, cell)) } else { None }
            },
        )
        .unwrap();
    assert!(broken("cells", &|bytes| bytes[first * CELL + 4096..][..8].fill(0)));
    assert!(broken("cells", &|bytes| bytes.truncate(first * CELL + 10)));
    assert!(broken("log", &|bytes| bytes[5] ^= 1));
    assert!(broken("log", &|bytes| bytes.truncate(7)));
}
