//! Measures the 22 queries of TPC-H over S3 on loopback: through folio's cache, through foyer's
//! (as a cache of ranges, and as opendal's layer), without a cache, and over local files.
//!
//! In the folder integrations:
//! `cargo run --profile engines -p folio-datafusion -p folio-ballista --example bench_tpch`

mod contender;
mod cost;
mod layer;
mod plot;
mod ranges;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use folio_datafusion::{BUCKET, TABLES, s3, upload_tables, write_tables};
use folio_loopback::Server;
use folio_report::in_turn;
use object_store::ObjectStoreExt;

use contender::{Contender, Phase, Place};
use cost::{Run, median};
use report::Report;

/// Measures TPC-H over S3 with several caches.
#[derive(Parser)]
struct Options {
    /// Scale factor: at 1, the largest table has six million rows
    #[arg(long, default_value_t = 0.1)]
    scale: f64,
    /// Milliseconds that each request takes beside its work
    #[arg(long, default_value_t = 30)]
    delay: u64,
    /// Capacity in MiB of the caches that hold all; twice the data by default
    #[arg(long)]
    memory: Option<usize>,
    /// Capacity in MiB of the small caches; a fourth of the data by default
    #[arg(long)]
    small: Option<usize>,
    /// Rows of a row group
    #[arg(long, default_value_t = 100_000)]
    group_rows: usize,
    /// Rounds; each contender runs once in each, and each round begins with another one
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Contenders; all by default
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Writes a plot to this file
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Prints JSON, and the table on the error output
    #[arg(long)]
    json: bool,
    /// Runs this contender in this process, for the process that started it
    #[arg(long, hide = true, requires_all = ["phase", "address", "tables", "memory", "small"])]
    child: Option<Contender>,
    #[arg(long, hide = true)]
    phase: Option<Phase>,
    #[arg(long, hide = true)]
    address: Option<String>,
    #[arg(long, hide = true)]
    tables: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match options.child {
        Some(contender) => {
            let place = place_of_child(&options)?;
            let phase = options.phase.context("--phase is missing")?;
            let run = runtime.block_on(contender::run(contender, phase, &place))?;
            println!("{}", run.json());
            Ok(())
        }
        None => parent(&options, &runtime),
    }
}

fn place_of_child(options: &Options) -> Result<Place> {
    Ok(Place {
        address: options.address.clone().context("--address is missing")?,
        tables: options.tables.clone().context("--tables is missing")?,
        capacity: options.memory.context("--memory is missing")? << 20,
        quarter: options.small.context("--small is missing")? << 20,
    })
}

fn parent(options: &Options, runtime: &tokio::runtime::Runtime) -> Result<()> {
    ensure!(options.rounds > 0, "--rounds is 0: at least one round is needed");
    ensure!(options.group_rows > 0, "--group-rows is 0: a row group has at least one row");
    ensure!(options.scale > 0.0, "--scale is {}: it must be above 0", options.scale);
    let folder = tempfile::tempdir()?;
    let (tables, root) = (folder.path().join("tables"), folder.path().join("store"));
    std::fs::create_dir(&tables)?;
    std::fs::create_dir_all(root.join(BUCKET))?;
    if let Err(error) = write_tables(&tables, options.scale, options.group_rows) {
        bail!("cannot write the tables to {}: {error}", tables.display());
    }
    let data = size_of(&tables)?;
    // A cache has whole blocks of 2 MiB.
    let mib = |bytes: u64| (bytes.div_ceil(2 << 20) * 2) as usize;
    let server = runtime.block_on(Server::s3(&root, Duration::from_millis(options.delay)))?;
    if let Err(error) =
        runtime.block_on(async { upload_tables(&tables, &s3(server.address())?).await })
    {
        bail!("cannot upload the tables: {error}");
    }
    let small_gets = runtime.block_on(small_gets(server.address()))?;
    eprintln!("{small_gets}");
    let place = Place {
        address: server.address().to_owned(),
        tables,
        capacity: options.memory.unwrap_or_else(|| mib(2 * data)) << 20,
        quarter: options.small.unwrap_or_else(|| mib(data / 4)) << 20,
    };
    let all = if options.only.is_empty() {
        Contender::value_variants().to_vec()
    } else {
        options.only.clone()
    };
    let mut report = Report::new(options, &place, data, &small_gets);
    for round in 0..options.rounds {
        for &contender in in_turn(&all, round) {
            for &phase in contender.phases() {
                eprintln!("round {}, {}, {phase:?}", round + 1, contender.name());
                report.add(contender, phase, child(contender, phase, &place)?);
            }
        }
    }
    report.check_answers()?;
    if let Some(path) = &options.plot {
        plot::draw(path, &report)?;
    }
    report.print(options.json);
    Ok(())
}

/// Measures gets of a few bytes of the largest and of the smallest object, in turn. Returns a
/// sentence with the medians, and an error if the size of an object matters.
async fn small_gets(address: &str) -> Result<String> {
    let (store, mut objects) = (s3(address)?, Vec::new());
    for table in TABLES {
        let meta = store.head(&format!("{table}.parquet").into()).await?;
        objects.push((meta.size, meta.location));
    }
    objects.sort();
    let [smallest, .., largest] = &objects[..] else { bail!("there are no tables") };
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..9 {
        for (times, (size, path)) in times.iter_mut().zip([largest, smallest]) {
            let start = Instant::now();
            store.get_range(path, size / 2..size / 2 + 8).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [least_of_largest, least_of_smallest] =
        times.each_ref().map(|times| times.iter().copied().fold(f64::INFINITY, f64::min));
    ensure!(
        least_of_largest < least_of_smallest * 1.5 + 10.0,
        "a get of 8 bytes takes {least_of_largest:.0} ms for the largest object and \
         {least_of_smallest:.0} for the smallest: the server does more than to answer"
    );
    let [of_largest, of_smallest] = times.map(|times| median(times.into_iter()));
    Ok(format!(
        "A get of 8 bytes took {of_largest:.1} ms of the largest object ({:.1} MiB) and \
         {of_smallest:.1} of the smallest.",
        largest.0 as f64 / f64::from(1 << 20)
    ))
}

/// Runs a contender in a process of its own.
fn child(contender: Contender, phase: Phase, place: &Place) -> Result<Run> {
    let phase_name = phase.to_possible_value().context("a hidden phase")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--child", &contender.name(), "--phase", phase_name.get_name()])
        .args(["--address", &place.address, "--memory", &(place.capacity >> 20).to_string()])
        .args(["--small", &(place.quarter >> 20).to_string(), "--tables"])
        .arg(&place.tables)
        .stderr(Stdio::inherit())
        .output()?;
    let name = contender.name();
    ensure!(output.status.success(), "the process of {name} ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    Run::parse(&text).with_context(|| format!("the process of {name} wrote no result"))
}

/// Returns the bytes of the files in a folder.
fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in std::fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}
