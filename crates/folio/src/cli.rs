//! The command line: subcommands, options and their help texts.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand};
use folio_bench::BENCHMARKS;

use crate::scheme_name::SchemeName;
use crate::size::Size;

/// Torture test and benchmarks of the folio page cache.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Read a directory through the cache and compare every byte, while other threads reclaim,
    /// migrate and offline the frames, fork, and kill processes that write
    Torture(Torture),
    /// Run one benchmark, or all of them
    Bench(Bench),
    /// Write files until it is killed, as a child of torture
    #[command(hide = true)]
    Killed(Killed),
}

#[derive(Args)]
pub(crate) struct Killed {
    /// Directory for the files
    pub(crate) dir: PathBuf,
    /// Seed of all random choices
    #[arg(long)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct Torture {
    /// Directory with the files to read
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Duration in seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Number of reader threads; default: one per CPU
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Capacity of the cache, such as 64M; default: a quarter of the data, at least 4M
    #[arg(long)]
    pub(crate) memory: Option<Size>,
    /// Seed of all random choices; default: a random seed, which is printed
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Encoding of the reference counts
    #[arg(long, value_enum, default_value_t)]
    pub(crate) scheme: SchemeName,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a plot of the throughput and of the operations on the frames
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Bench {
    /// Name of the benchmark, or "all"
    #[arg(value_parser = benchmarks())]
    pub(crate) benchmark: String,
    /// Duration in seconds; default: 10, or 120 for all
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: Option<u64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a plot; ignored for all, since report.html contains every plot
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Write table, JSON and plot into a folder; for all also report.html, by default into
    /// folio-bench
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
}

/// Returns the allowed names: each benchmark of `folio_bench::BENCHMARKS`, and "all".
fn benchmarks() -> PossibleValuesParser {
    let each =
        BENCHMARKS.iter().map(|benchmark| PossibleValue::new(benchmark.name).help(benchmark.about));
    PossibleValuesParser::new(
        each.chain([PossibleValue::new("all").help("all benchmarks, in one report")]),
    )
}
