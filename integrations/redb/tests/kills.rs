//! A process commits, and is killed at a random moment, fifty times. The database is intact after
//! each kill, and holds each committed transaction.
//!
//! The child is this test binary again. Its cache is an eighth of the database. It prints the
//! number of each durable transaction. The parent kills it (`SIGKILL`) and knows each transaction
//! by its number.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use folio_cache::Cache;
use folio_redb::FolioBackend;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

/// The default number of kills. `FOLIO_KILLS=500 cargo test -p folio-redb --test kills` makes more.
const KILLS: u64 = 50;

const CAPACITY: usize = 2 << 20;
const KEYS: u64 = 40_000;

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("values");
const NEWEST: TableDefinition<(), u64> = TableDefinition::new("newest");

/// Returns the steps of transaction `n`: keys with a new value, and keys that are removed.
fn transaction(n: u64) -> impl Iterator<Item = (u64, Option<Vec<u8>>)> {
    let mut random = fastrand::Rng::with_seed(n);
    let (keys, long) =
        if n == 0 { (KEYS, 400) } else { (random.u64(1..200), random.usize(1..900)) };
    (0..keys).map(move |at| {
        let key = if n == 0 { at } else { random.u64(..KEYS) };
        let value = (n ^ key).to_le_bytes().into_iter().cycle().take(long).collect();
        (key, (n == 0 || random.u8(..6) > 0).then_some(value))
    })
}

fn is_durable(n: u64) -> bool {
    !n.is_multiple_of(3)
}

fn open(path: &Path) -> Database {
    let backend = FolioBackend::open(&Cache::new(CAPACITY).unwrap(), path).unwrap();
    // Its own cache is small too: pages of open transactions reach folio, and the file.
    Database::builder().set_cache_size(CAPACITY / 4).create_with_backend(backend).unwrap()
}

fn perform(database: &Database, n: u64) {
    let mut write = database.begin_write().unwrap();
    if n > 0 && !is_durable(n) {
        write.set_durability(Durability::None).unwrap();
    }
    {
        let mut table = write.open_table(TABLE).unwrap();
        for (key, value) in transaction(n) {
            match value {
                Some(value) => drop(table.insert(key, value.as_slice()).unwrap()),
                None => drop(table.remove(key).unwrap()),
            }
        }
        write.open_table(NEWEST).unwrap().insert((), n).unwrap();
    }
    write.commit().unwrap();
}

fn newest(database: &Database) -> u64 {
    let read = database.begin_read().unwrap();
    read.open_table(NEWEST).unwrap().get(()).unwrap().expect("transaction 0").value()
}

#[test]
#[ignore = "runs as the child of each_commit_survives_fifty_kills"]
fn child() {
    let Ok(path) = std::env::var("FOLIO_KILLS_PATH") else { return };
    let mut out = std::io::stdout().lock();
    let database = open(Path::new(&path));
    for n in newest(&database) + 1.. {
        perform(&database, n);
        if is_durable(n) {
            writeln!(out, "durable {n}").unwrap();
            out.flush().unwrap();
        }
    }
}

/// Runs a child until it has made a number of commits durable, and for the time `extra` after that.
/// Returns its last durable transaction.
fn run_and_kill(path: &Path, commits: usize, extra: Duration) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env("FOLIO_KILLS_PATH", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut numbers = lines.map_while(Result::ok).filter_map(|line| {
        // The last line may be cut by the kill.
        let number = line.rsplit_once("durable ")?.1.parse::<u64>().ok();
        number.filter(|&n| is_durable(n))
    });
    let before = numbers.by_ref().take(commits).last();
    thread::sleep(extra);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the child ended by itself");
    numbers.max().max(before)
}

#[test]
fn each_commit_survives_fifty_kills() {
    let kills = std::env::var("FOLIO_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let seed = std::env::var("FOLIO_KILLS_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("{kills} kills, FOLIO_KILLS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    perform(&open(&path), 0);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes >= 8 * CAPACITY as u64, "only {bytes} bytes");

    let mut model: BTreeMap<u64, Vec<u8>> =
        transaction(0).map(|(key, value)| (key, value.expect("nothing is removed yet"))).collect();
    let (mut known, mut commits) = (0, 0);
    for kill in 0..kills {
        // Every eighth child is killed while it opens the database.
        let (most, micros) = if random.u8(..8) == 0 { (0, 60_000) } else { (6, 8_000) };
        let extra = Duration::from_micros(random.u64(..micros));
        let durable = run_and_kill(&path, random.usize(..=most), extra);
        let mut database = open(&path);
        let found = newest(&database);
        assert!(
            found >= durable.unwrap_or(0).max(known),
            "kill {kill} of FOLIO_KILLS_SEED={seed}: transaction {durable:?} was durable, {known} \
             was found before, now {found}"
        );
        for n in known + 1..=found {
            for (key, value) in transaction(n) {
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
            }
        }
        commits += found - known;
        known = found;
        assert!(database.check_integrity().unwrap(), "kill {kill} of FOLIO_KILLS_SEED={seed}");
        let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
        let same = table.iter().unwrap().map(Result::unwrap).eq_by_entries(&model);
        assert!(same, "kill {kill} of FOLIO_KILLS_SEED={seed}: not transaction {found}");
    }
    assert!(commits > kills, "only {commits} transactions in {kills} children");
    println!("{commits} transactions survived {kills} kills, in {bytes} bytes");
}

/// The comparison of a table with a model.
trait EqByEntries {
    fn eq_by_entries(self, model: &BTreeMap<u64, Vec<u8>>) -> bool;
}

impl<'t, I> EqByEntries for I
where
    I: Iterator<Item = (redb::AccessGuard<'t, u64>, redb::AccessGuard<'t, &'static [u8]>)>,
{
    fn eq_by_entries(mut self, model: &BTreeMap<u64, Vec<u8>>) -> bool {
        let all = model.iter().all(|(key, value)| {
            self.next().is_some_and(|(k, v)| k.value() == *key && v.value() == value.as_slice())
        });
        all && self.next().is_none()
    }
}
