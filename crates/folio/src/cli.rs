//! The command line: subcommands, options and their help texts.

use std::path::PathBuf;

use clap::builder::{
    PossibleValue, PossibleValuesParser, RangedI64ValueParser, RangedU64ValueParser,
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use folio_bench::BENCHMARKS;
use folio_bench::replay::Format;

use crate::scheme_name::SchemeName;
use crate::size::Size;

/// Torture test, benchmarks and replays of traces for the folio page cache.
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
    /// Replay traces of page references under each policy, and under Belady's, at several sizes
    Policy(Policy),
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
pub(crate) struct Policy {
    /// Traces; gzip, zstd and xz are unpacked; - is the standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Format of the traces; default: as their first bytes tell
    #[arg(long, value_enum)]
    pub(crate) format: Option<TraceFormat>,
    /// Sizes in frames of 4 KiB, such as 1024,5120: multiples of 512; default: all pages of the
    /// trace, a half, a quarter, and so on, as far as they fit in free memory
    #[arg(long, value_delimiter = ',', allow_negative_numbers = true, value_parser = frames)]
    pub(crate) frames: Vec<u64>,
    /// Policies, such as hot-cold,belady; default: all
    #[arg(long = "policy", value_delimiter = ',', value_name = "NAME")]
    pub(crate) policies: Vec<String>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a plot of the hit ratio over the size
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
}

/// The format of a trace.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum TraceFormat {
    /// Text: one page number a line
    Lirs,
    /// Text: first page, number of pages, a number that is ignored, number of the request
    Arc,
    /// Text with commas: the column page, block, id, key, lba, or offset (in bytes); without a
    /// header the only column, or the second one
    Csv,
    /// Records of 24 bytes, as libCacheSim writes them
    OracleGeneral,
    /// Uses that a cache of folio recorded
    Folio,
}

impl From<TraceFormat> for Format {
    fn from(format: TraceFormat) -> Self {
        match format {
            TraceFormat::Lirs => Self::Lirs,
            TraceFormat::Arc => Self::Arc,
            TraceFormat::Csv => Self::Csv,
            TraceFormat::OracleGeneral => Self::OracleGeneral,
            TraceFormat::Folio => Self::Folio,
        }
    }
}

#[derive(Args)]
pub(crate) struct Torture {
    /// Directory with the files to read
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Duration in seconds
    #[arg(long, default_value_t = 30, allow_negative_numbers = true,
        value_parser = RangedI64ValueParser::<u64>::new().range(1..=86_400))]
    pub(crate) seconds: u64,
    /// Number of reader threads; default: one per CPU
    #[arg(long, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Capacity of the cache, such as 64M; default: a quarter of the data, at least 4M
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) memory: Option<Size>,
    /// Seed of all random choices; default: a random seed, which is printed
    #[arg(long, allow_negative_numbers = true)]
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
    #[arg(long, allow_negative_numbers = true,
        value_parser = RangedI64ValueParser::<u64>::new().range(1..=3600))]
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
    /// Latency of the simulated store of remote in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub(crate) latency_ms: u64,
    /// Bandwidth of the simulated store of remote in MiB per second; 0: no limit
    #[arg(long, value_name = "MIB", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    pub(crate) bandwidth_mib: u64,
    /// Time of the simulated store of remote for each request in microseconds
    #[arg(long, value_name = "US", default_value_t = 0, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(..=60_000_000))]
    pub(crate) request_us: u64,
    /// Number of short ranges that remote holds
    #[arg(long, value_name = "N", default_value_t = folio_bench::Ask::HELD,
        allow_negative_numbers = true,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    pub(crate) held: usize,
}

/// Returns a number of frames.
///
/// # Errors
///
/// Says what is allowed.
fn frames(text: &str) -> Result<u64, String> {
    let frames = text.parse().ok().filter(|&frames: &u64| frames > 0);
    frames.ok_or_else(|| format!("{text} is not a number of frames: give multiples of 512"))
}

/// Returns the allowed names: each benchmark of `folio_bench::BENCHMARKS`, and "all".
fn benchmarks() -> PossibleValuesParser {
    let each =
        BENCHMARKS.iter().map(|benchmark| PossibleValue::new(benchmark.name).help(benchmark.about));
    PossibleValuesParser::new(
        each.chain([PossibleValue::new("all").help("all benchmarks, in one report")]),
    )
}
