//! A database over folio does what it does over redb's own file, and either opens the other's.

use std::collections::BTreeMap;
use std::path::Path;

use folio_cache::{Cache, OpenOptions};
use folio_redb::FolioBackend;
use redb::{
    ConcurrencyMode, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition,
};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("numbers");

/// The smallest cache: 2 MiB.
fn cache() -> Cache {
    Cache::new(2 << 20).unwrap()
}

fn open(cache: &Cache, path: &Path) -> Database {
    let backend = FolioBackend::open(cache, path).unwrap();
    // So small that most reads reach folio.
    Database::builder().set_cache_size(256 << 10).create_with_backend(backend).unwrap()
}

fn value(key: u64, version: u64) -> Vec<u8> {
    (key ^ version).to_le_bytes().repeat(1 + (key % 60) as usize)
}

type Model = BTreeMap<u64, Vec<u8>>;

/// Writes keys in several transactions, and removes some. Keeps in `model` what the table holds.
fn load(database: &Database, keys: u64, model: &mut Model) {
    let mut random = fastrand::Rng::with_seed(keys);
    for version in 0..8 {
        let write = database.begin_write().unwrap();
        {
            let mut table = write.open_table(TABLE).unwrap();
            for _ in 0..keys / 8 {
                let key = random.u64(..keys);
                table.insert(key, value(key, version).as_slice()).unwrap();
                model.insert(key, value(key, version));
                if random.u8(..8) == 0 {
                    let key = random.u64(..keys);
                    let removed = table.remove(key).unwrap().is_some();
                    assert_eq!(removed, model.remove(&key).is_some());
                }
            }
        }
        write.commit().unwrap();
    }
}

fn assert_holds(database: &Database, model: &Model) {
    let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
    let mut expected = model.iter();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        let (expected_key, expected_value) = expected.next().expect("more keys than written");
        assert_eq!((key.value(), value.value()), (*expected_key, expected_value.as_slice()));
    }
    assert_eq!(expected.next(), None);
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..5000 {
        let key = random.u64(..30_000);
        let found = table.get(key).unwrap();
        assert_eq!(found.map(|value| value.value().to_vec()).as_ref(), model.get(&key), "{key}");
    }
}

#[test]
fn a_database_larger_than_the_cache_is_loaded_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let cache = cache();
    let mut database = open(&cache, &path);
    let mut model = Model::new();
    load(&database, 30_000, &mut model);
    assert_holds(&database, &model);
    assert!(database.check_integrity().unwrap(), "it was repaired");
    drop(database);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert!(bytes > 2 * cache.capacity() as u64, "only {bytes} bytes");
    assert!(cache.stats().reclaimed > 0, "{:?}", cache.stats());

    let mut database = open(&cache, &path);
    assert_holds(&database, &model);
    assert!(database.check_integrity().unwrap(), "it was repaired");
    assert!(database.compact().unwrap());
    assert_holds(&database, &model);
}

#[test]
fn either_opens_the_file_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let cache = cache();
    let mut model = Model::new();
    load(&open(&cache, &path), 10_000, &mut model);
    for round in 0..3 {
        let database = Database::create(&path).unwrap();
        assert_holds(&database, &model);
        load(&database, 9_000 + round, &mut model);
        drop(database);
        let database = open(&cache, &path);
        assert_holds(&database, &model);
        load(&database, 8_000 + round, &mut model);
    }
    let mut database = Database::create(&path).unwrap();
    assert_holds(&database, &model);
    assert!(database.check_integrity().unwrap(), "it was repaired");
}

#[test]
fn an_open_database_is_locked_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let cache = cache();
    let is_locked = |opened: Result<Database, DatabaseError>| {
        matches!(opened, Err(DatabaseError::DatabaseAlreadyOpen))
    };
    let through_folio = || {
        let backend = FolioBackend::open(&cache, &path).unwrap();
        Database::builder().create_with_backend(backend)
    };
    let database = through_folio().unwrap();
    assert!(is_locked(Database::create(&path)) && is_locked(through_folio()));
    drop(database);
    let database = Database::create(&path).unwrap();
    assert!(is_locked(through_folio()));
    drop(database);
    drop(through_folio().unwrap());
}

/// The pages of a file that stays open are stale after another program wrote to it.
#[test]
fn a_database_changed_by_others_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let cache = cache();
    let mut model = Model::new();
    load(&open(&cache, &path), 5_000, &mut model);
    let keeps_pages = cache.open(&path).unwrap();
    keeps_pages.read_at(&mut vec![0; 1 << 20], 0).unwrap();
    // Opened, but not locked yet.
    let backend = FolioBackend::open(&cache, &path).unwrap();
    load(&Database::create(&path).unwrap(), 6_000, &mut model);
    assert_holds(&Database::builder().create_with_backend(backend).unwrap(), &model);
}

#[test]
fn modes_of_several_processes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let cache = cache();
    load(&open(&cache, &path), 100, &mut Model::new());
    for mode in [ConcurrencyMode::SingleWriter, ConcurrencyMode::MultiWriter] {
        let backend = FolioBackend::open(&cache, &path).unwrap();
        let opened = Database::builder().set_concurrency_mode(mode).create_with_backend(backend);
        let error = opened.expect_err("a mode that folio cannot support");
        assert!(error.to_string().to_lowercase().contains("support"), "{error}");
    }
    drop(open(&cache, &path)); // nothing stays locked
}

#[test]
fn several_threads_read_while_one_writes_past_the_kernel_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("database");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).direct(true);
    let backend = FolioBackend::open_with(&cache(), &path, &options).unwrap();
    let database =
        Database::builder().set_cache_size(256 << 10).create_with_backend(backend).unwrap();
    let mut model = Model::new();
    load(&database, 20_000, &mut model);
    let read = database.begin_read().unwrap().open_table(TABLE).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (read, model) = (&read, &model);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..20_000 {
                    let key = random.u64(..20_000);
                    let found = read.get(key).unwrap();
                    assert_eq!(found.map(|found| found.value().to_vec()).as_ref(), model.get(&key));
                }
            });
        }
        load(&database, 10_000, &mut model.clone());
    });
}
