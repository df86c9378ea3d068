//! The killer: starts a process that writes through a cache of its own, kills it, and compares its
//! files with what the process was promised.
//!
//! The child is this program again. In round `n` it appends a record to a log and fills a cell of
//! another file, both with `n`. After each flush it writes the round to its standard output.

use std::convert::Infallible;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use folio_bench::scratch::ScratchFolder;
use folio_cache::{Cache, OpenOptions};
use folio_ref::Scheme;

use super::Stage;
use super::antagonists::pause;
use super::environment;
use super::tally::Tally;
use crate::cli;

const WORD: usize = 8;

/// The number of the signal that Ctrl-C sends.
const SIGINT: i32 = 2;

/// Capacity of the child's cache: less than the cells.
const CAPACITY: usize = 2 << 20;

/// The most bytes of an error that a child reports.
const MOST_TEXT: u64 = 4096;

const CELLS: u64 = 1000;

/// Length of a cell in words: more than a page.
const CELL: usize = 600;

/// Returns the length of the record of a round, in words.
fn record(round: u64) -> usize {
    1 + (round * 7 % 90) as usize
}

/// Returns the cell of a round.
fn cell(round: u64) -> u64 {
    round * 389 % CELLS
}

/// Writes until it is killed, or until no process reads its output. An error of the environment has
/// an exit status of its own.
pub(crate) fn child(options: &cli::Killed) -> anyhow::Result<ExitCode> {
    let Err(error) = write(options);
    let Some(problem) = environment::problem(&error) else { return Err(error.into()) };
    crate::complain(&problem);
    Ok(ExitCode::from(environment::EXIT))
}

/// Writes in rounds without an end.
fn write(options: &cli::Killed) -> io::Result<Infallible> {
    let cache: Cache = Cache::new(CAPACITY)?;
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).direct(options.seed.is_multiple_of(2));
    let log = open.open(&cache, options.dir.join("log"))?;
    let cells = open.open(&cache, options.dir.join("cells"))?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut promises = io::stdout().lock();
    let mut round = 0_u64;
    loop {
        round += 1;
        let word = round.to_le_bytes();
        log.append(&word.repeat(record(round)))?;
        cells.write_all_at(&word.repeat(CELL), cell(round) * (CELL * WORD) as u64)?;
        if random.u8(..) < 4 {
            match random.u8(..4) {
                0 => log.sync_data().and_then(|()| cells.sync_data())?,
                1 => cache.flush()?,
                _ => log.flush().and_then(|()| cells.flush())?,
            }
            promises.write_all(&word)?;
            promises.flush()?;
        }
    }
}

/// A child, which is killed when this is dropped.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn kill<S: Scheme>(stage: &Stage<'_, S>, tally: &Tally, mut random: fastrand::Rng) {
    while stage.running() {
        tally.progress.add(1);
        let killed = kill_one(random.u64(..), random.u64(20..200));
        match killed {
            Ok(Ok(promised)) => {
                tally.killed.add(1);
                tally.promised.add(promised);
            }
            Ok(Err(Loss::Broken(broken))) => {
                tally.broken(|| format!("after a kill, {broken}"));
            }
            Ok(Err(Loss::Environment(problem))) => stage.give_up(problem),
            Err(error) => stage.broken(tally, &error, || "a child to be killed failed".to_owned()),
        }
        pause(random.u64(50..200));
    }
}

/// The reason why a child has not kept its promises.
enum Loss {
    Broken(String),
    Environment(String),
}

