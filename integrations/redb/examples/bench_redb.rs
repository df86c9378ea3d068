//! Measures redb over folio beside redb's own file access.
//!
//! In the folder integrations:
//! `cargo run --release -p folio-redb --example bench_redb [-- --json]`

use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use folio_cache::{Cache, OpenOptions};
use folio_redb::FolioBackend;
use folio_report::{Report, in_turn, timed};
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("values");

/// Measures redb over folio beside its own file access. Each contender has the same memory.
#[derive(Parser)]
struct Options {
    /// Rounds; each contender runs once in each, and each round begins with another one
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Keys of the database
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 200)]
    value: usize,
    /// Random gets of each round
    #[arg(long, default_value_t = 200_000)]
    gets: u64,
    /// Memory of each contender, in MiB: of redb's cache and of folio's together
    #[arg(long, default_value_t = 16)]
    memory: usize,
    /// Folder for the database
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A way to the bytes of the file.
#[derive(Clone, Copy)]
enum Access {
    /// redb's own, with all memory in redb's cache.
    File,
    /// redb's own, with the small cache that it has over folio: the kernel's cache does the work.
    FileSmall,
    /// folio, which has seven eighths of the memory.
    Folio,
    /// The same past the kernel's cache.
    FolioDirect,
}

impl Access {
    const ALL: [Self; 4] = [Self::Folio, Self::File, Self::FileSmall, Self::FolioDirect];

    fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::FileSmall => "file-small",
            Self::Folio => "folio",
            Self::FolioDirect => "folio-direct",
        }
    }

    fn open(self, path: &Path, memory: usize) -> Result<Database> {
        let mut builder = Database::builder();
        builder.set_cache_size(if matches!(self, Self::File) { memory } else { memory / 8 });
        let direct = match self {
            Self::File | Self::FileSmall => return Ok(builder.create(path)?),
            Self::Folio => false,
            Self::FolioDirect => true,
        };
        let cache = Cache::new(memory - memory / 8)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).direct(direct);
        let backend = FolioBackend::open_with(&cache, path, &options)?;
        Ok(builder.create_with_backend(backend)?)
    }
}

fn load(database: &Database, options: &Options) -> Result<()> {
    const BATCHES: u64 = 20;
    let mut random = fastrand::Rng::with_seed(1);
    let mut value = vec![0; options.value];
    for batch in 0..BATCHES {
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for at in 0..options.keys / BATCHES {
                random.fill(&mut value);
                // In an order that is not the tree's.
                let key =
                    (batch * (options.keys / BATCHES) + at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                table.insert(key, value.as_slice())?;
            }
        }
        write.commit()?;
    }
    Ok(())
}

/// Gets random keys among the first `among`.
fn gets(table: &ReadOnlyTable<u64, &'static [u8]>, among: u64, count: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..count {
        let key = random.u64(..among).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let found = table.get(key)?;
        black_box(found.expect("a key that was loaded").value()[0]);
    }
    Ok(())
}

fn round(access: Access, path: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let (name, memory) = (access.name(), options.memory << 20);
    let database = access.open(path, memory)?;
    let (time, result) = timed(|| load(&database, options));
    result?;
    report.ms(name, "load", time);
    drop(database);
    let (time, database) = timed(|| access.open(path, memory));
    report.ms(name, "reopen", time);
    let mut database = database?;
    let table = database.begin_read()?.open_table(TABLE)?;
    // A hundredth of the keys: their pages are cached after the first half.
    gets(&table, options.keys / 100, options.gets / 2)?;
    let (time, result) = timed(|| gets(&table, options.keys / 100, options.gets));
    result?;
    report.us_each(name, "get-hot", time, options.gets);
    let (time, result) = timed(|| gets(&table, options.keys, options.gets));
    result?;
    report.us_each(name, "get-any", time, options.gets);
    drop(table);
    let (time, intact) = timed(|| database.check_integrity());
    anyhow::ensure!(intact?, "{name}: the database was repaired");
    report.ms(name, "check", time);
    Ok(())
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    options.keys -= options.keys % 20;
    let dir = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut report = Report::new("redb over folio, and over its own file access");
    let mut bytes = 0;
    for number in 0..options.rounds {
        for access in in_turn(&Access::ALL, number) {
            let path = dir.path().join(access.name());
            round(*access, &path, &options, &mut report)?;
            bytes = std::fs::metadata(&path)?.len();
            std::fs::remove_file(&path)?;
        }
    }
    report.note(format!(
        "{} rounds; {} keys, values of {} bytes, a file of {} MiB; {} MiB of memory each: folio \
         has 7/8 of it, redb's own cache the rest; its file access (`file`) all of it, \
         `file-small` an eighth. All but `folio-direct` have the kernel's cache below them. \
         get-hot: of a hundredth of the keys. load: 20 durable commits.",
        options.rounds,
        options.keys,
        options.value,
        bytes >> 20,
        options.memory
    ));
    report.print(options.json);
    Ok(())
}
