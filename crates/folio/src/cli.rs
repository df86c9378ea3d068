//! What the command line says.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand};
use folio_bench::BENCHMARKS;

use crate::scheme_name::SchemeName;
use crate::size::Size;

/// Page frames whose reference is one fetch-add, at work on real files.
#[derive(Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Read a directory through the cache, compare every byte, and move the frames underneath
    /// meanwhile
    Torture(Torture),
    /// Measure: one question, or all
    Bench(Bench),
}

#[derive(Args)]
pub(crate) struct Torture {
    /// The directory whose files are read
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Threads that read; default: one per CPU
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Memory of the cache, such as 64M; default: a quarter of the data, at least 4M
    #[arg(long)]
    pub(crate) memory: Option<Size>,
    /// What all choices derive from; default: a random one, which is printed
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// How reference counts are encoded
    #[arg(long, value_enum, default_value_t)]
    pub(crate) scheme: SchemeName,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a plot of the throughput and of what happened underneath
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Bench {
    /// Which question
    #[arg(value_parser = benchmarks())]
    pub(crate) benchmark: String,
    /// How long; default: 10, or 120 for all
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: Option<u64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a plot; not for all, whose report has them all
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Write table, JSON and plot into a folder; for all also report.html, and the default is
    /// folio-bench
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
}

/// The questions by their names; `folio_bench::BENCHMARKS` is their list.
fn benchmarks() -> PossibleValuesParser {
    let each =
        BENCHMARKS.iter().map(|benchmark| PossibleValue::new(benchmark.name).help(benchmark.about));
    PossibleValuesParser::new(
        each.chain([PossibleValue::new("all").help("everything, in one report")]),
    )
}