/// Kills one child after a time. Returns the rounds that were promised, or what was lost of them.
fn kill_one(seed: u64, milliseconds: u64) -> io::Result<Result<u64, Loss>> {
    let scratch = ScratchFolder::new()?;
    let child = Command::new(std::env::current_exe()?)
        .args(["killed", "--seed", &seed.to_string()])
        .arg(scratch.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for this process alone.
        .process_group(0)
        .spawn();
    let mut victim = match child {
        Ok(child) => Victim(child),
        Err(error) => match environment::problem_of_start(&error) {
            Some(problem) => return Ok(Err(Loss::Environment(problem))),
            None => return Err(error),
        },
    };
    pause(milliseconds);
    if let Some(status) = victim.0.try_wait()? {
        // Ctrl-C may come before the child has its own group.
        let is_interrupted = status.signal() == Some(SIGINT);
        if is_interrupted {
            return Ok(Ok(0));
        }
        let mut text = String::new();
        if let Some(stderr) = victim.0.stderr.take() {
            // A child that hangs in its end may hold it: this one has ended.
            stderr.take(MOST_TEXT).read_to_string(&mut text)?;
        }
        let text = text.trim();
        return Ok(Err(match status.code() {
            Some(code) if code == i32::from(environment::EXIT) => {
                Loss::Environment(text.to_owned())
            }
            _ => Loss::Broken(format!("the child had ended before: {status}: {text}")),
        }));
    }
    victim.0.kill()?;
    victim.0.wait()?;
    let mut output = Vec::new();
    if let Some(mut stdout) = victim.0.stdout.take() {
        stdout.read_to_end(&mut output)?;
    }
    let promised = words(&output).last().copied().unwrap_or(0);
    Ok(check(scratch.path(), promised)?.map(|()| promised).map_err(Loss::Broken))
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<WORD>().0.iter().map(|&word| u64::from_le_bytes(word)).collect()
}

/// Reads a file of a child, which may have been killed before it made the file.
fn read(path: &Path) -> io::Result<Vec<u64>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map(|bytes| words(&bytes)),
    }
}

/// Checks the files of a child that was promised the rounds up to `promised`.
fn check(dir: &Path, promised: u64) -> io::Result<Result<(), String>> {
    Ok(check_words(&read(&dir.join("log"))?, &read(&dir.join("cells"))?, promised))
}

fn check_words(log: &[u64], cells: &[u64], promised: u64) -> Result<(), String> {
    let (mut at, mut round) = (0, 0);
    while at < log.len() {
        round += 1;
        let end = log.len().min(at + record(round));
        if let Some(wrong) = log[at..end].iter().find(|&&word| word != round) {
            return Err(format!("the log has {wrong} in the record of {round}: a hole"));
        }
        at = end;
    }
    let promised_words: usize = (1..=promised).map(record).sum();
    if log.len() < promised_words {
        return Err(format!("the log ends in round {round}, of {promised} that were promised"));
    }
    let mut least = vec![0; CELLS as usize];
    for round in promised.saturating_sub(CELLS) + 1..=promised {
        least[cell(round) as usize] = round;
    }
    for (n, &least) in least.iter().enumerate() {
        let (start, end) = (n * CELL, (n + 1) * CELL);
        let found = cells.get(start.min(cells.len())..end.min(cells.len())).unwrap_or_default();
        let is_possible = |&word: &u64| word >= least && (word == 0 || cell(word) == n as u64);
        if let Some(wrong) = found.iter().find(|word| !is_possible(word)) {
            return Err(format!("cell {n} has {wrong}, promised was {least}"));
        }
        if found.len() < CELL && least > 0 {
            return Err(format!("cell {n} is short, promised was {least}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes what a child has promised, and some rounds more.
    fn files(rounds: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut cells = vec![0; CELLS as usize * CELL];
        let mut log = Vec::new();
        for round in 1..=rounds {
            log.extend([round].repeat(record(round)));
            let start = cell(round) as usize * CELL;
            cells[start..start + CELL].fill(round);
        }
        for (name, words) in [("log", log), ("cells", cells)] {
            let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn the_check_finds_what_was_lost() {
        let dir = files(1500);
        check(dir.path(), 1400).unwrap().unwrap();
        check(dir.path(), 1500).unwrap().unwrap();
        check(dir.path(), 1501).unwrap().unwrap_err();
        for name in ["log", "cells"] {
            let right = fs::read(dir.path().join(name)).unwrap();
            let changes: [fn(&mut Vec<u8>); 4] = [
                |bytes| bytes.truncate(4096),
                |bytes| bytes[8192..8200].fill(0),
                |bytes| bytes[80] ^= 1,
                |bytes| bytes.clear(),
            ];
            for (n, change) in changes.iter().enumerate() {
                let mut wrong = right.clone();
                change(&mut wrong);
                fs::write(dir.path().join(name), wrong).unwrap();
                assert!(check(dir.path(), 1400).unwrap().is_err(), "change {n} of {name}");
            }
            fs::write(dir.path().join(name), right).unwrap();
        }
        check(dir.path(), 1400).unwrap().unwrap();
    }
}
