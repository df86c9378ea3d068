//! A cluster on this machine: a scheduler and executors as processes, with S3 on loopback. Runs
//! queries of TPC-H and prints which executor read what from where.
//!
//! In the folder integrations:
//! `cargo run --profile engines -p folio-datafusion -p folio-ballista --example cluster`

mod driver;
mod process;
mod roles;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use folio_datafusion::QUERIES;

/// Runs queries on a cluster of processes.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Executors at the start; one more joins later
    #[arg(long, default_value_t = 3)]
    executors: usize,
    /// Threads of an executor
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Capacity of an executor's cache in MiB
    #[arg(long, default_value_t = 64)]
    memory: usize,
    /// Scale factor: at 1, the largest table has six million rows
    #[arg(long, default_value_t = 0.05)]
    scale: f64,
    /// Rows of a row group
    #[arg(long, default_value_t = 5_000)]
    group_rows: usize,
    /// Parts that a file is read in, at most
    #[arg(long, default_value_t = 32)]
    partitions: usize,
    /// Milliseconds that each request to the store takes beside its work
    #[arg(long, default_value_t = 10)]
    delay: u64,
    /// Queries by number; all by default
    #[arg(long, value_delimiter = ',')]
    queries: Vec<usize>,
    /// The scheduler's choice of executors
    #[arg(long, value_enum, default_value_t = Policy::Affinity)]
    policy: Policy,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Is this part of the cluster, for the process that started it
    #[arg(long, hide = true, requires_all = ["scheduler_port", "address"])]
    role: Option<Role>,
    #[arg(long, hide = true)]
    scheduler_port: Option<u16>,
    #[arg(long, hide = true)]
    address: Option<String>,
    #[arg(long, hide = true)]
    id: Option<String>,
    #[arg(long, hide = true)]
    work_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Scheduler,
    Executor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// The executor that has the bytes
    Affinity,
    /// Ballista's own: each executor in turn
    RoundRobin,
    /// Ballista's own: as few executors as possible
    Bias,
}

impl Policy {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    // Plans are deep: Ballista's own processes have stacks of this size too.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(32 << 20)
        .build()?;
    runtime.block_on(async {
        let Some(role) = options.role else {
            check(&options)?;
            return driver::run(&options).await;
        };
        let port = options.scheduler_port.context("--scheduler-port is missing")?;
        let address = options.address.as_deref().context("--address is missing")?;
        match role {
            Role::Scheduler => roles::scheduler(port, address, options.policy).await,
            Role::Executor => {
                let id = options.id.clone().context("--id is missing")?;
                let work_dir = options.work_dir.clone().context("--work-dir is missing")?;
                roles::executor(&options, port, address, id, work_dir).await
            }
        }
    })
}

fn check(options: &Options) -> Result<()> {
    ensure!(options.executors >= 2, "--executors is {}: one of two dies", options.executors);
    ensure!(options.threads >= 1, "--threads is 0: an executor has at least one");
    for &number in &options.queries {
        let all = QUERIES.len();
        ensure!((1..=all).contains(&number), "--queries has {number}: there are 1 to {all}");
    }
    Ok(())
}
