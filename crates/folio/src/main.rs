//! The command: a real directory read through our own page frames while they are reclaimed, moved
//! and taken offline.

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

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use clap::Parser;

/// Set by Ctrl-C: finish, and report what was done. A second one ends at once.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let interrupted = || {
        if STOP.swap(true, Ordering::Relaxed) {
            // What the shell says of who was ended by it.
            std::process::exit(130);
        }
    };
    if let Err(error) = ctrlc::set_handler(interrupted) {
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

/// Looks before a run whether there is a place for a file, so that the run is not for nothing.
fn check_place(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("{} can not be written", path.display());
    // Of a bare name it is the empty one.
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !fs::metadata(folder).with_context(cannot)?.is_dir() {
        bail!("{}: {} is no directory", cannot(), folder.display());
    }
    if path.is_dir() {
        bail!("{}: it is a directory", cannot());
    }
    Ok(())
}

/// Prints a result. A reader that went away, such as `head`, is no error.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("the result can not be printed")
        }
        _ => Ok(()),
    }
}
