//! The command: a real directory read through our own page frames while they are reclaimed, moved and taken offline.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod html;
mod machine;
mod plot;
mod scheme_name;
mod size;
mod table;
mod torture;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::Parser;

/// Set by Ctrl-C: finish, and report what was done.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if let Err(error) = ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)) {
        eprintln!("warning: Ctrl-C will not print a report: {error}");
    }
    let result = match cli.command {
        cli::Command::Torture(options) => torture::run(&options, &STOP),
        cli::Command::Bench(options) => bench::run(&options, &STOP),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

/// Prints a result. A reader that went away, such as `head`, is no error.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("the result can not be printed"),
        _ => Ok(()),
    }
}
