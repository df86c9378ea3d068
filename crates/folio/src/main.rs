//! The command: a real directory read through our own page frames while they are reclaimed, moved and taken offline.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod plot;
mod scheme_name;
mod size;
mod table;
mod torture;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

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
        cli::Command::Bench { question: cli::Question::Word(options) } => bench::word(&options, &STOP),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
