//! Several threads of a process that is killed: each has the promises that were made to it.

use std::path::Path;
use std::thread;
use std::time::Duration;

use folio_cache::{Cache, OpenOptions};

use crate::{
    CAPACITY, arguments, is_direct, journal, journaled, kill, kills_and_seed, note, start,
    wait_for, words,
};

const THREADS: u64 = 3;

/// The words of the cells file that belong to one thread: all together exceed the capacity.
const OWN: usize = 100_000;

/// Returns the word that a thread writes in a round. It is not zero.
fn word(thread: u64, round: u64) -> u64 {
    (thread + 1) << 48 | round
}

/// Returns the number of words that a thread appends in a round.
fn words_of(thread: u64, round: u64) -> usize {
    1 + (round * 7 + thread * 13) as usize % 90
}

/// Returns the place of a round's words in the cells file.
fn place(thread: u64, round: u64) -> usize {
    thread as usize * OWN + (round * 7919) as usize % (OWN - 90)
}

fn is_promised(thread: u64, round: u64) -> bool {
    (round + thread).is_multiple_of(25)
}

#[test]
#[ignore = "runs as the child of other tests"]
fn child() {
    let Some((dir, seed, _)) = arguments() else { return };
    let dir = Path::new(&dir);
    let cache: Cache = Cache::new(CAPACITY).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).direct(is_direct(seed));
    let (cells, log) = (
        options.open(&cache, dir.join("cells")).unwrap(),
        options.open(&cache, dir.join("log")).unwrap(),
    );
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (cache, cells, log) = (&cache, &cells, &log);
            scope.spawn(move || {
                let mut journal = journal(dir, &format!("journal-{thread}"));
                for round in 1.. {
                    let bytes = word(thread, round).to_le_bytes().repeat(words_of(thread, round));
                    let offset = log.append(&bytes).unwrap();
                    cells.write_all_at(&bytes, place(thread, round) as u64 * 8).unwrap();
                    if is_promised(thread, round) {
                        match round % 3 {
                            0 => log.sync_data().and_then(|()| cells.sync_data()),
                            1 => log.flush().and_then(|()| cells.flush()),
                            _ => cache.flush(),
                        }
                        .unwrap();
                    }
                    note(&mut journal, [round, offset]).unwrap();
                }
            });
        }
    });
}

/// The appends of a thread that returned: their rounds and offsets.
fn journal_of(dir: &Path, thread: u64) -> Vec<[u64; 2]> {
    let numbers = words(&dir.join(format!("journal-{thread}"))).unwrap();
    numbers.as_chunks().0.to_vec()
}

/// Checks that the log has whole appends, each once and those of a thread in order, up to its end.
/// Returns the number of rounds of each thread that are in it.
fn check_log(log: &[u64], returned: &[Vec<[u64; 2]>]) -> Result<[u64; THREADS as usize], String> {
    let (mut rounds, mut at) = ([0; THREADS as usize], 0);
    while at < log.len() {
        let thread = (log[at] >> 48).wrapping_sub(1);
        let Some(round) = rounds.get_mut(thread as usize) else {
            return Err(format!("word {at} of the log is {:#x}", log[at]));
        };
        let expected = word(thread, *round + 1);
        let end = log.len().min(at + words_of(thread, *round + 1));
        if let Some(wrong) = log[at..end].iter().find(|&&word| word != expected) {
            return Err(format!("{wrong:#x} near word {at} of the log instead of {expected:#x}"));
        }
        if let Some(&[_, offset]) = returned[thread as usize].get(*round as usize)
            && offset != at as u64 * 8
        {
            return Err(format!("{expected:#x} is at {} of the log, not at {offset}", at * 8));
        }
        *round += 1;
        at = end;
    }
    Ok(rounds)
}

/// Checks the cells of one thread, of which `returned` rounds returned.
fn check_cells(cells: &[u64], thread: u64, promised: u64, returned: u64) -> Result<(), String> {
    let own = thread as usize * OWN;
    let mut possible: Vec<Vec<u64>> = vec![vec![0]; OWN];
    for round in 1..=returned + 1 {
        let at = place(thread, round) - own;
        for values in &mut possible[at..at + words_of(thread, round)] {
            if round <= promised {
                values.clear();
            }
            values.push(word(thread, round));
        }
    }
    for (at, values) in possible.iter().enumerate() {
        // A word past the end was not promised, unless it never was zero.
        let value = cells.get(own + at).copied().unwrap_or(0);
        if !values.contains(&value) {
            return Err(format!("word {at} of thread {thread} is {value:#x}, not {values:x?}"));
        }
    }
    Ok(())
}

fn check(dir: &Path) -> Result<(), String> {
    let returned: Vec<_> = (0..THREADS).map(|thread| journal_of(dir, thread)).collect();
    let in_log = check_log(&words(&dir.join("log"))?, &returned)?;
    let cells = words(&dir.join("cells"))?;
    for (thread, returned) in (0..).zip(&returned) {
        let returned = returned.len() as u64;
        let promised = (1..=returned).rev().find(|&round| is_promised(thread, round)).unwrap_or(0);
        let there = in_log[thread as usize];
        if there < promised || there > returned + 1 {
            return Err(format!(
                "{there} appends of {thread}: {promised} promised, {returned} made"
            ));
        }
        check_cells(&cells, thread, promised, returned)?;
    }
    Ok(())
}

#[test]
fn promises_to_several_threads_survive_a_kill() {
    let (kills, seed) = kills_and_seed();
    let mut random = fastrand::Rng::with_seed(seed);
    for kill_number in 0..kills / 2 {
        let dir = tempfile::tempdir().unwrap();
        let child_seed = random.u64(..);
        let mut child = start("threads::child", dir.path(), child_seed, Duration::ZERO);
        let bytes = 16 * random.u64(..if is_direct(child_seed) { 500 } else { 2000 });
        for thread in 0..THREADS {
            wait_for(bytes, || journaled(dir.path(), &format!("journal-{thread}")));
        }
        thread::sleep(Duration::from_micros(random.u64(..3000)));
        kill(&mut child);
        check(dir.path()).unwrap_or_else(|broken| {
            panic!("kill {kill_number} of FOLIO_CRASH_SEED={seed}, child {child_seed}: {broken}")
        });
    }
}
