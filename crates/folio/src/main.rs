//! The command `folio`: `torture` tests the page cache on real files, `bench` measures it, `policy`
//! replays traces.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod curves;
mod html;
mod machine;
mod plot;
mod policy;
mod scheme_name;
mod signals;
mod size;
mod table;
mod torture;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail};
use clap::Parser;
use folio_bench::scratch;

/// Set by the first Ctrl-C: the run ends early and still reports. A second Ctrl-C exits at once.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if let Err(error) = signals::handle(&STOP) {
        complain(&format!("warning: Ctrl-C will end the run without a report: {error}"));
    }
    let result = match cli.command {
        cli::Command::Torture(options) => torture::run(&options, &STOP),
        cli::Command::Bench(options) => bench::run(&options, &STOP),
        cli::Command::Policy(options) => policy::run(&options, &STOP),
        cli::Command::Killed(options) => torture::killer::child(&options),
    };
    let status = result.unwrap_or_else(|error| {
        complain(&format!("error: {error:#}"));
        ExitCode::from(2)
    });
    if let Err(error) = scratch::remove_all() {
        complain(&format!("warning: {error}"));
    }
    status
}

/// Prints a message to the standard error. One that cannot be written is not an error of the run.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Checks before a run that a file can be placed at `path`.
///
/// # Errors
///
/// Fails if the parent folder is missing or not a directory, or if `path` is a directory.
fn check_place(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("{} cannot be written", path.display());
    // The parent of a bare name is the empty path.
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !fs::metadata(folder).with_context(cannot)?.is_dir() {
        bail!("{}: {} is not a directory", cannot(), folder.display());
    }
    if path.is_dir() {
        bail!("{}: it is a directory", cannot());
    }
    Ok(())
}

/// Returns the first error of several outputs, each of which was tried. Prints the others.
///
/// # Errors
///
/// The first one.
fn each(outputs: impl IntoIterator<Item = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut errors = outputs.into_iter().filter_map(anyhow::Result::err);
    let first = errors.next();
    errors.for_each(|error| complain(&format!("error: {error:#}")));
    first.map_or(Ok(()), Err)
}

/// Prints a result. A closed pipe, such as one to `head`, is not an error.
fn say(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("the result cannot be printed")
        }
        _ => Ok(()),
    }
}
